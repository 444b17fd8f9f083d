# SPDX-License-Identifier: GPL-2.0-only
"""One command, run to its end or to its limit, whatever it does.

A command gets a session of its own. One that is over its limit, or that nobody wants any more, gets
SIGTERM, and a moment later SIGKILL together with everything that it has started. Processes that
went into other sessions are found as well: they come to this process once their parents are gone,
and carry a mark in their environment.

What a command leaves behind when it ends by itself lives on, as it does with an agent that is a
shell script; nobody waits for it.

C header: linux/prctl.h
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import functools
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Callable

# Seconds between SIGTERM and SIGKILL, and how long the kernel may take to carry out the latter.
GRACE = 1.0
TO_DIE = 1.0

# What is told of a command's output, so that one that never ends fills nothing.
MOST_LINES = 100
LONGEST_LINE = 1000

READ_AT_ONCE = 1 << 16

# Tells the processes of one command from those of another.
MARK = "SCOUTFS_FENCED_COMMAND"

_PR_SET_CHILD_SUBREAPER = 36

_numbers = itertools.count(1)

# The commands that run, by process id, and what waits for their end.
_running: dict[int, asyncio.Future[int]] = {}


@dataclass(frozen=True)
class Ending:
    """How a command ended; as a string, a phrase for people."""

    # Its exit status, where it ended by itself.
    status: int | None = None
    # The signal, where one ended it that did not come from here.
    signal: int | None = None
    # The seconds it was allowed, where it took longer.
    over_limit: float | None = None
    # Why, where it could not be started.
    not_started: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether it ended by itself, with exit status 0."""
        return self.status == 0

    def __str__(self) -> str:
        if self.not_started:
            return f"cannot be run: {self.not_started}"
        if self.over_limit is not None:
            return f"killed for taking longer than {self.over_limit:.3g} s"
        if self.signal is not None:
            return f"killed by signal {self.signal}"
        return f"exit status {self.status}"


async def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    limit: float,
    stdin: bytes = b"",
    say: Callable[[str], None],
) -> Ending:
    """Runs a command with this environment and no other.

    Each line of its output is said. Cancelling this ends the command before it returns; cancelling
    it again does so without delay.
    """
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, _reap)
    _adopt_orphans()
    mark = f"{MARK}={os.getpid()}-{next(_numbers)}"
    name, _, value = mark.partition("=")
    output = Output(say)
    try:
        process = output.start(command, {**environment, name: value}, stdin)
    except OSError as error:
        output.close()
        return Ending(not_started=error.strerror or str(error))
    except BaseException:
        output.close()
        raise

    ended: asyncio.Future[int] = loop.create_future()
    _running[process.pid] = ended
    by_itself = False
    try:
        await asyncio.wait({ended}, timeout=limit)
        by_itself = ended.done()
    finally:
        if not by_itself:
            await _end(process.pid, mark, ended)
        # Popen need not look for it any more.
        process.returncode = ended.result() if ended.done() else 0
        output.ended(by_itself)
    if not by_itself:
        return Ending(over_limit=max(0.0, limit))
    status = ended.result()
    return Ending(status=status) if status >= 0 else Ending(signal=-status)


def shell() -> str:
    """The shell that administrators' files are written for; where there is none, the nearest."""
    return shutil.which("bash", path="/usr/bin:/bin") or "/bin/sh"


async def _end(leader: int, mark: str, ended: asyncio.Future[int]) -> None:
    """Ends a command and everything that it started."""
    try:
        _signal(os.killpg, leader, signal.SIGTERM)
        await asyncio.wait({ended}, timeout=GRACE)
    finally:
        killed: set[int] = set()
        # Again, for what was started while this looked.
        while new := _family(leader, mark) - killed:
            for pid in new:
                _signal(os.kill, pid, signal.SIGKILL)
            killed |= new
        await asyncio.wait({ended}, timeout=TO_DIE)
        _running.pop(leader, None)


