# SPDX-License-Identifier: GPL-2.0-only
"""The commands for administrators, `status` and `ack`, with or without an agent."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake import Fake
from scoutfs_fenced import acknowledgements, log, main, people
from scoutfs_fenced.people import who
from support import AGENT, RID, World, remove, result, rid, until, until_result


def run(world: World, *arguments: str, typed: str = "", **environment: str) -> tuple[int, str, str]:
    """Runs a command; returns exit status, standard output and standard error."""
    done = subprocess.run(
        [sys.executable, "-B", AGENT, "--sysfs", world.sysfs, *arguments],
        env={
            **os.environ,
            "SCOUTFS_FENCED_CONFIG_FILE": str(world.configuration),
            "RUNTIME_DIRECTORY": str(world.runtime),
            "STATE_DIRECTORY": str(world.state),
            **environment,
        },
        input=typed,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def report(world: World) -> dict[str, Any]:
    status, output, _ = run(world, "status", "--json")
    assert status == 0
    told: dict[str, Any] = json.loads(output)
    return told


def test_status_shows_each_request_and_what_is_done(world: World) -> None:
    world.request(rid(1), address="10.0.0.1", elapsed=3)
    world.request(rid(2), address="10.0.0.1")
    (world.request(rid(3), address="10.0.0.3", elapsed=9) / "fenced").write_text("1\n")
    agent = world.agent("sleep 60")
    agent.says("running")
    status, output, error = run(world, "status")
    assert (status, error) == (0, "")
    headings, *rows = (line.split(None, 6) for line in output.splitlines())
    assert headings == ["RID", "ADDRESS", "REASON", "MOUNT", "AGE", "LEFT", "STATE"]
    cells = {row[0]: row for row in (line.split() for line in output.splitlines()[1:])}
    assert set(cells) == {rid(1), rid(2), rid(3)}
    assert cells[rid(1)][1:4] == ["10.0.0.1", "client_recovery", "f.000001.r.000002"]
    assert 3 <= int(cells[rid(1)][4]) <= 6
    assert 24 <= int(cells[rid(1)][6]) <= 27
    assert f"running {world.folder}/fence-command" in " ".join(cells[rid(1)])
    assert "s so far" in " ".join(cells[rid(1)])
    assert f"running {world.folder}/fence-command" in " ".join(cells[rid(2)]), "they share it"
    assert cells[rid(3)][6:] == ["-", "fenced"]
    assert rows[0][0] == rid(3), "the one with the least time left comes first"


def test_status_as_json_is_the_same_for_programs(world: World) -> None:
    directory = world.request(address="10.0.0.1", elapsed=3)
    agent = world.agent("exit 1", retry_pause=20)
    agent.says("another attempt follows")
    told = report(world)
    assert told["agent"]["pid"] == agent.process.pid
    assert told["agent"]["configuration"] == str(world.configuration)
    [request] = told["requests"]
    assert request["directory"] == str(directory)
    assert request["outcome"] == "pending"
    assert (request["rid"], request["address"]) == (RID, "10.0.0.1")
    assert 3 <= request["age"] <= 6
    assert request["agent"]["state"] == "pausing"
    assert (request["agent"]["attempt"], request["agent"]["result"]) == (1, "exit status 1")
    _, output, _ = run(world, "status")
    assert "pausing; " in output and "before: exit status 1" in output


def test_status_of_a_request_that_its_leader_must_give_up(world: World) -> None:
    world.request(address="10.0.0.1", reason="quorum_block_leader", built_in=True)
    world.agent("exit 1", retries=0).says("gets no answer")
    [_, row] = run(world, "status")[1].splitlines()
    assert row.endswith("given up; the next leader asks again; before: exit status 1")


def test_status_without_an_agent_still_shows_the_requests(world: World) -> None:
    world.request()
    status, output, error = run(world, "status")
    assert status == 1
    assert RID in output and "no agent at work on it" in output
    assert "no agent is running" in error
    status, output, _ = run(world, "status", "--json")
    assert status == 1
    told = json.loads(output)
    assert told["agent"] is None
    assert told["requests"][0]["agent"] is None


def test_status_of_an_agent_that_was_killed_says_so(world: World) -> None:
    agent = world.agent()
    agent.process.kill()
    agent.wait()
    assert (world.runtime / "status").exists()
    status, _, error = run(world, "status")
    assert (status, "no agent is running" in error) == (1, True)


def test_status_of_an_agent_that_does_not_answer_says_so(world: World) -> None:
    world.runtime.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(world.runtime / "status"))
        listener.listen()
        # Answers nonsense, which is faster than not answering.
        answer = subprocess.Popen(
            [sys.executable, "-B", AGENT, "--sysfs", world.sysfs, "status"],
            env={**os.environ, "RUNTIME_DIRECTORY": str(world.runtime)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = listener.accept()
        connection.sendall(b"{")
        connection.close()
        error = answer.communicate()[1]
    assert answer.returncode == 1
    assert "does not answer" in error and "Traceback" not in error


def test_ack_passes_on_what_was_confirmed(world: World) -> None:
    directory = world.request(address="10.0.0.1")
    status, output, error = run(world, "ack", RID, typed="10.0.0.1\n", SUDO_UID="")
    assert (status, error) == (0, "")
    assert result(directory) == "fenced"
    assert "10.0.0.1" in output and "client_recovery" in output
    assert output.splitlines()[-1].startswith(
        f"If it is off, type 10.0.0.1: rid {RID} address 10.0.0.1 reason client_recovery"
        " mount f.000001.r.000002: fenced, by the word of "
    )


@pytest.mark.parametrize("typed", ["", "\n", "yes\n", "10.0.0.2\n", f"{RID}\n"])
def test_ack_of_anything_else_says_nothing(world: World, typed: str) -> None:
    directory = world.request(address="10.0.0.1")
    status, _, error = run(world, "ack", RID, typed=typed)
    assert status == 1
    assert "nothing was done" in error
    assert result(directory) == ""


def test_ack_asks_for_the_rid_where_there_is_no_address(world: World) -> None:
    directory = world.request(address="0.0.0.0")
    assert run(world, "ack", RID, typed="0.0.0.0\n")[0] == 1
    assert result(directory) == ""
    assert run(world, "ack", RID, typed=f"{RID}\n")[0] == 0
    assert result(directory) == "fenced"


@pytest.mark.parametrize(
    ("written", "says"),
    [("0xC0FFEE00000001", ""), ("c0ffee00000001", ""), ("node7", "hexadecimal"), ("1" * 17, "16")],
)
def test_ack_reads_a_rid_in_any_spelling(world: World, written: str, says: str) -> None:
    world.request(address="10.0.0.1")
    status, _, error = run(world, "ack", written, typed="10.0.0.1\n")
    assert (status, says in error) == (1 if says else 0, True)


def test_ack_of_several_mounts_wants_to_know_which(world: World) -> None:
    one = world.request(address="10.0.0.1")
    other = world.request(mount="scoutfs_fence/0:41", address="10.0.0.1")
    status, _, error = run(world, "ack", RID, typed="10.0.0.1\n")
    assert status == 1
    assert "--mount: 0:41, f.000001.r.000002" in error
    assert (result(one), result(other)) == ("", "")
    assert run(world, "ack", "--mount", "0:41", RID, typed="10.0.0.1\n")[0] == 0
    assert (result(one), result(other)) == ("", "fenced")


@pytest.mark.parametrize("name", ["fenced", "error"])
def test_ack_of_what_is_answered_says_so(world: World, name: str) -> None:
    directory = world.request(address="10.0.0.1")
    (directory / name).write_text("1\n")
    status, output, error = run(world, "ack", RID, typed="10.0.0.1\n")
    assert status == 1
    assert "has been answered already" in error
    assert "type" not in output, "it asks nothing"


def test_ack_of_no_request_says_so(world: World) -> None:
    status, _, error = run(world, "ack", "1234", typed="\n")
    assert status == 1
    assert "there is no request for rid 0000000000001234" in error


@pytest.mark.parametrize("span", [[], ["--for", "15m"]])
@pytest.mark.parametrize("pending", [True, False])
def test_ack_of_a_mount_that_this_host_has_is_refused(
    world: World, pending: bool, span: list[str]
) -> None:
    mount = world.sysfs / "fs/scoutfs/f.000001.r.00c0ff"
    mount.mkdir(parents=True)
    (mount / "rid").write_text(f"{RID}\n")
    requests = [world.request(address="10.0.0.1")] if pending else []
    typed = f"{'10.0.0.1' if pending else RID}\n"
    status, output, error = run(world, "ack", RID, *span, typed=typed)
    assert (status, f"this host has the mount with the rid {RID}" in error) == (1, True), error
    assert "type" not in output, "it asks nothing"
    assert [result(each) for each in requests] == [""] * pending
    assert not (world.state / "acknowledgements").exists()


def test_a_word_never_reaches_a_later_request(world: World) -> None:
    directory = world.request(address="10.0.0.1")
    ack = subprocess.Popen(
        [sys.executable, "-B", AGENT, "--sysfs", world.sysfs, "ack", RID],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=0,
    )
    assert ack.stdin and ack.stdout
    until(lambda: "type" in os.read(ack.stdout.fileno(), 4096).decode(), "it asks")  # type: ignore[union-attr]
    remove(directory)
    again = world.request(address="10.0.0.1")
    ack.stdin.write("10.0.0.1\n")
    ack.communicate()
    assert result(again) == ""


def test_the_agent_ends_its_command_after_a_word(world: World) -> None:
    directory = world.request(address="10.0.0.1")
    agent = world.agent("sleep 60")
    agent.says("running")
    assert run(world, "ack", RID, typed="10.0.0.1\n")[0] == 0
    until_result(directory, "fenced")
    agent.says("finished by someone else")


def test_the_journal_gets_a_field_for_each_subject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    monkeypatch.setattr(log, "JOURNAL", str(path))
    assert not log.to_journal("nobody there", log.WARNING, {})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        assert log.to_journal("fenced", log.WARNING, {"rid": RID, "by": "one\nPRIORITY=0"})
        sent = journal.recv(4096).decode().splitlines()
    assert "MESSAGE=fenced" in sent
    assert f"SCOUTFS_FENCE_RID={RID}" in sent
    assert "SCOUTFS_FENCE_BY=one PRIORITY=0" in sent, "a value cannot make another field"


def in_journal(
    world: World, monkeypatch: pytest.MonkeyPatch, typed: str, *arguments: str
) -> list[str]:
    """The journal's fields when an administrator types this."""
    path = world.folder / "journal"
    path.unlink(missing_ok=True)
    monkeypatch.setattr(log, "JOURNAL", str(path))
    monkeypatch.setattr("builtins.input", lambda _question: typed)
    monkeypatch.setattr(sys, "argv", ["scoutfs-fenced", "--sysfs", str(world.sysfs), *arguments])
    monkeypatch.setenv("STATE_DIRECTORY", str(world.state))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        journal.settimeout(20)
        assert main.main() == 0
        return journal.recv(4096).decode().splitlines()


