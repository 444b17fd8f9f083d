# SPDX-License-Identifier: GPL-2.0-only
"""Runs one command to its end or its limit, whatever it does.

A command gets a session of its own. If it exceeds its limit or is no longer needed, it and
everything that it has started get SIGTERM, and those still running after a second get SIGKILL.
Nothing shortens that second: a command may have to end a session on a device.

All processes that a command starts stay in its control group. Without control groups (version 2,
delegated to the agent) they are found by their session, by their parents, and, as this process
adopts orphans, by a mark in their environment.

Processes that a command leaves behind when it ends by itself live on, as they do with an agent that
is a shell script; nothing waits for them.

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
import time
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Callable, Protocol

from scoutfs_fenced import cgroup
from scoutfs_fenced.thread import in_thread

# Seconds between SIGTERM and SIGKILL, and for the kernel to carry out the latter.
GRACE = 1.0
TO_DIE = 1.0

# Seconds between two checks whether all signalled processes have ended.
PAUSE = 0.05

# How much of a command's output is logged, so that endless output does not fill the log.
MOST_LINES = 100
LONGEST_LINE = 1000

READ_AT_ONCE = 1 << 16

# The environment variable that marks the processes of one command.
MARK = "SCOUTFS_FENCED_COMMAND"

# Open files for standard input, output and error.
Files = tuple[int, int, int]

_PR_SET_CHILD_SUBREAPER = 36

_numbers = itertools.count(1)

# The running commands, by process id, each with the future that gets its exit status.
_running: dict[int, asyncio.Future[int]] = {}

# The control groups of commands that have left processes behind.
_left_behind: list[cgroup.ControlGroup] = []


@dataclass(frozen=True)
class Ending:
    """How a command ended; as a string, a phrase for people."""

    # Its exit status, if it ended by itself.
    status: int | None = None
    # The signal that ended it, if that did not come from here.
    signal: int | None = None
    # The seconds it was allowed, if it took longer.
    over_limit: float | None = None
    # Why, if it could not be started.
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

    `say` gets each line of its output. If this is cancelled, once or many times, it returns when
    the command has ended, which takes no longer than GRACE and TO_DIE.
    """
    try:
        output = Output(say)
    except OSError as error:
        return Ending(not_started=error.strerror or str(error))
    by_itself = False
    try:
        ending = await _run(lambda family: output.start(family, command, environment, stdin), limit)
        by_itself = ending.status is not None or ending.signal is not None
        return ending
    finally:
        output.ended(by_itself)


async def run_file(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    limit: float,
    say: Callable[[str], None],
) -> Ending:
    """Like run(), for an administrator's program, which may have changed since it was named."""
    try:
        before = await asyncio.wait_for(in_thread(interpreter, command[0]), limit)
    except asyncio.TimeoutError:
        return Ending(over_limit=limit)
    except OSError as error:
        return Ending(not_started=error.strerror or str(error))
    return await run([*before, *command], environment=environment, limit=limit, say=say)


async def run_on(
    files: Files, command: Sequence[str], *, environment: Mapping[str, str], limit: float
) -> Ending:
    """Like run(), with open files for standard input, output and error."""
    return await _run(lambda family: _start(family, command, environment, files), limit)


async def _run(start: Callable[[Family], int], limit: float) -> Ending:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, _reap)
    family = _family()
    try:
        try:
            leader = start(family)
        except (OSError, ValueError) as error:
            return Ending(not_started=getattr(error, "strerror", None) or str(error))
        ended: asyncio.Future[int] = loop.create_future()
        _running[leader] = ended
        by_itself = False
        try:
            await asyncio.wait({ended}, timeout=limit)
            by_itself = ended.done()
        finally:
            try:
                if not by_itself:
                    await _to_the_end(_end(family, ended))
            finally:
                _running.pop(leader, None)
    finally:
        family.forget()
    if not by_itself:
        return Ending(over_limit=max(0.0, limit))
    status = ended.result()
    return Ending(status=status) if status >= 0 else Ending(signal=-status)


def _start(
    family: Family, command: Sequence[str], environment: Mapping[str, str], files: Files
) -> int:
    """Starts a command in a session of its own; returns its process id.

    Popen waits until the kernel has loaded the program. On a network filesystem that hangs, or on
    the very filesystem that waits for this fencing, that may be for ever. So Popen loads setsid(1),
    which replaces itself by the program. If it cannot, it says why, and exits with 126 or 127. A
    shell may exit with 2, which would be taken for a fence agent's "off".
    """
    setsid = shutil.which("setsid", path="/usr/bin:/bin") or "/usr/bin/setsid"
    return family.start([setsid, *command], environment, files)


def interpreter(path: str) -> list[str]:
    """What an executable file is run by: nothing if the kernel can, or else the shell.

    So a script without a #! line is run as by a shell script that calls it; execvp(3) would take
    sh. Raises OSError for anything else, such as an emptied script, which shells run with success.
    """
    with open(path, "rb") as file:
        begin = file.read(LONGEST_LINE)
    if begin[:2] == b"#!" or begin[:4] == b"\x7fELF":
        return []
    if not begin.strip() or b"\0" in begin:
        raise OSError(errno.ENOEXEC, "it is neither a program nor a script", path)
    return [shell()]


