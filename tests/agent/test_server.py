# SPDX-License-Identifier: GPL-2.0-only
"""The agent as a process, serving a folder that imitates /sys."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
from fake import Fake
from scoutfs_fenced import configuration, devices, history, instance, metrics, records, server
from scoutfs_fenced.hosts import read_hosts
from scoutfs_fenced.statefile import write_state
from support import RID, World, alive, remove, result, rid, until, until_result


def test_exit_status_0_is_fenced(world: World) -> None:
    directory = world.request()
    agent = world.agent("exit 0")
    until_result(directory, "fenced")
    agent.says(r"fenced, exit status 0 after [0-9]+[.][0-9]{3} s")


@pytest.mark.parametrize(
    ("script", "why"),
    [("exit 3", "exit status 3"), ("kill -9 $$", "killed by signal 9")],
)
def test_anything_else_is_an_error(world: World, script: str, why: str) -> None:
    directory = world.request()
    agent = world.agent(script, retries=0)
    until_result(directory, "error")
    agent.says(f"could not be fenced, {why} after [0-9]+[.][0-9]{{3}} s")


def test_a_command_that_cannot_be_run_is_an_error(world: World) -> None:
    agent = world.agent(retries=0)
    (world.folder / "fence-command").unlink()
    directory = world.request()
    until_result(directory, "error")
    agent.says("could not be fenced, cannot be run: No such file or directory after")


def test_an_emptied_command_fences_nothing(world: World) -> None:
    """As an editor leaves it on a full disk: sh runs it with success."""
    agent = world.agent(retries=0)
    (world.folder / "fence-command").write_text("")
    directory = world.request()
    until_result(directory, "error")
    agent.says("could not be fenced, cannot be run: it is neither a program nor a script")


def test_the_command_is_told_whom_to_fence(world: World) -> None:
    world.request(inet="10.1.2.3")
    world.request(rid(2), address="0.0.0.0", inet="fd00::7")
    world.request(rid(3), address="10.9.9.9")
    world.agent(
        'echo "$SCOUTFS_FENCED_REQ_RID $SCOUTFS_FENCED_REQ_IP $SCOUTFS_FENCED_REQ_REASON'
        ' $# $1 $2" >>record',
        run_args="--on two words",
    )
    until(lambda: len(world.recorded()) == 3, "all are served")
    assert sorted(world.recorded()) == [
        f"{rid(1)} 10.1.2.3 client_recovery 3 --on two",
        f"{rid(2)} fd00::7 client_recovery 3 --on two",
        f"{rid(3)} 10.9.9.9 client_recovery 3 --on two",
    ]


def test_the_command_gets_what_the_configuration_exports_and_nothing_of_systemd(
    world: World,
) -> None:
    world.configure("echo $A-$NOTIFY_SOCKET-$WATCHDOG_USEC-$FROM_OUTSIDE >record")
    with world.configuration.open("a") as configuration:
        configuration.write("export A=b\n")
    world.begin(NOTIFY_SOCKET="/nowhere", WATCHDOG_USEC="0", FROM_OUTSIDE="c")
    world.request()
    until(world.recorded, "it is served")
    assert world.recorded() == ["b---c"]


def test_every_line_about_a_request_names_it(world: World) -> None:
    world.request()
    agent = world.agent("echo something; exit 1", retries=1, retry_pause=0)
    agent.says("could not be fenced")
    names = f"rid {RID} address 10.1.2.3 reason client_recovery mount f.000001.r.000002: "
    lines = agent.log().splitlines()
    assert [line[len(names) :][:20] for line in lines if line.startswith(names)] == [
        f"running {world.folder}/"[:20],
        "it says: something"[:20],
        "not fenced yet, exit",
        "attempt 2: running /tmp/"[:20],
        "it says: something"[:20],
        "could not be fenced,",
    ]


def test_both_places_are_looked_through(world: World) -> None:
    directories = [world.request(), world.request(mount="scoutfs_fence/0:41")]
    world.agent()
    for directory in directories:
        until_result(directory, "fenced")


def test_a_request_made_later_is_served(world: World) -> None:
    world.agent()
    until_result(world.request(), "fenced")


def test_finished_requests_are_left_alone(world: World) -> None:
    for number, name in enumerate(("fenced", "error")):
        (world.request(rid(number)) / name).write_text("1\n")
    world.agent("touch record")
    until_result(world.request(rid(9), mount="scoutfs_fence/0:1"), "fenced")
    world.record.unlink()
    time.sleep(0.2)
    assert not world.record.exists()


def test_a_request_is_served_once(world: World) -> None:
    directory = world.request()
    agent = world.agent("echo x >>record")
    until_result(directory, "fenced")
    time.sleep(0.3)
    assert len(world.recorded()) == 1
    assert len(agent.lines("running")) == 1


@pytest.mark.parametrize("name", ["rid", "ipv4_addr", "reason", "elapsed_secs", "fenced", "error"])
def test_an_incomplete_directory_waits_for_another_look(world: World, name: str) -> None:
    directory = world.request(built_in=True)
    late = (directory / name).read_text()
    (directory / name).unlink()
    agent = world.agent()
    told = f"cannot read the request {directory}: .*No such file.*{name}"
    agent.says(told)
    time.sleep(0.2)
    assert not agent.lines("^rid ")
    assert len(agent.lines(told)) == 1
    (directory / name).write_text(late)
    until_result(directory, "fenced")


def test_a_reload_lends_no_proof_to_another_host(world: World) -> None:
    """An attempt does not fence an address that belonged to another host when it began."""
    fakes = [Fake(world.folder / f"device{number}") for number in (1, 2)]
    for fake in fakes:
        fake.does("off", f"while ! test -e {world.folder}/go; do sleep 0.05; done")
    hosts = world.folder / "hosts"
    hosts.write_text(
        f"[node1]\naddress = 10.0.0.11\nagent = {fakes[0].agent}\nip = a\n"
        f"[node2]\naddress = 10.0.0.12\nagent = {fakes[1].agent}\nip = b\n"
    )
    first = world.request(rid(1), address="10.0.0.11", elapsed=2)
    second = world.request(rid(2), address="10.0.0.12")
    agent = world.agent("exit 1", hosts=hosts, parallel=1)
    until(fakes[0].actions, "the first is switched off")
    hosts.write_text(f"[node1]\naddress = 10.0.0.11, 10.0.0.12\nagent = {fakes[1].agent}\nip = b\n")
    agent.signal(signal.SIGHUP)
    agent.says("says now")
    (world.folder / "go").touch()
    until_result(first, "fenced")
    until_result(second, "fenced")
    assert fakes[1].actions() == ["off", "status"]


def two_devices(world: World) -> list[Fake]:
    """A device whose `off` waits for the file `go`, and one that cannot fence its host."""
    waits, fails = (Fake(world.folder / f"device{number}") for number in (1, 2))
    waits.does("off", f"while ! test -e {world.folder}/go; do sleep 0.05; done")
    fails.does("off", "exit 1").does("status", "exit 0")
    return [waits, fails]


def test_a_corrected_address_takes_no_proof_of_its_former_host(world: World) -> None:
    """Neither at once nor from a record: the device switched another host off."""
    waits, fails = two_devices(world)
    hosts = world.folder / "hosts"
    text = (
        "[node1]\naddress = 10.0.0.11{}\n" + f"agent = {waits.agent}\nip = a\n"
        "[node2]\naddress = {}\n" + f"agent = {fails.agent}\nip = b\n"
    )
    hosts.write_text(text.format(", 10.0.0.12", "10.0.0.13"))
    request = world.request(rid(1), address="10.0.0.12")
    other = world.request(rid(2), address="10.0.0.11", mount="scoutfs/2")
    agent = world.agent("exit 1", hosts=hosts, retry_pause=0.2)
    until(waits.actions, "it is switched off")
    hosts.write_text(text.format("", "10.0.0.12"))
    agent.signal(signal.SIGHUP)
    agent.says("says now")
    (world.folder / "go").touch()
    until_result(other, "fenced")
    agent.says(f"rid {rid(1)} .*: not fenced yet, .*off failed.*; another attempt follows")
    until(lambda: fails.actions().count("off") > 1, "it is tried again")
    assert result(request) == ""
    assert not world.remembers(rid(1))


def test_a_corrected_device_is_the_one_that_proves(world: World) -> None:
    """What the former device of the same host has proven is true of another host."""
    waits, fails = two_devices(world)
    hosts = world.folder / "hosts"
    text = "[node1]\naddress = 10.0.0.11\nagent = {}\nip = a\n"
    hosts.write_text(text.format(waits.agent))
    request = world.request(rid(1), address="10.0.0.11")
    agent = world.agent("exit 1", hosts=hosts, retries=0)
    until(waits.actions, "it is switched off")
    hosts.write_text(text.format(fails.agent))
    agent.signal(signal.SIGHUP)
    agent.says("says now")
    (world.folder / "go").touch()
    agent.says("not fenced yet, proven off .* the hosts file has changed since")
    until_result(request, "error")
    assert fails.actions()[0] == "off"
    assert not world.remembers(rid(1))


def test_a_corrected_login_is_another_device(world: World) -> None:
    """Its plug of that name may be another host's. Times say nothing of that."""
    fake = Fake(world.folder / "device")
    begin = f"[node1]\naddress = 10.0.0.11\nagent = {fake.agent}\nip = a\nplug = vm1\n"
    path = world.folder / "hosts"

    def digest(text: str) -> str:
        path.write_text(begin + text)
        [host] = read_hosts(str(path))
        return host.digest

    assert digest("") == digest("power_wait = 3\nstonith_status_sleep = 2\n")
    texts = ("", "username = alice\n", "username = bob\n", "api_token_file = /a\n")
    assert len({digest(text) for text in texts}) == len(texts)


