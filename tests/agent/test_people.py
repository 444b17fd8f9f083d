# SPDX-License-Identifier: GPL-2.0-only
"""The commands for people: `status` and `ack`, beside an agent or alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scoutfs_fenced import log
from support import AGENT, RID, World, remove, result, rid, until, until_result


def run(world: World, *arguments: str, typed: str = "", **environment: str) -> tuple[int, str, str]:
    """Calls a command; returns exit status, standard output and standard error."""
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
        # It answers nonsense, which is quicker than nothing.
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
    assert "nothing was said to the kernel" in error
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
    assert "type" not in output, "nobody is asked"


def test_ack_of_no_request_says_so(world: World) -> None:
    status, _, error = run(world, "ack", "1234", typed="\n")
    assert status == 1
    assert "there is no request for rid 0000000000001234" in error


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


def test_a_wrong_configuration_has_an_exit_status_of_its_own(world: World) -> None:
    world.configure("exit 0", delay="often")
    agent = world.begin()
    assert agent.wait() == 78
    assert "line 1" in agent.log()
