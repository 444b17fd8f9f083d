# SPDX-License-Identifier: GPL-2.0-only
"""What a configuration sets, and which mistakes are refused at which line."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from scoutfs_fenced import configuration, main, process
from scoutfs_fenced.configuration import Configuration, ConfigurationError

RUN = "SCOUTFS_FENCED_RUN=/bin/true\n"


class Reader:
    """Reads configurations in a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "scoutfs-fenced.conf"
        self.said: list[str] = []

    def read(self, text: str) -> Configuration:
        self.path.write_text(text)
        return asyncio.run(configuration.read(str(self.path), self.said.append))

    def refusal(self, text: str) -> tuple[int | None, str]:
        """The refused line and the mistake in it."""
        with pytest.raises(ConfigurationError) as refused:
            self.read(text)
        where = f"{self.path}" + (f", line {refused.value.line}" if refused.value.line else "")
        assert str(refused.value) == f"{where}: {refused.value.what}"
        return refused.value.line, refused.value.what


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def test_what_is_not_set_has_a_default(reader: Reader) -> None:
    it = reader.read(RUN)
    assert it.command == ("/bin/true",)
    assert (it.delay, it.parallel, it.limit) == (2, 32, None)
    assert (it.retries, it.retry_pause, it.stop_timeout) == (None, 1, 30)


def test_all_are_read(reader: Reader) -> None:
    it = reader.read(
        RUN
        + "SCOUTFS_FENCED_DELAY=0.5\n"
        + "SCOUTFS_FENCED_RUN_ARGS='a b'\n"
        + "SCOUTFS_FENCED_PARALLEL=7\n"
        + "SCOUTFS_FENCED_LIMIT=8.5\n"
        + "SCOUTFS_FENCED_RETRIES=0\n"
        + "SCOUTFS_FENCED_RETRY_PAUSE=0\n"
        + "SCOUTFS_FENCED_STOP_TIMEOUT=9\n"
    )
    assert it.path == str(reader.path)
    assert it.command == ("/bin/true", "a", "b")
    assert (it.delay, it.parallel, it.limit) == (0.5, 7, 8.5)
    assert (it.retries, it.retry_pause, it.stop_timeout) == (0, 0, 9)


def test_the_shell_reads_it(reader: Reader) -> None:
    it = reader.read(
        "here=/bin  # a comment\n"
        "echo chatter; echo more >&2\n"
        "export SCOUTFS_FENCED_DELAY='0.5'\n"
        "SCOUTFS_FENCED_RUN=${here}/true\n"
        'SCOUTFS_FENCED_RUN_ARGS=" --one  \'two\tthree * "\n'
        "test -e /nowhere && SCOUTFS_FENCED_DELAY=5\n"
    )
    assert it.delay == 0.5
    assert it.command == ("/bin/true", "--one", "'two", "three", "*")
    assert reader.said == [
        f"the configuration {reader.path} says: chatter",
        f"the configuration {reader.path} says: more",
    ]


def test_bash_reads_it_where_there_is_one(reader: Reader) -> None:
    it = reader.read(
        "declare -A commands=([a]=/bin/false [b]=/bin/true)\n"
        'if [[ ${commands[b]} == /bin/t* ]]; then SCOUTFS_FENCED_RUN=${commands["b"]}; fi\n'
        "function arguments() { local -r it=(x y); SCOUTFS_FENCED_RUN_ARGS=${it[*]}; }\n"
        "arguments\n"
    )
    assert it.command == ("/bin/true", "x", "y")


def test_another_shell_does_where_there_is_no_bash(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "shell", lambda: "/bin/sh")
    it = reader.read(f"export A=b\n{RUN}SCOUTFS_FENCED_RUN_ARGS='x y'\n")
    assert it.command == ("/bin/true", "x", "y")
    assert it.environment["A"] == "b"
    assert reader.refusal(f"{RUN}\nSCOUTFS_FENCED_RUN_ARGS='")[0] is not None