def test_a_record_counts_only_for_the_devices_that_proved_it(world: World) -> None:
    """A corrected device is called for the next leader, even by the next agent."""
    proves, fails = two_devices(world)
    (world.folder / "go").touch()
    hosts = world.folder / "hosts"
    text = "[node2]\naddress = 10.0.0.12\nagent = {}\nip = a\n"
    hosts.write_text(text.format(proves.agent))
    request = world.request(rid(1), address="10.0.0.12")
    agent = world.agent("exit 1", hosts=hosts, retries=0)
    until_result(request, "fenced")
    until(lambda: world.remembers(rid(1)), "it is written down")
    remove(request)
    agent.stop()
    hosts.write_text(text.format(fails.agent))
    agent = world.begin().says("serving")
    again = world.request(rid(1), address="10.0.0.12", mount="scoutfs/another")
    until_result(again, "error")
    assert fails.actions()


def test_a_record_without_its_host_is_not_used(world: World) -> None:
    """Agents before this one did not write which devices had proven it."""
    old = {"address": "10.0.0.1", "time": time.time(), "how": "somehow"}
    content = {"machine": "", "fenced": {RID: old, rid(2): {**old, "host": ""}}, "mounted": {}}
    world.state.mkdir()
    write_state(str(world.state / "records"), content)
    it = records.Records(str(world.state))
    assert it.fenced(RID, "10.0.0.1", "") is None
    assert it.fenced(rid(2), "10.0.0.1", "")
    assert it.fenced(rid(2), "10.0.0.1", "a host") is None


