# SPDX-License-Identifier: GPL-2.0-only
"""Cases for what fence devices share: sessions, monitoring, and this host's own access."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake import Fake
from scoutfs_fenced import devices as devices_module
from scoutfs_fenced.device import Calls, DeviceError, Silent
from scoutfs_fenced.devices import Devices
from scoutfs_fenced.hosts import Device, Host, Hosts, Level, Value, read_hosts
from support import World, rid, until, until_result
from test_people import run

# Records its begin and end.
NOTES = """
echo "begin $action" >>calls
trap 'echo "end $action" >>calls' EXIT
trap exit TERM
sleep {seconds} & wait $!
"""


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path / "fake")


def outlet(fake: Fake, plug: int, *, sessions: int | None = None, ip: str = "10.0.9.200") -> Device:
    """One of several outlets of a device."""
    values = {"ip": Value(4, "ip", ip), "plug": Value(5, "plug", str(plug))}
    return replace(fake.level(), host=f"node{plug}", values=values, sessions=sessions)


def known(*given: Device) -> Devices:
    """The agent's state for these devices, each the only one of its host."""
    it = Devices("/nowhere")
    it.set_hosts(Hosts([Host(each.host, [], [Level(1, [each])]) for each in given]))
    return it


def most_at_once(path: Path) -> int:
    at_once = most = 0
    for line in path.read_text().splitlines():
        at_once += 1 if line.startswith("begin") else -1
        most = max(most, at_once)
    return most


@pytest.mark.parametrize(
    ("sessions", "ips", "most"),
    [
        (None, ["a", "a", "a"], 1),
        (2, ["a", "a", "a", "a"], 2),
        (None, ["a", "b", "c"], 3),
    ],
)
def test_one_login_at_a_time(fake: Fake, sessions: int | None, ips: list[str], most: int) -> None:
    """Devices at one address get one call at a time, or as many as the file allows."""
    for action, status in (("off", 0), ("status", 2)):
        fake.does(action, NOTES.format(seconds=0.5) + f"exit {status}")
    given = [outlet(fake, n, sessions=sessions, ip=ip) for n, ip in enumerate(ips)]
    it = known(*given)

    async def all_off() -> None:
        calls = it.calls(os.environ)
        await asyncio.gather(
            *(calls.switch_off(each, 30, lambda _step: None, print) for each in given)
        )

    asyncio.run(all_off())
    assert most_at_once(fake.folder / "calls") == most


def test_a_device_that_is_busy_for_too_long(fake: Fake) -> None:
    """A call that waits too long for a login fails in time and says why."""
    fake.does("off", "sleep 5")
    given = [outlet(fake, 1), outlet(fake, 2)]

    async def second() -> None:
        calls = known(*given).calls(os.environ)
        first = asyncio.ensure_future(calls.switch_off(given[0], 4, lambda _step: None, print))
        await asyncio.sleep(1)
        try:
            await calls.switch_off(given[1], 1, lambda _step: None, print)
        finally:
            first.cancel()
            await asyncio.wait({first})

    with pytest.raises(DeviceError, match="busy with other hosts"):
        asyncio.run(second())


def test_fencing_does_not_wait_for_the_watch(fake: Fake) -> None:
    """A monitoring call gives up its login to a fencing call."""
    fake.does("status", f"[ -e off ] && exit 2; {NOTES.format(seconds=20)}")
    fake.does("off", "touch off")
    given = [outlet(fake, 1), outlet(fake, 2)]
    it = known(*given)

    async def fence() -> None:
        calls: Calls = it.calls(os.environ)
        watching = asyncio.ensure_future(it._ask(given[0], os.environ))
        while not (fake.folder / "calls").exists():
            await asyncio.sleep(0.05)
        await calls.switch_off(given[1], 30, lambda _step: None, print)
        await asyncio.wait_for(watching, 5)

    begin = time.monotonic()
    asyncio.run(fence())
    assert time.monotonic() - begin < 10
    # An interrupted call is not a failure of the device.
    assert [state.state for state in it.states()] == ["unknown", "unknown"]


def hosts_file(world: World, fake: Fake, more: str = "", *, address: str = "10.0.0.11") -> Path:
    path = world.folder / "hosts"
    path.write_text(f"[node1]\naddress = {address}\nagent = {fake.agent}\nip = 10.0.9.11\n{more}")
    return path