def test_commands_get_what_it_exports(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_OUTSIDE", "a=b\nc")
    it = reader.read(f"{RUN}export EXPORTED='two words'\nNOT_EXPORTED=1\n")
    assert it.environment["EXPORTED"] == "two words"
    assert it.environment["FROM_OUTSIDE"] == "a=b\nc"
    assert "NOT_EXPORTED" not in it.environment


def test_the_environment_sets_what_the_file_does_not(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCOUTFS_FENCED_RUN", "/bin/false")
    monkeypatch.setenv("SCOUTFS_FENCED_DELAY", "7")
    it = reader.read(RUN)
    assert (it.command, it.delay) == (("/bin/true",), 7)


def test_a_relative_name_is_not_looked_for_elsewhere(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.path.write_text(RUN)
    monkeypatch.chdir(reader.path.parent)
    it = asyncio.run(configuration.read(reader.path.name, print))
    assert it.path == str(reader.path), "and it is found again from elsewhere"


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", "", "1e999"])
@pytest.mark.parametrize("name", ["LEADER_TIMEOUT", "LIMIT"])
def test_what_must_be_a_positive_number(reader: Reader, name: str, value: str) -> None:
    assert reader.refusal(f"{RUN}\nSCOUTFS_FENCED_{name}={value}\n") == (
        3,
        f"SCOUTFS_FENCED_{name} must be a positive number of seconds, not '{value}'",
    )


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0.5s", 0.5),
        ("1m 30s", 90.0),
        ("2h", 7200.0),
        (".5", 0.5),
        ("1e1", 10.0),
        ("0x1d", 29.0),
        ("0x1p4m", 960.0),
        ("0x1p1d", 172800.0),
        ("0", configuration.SHORTEST_PAUSE),
        ("infinity", configuration.LONGEST_PAUSE),
        ("inf", configuration.LONGEST_PAUSE),
        ("1e999d", configuration.LONGEST_PAUSE),
        ("0x1p99999", configuration.LONGEST_PAUSE),
    ],
)
def test_a_delay_is_what_sleep_takes(reader: Reader, value: str, seconds: float) -> None:
    assert reader.read(f"{RUN}SCOUTFS_FENCED_DELAY='{value}'\n").delay == seconds


@pytest.mark.parametrize("value", ["", " ", "-1", "soon", "nan", "1 x", "m", "1ms", "1_0"])
def test_what_sleep_refuses_is_no_delay(reader: Reader, value: str) -> None:
    line, what = reader.refusal(f"{RUN}SCOUTFS_FENCED_DELAY='{value}'\n")
    assert line == 2
    assert what.startswith("SCOUTFS_FENCED_DELAY must be a number of seconds, or what else sleep")


def test_what_a_command_fences(reader: Reader) -> None:
    """A command fences a host, unless it reads the rid or the file says otherwise."""
    unmount = reader.path.parent / "unmount"
    unmount.write_text('#!/bin/sh\numount_rid "$SCOUTFS_FENCED_REQ_RID"\n')
    unmount.chmod(0o755)
    assert reader.read(RUN).fences_host
    assert not reader.read(f"SCOUTFS_FENCED_RUN={unmount}\n").fences_host
    assert not reader.read(f"{RUN}SCOUTFS_FENCED_RUN_ARGS='-x {unmount}'\n").fences_host
    fences = "SCOUTFS_FENCED_RUN_FENCES"
    assert reader.read(f"SCOUTFS_FENCED_RUN={unmount}\n{fences}=host\n").fences_host
    assert not reader.read(f"{RUN}{fences}=mount\n").fences_host
    assert reader.refusal(f"{RUN}{fences}=all\n") == (
        2,
        f"{fences} must be host or mount, not 'all'",
    )


@pytest.mark.parametrize("name", ["RETRY_PAUSE", "STOP_TIMEOUT"])
def test_what_must_be_a_number(reader: Reader, name: str) -> None:
    for value in ("-1", "soon", ""):
        assert reader.refusal(f"SCOUTFS_FENCED_{name}={value} # it\n{RUN}") == (
            1,
            f"SCOUTFS_FENCED_{name} must be a number of seconds, not '{value}'",
        )


@pytest.mark.parametrize(("name", "least"), [("PARALLEL", 1), ("RETRIES", 0)])
def test_what_must_be_a_whole_number(reader: Reader, name: str, least: int) -> None:
    for value in (str(least - 1), "1.5", "many", "", "9999999"):
        assert reader.refusal(f"{RUN}export SCOUTFS_FENCED_{name}={value}\n") == (
            2,
            f"SCOUTFS_FENCED_{name} must be a whole number from {least} on, not '{value}'",
        )


def test_the_last_assignment_is_the_wrong_one(reader: Reader) -> None:
    text = (
        f"{RUN}SCOUTFS_FENCED_DELAY=1\nX_SCOUTFS_FENCED_DELAY=1\nx=1; SCOUTFS_FENCED_DELAY=a\n#\n"
    )
    assert reader.refusal(text)[0] == 4


def test_no_command(reader: Reader) -> None:
    what = "SCOUTFS_FENCED_RUN must be set to the path of the fence command"
    assert reader.refusal("SCOUTFS_FENCED_DELAY=1\n") == (None, what)
    assert reader.refusal("\nSCOUTFS_FENCED_RUN=\n") == (2, what)


@pytest.mark.parametrize("command", ["/etc/passwd", "/nowhere", "/tmp", "true"])
def test_a_command_that_is_not_executable(reader: Reader, command: str) -> None:
    assert reader.refusal(f"#\nSCOUTFS_FENCED_RUN={command}\n") == (
        2,
        f"SCOUTFS_FENCED_RUN is not an executable file: {command}",
    )


@pytest.mark.parametrize("name", ["SCOUTFS_FENCED_RUN", "SCOUTFS_FENCED_HOOK"])
def test_a_file_that_is_no_program(reader: Reader, name: str) -> None:
    program = reader.path.parent / "program"
    program.touch()
    program.chmod(0o755)
    assert reader.refusal(f"{RUN if 'HOOK' in name else ''}\n{name}={program}\n") == (
        2 + RUN.count("\n") * ("HOOK" in name),
        f"{name} names {program}, but it is neither a program nor a script",
    )


def test_a_mistake_in_the_shells_language(reader: Reader) -> None:
    line, what = reader.refusal(f"{RUN}\nSCOUTFS_FENCED_RUN_ARGS='x\n")
    assert line in (3, 4)  # Shells differ in where they notice it.
    assert what.startswith("the shell says: unexpected EOF")
    assert reader.refusal(f"{RUN}if true; then\n)\nfi\n")[0] == 3


def test_a_line_that_cannot_be_run(reader: Reader) -> None:
    assert reader.refusal(f"{RUN}SCOUTFS_FENCED_DELAY = 5\ntrue\n") == (
        2,
        "the shell says: SCOUTFS_FENCED_DELAY: command not found",
    )
    assert reader.refusal(f"{RUN}/etc/passwd\n")[0] == 2


def test_a_line_that_fails_is_no_mistake(reader: Reader) -> None:
    assert reader.read(f"false\ntest -e /nowhere\n{RUN}grep -q x /dev/null").command


@pytest.mark.parametrize("line", ["exit 0", "exec true"])
def test_one_that_ends_the_shell(reader: Reader, line: str) -> None:
    assert reader.refusal(f"{RUN}{line}\n") == (None, "it must not end the shell that reads it")


def test_one_that_ends_the_shell_as_failed(reader: Reader) -> None:
    assert reader.refusal(f"{RUN}echo because; exit 3\n") == (
        None,
        "the shell cannot read it, exit status 3: because",
    )


@pytest.mark.parametrize(
    "more",
    [
        "",
        # The shell's message if SIGTERM reaches its child before it reaches the shell.
        "trap 'echo \"$1: line 2: 123 Terminated  sleep 60\"; exit' TERM\n",
    ],
)
def test_one_that_takes_for_ever(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    monkeypatch.setattr(configuration, "SECONDS_TO_READ", 0.5)
    began = time.monotonic()
    assert reader.refusal(f"{RUN}{more}sleep 60\n") == (
        None,
        "the shell cannot read it, killed for taking longer than 0.5 s",
    )
    assert time.monotonic() - began < 5


def test_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"/nowhere: .* cannot be read: No such file or"):
        asyncio.run(configuration.read("/nowhere", print))
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        asyncio.run(configuration.read(str(tmp_path), print))


def fail(number: int) -> Callable[..., NoReturn]:
    def failing(*_arguments: object, **_names: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return failing


# In which function of the agent an error is injected, and which one.
Injected = tuple[object, str, int]


@pytest.mark.parametrize(
    ("text", "injected", "status"),
    [
        ("sleep 60", None, 1),
        ("kill -9 $$", None, 1),
        (RUN, (configuration, "open", errno.EMFILE), 1),
        (RUN, (configuration, "open", errno.EIO), 1),
        (RUN, (os, "memfd_create", errno.ENFILE), 1),
        (RUN, (os, "pipe", errno.EMFILE), 1),
        (RUN, (subprocess, "Popen", errno.EAGAIN), 1),
        (RUN, (subprocess, "Popen", errno.ENOMEM), 1),
        (RUN, (process, "interpreter", errno.EMFILE), 1),
        (RUN, (Path, "read_bytes", errno.ENOMEM), 1),
        (RUN, (Path, "read_bytes", errno.ENOENT), 78),
        (RUN, (configuration, "open", errno.ENOENT), 78),
        (RUN, (configuration, "open", errno.EACCES), 78),
        (RUN, (configuration, "open", errno.ELOOP), 78),
        ("exit 3", None, 78),
        ("nowhere", None, 78),
        ("SCOUTFS_FENCED_DELAY=often", None, 78),
    ],
)
def test_what_passes_does_not_keep_systemd_from_restarting_the_agent(
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    injected: Injected | None,
    status: int,
) -> None:
    """As a wrong configuration does, with exit status 78."""
    reader.path.write_text(f"SCOUTFS_FENCED_HOSTS={reader.path.parent}/hosts\n{text}\n")
    (reader.path.parent / "hosts").write_text("")
    monkeypatch.setenv("SCOUTFS_FENCED_CONFIG_FILE", str(reader.path))
    monkeypatch.setattr(sys, "argv", ["scoutfs-fenced"])
    monkeypatch.setattr(configuration, "SECONDS_TO_READ", 0.5)
    if injected is not None:
        where, name, number = injected
        monkeypatch.setattr(where, name, fail(number), raising=False)
    assert main.main() == status
    assert capsys.readouterr().err.startswith(f"scoutfs-fenced: {reader.path.parent}/")


def test_no_file_stays_open(reader: Reader) -> None:
    files = len(os.listdir("/proc/self/fd"))
    reader.read(RUN)
    reader.refusal("exit 1")
    assert len(os.listdir("/proc/self/fd")) == files


def test_which_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCOUTFS_FENCED_CONFIG_FILE", raising=False)
    assert configuration.chosen_path() == "/etc/scoutfs/scoutfs-fenced.conf"
    monkeypatch.setenv("SCOUTFS_FENCED_CONFIG_FILE", "/etc/other")
    assert configuration.chosen_path() == "/etc/other"