def test_another_command_does_not_undo_a_record(world: World) -> None:
    request = world.request()
    agent = world.agent("echo x >>record")
    until_result(request, "fenced")
    until(lambda: world.remembers(RID), "it is written down")
    agent.stop()
    remove(request)
    world.configure("exit 1", run=world.command("exit 1", "another-command"))
    world.begin()
    until_result(world.request(mount="scoutfs/another"), "fenced")


@pytest.mark.parametrize(
    ("name", "content"),
    [("elapsed_secs", "soon"), ("elapsed_secs", "nan"), ("rid", ""), ("rid", "node7")],
)
def test_what_cannot_be_read_is_said_once(world: World, name: str, content: str) -> None:
    # For an address of this host the agent compares the rid with this host's mounts.
    directory = world.request(address="127.0.0.1")
    right = (directory / name).read_text()
    (directory / name).write_text(f"{content}\n")
    other = world.request(rid(2))
    agent = world.agent()
    agent.says(f"cannot read the request .*{content}")
    until_result(other, "fenced")
    time.sleep(0.2)
    assert len(agent.lines("cannot read the request")) == 1
    (directory / name).write_text(right)
    until_result(directory, "fenced")


def test_no_sysfs_directory_is_no_error(world: World) -> None:
    world.sysfs.rmdir()
    agent = world.agent()
    time.sleep(0.2)
    agent.stop()


# Concurrency.


def test_hosts_are_fenced_at_the_same_time(world: World) -> None:
    directories = [world.request(rid(n), address=f"10.0.0.{n}") for n in range(8)]
    world.agent("sleep 1")
    began = time.monotonic()
    for directory in directories:
        until_result(directory, "fenced")
    assert time.monotonic() - began < 3


# Records how many run at the same time.
COUNTED = "mkdir -p now; touch now/$$; ls now | wc -l >>record; sleep {}; rm now/$$"


def test_one_address_is_fenced_by_one_command_at_a_time(world: World) -> None:
    directories = [world.request(rid(n), mount=f"scoutfs/{n}") for n in range(4)]
    world.agent(COUNTED.format(0.2), run_fences="mount")
    for directory in directories:
        until_result(directory, "fenced")
    assert world.recorded() == ["1"] * 4


def test_requests_for_one_host_share_a_command(world: World) -> None:
    """It answers the requests made before it began; the next one answers later requests."""
    directories = [world.request(rid(n), mount=f"scoutfs/{n}") for n in range(3)]
    agent = world.agent(wait_for_go())
    until(world.recorded, "it runs")
    later = world.request(rid(9), mount="scoutfs/9")
    until(lambda: len(world.status()["requests"]) == 4, "it is found")
    agent.signal(signal.SIGHUP)
    agent.says("says now")
    (world.folder / "go").touch()
    for directory in [*directories, later]:
        until_result(directory, "fenced")
    assert len(world.recorded()) == 2
    done = "".join(agent.lines("fenced, exit status"))
    assert done.index(rid(9)) > max(done.index(rid(n)) for n in range(3))


def test_requests_by_several_addresses_of_a_host_share_an_attempt(world: World) -> None:
    fake = Fake(world.folder / "device")
    hosts = world.folder / "hosts"
    hosts.write_text(f"[node1]\naddress = 10.0.0.11, fd00::11\nagent = {fake.agent}\nip = a\n")
    directories = [
        world.request(rid(1), address="10.0.0.11"),
        world.request(rid(2), mount="scoutfs/2", address="0.0.0.0", inet="fd00::11"),
        world.request(rid(3), mount="scoutfs/3", address="0.0.0.0", inet="::ffff:10.0.0.11"),
    ]
    agent = world.agent("exit 1", hosts=hosts)
    for directory in directories:
        until_result(directory, "fenced")
    assert fake.actions() == ["off", "status"]
    # A proof for one address of a host counts for its other addresses too.
    until(lambda: world.remembers(rid(1)), "it is written down")
    remove(directories[0])
    again = world.request(rid(1), address="0.0.0.0", inet="fd00::11")
    until_result(again, "fenced")
    agent.says("was fenced before")
    assert fake.actions() == ["off", "status"]


def test_a_command_that_names_the_mount_fences_no_other(world: World) -> None:
    """A command that unmounts must not answer for the host's other mounts."""
    good = world.request(rid(1), mount="scoutfs/1")
    bad = world.request(rid(2), mount="scoutfs/2")
    world.agent(f"test $SCOUTFS_FENCED_REQ_RID = {rid(1)}", retries=0)
    until_result(good, "fenced")
    until_result(bad, "error")


