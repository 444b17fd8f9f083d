# SPDX-License-Identifier: GPL-2.0-only
"""Requests for mounts of the agent's own host."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from pathlib import Path

import pytest
from fake import Fake
from scoutfs_fenced import records, scheduler
from scoutfs_fenced.addresses import own_addresses
from scoutfs_fenced.configuration import Configuration
from scoutfs_fenced.hosts import read_hosts
from scoutfs_fenced.mounts import read_mounts
from scoutfs_fenced.records import Records
from scoutfs_fenced.request import Request, RequestFiles, read_request
from scoutfs_fenced.scheduler import Scheduler
from support import RID, Agent, World, remove, result, rid, until, until_result

LEADER = "quorum_block_leader"


def own() -> str:
    """An address of this host other than loopback."""
    found = [it for it in own_addresses() if not it.is_loopback and not it.is_link_local]
    if not found:
        pytest.skip("this host has no address")
    return str(sorted(found, key=str)[0])


def agent_with_device(world: World, addresses: str) -> tuple[Agent, Fake]:
    """An agent whose hosts file has a device for these addresses."""
    fake = Fake(world.folder / "device")
    hosts = world.folder / "hosts"
    hosts.write_text(f"[node1]\naddress = {addresses}\nagent = {fake.agent}\nip = 10.0.9.1\n")
    return world.agent("echo command >>record", hosts=hosts), fake


def mounted(world: World, number: int, tells: bool = True) -> Path:
    """Shows a mount in sysfs, as scoutfs does."""
    directory = world.sysfs / f"fs/scoutfs/f.00aaaa.r.{rid(number)[:6]}"
    directory.mkdir(parents=True)
    if tells:
        (directory / "rid").write_text(f"{rid(number)}\n")
    return directory


def switched(fake: Fake) -> list[str]:
    return [action for action in fake.actions() if action in ("off", "on", "reboot")]


def test_a_former_mount_of_this_host_was_fenced_by_its_boot(world: World) -> None:
    """The agent remembers this host's mounts. At another address it may be another host's."""
    mount = mounted(world, 1)
    agent, fake = agent_with_device(world, f"{own()}, 10.0.0.11")
    until(lambda: world.remembers(rid(1)), "the mount is written down")
    agent.signal(signal.SIGKILL)
    agent.wait()
    remove_tree(mount)
    directory = world.request(rid(1), mount="scoutfs/f.1.r.2", address=own(), reason=LEADER)
    other = world.request(rid(1), mount="scoutfs/f.1.r.3", address="10.77.0.1", reason=LEADER)
    agent = world.begin().says("serving")
    until_result(directory, "fenced", 5)
    until_result(other, "fenced", 5)
    agent.says("fenced, it was a mount of this host, which has it no longer")
    assert (switched(fake), world.recorded()) == ([], ["command"])


def test_a_copy_of_a_hosts_disk_knows_nothing_of_its_mounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy may run beside the host with the mount; but a fenced rid is fenced everywhere."""

    async def write() -> None:
        it = Records(str(tmp_path))
        it.add_mounted({rid(1)})
        it.add_fenced(rid(2), "10.0.0.2", "", "somehow")
        await it.write()
        assert Records(str(tmp_path)).was_mounted_here(rid(1))
        other = tmp_path / "machine-id"
        other.write_text("another\n")
        monkeypatch.setattr(records, "MACHINE", (str(other),))
        copy = Records(str(tmp_path))
        assert not copy.was_mounted_here(rid(1))
        assert copy.fenced(rid(2), "10.0.0.2", "")

    asyncio.run(write())


def remove_tree(mount: Path) -> None:
    for file in mount.iterdir():
        file.unlink()
    mount.rmdir()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_a_loopback_address_is_this_hosts(world: World, address: str) -> None:
    _, fake = agent_with_device(world, address)
    until_result(world.request(address=address), "fenced", 5)
    assert switched(fake) == []


def test_a_hosts_file_may_say_which_host_this_is(world: World) -> None:
    _, fake = agent_with_device(world, f"{own()}, 127.0.0.1")
    until_result(world.request(address=own()), "fenced", 5)
    assert switched(fake) == []


def test_an_address_that_may_have_moved_here_is_no_proof(world: World) -> None:
    """The request fails with a message, and no device is used."""
    agent, fake = agent_with_device(world, f"{own()}, 10.0.0.11")
    until_result(world.request(address=own()), "error", 5)
    agent.says("could not be fenced, .* is an address of this host, and nothing tells")
    assert agent.lines(f"scoutfs-fenced ack {RID} --for 15m"), "what can be said after a failure"
    until_result(world.request(rid(2), address="10.0.0.11"), "error", 5)
    assert switched(fake) == []


def test_an_address_that_has_moved_here_is_no_proof(world: World) -> None:
    """This host has an address of its own besides: the other host may still write."""
    fake = Fake(world.folder / "device")
    hosts = world.folder / "hosts"
    begin = f"agent = {fake.agent}\nplug = {{number}}\nip = 10.0.9.1\n"
    hosts.write_text(
        f"[defaults]\n{begin}[node1]\naddress = 127.0.0.1\n[node2]\naddress = {own()}\n"
    )
    agent = world.agent("exit 1", hosts=hosts, monitor=0)
    for number in (1, 2):
        request = world.request(rid(number), address=own(), mount=f"scoutfs/{number}")
        until_result(request, "error", 5)
    agent.says(
        "could not be fenced, this host has addresses of node1, node2, so "
        f"{own()} may have moved here .* see that it is off, and then .* ack {rid(1)} --for 15m"
    )
    assert fake.actions() == []