def shell() -> str:
    """The shell that administrators' files are written for, or else the nearest."""
    return shutil.which("bash", path="/usr/bin:/bin") or "/bin/sh"


async def _to_the_end(work: Awaitable[None]) -> None:
    """Waits for work that must not be interrupted; delays a cancellation until it is done."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError


async def _end(family: Family, ended: asyncio.Future[int]) -> None:
    """Ends a command and everything that it started."""
    _signal_each(family.processes(), signal.SIGTERM)
    await _all_ended(family, ended, GRACE)
    family.kill()
    await _all_ended(family, ended, TO_DIE)


async def _all_ended(family: Family, ended: asyncio.Future[int], seconds: float) -> None:
    """Waits until a command and everything that it started have ended, or for `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not (ended.done() and family.is_empty()):
        await asyncio.sleep(PAUSE)


def _signal_each(processes: Iterable[int], number: int) -> None:
    """Sends a signal to processes, each of which may be gone."""
    for pid in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


class Family(Protocol):
    """A command's processes and their descendants."""

    def start(self, command: Sequence[str], environment: Mapping[str, str], files: Files) -> int:
        """Starts the command, and returns its process id; raises OSError if that is impossible."""

    def processes(self) -> Iterable[int]:
        """The ids of the running processes."""

    def is_empty(self) -> bool:
        """Whether none of them runs any more."""

    def kill(self) -> None:
        """Kills all of them."""

    def forget(self) -> None:
        """Frees its resources; no other method is called after it."""


def _family() -> Family:
    """A control group or, without delegation, a session in which to start a command."""
    directory = cgroup.delegated()
    if directory is not None:
        with suppress(OSError):
            return _Group(cgroup.ControlGroup(directory))
    return _Marked()


class _Group:
    """The processes in a control group."""

    def __init__(self, group: cgroup.ControlGroup) -> None:
        self._group = group
        self.start = group.start
        self.processes = group.processes
        self.is_empty = group.is_empty
        self.kill = group.kill

    def forget(self) -> None:
        """Removes the group, or later if the command has left processes in it."""
        _left_behind.append(self._group)
        _left_behind[:] = [group for group in _left_behind if not group.remove()]


class _Marked:
    """The processes of a session, their children, and orphans that carry a mark."""

    def __init__(self) -> None:
        _adopt_orphans()
        self._mark = f"{MARK}={os.getpid()}-{next(_numbers)}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str], environment: Mapping[str, str], files: Files) -> int:
        """As in Family."""
        name, _, value = self._mark.partition("=")
        self._process = subprocess.Popen(
            command,
            env={**environment, name: value},
            stdin=files[0],
            stdout=files[1],
            stderr=files[2],
        )
        return self._process.pid

    def processes(self) -> set[int]:
        """As in Family."""
        assert self._process
        me, leader = os.getpid(), self._process.pid
        children: dict[int, list[int]] = {}
        family = set()
        for pid, (state, parent, group, session) in _processes():
            children.setdefault(parent, []).append(pid)
            adopted = parent == me and pid not in _running and _has_mark(pid, self._mark)
            if state != "Z" and (leader in (pid, group, session) or adopted):
                family.add(pid)
        grown = list(family)
        while grown:
            for child in children.get(grown.pop(), []):
                if child not in family:
                    family.add(child)
                    grown.append(child)
        return family

    def is_empty(self) -> bool:
        """As in Family."""
        return not self.processes()

    def kill(self) -> None:
        """As in Family."""
        killed: set[int] = set()
        # Again, for processes that were started meanwhile.
        while new := self.processes() - killed:
            _signal_each(new, signal.SIGKILL)
            killed |= new

    def forget(self) -> None:
        """Keeps Popen from waiting for a process that _reap() has reaped."""
        if self._process:
            self._process.returncode = 0


def _processes() -> Iterator[tuple[int, tuple[str, int, int, int]]]:
    """Every process, with its state, parent, group and session."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    # A process's name may contain anything, parentheses included.
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
    """Makes this process adopt the orphans of its commands, so that they can be found."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _reap() -> None:
    """Reaps every child that has ended, commands and adopted orphans."""
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
    """A command's output: read as it comes, and logged up to a bound.

    It is read until no process can write to it any more: a process that was left behind must not
    die of printing something.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._line = b""
        self._lines = 0
        self._left_out = 0
        self._file, self._for_command = os.pipe()
        os.set_blocking(self._file, False)

    def start(
        self,
        family: Family,
        command: Sequence[str],
        environment: Mapping[str, str],
        stdin: bytes,
    ) -> int:
        """Starts the command; returns its process id."""
        # Unlike a pipe, a memfd takes any number of bytes at once, whether they are read or not.
        given = os.memfd_create("stdin")
        try:
            os.write(given, stdin)
            os.lseek(given, 0, os.SEEK_SET)
            files = (given, self._for_command, self._for_command)
            pid = _start(family, command, environment, files)
        finally:
            os.close(given)
        os.close(self._for_command)
        self._for_command = -1
        asyncio.get_running_loop().add_reader(self._file, self._read)
        return pid

    def ended(self, by_itself: bool) -> None:
        """Logs the rest of the output; keeps reading only if processes may be left behind."""
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