def test_a_command_for_this_host_fences_no_other_mount(world: World) -> None:
    directories = [world.request(rid(n), mount=f"scoutfs/{n}", address="::1") for n in (1, 2)]
    for number in (1, 2):
        shown = world.sysfs / f"fs/scoutfs/f.000001.r.00c0f{number}"
        shown.mkdir()
        (shown / "rid").write_text(f"{rid(number)}\n")
    mounts = world.sysfs / "fs/scoutfs"
    unmount = f"rm -r $(dirname $(grep -lx $SCOUTFS_FENCED_REQ_RID {mounts}/f.000001.r.00c0f*/rid))"
    world.agent(f"{unmount}; echo x >>record")
    for directory in directories:
        until_result(directory, "fenced")
    assert len(world.recorded()) == 2


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "none"])
def test_an_unknown_address_is_not_one_host(world: World, address: str) -> None:
    for number in range(3):
        world.request(rid(number), address=address)
    world.agent("echo >>record; while test $(wc -l <record) -lt 3; do sleep 0.05; done")
    until(lambda: result(world.sysfs / "fs/scoutfs/f.000001.r.000002/fence" / RID), "all run")


def test_only_so_many_commands_run_at_a_time(world: World) -> None:
    directories = [world.request(rid(n), address=f"10.0.0.{n}") for n in range(7)]
    world.agent(COUNTED.format(0.3), parallel=3)
    for directory in directories:
        until_result(directory, "fenced")
    assert max(map(int, world.recorded())) == 3


def test_the_oldest_is_first(world: World) -> None:
    for number, elapsed in enumerate((3, 9, 1, 7, 5)):
        world.request(rid(number), address=f"10.0.0.{number}", elapsed=elapsed)
    world.agent("echo $SCOUTFS_FENCED_REQ_IP >>record", parallel=1)
    until(lambda: len(world.recorded()) == 5, "all are served")
    assert world.recorded() == [f"10.0.0.{number}" for number in (1, 3, 4, 0, 2)]


def test_one_with_less_time_left_overtakes(world: World) -> None:
    world.request(elapsed=0)
    agent = world.agent(
        "echo $SCOUTFS_FENCED_REQ_IP >>record; while ! test -e go; do sleep 0.05; done", parallel=1
    )
    until(world.recorded, "the first runs")
    for number, elapsed in enumerate((3, 9, 5)):
        world.request(rid(10 + number), address=f"10.0.0.{number}", elapsed=elapsed)
        until(lambda n=number: len(world.status()["requests"]) == 2 + n, "it waits")  # type: ignore[misc]
    (world.folder / "go").touch()
    until(lambda: len(agent.lines("fenced, exit")) == 4, "all are served")
    assert world.recorded() == ["10.1.2.3", "10.0.0.1", "10.0.0.2", "10.0.0.0"]


def test_a_first_try_is_before_anothers_second(world: World) -> None:
    for number in range(3):
        world.request(rid(number), address=f"10.0.0.{number}", elapsed=9 - number)
    world.agent(
        "echo $SCOUTFS_FENCED_REQ_IP >>record; sleep 0.1; exit 1",
        parallel=1,
        retries=1,
        retry_pause=0,
    )
    until(lambda: len(world.recorded()) == 6, "all are served")
    assert world.recorded() == [f"10.0.0.{number}" for number in (0, 1, 2)] * 2


def test_thousands_of_requests(world: World) -> None:
    many = 5000
    # Longer than a slow machine takes to start so many commands.
    world.timeout(600)
    directories = [world.request(rid(n), address=f"10.0.{n >> 8}.{n & 255}") for n in range(many)]
    # The limit on open files does not allow all of them to be open at once.
    agent = world.agent("exit 0", delay=1, stop_timeout=0.1)
    until_result(directories[-1], "fenced", 240)
    files = len(os.listdir(f"/proc/{agent.process.pid}/fd"))
    assert files < 32 * 8
    left = set(directories)

    def all_fenced() -> bool:
        left.difference_update([each for each in left if result(each) == "fenced"])
        return not left

    until(all_fenced, "all are fenced", 240)
    # A scan opens no files of known requests.
    ticks = Path(f"/proc/{agent.process.pid}/stat")
    time.sleep(0.5)
    before = [int(field) for field in ticks.read_text().rpartition(")")[2].split()[11:13]]
    time.sleep(2.5)
    after = [int(field) for field in ticks.read_text().rpartition(")")[2].split()[11:13]]
    assert sum(after) - sum(before) < 100, "less than a second for two or three looks"
    assert not agent.lines("unexpected|cannot")


# Limits and retries.


def test_a_limit_ends_a_command_and_its_children(world: World) -> None:
    directory = world.request()
    agent = world.agent(
        "echo $$ >>record; trap '' TERM; sleep 60 & echo $! >>record; wait; sleep 60",
        limit=0.5,
        retries=0,
    )
    until_result(directory, "error")
    agent.says("could not be fenced, killed for taking longer than 0.5 s")
    for pid in world.recorded():
        assert not alive(pid), pid


def test_error_is_written_before_the_kernel_gives_up(world: World) -> None:
    world.timeout(20)
    agent = world.agent("exec sleep 60")
    began = time.monotonic()
    directory = world.request(elapsed=12)
    until_result(directory, "error")
    # Its age may count as 13 s, and the margin is a tenth.
    assert 4 < time.monotonic() - began < 7
    agent.says("could not be fenced, no time is left; this goes on: running .*, for up to 20")