@pytest.mark.parametrize("tells", [True, False])
def test_a_mount_that_this_host_has_cannot_be_fenced_here(world: World, tells: bool) -> None:
    mounted(world, 1, tells)
    agent, fake = agent_with_device(world, "127.0.0.1")
    until_result(world.request(rid(1), address="127.0.0.1"), "error", 5)
    agent.says("could not be fenced, this host .* the mount: it cannot fence itself")
    assert switched(fake) == []


def test_a_mount_without_a_rid_may_be_any(world: World) -> None:
    (world.sysfs / "fs/scoutfs_fence/0:99999").mkdir(parents=True)
    agent, fake = agent_with_device(world, "127.0.0.1")
    until_result(world.request(address="127.0.0.1"), "error", 5)
    agent.says("this host may have the mount")
    assert switched(fake) == []


def test_a_mount_of_this_host_is_not_fenced_at_another_address(world: World) -> None:
    """This host had that address when it mounted; the device would fence another host."""
    mounted(world, 1)
    _, fake = agent_with_device(world, "10.0.0.11")
    until_result(world.request(rid(1), address="10.0.0.11"), "error", 5)
    assert switched(fake) == []


def test_a_command_is_asked_about_a_mount_of_this_host(world: World) -> None:
    """It may unmount, as scoutfs's own does; an address of this host alone proves nothing."""
    directory = mounted(world, 1)
    world.agent(f"rm -rf {directory}; echo $SCOUTFS_FENCED_REQ_RID >>record")
    until_result(world.request(rid(1), address="127.0.0.1"), "fenced", 5)
    assert world.recorded() == [rid(1)]
    until_result(world.request(rid(2), address=own()), "fenced", 5)
    assert world.recorded() == [rid(1), rid(2)]


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.11"])
def test_a_command_does_not_fence_a_mount_that_stays_here(world: World, address: str) -> None:
    """It may have fenced another host, which has the mount's former address."""
    directory = mounted(world, 1)
    agent = world.agent("exit 0", retry_pause="0.2")
    request = world.request(rid(1), address=address)
    agent.says("not fenced yet, exit status 0, but this host still has the mount")
    remove(directory)
    until_result(request, "fenced", 5)


def test_a_record_or_a_word_is_no_answer_for_a_mount_that_is_here(world: World) -> None:
    agent, fake = agent_with_device(world, "10.0.0.11")
    directory = world.request(address="10.0.0.11")
    until_result(directory, "fenced")
    until(lambda: world.remembers(RID), "it is written down")
    remove(directory)
    mounted(world, 1)
    # The agent reuses what it read a moment ago.
    time.sleep(0.3)
    assert rid(1) == RID
    again = world.request(address="10.0.0.11", mount="scoutfs/f.1.r.2")
    until_result(again, "error", 5)
    assert agent.lines("this host has the mount")
    assert len(switched(fake)) == 1


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.12"])
def test_no_device_is_used_while_a_failure_cannot_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], address: str
) -> None:
    """Neither for this host nor for the one that has an address of its mount by now."""
    fake = Fake(world.folder / "device")
    hosts = world.folder / "hosts"
    hosts.write_text(f"[node1]\naddress = {address}\nagent = {fake.agent}\nip = 10.0.9.1\n")
    mounted(world, 1)
    directory = world.request(rid(1), address=address)
    request = read_request(str(directory), str(world.sysfs), 15.0)

    def no_more_files(_request: Request) -> RequestFiles:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def serve() -> None:
        settings = Configuration("", hosts=read_hosts(str(hosts)), retry_pause=0)
        it = Scheduler(settings, str(world.sysfs))
        monkeypatch.setattr(scheduler, "RequestFiles", no_more_files)
        it.add([request])
        await asyncio.sleep(1)
        assert capfd.readouterr().out.count("Too many open files") < 20, "it pauses"
        monkeypatch.undo()
        await asyncio.sleep(0.5)

    asyncio.run(serve())
    assert result(directory) == "error"
    assert fake.actions() == []


# Contents of sysfs.


def test_mounts_are_known_by_file_or_by_name(tmp_path: Path) -> None:
    scoutfs = tmp_path / "fs/scoutfs"
    told = scoutfs / "f.00aaaa.r.00c0ff"
    told.mkdir(parents=True)
    (told / "rid").write_text("00c0ffee00000001\n")
    (scoutfs / "f.00aaaa.r.123456").mkdir()
    mounts = read_mounts(str(tmp_path))
    assert mounts.has("00c0ffee00000001")
    assert not mounts.may_have("00c0ffee00000002"), "its whole rid is another"
    assert mounts.may_have("1234567890abcdef") and not mounts.has("1234567890abcdef")
    assert not mounts.may_have("1234577890abcdef")


@pytest.mark.parametrize("name", ["another", "f.00aaaa.r.", "f.00aaaa"])
def test_a_directory_that_tells_nothing_may_be_any_mount(tmp_path: Path, name: str) -> None:
    (tmp_path / "fs/scoutfs" / name).mkdir(parents=True)
    assert read_mounts(str(tmp_path)).may_have("0" * 16)


def test_scoutfs_tells_its_rid_whatever_the_module_does(tmp_path: Path) -> None:
    (tmp_path / "fs/scoutfs_fence/0:41").mkdir(parents=True)
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("36 35 0:41 / /mnt rw,noatime master:1 - scoutfs /dev/sda rw\n")
    assert not read_mounts(str(tmp_path), str(mountinfo)).may_have("0" * 16)
    mountinfo.write_text("36 35 0:41 / /mnt rw,noatime - fence_test none rw\n")
    assert read_mounts(str(tmp_path), str(mountinfo)).may_have("0" * 16)


def test_nothing_to_see_is_no_mount(tmp_path: Path) -> None:
    assert not read_mounts(str(tmp_path)).may_have("0" * 16)