def test_the_journal_gets_what_was_acknowledged_with_the_login(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    by = f"SCOUTFS_FENCE_ACKNOWLEDGED_BY={who()}"
    world.request(address="10.0.0.1")
    sent = in_journal(world, monkeypatch, "10.0.0.1", "ack", RID)
    assert by in sent
    assert f"SCOUTFS_FENCE_RID={RID}" in sent
    assert "SCOUTFS_FENCE_RESULT=fenced" in sent
    assert f"MESSAGE_ID={log.MESSAGE_IDS['fenced']}" in sent
    sent = in_journal(world, monkeypatch, "10.0.0.1", "ack", "--host", "10.0.0.1")
    assert by in sent
    assert sent[0].startswith(f"MESSAGE=host 10.0.0.1, by the word of {who()}, until ")
    sent = in_journal(world, monkeypatch, "", "ack", "--host", "10.0.0.1", "--withdraw")
    assert by in sent
    assert sent[0].endswith(f": taken back by {who()}")


@pytest.mark.parametrize(
    ("login", "sudo", "uid"),
    [
        # The user's own setting is ignored if the kernel knows the login.
        (1000, "1001", 1000),
        (0xFFFFFFFF, "1001", 1001),
        (0xFFFFFFFF, "", os.getuid()),
    ],
)
def test_the_login_is_what_the_kernel_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, login: int, sudo: str, uid: int
) -> None:
    (tmp_path / "loginuid").write_text(f"{login}\n")
    monkeypatch.setattr(people, "LOGIN", str(tmp_path / "loginuid"))
    monkeypatch.setenv("SUDO_UID", sudo)
    assert f"uid {uid}" in who().partition(", as ")[0]


