# SPDX-License-Identifier: GPL-2.0-only
"""scoutfs_fence_start_addr, and how sysfs shows a request's address."""

from errno import EAFNOSUPPORT, EINVAL, ENOENT

from case import Case, case
from fence import CLIENT_RECONNECT, QUORUM_BLOCK_LEADER, Finished, Mount, Request, equal, name

# Addresses as the kernel prints them.
IPV6 = [
    "2001:db8:1:2:3:4:5:6",
    "fe80::1",
    "::",
    "::1",
    "1::",
    # The longest run of zeros is elided, the first if two are equal, but never a single zero.
    "2001:0:0:1::1",
    "2001:db8::1:0:0:1",
    "2001:db8:0:1:1:1:1:1",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    # IPv6 addresses with embedded IPv4 addresses.
    "::ffff:10.0.0.1",
    "::ffff:255.255.255.255",
    "fe80::5efe:10.0.0.1",
    "::a00:1",
]
OTHER_FAMILIES = (0, 1, 3, 9, 11, 16, 255, 2 << 8, 65535)


def started(mount: Mount, rid: int, address: str) -> Request:
    """Starts a request with start_addr; returns its directory."""
    equal(mount.start_addr(rid, address), 0, f"start_addr {rid:x} {address}")
    return mount.request(rid)


@case
def start_addr_is_start_for_an_ipv4_address(case: Case) -> None:
    """With an IPv4 address start_addr makes the same request as start."""
    mount = case.mount()
    for rid, address in enumerate(("10.1.2.3", "0.0.0.0", "192.168.255.0", "255.0.0.254")):
        one = started(mount, rid, address)
        other = mount.started(rid + 100, address)
        for request in (one, other):
            equal(request.read("ipv4_addr"), f"{address}\n")
            equal(request.read("inet_addr"), f"{address}\n")
        equal({path.name for path in one.path.iterdir()}, set(Request.FILES))


@case
def start_addr_makes_a_request_like_any_other(case: Case) -> None:
    """An IPv6 request is reported, fenced and freed; starting its rid again only adds a reason."""
    mount = case.mount()
    equal(mount.start_addr(0xAA, "fe80::1", CLIENT_RECONNECT), 0)
    request = mount.request(0xAA)
    equal(mount.start(0xAA, "10.0.0.7", QUORUM_BLOCK_LEADER), 0)
    equal(mount.start_addr(0xAA, "fe80::2"), 0)
    equal(mount.listed(), {name(0xAA)})
    equal(request.read("inet_addr"), "fe80::1\n")
    equal(request.read("reason"), "client_reconnect\n")
    equal([mount.reason_pending(reason) for reason in range(4)], [1, 1, 1, 0])
    request.set_fenced()
    equal(mount.wait_fenced(0), 0)
    equal(mount.next(), Finished(0xAA, CLIENT_RECONNECT))
    equal(mount.free(0xAA), 0)


@case
def inet_addr_is_what_the_kernel_prints(case: Case) -> None:
    """inet_addr holds an IPv4 or IPv6 address as printed by %pISc, without the port."""
    mount = case.mount()
    for rid, address in enumerate([*IPV6, "10.1.2.3", "0.0.0.0", "255.255.255.255"]):
        equal(mount.call(f"print_address {address}"), f"0 {address}\n", "as the kernel prints it")
        equal(started(mount, rid, address).read("inet_addr"), f"{address}\n")


@case
def ipv4_addr_is_zero_for_an_ipv6_address(case: Case) -> None:
    """ipv4_addr reads 0.0.0.0 for any IPv6 address, even one with an embedded IPv4 address."""
    mount = case.mount()
    for rid, address in enumerate(IPV6):
        equal(started(mount, rid, address).read("ipv4_addr"), "0.0.0.0\n", address)


@case
def start_addr_refuses_other_families(case: Case) -> None:
    """An address that is neither IPv4 nor IPv6 returns EAFNOSUPPORT and makes no request."""
    mount = case.mount()
    for family in OTHER_FAMILIES:
        equal(mount.start_addr(0xAA, f"family:{family}"), -EAFNOSUPPORT, f"family {family}")
    equal(mount.listed(), set())
    started(mount, 0xAA, "fe80::1")
    equal(mount.start_addr(0xAA, "family:1", QUORUM_BLOCK_LEADER), -EAFNOSUPPORT, "a pending rid")
    equal(mount.reason_pending(QUORUM_BLOCK_LEADER), 0)


@case
def start_addr_refuses_a_null_address(case: Case) -> None:
    """A null address returns EINVAL and makes no request."""
    mount = case.mount()
    equal(mount.start_addr(0xAA, "none"), -EINVAL)
    equal(mount.listed(), set())
    equal(mount.next(), -ENOENT)