def test_a_host_that_is_busy_is_not_taken_for_too_few_slots(world: World) -> None:
    """No time is left for a second mount of it, whose request came after the command began."""
    world.timeout(6)
    first = world.request(rid(1))
    agent = world.agent("sleep 5.5", limit=6, run_fences="mount")
    agent.says("running")
    second = world.request(rid(2), mount="scoutfs/2", elapsed=2)
    until_result(second, "error")
    agent.says(
        f"rid {rid(2)} .*: could not be fenced, no time is left, "
        "as its host was busy with another attempt, for another mount: running"
    )
    remove(first)


@pytest.mark.parametrize("waits", [True, False])
def test_a_failure_tells_whether_a_request_waits(world: World, waits: bool) -> None:
    """The next leader may have requested the mount while the attempt for the former one runs."""
    first = world.request()
    agent = world.agent("echo x >>record; " + wait_for_go("exit 1"))
    until(world.recorded, "it runs")
    remove(first)
    agent.says("needs no answer any more")
    if waits:
        world.request(mount="scoutfs/another")
        until(lambda: len(world.status()["requests"]) == 1, "it is found")
    (world.folder / "go").touch()
    then = "another attempt follows" if waits else "no request waits for it"
    agent.says(f"not fenced, exit status 1 .*; {then}")


def test_a_late_request_is_tried_all_the_same(world: World) -> None:
    directory = world.request(elapsed=99)
    failing = world.request(rid(2), address="10.0.0.2", elapsed=99)
    world.agent("sleep 0.2; test $SCOUTFS_FENCED_REQ_IP = 10.1.2.3")
    until_result(directory, "fenced")
    until_result(failing, "error", 5)


def test_a_failed_command_is_tried_again(world: World) -> None:
    directory = world.request()
    agent = world.agent("echo x >>record; test $(wc -l <record) = 3", retry_pause=0.3)
    began = time.monotonic()
    until_result(directory, "fenced")
    assert time.monotonic() - began > 0.6
    assert len(world.recorded()) == 3
    assert (
        len(agent.lines("not fenced yet, exit status 1 .*; another attempt follows in 0.3 s")) == 2
    )
    agent.says("attempt 3: running")


def test_error_is_told_only_when_no_time_is_left(world: World) -> None:
    world.timeout(10)
    world.agent("echo x >>record; exit 1", retry_pause=1)
    began = time.monotonic()
    directory = world.request()
    until_result(directory, "error")
    # Its age may count as 1 s, the margin is a tenth, and no pause fits into the rest.
    assert 6 < time.monotonic() - began < 9
    assert 4 <= len(world.recorded()) <= 8


def test_tries_are_counted(world: World) -> None:
    directory = world.request()
    world.agent("echo x >>record; exit 1", retries=2, retry_pause=0)
    until_result(directory, "error")
    assert len(world.recorded()) == 3


def test_a_pause_gives_the_turn_to_others(world: World) -> None:
    failing = world.request(elapsed=5)
    others = [world.request(rid(n), mount=f"scoutfs/{n}") for n in (2, 3)]
    world.agent(f"test $SCOUTFS_FENCED_REQ_RID != {RID}", parallel=1, retry_pause=15)
    for directory in others:
        until_result(directory, "fenced")
    assert result(failing) == ""


# Requests that disappear or are finished by others.


def wait_for_go(then: str = "") -> str:
    """A script that records its process id and runs until a file exists."""
    return f"echo $$ >>record; while ! test -e go; do sleep 0.05; done; {then}"


def test_a_request_that_goes_does_not_end_its_command(world: World) -> None:
    """The next leader requests the same rid, and its request joins the command."""
    directory = world.request()
    agent = world.agent(wait_for_go())
    until(world.recorded, "it runs")
    remove(directory)
    agent.says("needs no answer any more, the request is gone; its fencing goes on")
    again = world.request(mount="scoutfs/another")
    until(lambda: len(world.status()["requests"]) == 1, "it is found")
    until(lambda: world.status()["requests"][0]["state"] == "running", "it joins")
    (world.folder / "go").touch()
    until_result(again, "fenced")
    assert len(world.recorded()) == 1


def test_one_that_comes_again_after_its_command_is_answered_at_once(world: World) -> None:
    directory = world.request()
    agent = world.agent(wait_for_go())
    until(world.recorded, "it runs")
    remove(directory)
    agent.says("needs no answer any more")
    (world.folder / "go").touch()
    [pid] = world.recorded()
    until(lambda: not alive(pid), "it ends")
    again = world.request(mount="scoutfs/another")
    until_result(again, "fenced")
    agent.says("fenced, was fenced before: exit status 0, on 20")
    assert len(world.recorded()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_rid_that_was_fenced_is_so_after_a_restart(world: World, number: signal.Signals) -> None:
    directory = world.request()
    agent = world.agent("echo x >>record")
    until_result(directory, "fenced")
    until(lambda: world.remembers(RID), "it is written down")
    agent.signal(number)
    agent.wait()
    remove(directory)
    again = world.request(mount="scoutfs/another")
    elsewhere = world.request(mount="scoutfs/third", address="10.1.2.4")
    world.begin()
    until_result(again, "fenced")
    until_result(elsewhere, "fenced")
    assert len(world.recorded()) == 2, "a record counts for its address only"


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "mode", "shape"])
def test_damaged_records_answer_nothing_and_are_told_of(world: World, damage: str) -> None:
    directory = world.request()
    agent = world.agent("echo x >>record")
    until_result(directory, "fenced")
    records = world.state / "records"
    until(lambda: world.remembers(RID), "it is written down")
    agent.stop()
    content = records.read_bytes()
    if damage == "mode":
        records.chmod(0o666)
    elif damage == "shape":
        write_state(str(records), [RID])
    else:
        damaged = {"bit": content.replace(b"1", b"3", 1), "cut": content[:-20], "empty": b""}
        records.write_bytes(damaged[damage])
    remove(directory)
    again = world.request(mount="scoutfs/another")
    agent = world.begin().says("records.* the agent begins without records")
    until_result(again, "fenced")
    assert len(world.recorded()) == 2
    assert (world.state / "records.damaged").exists()