def test_a_wrong_configuration_has_an_exit_status_of_its_own(world: World) -> None:
    world.configure("exit 0", delay="often")
    agent = world.begin()
    assert agent.wait() == 78
    assert "line 1" in agent.log()


# Acknowledgements that hold for a while.


def test_a_word_about_a_host_answers_what_comes(world: World) -> None:
    """It is given before any request, by the host's name."""
    hosts = world.folder / "hosts"
    fake = Fake(world.folder / "device")
    hosts.write_text(
        f"[node1]\naddress = 10.0.0.11, fd00::11\nagent = {fake.agent}\nip = 10.0.9.1\n"
    )
    world.configure("echo $SCOUTFS_FENCED_REQ_IP >>record", hosts=hosts)
    status, output, error = run(world, "ack", "--host", "node1", "--for", "15m", typed="node1\n")
    assert (status, error) == (0, "")
    assert "10.0.0.11, fd00::11" in output
    assert re.search(r"is off until +\d\d:\d\d:\d\d on ", output)
    assert "--host node1 --withdraw" in output
    agent = world.begin().says("serving")
    until_result(world.request(rid(1), address="10.0.0.11"), "fenced", 5)
    until_result(world.request(rid(2), address="0.0.0.0", inet="FD00::11"), "fenced", 5)
    until_result(world.request(rid(3), address="10.0.0.12"), "fenced", 5)
    assert world.recorded() == ["10.0.0.12"], "it is about one host"
    assert fake.actions() == []
    agent.says(rf"rid {rid(1)} .*: fenced, acknowledged: host node1, by the word of .*, until ")


