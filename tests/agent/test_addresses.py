# SPDX-License-Identifier: GPL-2.0-only
"""Cases for addresses, and for recognizing this host's own."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from scoutfs_fenced.addresses import is_own, own_addresses, parse_address


def test_one_spelling() -> None:
    """An address is normalized; an IPv4-mapped one becomes the IPv4 address."""
    assert parse_address("::ffff:10.0.0.1") == ipaddress.ip_address("10.0.0.1")
    assert parse_address("FD00:0:0::0011") == parse_address("fd00::11")


def test_own_addresses_are_those_of_the_interfaces() -> None:
    """The addresses of all interfaces are found, in agreement with the kernel's other files."""
    own = own_addresses()
    routes = Path("/proc/net/fib_trie").read_text()
    listed = set(re.findall(r"-- ([0-9.]+)\n\s+/32 host LOCAL", routes))
    assert {str(address) for address in own if address.version == 4} == listed
    assert listed, routes
    table = Path("/proc/net/if_inet6")
    lines = table.read_text().splitlines() if table.exists() else []
    wanted = {str(ipaddress.IPv6Address(int(line.split()[0], 16))) for line in lines}
    assert {str(address) for address in own if address.version == 6} == wanted


def test_loopback_is_own() -> None:
    """Every loopback address is this host's, although its interface has few of them."""
    own = own_addresses()
    cases = (("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("192.0.2.1", False))
    for text, mine in cases:
        assert is_own(parse_address(text), own) == mine, text
    for address in own:
        assert is_own(address, own)