def test_a_state_directory_that_cannot_be_written_is_told_of_once(world: World) -> None:
    world.configure("exit 0")
    agent = world.begin(STATE_DIRECTORY="/proc/nowhere").says("serving")
    for number in range(3):
        until_result(world.request(rid(number), address=f"10.0.0.{number}"), "fenced")
        time.sleep(0.3)
    assert len(agent.lines("records cannot be written to /proc/nowhere")) == 1


def test_records_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST", 3)

    async def fill() -> None:
        it = records.Records(str(world.state))
        for number in range(5):
            it.add_fenced(rid(number), "10.0.0.1", "", "somehow")
        it.add_mounted({rid(number) for number in range(5)})
        await it.write()
        again = records.Records(str(world.state))
        kept = [bool(again.fenced(rid(n), "10.0.0.1", "")) for n in range(5)]
        assert kept == [False, False, True, True, True]
        assert again.was_mounted_here(rid(0)), "what is mounted now is kept"

    asyncio.run(fill())


@pytest.mark.parametrize("name", ["fenced", "error"])
def test_a_request_that_is_finished_elsewhere_does_not_end_its_command(
    world: World, name: str
) -> None:
    directory = world.request()
    agent = world.agent(wait_for_go("echo done >>record"))
    until(world.recorded, "it runs")
    (directory / name).write_text("1\n")
    agent.says("needs no answer any more, the request was finished by someone else")
    (world.folder / "go").touch()
    until(lambda: "done" in world.recorded(), "it ends by itself")
    assert result(directory) == name


def test_a_result_does_not_reach_a_request_made_again(world: World) -> None:
    """The same rid at another address: the proof does not cover it."""
    directory = world.request()
    # The command succeeds after the new directory is in place but before the agent can notice it.
    script = (
        f"test -e record && exec sleep 60; touch record; rm -r {directory}; mv other {directory}"
    )
    shutil.copytree(directory, world.folder / "other")
    (world.folder / "other" / "inet_addr").write_text("10.9.9.9\n")
    agent = world.agent(script, delay=1)
    agent.says("running .*\n?")
    until(lambda: len(agent.lines("running")) == 2, "the new one is served")
    assert result(directory) == ""


def test_one_that_goes_before_its_turn(world: World) -> None:
    world.request(elapsed=5)
    waiting = world.request(rid(2), mount="scoutfs/2")
    agent = world.agent(wait_for_go(), delay=60)
    until(world.recorded, "the first runs")
    remove(waiting)
    (world.folder / "go").touch()
    agent.says(f"{rid(2)} .*: (needs no answer any more,|exit status 0.*, but) the request is gone")
    assert len(world.recorded()) == 1


def test_one_that_is_made_again_before_its_turn(world: World) -> None:
    """The new request must be found before it is served, as it has another deadline."""
    world.request(elapsed=5)
    waiting = world.request(rid(2), mount="scoutfs/2")
    agent = world.agent(wait_for_go(), delay=60)
    until(world.recorded, "the first runs")
    waiting.rename(world.folder / "kept")
    again = world.request(rid(2), mount="scoutfs/2")
    (world.folder / "go").touch()
    agent.says(f"{rid(2)} .*: (needs no answer any more,|exit status 0.*, but) the request is gone")
    assert len(world.recorded()) == 1
    assert result(again) == ""


def test_one_that_is_finished_before_its_turn(world: World) -> None:
    world.request(elapsed=5)
    waiting = world.request(rid(2), mount="scoutfs/2")
    agent = world.agent(wait_for_go(), delay=60)
    until(world.recorded, "the first runs")
    (waiting / "error").write_text("1\n")
    (world.folder / "go").touch()
    agent.says(
        f"{rid(2)} .*: (needs no .*|exit status 0.*, but the request) was finished by someone"
    )
    assert len(world.recorded()) == 1
    assert result(waiting) == "error"


# Stopping and being killed.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_between_two_looks(world: World, number: signal.Signals) -> None:
    agent = world.agent(delay=60)
    agent.signal(number)
    assert agent.wait(10) == 0
    assert agent.lines("^stopped$")


def test_a_signal_lets_running_commands_finish_and_serves_others_meanwhile(world: World) -> None:
    """While the agent waits for a command, new requests do not wait for the next agent."""
    running = world.request(elapsed=5)
    agent = world.agent(
        f"test $SCOUTFS_FENCED_REQ_IP = 10.0.0.3 && exit 0; {wait_for_go()}", run_fences="host"
    )
    until(world.recorded, "it runs")
    agent.signal(signal.SIGTERM)
    agent.says("waiting up to 30 s for commands that run: 1")
    later = world.request(rid(3), address="10.0.0.3")
    until_result(later, "fenced", 5)
    assert agent.process.poll() is None
    (world.folder / "go").touch()
    assert agent.wait() == 0
    assert result(running) == "fenced"
    assert len(world.recorded()) == 1