def test_a_word_given_late_answers_the_request_that_waits(world: World) -> None:
    directory = world.request(address="10.0.0.11")
    world.agent("sleep 60").says("running")
    assert run(world, "ack", "--host", "10.0.0.11", typed="10.0.0.11\n")[0] == 0
    until_result(directory, "fenced", 6)


def test_a_word_about_a_rid_answers_it_when_it_comes(world: World) -> None:
    assert run(world, "ack", "--for", "1h", "C0FFEE00000001", typed=f"{RID}\n")[0] == 0
    world.agent("echo x >>record")
    until_result(world.request(), "fenced", 5)
    assert world.recorded() == []
    until_result(world.request(rid(2)), "fenced", 5)
    assert world.recorded() == ["x"], "it is about one mount"


def test_a_word_holds_though_its_request_goes(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the administrator types."""
    world.request(address="10.0.0.1")

    def refuse(_file: int, _data: bytes, _offset: int) -> int:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(os, "pwrite", refuse)
    sent = in_journal(world, monkeypatch, "10.0.0.1", "ack", RID, "--for", "15m")
    assert sent[0].startswith(f"MESSAGE=rid {RID}, by the word of ")
    assert "the request is gone" in capsys.readouterr().err
    [given] = acknowledgements.read_acknowledgements(str(world.state))
    assert given.rid == RID


def test_a_word_may_follow_a_request_that_has_failed(world: World) -> None:
    directory = world.request(address="10.0.0.1")
    (directory / "error").write_text("1\n")
    assert "--for 15m" in run(world, "ack", RID, typed=f"{RID}\n")[2]
    assert run(world, "ack", RID, "--for", "15m", typed=f"{RID}\n")[0] == 0
    assert result(directory) == "error"
    remove(directory)
    again = world.request(address="10.0.0.1", mount="scoutfs/another")
    world.agent("echo x >>record")
    until_result(again, "fenced", 5)
    assert world.recorded() == []


def test_a_word_can_be_taken_back(world: World) -> None:
    assert run(world, "ack", "--host", "10.0.0.11", typed="10.0.0.11\n")[0] == 0
    assert "acknowledged: host 10.0.0.11, by " in run(world, "status")[1]
    assert len(json.loads(run(world, "status", "--json")[1])["acknowledgements"]) == 1
    status, output, _ = run(world, "ack", "--host", "10.0.0.11", "--withdraw")
    assert (status, "taken back by " in output) == (0, True)
    assert "acknowledged" not in run(world, "status")[1]
    world.agent("echo x >>record")
    until_result(world.request(address="10.0.0.11"), "fenced")
    assert world.recorded() == ["x"]
    status, _, error = run(world, "ack", "--host", "10.0.0.11", "--withdraw")
    assert (status, "nothing that holds" in error) == (1, True)


@pytest.mark.parametrize(
    ("given", "withdrawn"),
    [
        ("10.0.0.12", "node2"),
        ("node2", "10.0.1.12"),
        ("10.0.0.12", "10.0.1.12"),
        ("FD00::12", "fd00:0::12"),
    ],
)
def test_a_word_is_taken_back_by_any_name_of_the_host(
    world: World, given: str, withdrawn: str
) -> None:
    hosts = world.folder / "hosts"
    hosts.write_text(
        "[node2]\naddress = 10.0.0.12, 10.0.1.12, fd00::12\nagent = /bin/false\nip = 10.0.9.2\n"
        "[node3]\naddress = 10.0.0.13\nagent = /bin/false\nip = 10.0.9.3\n"
    )
    world.configure("exit 0", hosts=hosts)
    for host in (given, "10.0.0.13"):
        assert run(world, "ack", "--host", host, typed=f"{host}\n")[0] == 0
    status, output, error = run(world, "ack", "--withdraw", "--host", withdrawn)
    assert (status, error) == (0, "")
    assert output.startswith(f"host {given}, by the word of ")
    [left] = json.loads(run(world, "status", "--json")[1])["acknowledgements"]
    assert left["subject"] == "host 10.0.0.13", "another host is off as before"


def test_a_host_that_the_hosts_file_lost_can_be_taken_back(world: World) -> None:
    """With everything said about the addresses that it had."""
    hosts = world.folder / "hosts"
    hosts.write_text("[node2]\naddress = 10.0.0.12\nagent = /bin/false\nip = 10.0.9.2\n")
    world.configure("exit 0", hosts=hosts)
    for host in ("node2", "10.0.0.12"):
        assert run(world, "ack", "--host", host, typed=f"{host}\n")[0] == 0
    hosts.write_text(hosts.read_text().replace("node2", "node3"))
    status, output, _ = run(world, "ack", "--withdraw", "--host", "node2")
    assert (status, output.count("taken back by ")) == (0, 2)
    status, _, error = run(world, "ack", "--withdraw", "--host", "node2")
    assert (status, f"the hosts file {hosts} has no such host" in error) == (1, True)


def test_a_word_that_was_taken_back_answers_nothing_any_more(world: World) -> None:
    """Not even a mount for which it has answered before."""
    assert run(world, "ack", "--host", "10.0.0.11", typed="10.0.0.11\n")[0] == 0
    world.agent("echo x >>record")
    directory = world.request(address="10.0.0.11")
    until_result(directory, "fenced")
    remove(directory)
    assert run(world, "ack", "--host", "10.0.0.11", "--withdraw")[0] == 0
    until_result(world.request(address="10.0.0.11"), "fenced")
    assert world.recorded() == ["x"]


def test_a_word_ends(world: World) -> None:
    assert run(world, "ack", "--host", "10.0.0.11", "--for", "1", typed="10.0.0.11\n")[0] == 0
    time.sleep(1.1)
    world.agent("echo x >>record")
    until_result(world.request(address="10.0.0.11"), "fenced")
    assert world.recorded() == ["x"]


def test_a_word_of_another_boot_does_not_hold(world: World) -> None:
    given = acknowledgements.new_acknowledgement(
        "host 10.0.0.11", "", ("10.0.0.11",), "someone", 900
    )
    acknowledgements.add_acknowledgement(str(world.state), given)
    assert len(acknowledgements.read_acknowledgements(str(world.state))) == 1
    acknowledgements.add_acknowledgement(
        str(world.state), dataclasses.replace(given, boot="another")
    )
    assert len(acknowledgements.read_acknowledgements(str(world.state))) == 1


def test_a_damaged_word_is_none(world: World) -> None:
    assert run(world, "ack", "--host", "10.0.0.11", typed="10.0.0.11\n")[0] == 0
    path = world.state / "acknowledgements"
    path.write_text(path.read_text().replace("10.0.0.11", "10.0.0.12"))
    agent = world.agent("echo x >>record")
    until_result(world.request(address="10.0.0.12"), "fenced")
    assert world.recorded() == ["x"]
    agent.says("what administrators have acknowledged is not known: .*checksum is wrong")
    # New acknowledgements still count.
    status, output, _ = run(world, "ack", "--host", "10.0.0.13", typed="10.0.0.13\n")
    assert (status, "does not hold any more" in output) == (0, True)
    assert (world.state / "acknowledgements.damaged").exists()
    until_result(world.request(rid(3), address="10.0.0.13"), "fenced")
    assert world.recorded() == ["x"]


@pytest.mark.parametrize(
    ("arguments", "typed", "says"),
    [
        (["--host", "10.0.0.11"], "", "nothing was done"),
        (["--host", "10.0.0.11"], "yes\n", "nothing was done"),
        (["--host", "node9"], "node9\n", "the configuration cannot be read"),
        (["--host", "0.0.0.0"], "0.0.0.0\n", "is not the address of one host"),
        (["--host", "::"], "::\n", "is not the address of one host"),
        (["--host", "127.0.0.1"], "127.0.0.1\n", "is this host"),
        (["--host", "10.0.0.11", "--for", "soon"], "", "--for is a span"),
        (["--host", "10.0.0.11", "--for", "0"], "", "--for is a span"),
        (["--host", "10.0.0.11", "--for", "-1"], "", "--for is a span"),
        (["--host", "10.0.0.11", "--for", "25h"], "", "--for is a span"),
        (["--host", "10.0.0.11", "--for", "inf"], "", "--for is a span"),
        (["--host", "10.0.0.11", "--for", "0x1p99999"], "", "--for is a span"),
        (["--host", "10.0.0.11", "12"], "", "say of which mount or host"),
        ([], "", "say of which mount or host"),
    ],
)
def test_a_word_that_is_refused(world: World, arguments: list[str], typed: str, says: str) -> None:
    if "-1" in arguments:
        arguments = [*arguments[:2], "--for=-1"]
    status, _, error = run(world, "ack", *arguments, typed=typed)
    assert (status, says in error) == (1, True), error
    assert not (world.state / "acknowledgements").exists()


# Fencing by hand.


def test_fence_really_fences_a_host(world: World) -> None:
    fake = Fake(world.folder / "device")
    hosts = world.folder / "hosts"
    hosts.write_text(f"[node1]\naddress = 10.0.0.11\nagent = {fake.agent}\nip = 10.0.9.1\n")
    agent = world.agent("exit 0", hosts=hosts)
    status, output, error = run(world, "fence", "node1", typed="node1\n")
    assert (status, error) == (0, "")
    assert fake.actions() == ["off", "status"]
    assert "fenced: proven off at node1 level 1" in output
    agent.says("is to be fenced by hand, by the word of ")
    assert world.status()["requests"] == []
    # It does not answer later requests.
    until_result(world.request(address="10.0.0.11"), "fenced")
    assert fake.actions() == ["off", "status"] * 2


def test_fence_tells_of_a_failure(world: World) -> None:
    world.agent("exit 3", retries=0)
    status, output, _ = run(world, "fence", "10.0.0.12", typed="10.0.0.12\n")
    assert (status, "NOT fenced: exit status 3" in output) == (1, True)


@pytest.mark.parametrize(
    ("host", "typed", "says"),
    [
        ("10.0.0.12", "y\n", "nothing was done"),
        ("0.0.0.0", "0.0.0.0\n", "is not the address of one host"),
        ("node7", "node7\n", "scoutfs-fenced.conf names no hosts file"),
        ("127.0.0.1", "127.0.0.1\n", "NOT fenced: 127.0.0.1 is an address of this host"),
    ],
)
def test_fence_refuses(world: World, host: str, typed: str, says: str) -> None:
    world.agent("echo x >>record")
    status, output, error = run(world, "fence", host, typed=typed)
    assert (status, says in output + error) == (1, True), output + error
    assert world.recorded() == []


def test_fence_needs_an_agent(world: World) -> None:
    status, _, error = run(world, "fence", "10.0.0.12", typed="10.0.0.12\n")
    assert (status, "no agent is running" in error) == (1, True)


def test_status_shows_what_goes_on_for_the_next_leader(world: World) -> None:
    directory = world.request(address="10.0.0.1")
    world.agent("sleep 60").says("running")
    remove(directory)
    until(lambda: not world.status()["requests"], "it is gone")
    [attempt] = report(world)["agent"]["attempts"]
    assert (attempt["host"], attempt["rids"]) == ("10.0.0.1", [RID])
    assert "goes on for 10.0.0.1, for the next leader: running " in run(world, "status")[1]


# The history.


def test_history_shows_what_has_happened(world: World) -> None:
    until_result_of = world.request(rid(1), address="10.0.0.1")
    failing = world.request(rid(2), address="10.0.0.2")
    agent = world.agent("test $SCOUTFS_FENCED_REQ_IP = 10.0.0.1", retries=0)
    until_result(until_result_of, "fenced")
    until_result(failing, "error")
    agent.stop()
    status, output, error = run(world, "history")
    assert (status, error) == (0, "")
    assert [line.split()[2] for line in output.splitlines()[1:]].count("request-begun") == 2
    assert re.search(rf"request-fenced +{rid(1)} +10.0.0.1 .*exit status 0", output)
    assert re.search(rf"request-failed +{rid(2)} +10.0.0.2 .*exit status 1", output)
    entries = json.loads(run(world, "history", "--json")[1])
    assert [entry["event"] for entry in entries].count("request-begun") == 2
    world.begin().says("serving")
    until_result(world.request(rid(3), address="10.0.0.1"), "fenced")
    until(lambda: rid(3) in run(world, "history")[1], "the next agent goes on with it")
    assert rid(1) in run(world, "history")[1]


def test_history_before_there_is_one(world: World) -> None:
    status, output, _ = run(world, "history")
    assert (status, len(output.splitlines())) == (0, 1)
