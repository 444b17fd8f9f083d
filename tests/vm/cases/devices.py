# SPDX-License-Identifier: GPL-2.0-only
"""Fence devices: from the kernel through the agent to a BMC or a disk, and back."""

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EBADE, EIO
from pathlib import Path

import kernel
from agents import Agent, agent
from bmc import PASSWORD, Bmc
from case import Case, case, case_with
from fence import Finished, equal, fails_with, true
from scsi import OPTION, SharedDisk, shared_disk

# A busy emulated guest takes half a minute to start its first fence agent, which is written in
# Python, as is the agent.
SECONDS = 110


@contextmanager
def bmc_in(folder: Path) -> Iterator[Bmc]:
    place = folder / "bmc"
    place.mkdir()
    it = Bmc(place)
    it.begin()
    try:
        yield it
    finally:
        it.end()


def use(it: Agent, bmc: Bmc, *, retries: int = 1) -> None:
    """Configures the agent to fence one host by the BMC and all others by a command."""
    hosts = it.folder / "hosts"
    hosts.write_text(f"[node1]\naddress = 10.0.0.11, fd00::11\n{bmc.parameters()}")
    it.configure("exit 0", hosts=hosts, retries=retries)


@case
def device_switches_a_host_off(case: Case) -> None:
    """A host with a BMC is fenced by it: the chassis is off before the waiter returns."""
    case.set_timeout_ms(SECONDS * 1000 * kernel.PATIENCE)
    mount = case.mount()
    with agent() as it, bmc_in(it.folder) as bmc:
        use(it, bmc)
        it.begin()
        request = mount.started(0xAA, "10.0.0.11")
        mount.until_fenced()
        true(not bmc.is_on(), "the host is off")
        equal([request.read("fenced"), request.read("error")], ["1\n", "0\n"])
        equal(mount.next(), Finished(0xAA))
        # fence_ipmilan and the agent's proof each read the status after switching it off.
        calls = bmc.calls()
        equal(calls[calls.index("set power 0") :], ["set power 0", "get power", "get power"])
        true(not it.called_with(), "no command was run")
        said = it.output.read_text()
        true("node1 level 1 by fence_ipmilan" in said, f"the log tells how: {said}")
        true(PASSWORD not in said, "the log does not tell the password")


@case
def device_is_found_by_an_ipv6_address(case: Case) -> None:
    """A host is found by any of its addresses; one without a device is fenced by the command."""
    case.set_timeout_ms(SECONDS * 1000 * kernel.PATIENCE)
    mount = case.mount()
    with agent() as it, bmc_in(it.folder) as bmc:
        use(it, bmc)
        it.begin()
        equal(mount.start_addr(0xAA, "fd00::12"), 0)
        mount.until_fenced()
        equal(it.called_with(), [f"{0xAA:016x},fd00::12"])
        true(bmc.is_on(), "the other host is on")
        equal(mount.start_addr(0xBB, "fd00::11"), 0)
        mount.until_fenced()
        equal(len(it.called_with()), 1)
        true(not bmc.is_on(), "the host is off")


@case
def device_that_fails_is_an_error(case: Case) -> None:
    """If the BMC fails, so does the request; the command is not run instead."""
    case.set_timeout_ms(SECONDS * 1000 * kernel.PATIENCE)
    mount = case.mount()
    with agent() as it, bmc_in(it.folder) as bmc:
        use(it, bmc, retries=0)
        bmc.password_file.write_text("another\n")
        case.expect_error_line(mount, 0xAA)
        it.begin()
        request = mount.started(0xAA, "10.0.0.11")
        request.until_failed(SECONDS)
        equal(mount.wait_fenced(0), -EIO)
        true(bmc.is_on(), "the host is on")
        true(not it.called_with(), "no command was run")


@case_with(OPTION)
def device_keeps_a_host_away_from_the_disk(case: Case) -> None:
    """
    Once fence_scsi has fenced a host, its writes get a reservation conflict and do not reach the
    disk.  A host whose key was never registered is not reported as fenced.
    """
    case.set_timeout_ms(SECONDS * 1000 * kernel.PATIENCE)
    with shared_disk("node1", "node2") as disk, agent() as it:
        # node2 holds the reservation. This host, node1, was registered before it booted and still
        # is, but fence_scsi does not know its key, without which it cannot fence others.
        disk.let_in("node2", "b2")
        disk.register("node1", "a1")
        use_disk(it, disk)
        it.begin()
        equal(disk.keys(), {"a1", "b2"})
        # From here on the filesystem may be mounted.
        mount = case.mount()
        disk.write("node1", "A")
        disk.write("node2", "B")

        # fence_scsi reports that this host is already off.
        case.expect_error_line(mount, 0xCC)
        unknown = mount.started(0xCC, "10.0.0.13")
        unknown.until_failed(SECONDS)
        equal(unknown.read("fenced"), "0\n")
        true("was never seen to be on" in it.output.read_text(), "the log tells why")
        equal(mount.free(0xCC), 0)
        equal(disk.keys(), {"a1", "b2"})
        disk.write("node2", "C")
        equal(disk.content(), "C")

        request = mount.started(0xBB, "10.0.0.12")
        mount.until_fenced()
        fails_with(EBADE, disk.write, "node2", "D")
        fails_with(EBADE, disk.write, "node2", "E")
        equal(disk.content(), "C")
        equal([request.read("fenced"), request.read("error")], ["1\n", "0\n"])
        equal(disk.keys(), {"a1"})
        disk.write("node1", "F")
        equal(disk.content(), "F")
        true(not it.called_with(), "no command was run")


def use_disk(it: Agent, disk: SharedDisk) -> None:
    """Configures the agent, on node1, to fence node2 and node3 through node1's disk device."""
    hosts = it.folder / "hosts"
    hosts.write_text(
        f"[defaults]\nagent = fence_scsi\nunfence = yes\ndevices = {disk.device('node1')}\n"
        "[node1]\naddress = 127.0.0.1\nkey = a1\n"
        "[node2]\naddress = 10.0.0.12\nkey = b2\n"
        "[node3]\naddress = 10.0.0.13\nkey = c3\n"
    )
    it.configure("exit 0", hosts=hosts, retries=0)