def test_a_failure_while_stopping_is_left_to_the_next_agent(world: World) -> None:
    directory = world.request()
    agent = world.agent(wait_for_go("exit 1"))
    until(world.recorded, "it runs")
    agent.signal(signal.SIGTERM)
    agent.says("waiting up to")
    (world.folder / "go").touch()
    assert agent.wait() == 0
    assert agent.lines("not fenced yet; left to the next agent")
    assert result(directory) == ""


def test_stopping_takes_no_longer_than_its_bound(world: World) -> None:
    directory = world.request()
    agent = world.agent(f"trap '' TERM; {wait_for_go()}", stop_timeout=0.5)
    until(world.recorded, "it runs")
    began = time.monotonic()
    agent.stop()
    assert 0.5 <= time.monotonic() - began < 4
    assert agent.lines("ending commands that still run: 1")
    [pid] = world.recorded()
    assert not alive(pid)
    assert result(directory) == ""
    (world.folder / "go").touch()
    world.begin()
    until_result(directory, "fenced")


def test_a_second_signal_ends_commands_with_their_second_of_grace(world: World) -> None:
    directory = world.request()
    agent = world.agent(f"trap 'sleep 0.5; echo gently >>record; exit 1' TERM; {wait_for_go()}")
    until(world.recorded, "it runs")
    agent.signal(signal.SIGTERM)
    agent.says("waiting up to")
    began = time.monotonic()
    for _ in range(3):
        agent.signal(signal.SIGTERM)
        time.sleep(0.1)
    assert agent.wait() == 0
    assert time.monotonic() - began < 3
    assert "gently" in world.recorded()
    assert result(directory) == ""


def test_another_takes_over_from_one_that_is_killed(world: World) -> None:
    directories = [world.request(rid(n), address=f"10.0.0.{n}") for n in range(3)]
    agent = world.agent(wait_for_go())
    until(lambda: len(world.recorded()) == 3, "all run")
    agent.process.kill()
    agent.process.wait()
    orphans = world.recorded()
    (world.folder / "go").touch()
    until(lambda: not any(alive(pid) for pid in orphans), "they end")
    assert [result(directory) for directory in directories] == ["", "", ""]
    world.agent("exit 0")
    for directory in directories:
        until_result(directory, "fenced")


def test_a_second_agent_says_so_and_ends(world: World) -> None:
    first = world.agent()
    second = world.begin()
    assert second.wait() == 1
    assert second.log() == (
        "scoutfs-fenced: another agent is running, with the process id "
        f"{first.process.pid}; stop that one first\n"
    )
    assert world.begin().wait() == 1, "and it has taken nothing away"
    until_result(world.request(), "fenced")
    assert world.status()["pid"] == first.process.pid
    first.stop()
    world.begin().says("serving")


def test_two_at_once_are_one(world: World) -> None:
    world.configure("exit 0")
    agents = [world.begin() for _ in range(4)]
    until(lambda: sum(it.process.poll() is not None for it in agents) == 3, "all but one end")
    assert sorted(it.process.poll() or 0 for it in agents) == [0, 1, 1, 1]


def test_commands_do_not_hold_the_lock(world: World) -> None:
    world.request()
    agent = world.agent("echo x >>record; sleep 3")
    until(world.recorded, "it runs")
    agent.process.kill()
    agent.process.wait()
    world.begin().says("serving", 2)


def test_a_full_run_does_not_keep_it_from_starting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("RUNTIME_DIRECTORY", str(world.runtime))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        instance.acquire_instance_lock()
    with pytest.raises(instance.InstanceError, match="another agent is running"):
        instance.acquire_instance_lock()


def test_no_folder_for_the_lock(world: World) -> None:
    world.configure("exit 0")
    agent = world.begin(RUNTIME_DIRECTORY="/proc/nowhere")
    assert agent.wait() == 1
    assert "scoutfs-fenced: /proc/nowhere/lock cannot be made" in agent.log()


# The configuration.


def test_a_mistake_in_the_configuration_is_one_sentence(world: World) -> None:
    agent = world.begin()
    assert agent.wait() == 78
    assert re.fullmatch(
        f"scoutfs-fenced: {world.configuration}: the configuration cannot be read: .*\n",
        agent.log(),
    )
    world.configuration.write_text("SCOUTFS_FENCED_RUN=/bin/true\nSCOUTFS_FENCED_DELAY=often\n")
    agent = world.begin()
    assert agent.wait() == 78
    assert agent.log() == (
        f"scoutfs-fenced: {world.configuration}, line 2: "
        "SCOUTFS_FENCED_DELAY must be a number of seconds, or what else sleep takes, "
        "as in 0.5 or 1m 30s, not 'often'\n"
    )


def test_sighup_reads_the_configuration_again(world: World) -> None:
    agent = world.agent("exit 1", delay=60)
    world.configure("echo new >>record")
    agent.signal(signal.SIGHUP)
    agent.says("serving fence requests as .* says now")
    until_result(world.request(), "fenced", 5)
    assert world.recorded() == ["new"]