def _signal(send: Callable[[int, int], None], to: int, number: int) -> None:
    """Sends a signal to somebody who may be gone."""
    with suppress(ProcessLookupError, PermissionError):
        send(to, number)


def _family(leader: int, mark: str) -> set[int]:
    """The processes that come from a command and still run."""
    me = os.getpid()
    children: dict[int, list[int]] = {}
    family = set()
    for pid, (state, parent, group, session) in _processes():
        children.setdefault(parent, []).append(pid)
        adopted = parent == me and pid not in _running and _has_mark(pid, mark)
        if state != "Z" and (leader in (pid, group, session) or adopted):
            family.add(pid)
    grown = list(family)
    while grown:
        for child in children.get(grown.pop(), []):
            if child not in family:
                family.add(child)
                grown.append(child)
    return family


def _processes() -> Iterator[tuple[int, tuple[str, int, int, int]]]:
    """Every process, with its state, parent, group and session."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    # A process may call itself anything, parentheses included.
                    state, parent, group, session = file.read().rpartition(b")")[2].split()[:4]
            except OSError:
                continue
            yield int(name), (state.decode(), int(parent), int(group), int(session))


def _has_mark(pid: int, mark: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark.encode() in file.read().split(b"\0")
    except OSError:
        return False


@functools.lru_cache
def _adopt_orphans() -> None:
    """Makes this process the parent of what its commands leave behind, so that it can be found."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _reap() -> None:
    """Takes note of every child that has ended, commands and adopted ones."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        ended = _running.pop(pid, None)
        if ended is not None and not ended.done():
            ended.set_result(os.waitstatus_to_exitcode(status))


class Output:
    """What a command prints: read as it comes, and told as far as it is bearable.

    It is read until nobody can write to it any more: a process that was left behind and prints
    something must not die of that.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._line = b""
        self._lines = 0
        self._left_out = 0
        self._file, self._for_command = os.pipe()
        os.set_blocking(self._file, False)

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], stdin: bytes
    ) -> subprocess.Popen[bytes]:
        """Starts the command that prints."""
        # A file in memory takes any number of bytes at once, whether they are read or not.
        given = os.memfd_create("stdin")
        try:
            os.write(given, stdin)
            os.lseek(given, 0, os.SEEK_SET)

            def popen(command: Sequence[str]) -> subprocess.Popen[bytes]:
                return subprocess.Popen(
                    command,
                    env=environment,
                    stdin=given,
                    stdout=self._for_command,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

            try:
                process = popen(command)
            except OSError as error:
                if error.errno != errno.ENOEXEC:
                    raise
                # A script that does not say by what it is run.
                process = popen([shell(), *command])
        finally:
            os.close(given)
        os.close(self._for_command)
        self._for_command = -1
        asyncio.get_running_loop().add_reader(self._file, self._read)
        return process

    def ended(self, by_itself: bool) -> None:
        """Tells what the command had still to say; listens on only where it left somebody."""
        if self._file >= 0:
            self._read()
        self._end_line()
        if self._left_out:
            self._say(f"(and {self._left_out} bytes more, which are left out)")
        if not by_itself:
            self.close()
        self._say = _say_nothing

    def close(self) -> None:
        """Stops reading."""
        if self._for_command >= 0:
            os.close(self._for_command)
            self._for_command = -1
        if self._file >= 0:
            asyncio.get_running_loop().remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _read(self) -> None:
        try:
            data = os.read(self._file, READ_AT_ONCE)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        while data and self._lines < MOST_LINES:
            text, newline, data = data.partition(b"\n")
            room = LONGEST_LINE - len(self._line)
            self._line += text[:room]
            self._left_out += len(text[room:])
            if newline:
                self._end_line()
        self._left_out += len(data)

    def _end_line(self) -> None:
        if self._line:
            text = self._line.decode(errors="replace")
            self._say("".join(sign if sign.isprintable() else " " for sign in text).rstrip())
            self._lines += 1
        self._line = b""


def _say_nothing(_line: str) -> None:
    pass