def test_a_device_that_is_lost_and_back(world: World, fake: Fake) -> None:
    """It is asked repeatedly; its silence and its return are each logged once and shown.

    Nothing is switched.
    """
    fake.does("status", "[ ! -e silent ] || exit 1; exit 0")
    hook = world.command('echo "$1 $SCOUTFS_FENCED_EVENT_DEVICE" >>heard', "hook")
    agent = world.agent(hosts=hosts_file(world, fake), monitor=0.3, hook=hook)
    until(lambda: world.status()["devices"][0]["state"] == "on", "it is asked")
    (fake.folder / "silent").touch()
    agent.says("node1 level 1 by fence_it cannot be used: status failed, exit status 1")
    [device] = world.status()["devices"]
    assert (device["state"], device["well"]) == ("silent", False)
    asked = len(fake.actions())
    until(lambda: len(fake.actions()) > asked + 2, "it is asked again")
    assert len(agent.lines("cannot be used")) == 1
    (fake.folder / "silent").unlink()
    agent.says("node1 level 1 by fence_it can be used again")
    heard = world.folder / "heard"
    what = ["device-lost node1 level 1 by fence_it", "device-back node1 level 1 by fence_it"]
    until(lambda: heard.exists() and heard.read_text().splitlines() == what, "the hook hears of it")
    assert set(fake.actions()) == {"status"}


def test_no_device_is_asked_if_that_is_not_wanted(world: World, fake: Fake) -> None:
    world.agent(hosts=hosts_file(world, fake), monitor=0)
    time.sleep(1)
    assert not fake.actions()


