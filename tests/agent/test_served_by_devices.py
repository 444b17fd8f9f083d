# SPDX-License-Identifier: GPL-2.0-only
"""Cases for requests for hosts with devices: the agent, fence_ipmilan, a simulated BMC."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
from bmc import PASSWORD, Bmc, free_port
from support import Agent, World, rid, until_result


@pytest.fixture
def bmc(world: World) -> Iterator[Bmc]:
    folder = world.folder / "bmc"
    folder.mkdir()
    it = Bmc(folder)
    it.begin()
    yield it
    it.end()


def serve(world: World, *levels: str, **values: object) -> Agent:
    """An agent that fences one host by devices, and others by a command that records it."""
    headers = ["[node1]\naddress = 10.0.0.11, fd00::11", "[node1 level 2]"]
    sections = [f"{header}\n{level}" for header, level in zip(headers, levels, strict=False)]
    hosts = world.folder / "hosts"
    hosts.write_text("\n".join(sections))
    return world.agent("echo $SCOUTFS_FENCED_REQ_IP >>record", hosts=hosts, **values)


def test_device_first_else_the_command(world: World, bmc: Bmc) -> None:
    """A host with devices is fenced by them, any other by the command."""
    agent = serve(world, bmc.parameters())
    other = world.request(rid(1), address="10.0.0.12")
    until_result(other, "fenced")
    assert bmc.is_on()
    request = world.request(rid(2), address="0.0.0.0", inet="FD00::0:11")
    until_result(request, "fenced")
    assert not bmc.is_on()
    assert world.recorded() == ["10.0.0.12"]
    assert agent.lines(rf"rid {rid(2)} .*: fenced, proven off at node1 level 1 by fence_ipmilan")
    assert PASSWORD not in agent.log()


def test_failures_of_a_bmc_end_in_error(world: World, bmc: Bmc) -> None:
    """A wrong password, an unreachable BMC and a lying one all end in `error`."""
    world.timeout(10)
    silent = bmc.parameters().replace(str(bmc.port), str(free_port())) + "limit = 5\n"
    stubborn = bmc.parameters() + "power_timeout = 2\n"
    bmc.password_file.write_text("another\n")
    for number, (level, why) in enumerate(
        (
            (bmc.parameters(), "off failed, exit status 1"),
            (silent, "off failed, killed for taking longer"),
            (stubborn, "off failed, exit status 1"),
        )
    ):
        if level == stubborn:
            bmc.password_file.write_text(f"{PASSWORD}\n")
            bmc.stays_on()
        agent = serve(world, level, retries=0)
        begin = time.monotonic()
        request = world.request(rid(number), address="10.0.0.11")
        until_result(request, "error")
        assert time.monotonic() - begin < 10
        assert agent.lines(f"could not be fenced, .*node1 level 1 by fence_ipmilan: {why}")
        agent.stop()
    assert bmc.is_on()
    assert "set power 0" in bmc.calls()
    assert not world.recorded()


def test_next_level_within_the_time(world: World, bmc: Bmc) -> None:
    """If the first level's BMC is unreachable, the second is tried in time."""
    world.timeout(15)
    silent = bmc.parameters().replace(str(bmc.port), str(free_port()))
    serve(world, silent, bmc.parameters())
    request = world.request(rid(1), address="10.0.0.11")
    until_result(request, "fenced", 14)
    assert not bmc.is_on()


def test_no_way_to_fence(world: World, bmc: Bmc) -> None:
    """Without a device and a command the request fails, and the log says why."""
    agent = serve(world, bmc.parameters(), run="", retries=0)
    request = world.request(rid(1), address="10.0.0.12")
    until_result(request, "error")
    assert agent.lines("no device is known for 10.0.0.12")


def test_hosts_are_read_again(world: World, bmc: Bmc) -> None:
    """SIGHUP reloads the hosts file; if it has a mistake, the old contents stay in use."""
    agent = serve(world, bmc.parameters())
    hosts = world.folder / "hosts"
    before = hosts.read_text()
    hosts.write_text(before + "power_wait = 2\n")
    agent.signal(signal.SIGHUP)
    agent.says(r"stays as it was: .*/hosts, line \d+: power_wait is set in line \d+ already")
    hosts.write_text(before.replace("10.0.0.11", "10.0.0.21"))
    agent.signal(signal.SIGHUP)
    agent.says("serving fence requests as .* says now")
    request = world.request(rid(1), address="10.0.0.21")
    until_result(request, "fenced")
    assert not bmc.is_on()
    assert not world.recorded()


def test_missing_agent_does_not_stop_the_others(world: World, bmc: Bmc) -> None:
    """A missing fence agent is logged with its line; other hosts are served."""
    hosts = world.folder / "hosts"
    hosts.write_text(
        "[node2]\naddress = 10.0.0.12\nagent = fence_nobody\n"
        f"[node1]\naddress = 10.0.0.11\n{bmc.parameters()}"
    )
    agent = world.agent("exit 0", hosts=hosts)
    agent.says(f"node2 level 1 by fence_nobody cannot be used: {hosts}, line 3: there is no fence")
    request = world.request(rid(1), address="10.0.0.11")
    until_result(request, "fenced")
    states = {each["host"]: each["state"] for each in world.status()["devices"]}
    assert states == {"node2": "unusable", "node1": "off"}


def test_form_stops_the_start(world: World) -> None:
    """With a syntax error in the hosts file the agent does not start, and names the line."""
    hosts = world.folder / "hosts"
    hosts.write_text("[node1]\naddress = 10.0.0.11\nagent = fence_nobody\naction = on\n")
    world.configure("exit 0", hosts=hosts)
    agent = world.begin()
    assert agent.wait() > 0
    assert f"{hosts}, line 4: the action is off or reboot" in agent.log()