def test_sighup_lets_commands_run_on_and_more_of_them(world: World) -> None:
    directories = [world.request(rid(n), address=f"10.0.0.{n}") for n in range(3)]
    agent = world.agent(wait_for_go(), parallel=1)
    until(world.recorded, "the first runs")
    world.configure(wait_for_go(), parallel=3)
    agent.signal(signal.SIGHUP)
    until(lambda: len(world.recorded()) == 3, "all run")
    (world.folder / "go").touch()
    for directory in directories:
        until_result(directory, "fenced")


def test_sighup_with_a_mistake_keeps_the_old_configuration(world: World) -> None:
    agent = world.agent("echo old >>record")
    world.configuration.write_text("#\nSCOUTFS_FENCED_RUN=/nowhere\n")
    agent.signal(signal.SIGHUP)
    agent.says(
        f"the configuration stays as it was: {world.configuration}, line 2: "
        "SCOUTFS_FENCED_RUN is not an executable file: /nowhere"
    )
    until_result(world.request(), "fenced")
    assert world.recorded() == ["old"]


def test_sighup_with_a_configuration_that_hangs_holds_nobody_up(world: World) -> None:
    agent = world.agent("echo old >>record")
    world.configuration.write_text("sleep 60\n")
    agent.signal(signal.SIGHUP)
    time.sleep(0.2)
    until_result(world.request(), "fenced", 5)
    agent.stop()


# The log and the status.


def test_a_reader_of_the_log_that_goes_does_not_end_the_agent(world: World) -> None:
    world.configure("exit 0")
    reading, writing = os.pipe()
    agent = world.begin(output=writing)
    os.close(writing)
    assert b"serving" in os.read(reading, 100)
    os.close(reading)
    for number in range(2):
        until_result(world.request(rid(number)), "fenced")
    assert agent.process.poll() is None


def test_a_reader_of_the_log_that_stands_still_does_not_stop_the_agent(world: World) -> None:
    world.configure("yes; exit 0", limit=0.3, retries=0)
    reading, writing = os.pipe()
    world.begin(output=writing)
    os.close(writing)
    for number in range(20):
        directory = world.request(rid(number), address=f"10.0.0.{number}")
    until_result(directory, "error")
    os.close(reading)


def test_the_status_tells_what_is_done(world: World) -> None:
    running = world.request(elapsed=4)
    address = world.request(rid(2), mount="scoutfs/2", elapsed=3)
    slot = world.request(rid(3), address="10.0.0.3", elapsed=2)
    agent = world.agent(wait_for_go(), parallel=1, run_fences="mount")
    until(world.recorded, "it runs")
    status = world.status()
    assert status["pid"] == agent.process.pid
    assert abs(status["since"] - time.time()) < 20
    assert status["configuration"] == str(world.configuration)
    assert status["stopping"] is False
    requests = status["requests"]
    assert [it["directory"] for it in requests] == [str(running), str(address), str(slot)]
    assert [it["state"] for it in requests] == [
        "running",
        "waiting-for-host",
        "waiting-for-slot",
    ]
    first = requests[0]
    assert (first["rid"], first["address"], first["reason"], first["mount"], first["attempt"]) == (
        RID,
        "10.1.2.3",
        "client_recovery",
        "f.000001.r.000002",
        1,
    )
    assert first["doing"].startswith(f"running {world.folder}/fence-command, for up to ")
    assert 4 < first["age"] < 15 and abs(first["age"] + first["left"] - 30) < 0.01
    assert 0 <= first["for"] < 10
    (world.folder / "go").touch()
    until_result(slot, "fenced")
    until(lambda: world.status()["requests"][2]["state"] == "done", "it is done")
    assert world.status()["requests"][2]["result"] == "exit status 0"
    assert (world.runtime / "status").stat().st_mode & 0o777 == 0o600


def test_the_status_of_one_that_pauses(world: World) -> None:
    world.request()
    world.agent("exit 5", retry_pause=15)
    until(lambda: world.status()["requests"][0]["state"] == "pausing", "it pauses")
    [request] = world.status()["requests"]
    assert (request["attempt"], request["result"]) == (1, "exit status 5")


def test_who_asks_for_the_status_and_goes_does_no_harm(world: World) -> None:
    for number in range(50):
        (world.request(rid(number), mount="scoutfs_fence/0:1") / "fenced").write_text("1\n")
    agent = world.agent()
    for _ in range(20):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(world.runtime / "status"))
        connection.close()
    until_result(world.request(), "fenced")
    assert world.status()["pid"] == agent.process.pid
    agent.stop()
    assert not agent.lines("Traceback|exception")


@pytest.mark.parametrize(
    "part",
    [metrics.Metrics, history.History, records.Records, devices.Devices],
    ids=lambda part: part.__name__,
)
def test_an_agent_of_which_a_part_fails_ends_and_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], part: type
) -> None:
    """systemd would not replace an agent that runs on without one of its parts."""

    async def fail(*_: object) -> None:
        await asyncio.sleep(0.1)
        raise KeyError("something")

    name = "watch" if part is devices.Devices else "keep_writing"
    monkeypatch.setattr(part, name, fail)
    monkeypatch.setenv("STATE_DIRECTORY", str(world.state))
    world.configure("exit 0")

    async def serve() -> None:
        settings = await configuration.read(str(world.configuration), print)
        await asyncio.wait_for(server.Server(settings, str(world.sysfs)).serve(), 20)

    with pytest.raises(KeyError):
        asyncio.run(serve())
    assert "unexpected, the agent ends: KeyError('something')" in capfd.readouterr().out