def test_what_is_missing_is_looked_for_again(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret or fence agent that appears later makes its device usable without a reload."""
    monkeypatch.setattr(devices_module, "RECHECK", 0.1)
    it = known(fake.level())
    fake.secret.rename(tmp_path / "later")

    async def watch() -> None:
        watching = asyncio.ensure_future(it.watch("/nowhere", lambda: 0.0, lambda: os.environ))

        async def until_it_is(state: str) -> None:
            end = time.monotonic() + 20
            while it.states()[0].state != state:
                assert time.monotonic() < end, it.states()
                await asyncio.sleep(0.05)

        await until_it_is("unusable")
        (tmp_path / "later").rename(fake.secret)
        await until_it_is("unknown")
        watching.cancel()

    asyncio.run(watch())


def test_a_device_that_is_corrected_counts_as_silent_no_more(fake: Fake) -> None:
    """Its login was wrong; it is tried in its turn again, and reported as unknown."""
    device = outlet(fake, 1)
    it = known(device)
    it.failed(device, Silent("no answer"))
    assert it.is_silent(device)
    it.set_hosts(it.hosts)
    assert it.is_silent(device) and it.states()[0].state == "silent"
    corrected = replace(device, values={**device.values, "login": Value(6, "login", "me")})
    it.set_hosts(Hosts([Host(device.host, [], [Level(1, [corrected])])]))
    assert not it.is_silent(corrected)
    assert it.states()[0].state == "unknown"


def test_status_tells_of_devices_and_of_a_reload_that_was_refused(world: World, fake: Fake) -> None:
    """`status` shows what needs fixing until it is fixed."""
    hosts = hosts_file(world, fake, "colour = red\n")
    agent = world.agent(hosts=hosts, monitor=0)
    agent.says("line 5: .* has no parameter colour")
    assert "hosts, line 5" in world.status()["devices"][0]["why"]
    assert world.status()["refused"] is None
    good = hosts.read_text().replace("colour = red\n", "")
    hosts.write_text(good + "action = on\n")
    agent.signal(signal.SIGHUP)
    until(lambda: world.status()["refused"], "the reload is refused")
    _, said, _ = run(world, "status")
    assert "node1 level 1 by fence_it is unusable since" in said
    assert "the configuration stays as it was: " in said
    assert "line 5: the action is off or reboot" in said
    hosts.write_text(good)
    agent.signal(signal.SIGHUP)
    until(lambda: world.status()["refused"] is None, "the reload is taken")
    until(lambda: world.status()["devices"][0]["well"], "the device is well")


def hosts_that_let_in(world: World, fake: Fake, address: str) -> Path:
    """A hosts file with this host and another one, at this address, for a device with `on`."""
    hosts = hosts_file(world, fake, "unfence = yes\nplug = 1\n", address="127.0.0.1")
    with hosts.open("a") as file:
        file.write(
            f"[node2]\naddress = {address}\nagent = {fake.agent}\nip = 10.0.9.11\n"
            "unfence = yes\nplug = 2\n"
        )
    return hosts


def test_own_host_is_let_in_at_the_start(world: World, fake: Fake) -> None:
    """Before serving, the agent lets in its own host only, and only if nothing is mounted."""
    fake.says('automatic="0"', 'automatic="1"')
    fake.does("on", "touch in").does("status", "[ -e in ] && exit 0; exit 2")
    hosts = hosts_that_let_in(world, fake, "10.0.0.12")
    agent = world.agent(hosts=hosts, monitor=0)
    assert agent.lines("node1 level 1 by fence_it: this host is let in now")
    assert fake.actions() == ["status", "on", "status"]
    assert "plug=1" in (fake.folder / "input.on").read_text().split()


def test_no_host_is_let_in_whose_address_has_moved_here(world: World, fake: Fake) -> None:
    """It may be fenced, and run: `on` would give it access again."""
    fake.says('automatic="0"', 'automatic="1"')
    fake.does("on", "touch in").does("status", "[ -e in ] && exit 0; exit 2")
    hosts = hosts_that_let_in(world, fake, "127.0.0.2")
    agent = world.agent(hosts=hosts, monitor=0)
    assert "on" not in fake.actions()
    agent.signal(signal.SIGHUP)
    agent.says("says now")
    assert len(agent.lines("this host has addresses of node1, node2, so which")) == 1


def test_an_agent_stops_while_its_own_host_is_let_in(world: World, fake: Fake) -> None:
    """A slow device does not delay the agent's exit."""
    fake.says('automatic="0"', 'automatic="1"').does("status", "touch asked; sleep 60")
    hosts = hosts_file(world, fake, "unfence = yes\n", address="127.0.0.1")
    world.configure("exit 0", hosts=hosts, monitor=0)
    agent = world.begin()
    until((fake.folder / "asked").exists, "the device is asked")
    begin = time.monotonic()
    agent.signal(signal.SIGTERM)
    assert agent.wait() == 0
    assert time.monotonic() - begin < 5


def test_own_host_is_let_in_anew_once_it_has_booted(world: World, fake: Fake) -> None:
    """A device's "on" may predate the boot, so the agent lets in anew; a reload does not."""
    fake.says('automatic="0"', 'automatic="1"').does("status", "exit 0")
    hosts = hosts_file(world, fake, "unfence = yes\n", address="127.0.0.1")
    agent = world.agent(hosts=hosts, monitor=0)
    assert agent.lines("this host is let in now")
    agent.signal(signal.SIGHUP)
    until(lambda: agent.lines("this host is let in$"), "the reload has asked the device")
    assert fake.actions() == ["status", "on", "status", "status"]


def test_own_host_with_a_mount_that_is_let_in_stays_so(world: World, fake: Fake) -> None:
    """Letting in anew interrupts access for a moment, which would disturb a mount."""
    fake.says('automatic="0"', 'automatic="1"').does("status", "exit 0")
    world.request(rid(1), address="10.0.0.77")
    hosts = hosts_file(world, fake, "unfence = yes\n", address="127.0.0.1")
    agent = world.agent(hosts=hosts, monitor=0)
    assert agent.lines("this host is let in$")
    assert fake.actions() == ["status"]


def test_own_host_is_let_in_once_that_works(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """If a disk appears after the agent has started, the host is let in without a restart."""
    monkeypatch.setattr(devices_module, "RECHECK", 0.1)
    fake.says('automatic="0"', 'automatic="1"')
    fake.does("status", "[ -e disk ] || exit 1; [ -e in ] && exit 0; exit 2").does("on", "touch in")
    path = tmp_path / "hosts"
    path.write_text(
        f"[me]\naddress = 127.0.0.1\nagent = {fake.agent}\nip = 10.0.9.11\nunfence = yes\n"
    )
    it = Devices(str(tmp_path))
    it.set_hosts(read_hosts(str(path)))

    async def watch() -> None:
        await it.unfence("/nowhere", os.environ)
        watching = asyncio.ensure_future(it.watch("/nowhere", lambda: 0.0, lambda: os.environ))
        while fake.actions().count("status") < 3:
            await asyncio.sleep(0.05)
        assert "on" not in fake.actions()
        (fake.folder / "disk").touch()
        while not (fake.folder / "in").exists():
            await asyncio.sleep(0.05)
        watching.cancel()

    asyncio.run(asyncio.wait_for(watch(), 20))
    assert capfd.readouterr().out.count("could not be let in") == 1


def test_no_free_file_makes_a_device_unusable_for_a_moment(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not end the agent."""
    path = tmp_path / "hosts"
    path.write_text(f"[node1]\naddress = 10.0.0.11\nagent = {fake.agent}\nip = 10.0.9.11\n")
    it = Devices(str(tmp_path))
    it.set_hosts(read_hosts(str(path)))

    def refuse(_name: str) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as full:
        full.setattr(os, "memfd_create", refuse)
        asyncio.run(it.look(os.environ))
    [state] = it.states()
    assert state.state == "unusable"
    assert "Too many open files" in state.why
    asyncio.run(it.look(os.environ))
    [state] = it.states()
    assert state.well


@pytest.mark.parametrize(
    ("text", "why"), [("exit 2\n", "it has no #! line"), ("", "neither a program nor a script")]
)
def test_an_agent_that_the_kernel_cannot_run_is_unusable(
    tmp_path: Path, fake: Fake, text: str, why: str
) -> None:
    """The shell that would run it may exit with 2, which says off."""
    fake.agent.write_text(text)
    path = tmp_path / "hosts"
    path.write_text(f"[node1]\naddress = 10.0.0.11\nagent = {fake.agent}\nip = 10.0.9.11\n")
    it = Devices(str(tmp_path))
    it.set_hosts(read_hosts(str(path)))
    asyncio.run(it.look(os.environ))
    [state] = it.states()
    assert state.state == "unusable"
    assert "hosts, line 3: " in state.why
    assert why in state.why


def test_own_host_with_a_mount_is_kept_out(world: World, fake: Fake) -> None:
    """A fenced host does not regain access while it has a mount."""
    fake.says('automatic="0"', 'automatic="1"')
    world.request(rid(1), address="10.0.0.77")
    hosts = hosts_file(world, fake, "unfence = yes\n", address="127.0.0.1")
    agent = world.agent(hosts=hosts, monitor=0)
    assert agent.lines("this host is kept out, and has mounts")
    assert "on" not in fake.actions()


def test_a_reservation_that_was_lost_proves_nothing(tmp_path: Path, fake: Fake) -> None:
    """A host once let in counts as "off" only while this agent's own host is let in."""
    fake.says('automatic="0"', 'automatic="1"')
    fake.does(
        "status",
        'plug=$(sed -n s/^plug=//p <<<"$input"); [ ! -e in.$plug ] || exit 0; exit 2',
    ).does("off", 'rm -f "in.$(sed -n s/^plug=//p <<<"$input")"')
    path = tmp_path / "hosts"
    path.write_text(
        f"[defaults]\nagent = {fake.agent}\nip = 10.0.9.11\nunfence = yes\nplug = {{number}}\n"
        f"[me1]\naddress = 127.0.0.1\npassword_file = {fake.secret}\n"
        "[node2]\naddress = 10.0.0.12\n"
    )
    hosts = read_hosts(str(path))
    node2 = next(iter(hosts.by_name("node2").devices))  # type: ignore[union-attr]

    def off() -> None:
        it = Devices(str(tmp_path))
        it.set_hosts(hosts)
        asyncio.run(it.calls(os.environ).switch_off(node2, 20, lambda _step: None, print))

    for plug in (1, 2):
        (fake.folder / f"in.{plug}").touch()
    off()
    # The host was seen to be let in before, and is already kept out.
    off()
    (fake.folder / "in.1").unlink()
    with pytest.raises(DeviceError, match="it may have lost its registrations"):
        off()


def test_parameters_that_have_a_name_of_the_hosts_file(tmp_path: Path, fake: Fake) -> None:
    """Using a fence agent's `limit` or `token_file` is refused with the way to write it."""
    fake.says('name="snmp_version"', 'name="limit"')
    begin = f"[node1]\naddress = ::1\nagent = {fake.agent}\nip = 10.0.9.11\n"

    def given(more: str) -> dict[str, str]:
        path = tmp_path / "hosts"
        path.write_text(begin + more)
        [host] = read_hosts(str(path))
        [device] = host.devices
        usable = asyncio.run(Devices("/nowhere").calls(os.environ).usable(device))
        return dict(usable.given)

    with pytest.raises(DeviceError, match=r"line 5: limit is a parameter of .*parameter\.limit"):
        given("limit = 3\n")
    assert given("parameter.limit = 3\n") == {"ip": "10.0.9.11", "limit": "3"}
    # Without a parameter of that name, it names a secret's file.
    token = tmp_path / "token"
    with pytest.raises(DeviceError, match=r"line 5: .*has no parameter token_file, as it has no"):
        given(f"token_file = {token}\n")
    # With one, it is passed on.
    fake.says('name="limit"', 'name="token_file"')
    assert given(f"token_file = {token}\n")["token_file"] == str(token)


def test_requests_are_served_while_devices_are_asked(world: World, fake: Fake) -> None:
    """A device that hangs during monitoring does not delay requests."""
    fake.does("status", "[ -e off ] && exit 2; sleep 60").does("off", "touch off")
    world.agent(hosts=hosts_file(world, fake), monitor=0.2)
    until(lambda: fake.actions() == ["status"], "it is asked")
    request = world.request(rid(1), address="10.0.0.11")
    until_result(request, "fenced", 10)


def test_the_hosts_file_may_change_while_devices_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hosts"
    path.write_text(
        "".join(
            f"[node{number}]\naddress = 10.0.0.{number}\nagent = fence_it\nip = 10.0.9.{number}\n"
            for number in (1, 2)
        )
    )

    async def look() -> None:
        it = Devices(str(tmp_path))
        it.set_hosts(read_hosts(str(path)))

        async def usable(_calls: Calls, _device: Device) -> None:
            it.set_hosts(Hosts())

        monkeypatch.setattr(Calls, "usable", usable)
        await it.look({})
        assert it.states() == []

    asyncio.run(look())
