# SPDX-License-Identifier: GPL-2.0-only
"""Both sides of a fence request: the filesystem's calls and the directory in sysfs."""

import errno
import os
import re
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import kernel

CLIENT_RECOVERY = 0
CLIENT_RECONNECT = 1
QUORUM_BLOCK_LEADER = 2

LONG_MAX = 2**63 - 1
LONG_MIN = -(2**63)


class CaseFailed(Exception):
    """A promise was not kept."""


def _readable(value: object) -> str:
    if isinstance(value, int) and -value in errno.errorcode:
        return f"-{errno.errorcode[-value]}"
    return repr(value)


def equal(got: object, wanted: object, what: str = "") -> None:
    if got != wanted:
        subject = f"{what}: " if what else ""
        raise CaseFailed(f"{subject}got {_readable(got)}, wanted {_readable(wanted)}")


def true(condition: bool, what: str) -> None:
    if not condition:
        raise CaseFailed(f"not so: {what}")


def fails_with(number: int, function: Callable[..., object], *arguments: object) -> None:
    """Calls the function, which must raise this error."""
    words = " ".join(map(repr, arguments))
    call = f"{getattr(function, '__name__', function)} {words[:100]}".strip()
    try:
        function(*arguments)
    except OSError as error:
        equal(-(error.errno or 0), -number, call)
    else:
        raise CaseFailed(f"{call}: it worked, wanted -{errno.errorcode[number]}")


class Stopwatch:
    def __init__(self) -> None:
        self._start = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def at_least(self, seconds: float) -> None:
        # The kernel counts ticks. An emulated machine that is starved of CPU time gets them late
        # and in bursts; a timeout that starts in a burst looks shorter.
        true(self.seconds() >= seconds - 0.050, f"took {seconds} s ({self.seconds():.3f} s)")

    def at_most(self, seconds: float) -> None:
        limit = seconds * kernel.PATIENCE
        true(self.seconds() <= limit, f"took no more than {limit} s ({self.seconds():.3f} s)")


@dataclass(frozen=True)
class Finished:
    """A finished request as returned by scoutfs_fence_next."""

    rid: int
    reason: int = CLIENT_RECOVERY
    error: bool = False

    def __repr__(self) -> str:
        return f"rid {self.rid:016x} reason {self.reason} error {self.error}"


class Call:
    """
    A call in a separate process, so that it can block while others act.

    Not a thread, because a call that never returns would keep the tests from ending.
    """

    def __init__(self, mount: "Mount", command: str) -> None:
        self.command = command
        self._answers, answer = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(answer)
            return
        try:
            signal.signal(signal.SIGUSR1, lambda *_: None)
            text = mount.call(command)
            os.write(answer, text.encode())
        finally:
            os._exit(0)

    def until_blocked(self) -> "Call":
        """Returns once the process sleeps in its write to the call file."""
        watch = Stopwatch()
        while not self._is_in_write():
            if self.has_ended():
                raise CaseFailed(f"'{self.command}' returned {self._read()} and did not block")
            watch.at_most(10)
            time.sleep(0.002)
        return self

    def _is_in_write(self) -> bool:
        # Holds the system call number if the process sleeps, otherwise "running".
        return Path(f"/proc/{self.pid}/syscall").read_text().split()[0] == "1"

    def has_ended(self, within: float = 0) -> bool:
        return bool(select.select([self._answers], [], [], within)[0])

    def _read(self) -> str:
        text = os.read(self._answers, 256).decode()
        os.waitpid(self.pid, 0)
        os.close(self._answers)
        return text.strip()

    def answer(self, within: float = 10) -> int:
        """The return value."""
        return self.numbers(within)[0]

    def numbers(self, within: float = 10) -> list[int]:
        """The return value, followed by the other numbers of the answer."""
        if not self.has_ended(within * kernel.PATIENCE):
            raise CaseFailed(f"'{self.command}' has not returned within {within} s")
        text = self._read()
        if not text:
            raise CaseFailed(f"'{self.command}' could not be called")
        return [int(word.rpartition("=")[2]) for word in text.split()]

    def stays_blocked(self, seconds: float = 0.05) -> None:
        if self.has_ended(seconds):
            raise CaseFailed(f"'{self.command}' returned {self._read()} and should still wait")

    def interrupt(self) -> None:
        os.kill(self.pid, signal.SIGUSR1)


@contextmanager
def before_it_runs(call: Call) -> Iterator[None]:
    """Delays a woken call until the block has run, in nearly all cases."""
    mine = os.sched_getaffinity(0)
    shared = {min(mine)}
    os.sched_setscheduler(call.pid, os.SCHED_IDLE, os.sched_param(0))
    os.sched_setaffinity(call.pid, shared)
    os.sched_setaffinity(0, shared)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


class Request:
    """A request's directory as an agent sees it."""

    FILES = ("rid", "ipv4_addr", "inet_addr", "reason", "elapsed_secs", "fenced", "error")

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        return self.path.exists()

    def is_complete(self) -> bool:
        return all((self.path / name).exists() for name in self.FILES)

    def read(self, name: str) -> str:
        return (self.path / name).read_text()

    def write(self, name: str, text: str) -> None:
        file = os.open(self.path / name, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)

    def fenced(self) -> bool:
        return self.read("fenced") == "1\n"

    def failed(self) -> bool:
        return self.read("error") == "1\n"

    def set_fenced(self) -> None:
        self.write("fenced", "1\n")

    def set_error(self) -> None:
        self.write("error", "1\n")

    def until_failed(self, within: float = 10) -> None:
        watch = Stopwatch()
        while not self.failed():
            watch.at_most(within)
            time.sleep(0.002)


@dataclass(frozen=True)
class Standing:
    """A leader's state."""

    leading: bool
    reclaimed: int = 0
    error: int = 0

    def __repr__(self) -> str:
        leads = "leads" if self.leading else "does not lead"
        return f"it {leads}, reclaimed {self.reclaimed}, error {_readable(self.error)}"


def published_directory(minor: int) -> Path:
    """The filesystem's own directory for a mount, named as scoutfs's tools expect.

    Retries, as reading a sysfs directory may skip an entry while others come and go.
    """
    watch = Stopwatch()
    while not (found := list(kernel.SCOUTFS_SYSFS.glob(f"f.{minor:06x}.r.*"))):
        watch.at_most(5)
    [directory] = found
    return directory


class Mount:
    """One mount of the test filesystem; its methods are the functions of fence.h."""

    FILESYSTEM = "fence_test"

    def __init__(self, path: Path, options: str = "") -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        kernel.mount(self.FILESYSTEM, path, options)
        device = path.stat().st_dev
        self.device = f"{os.major(device)}:{os.minor(device)}"
        self.published = published_directory(os.minor(device))
        self.directory = kernel.FENCE_SYSFS / self.device

    @property
    def log_name(self) -> str:
        """The mount's label: the prefix of its log lines."""
        prefix = kernel.FENCE if self.directory.parent == kernel.FENCE_SYSFS else "scoutfs"
        return f"{prefix} {self.directory.name}"

    def unmount(self, flags: int = 0) -> None:
        kernel.unmount(self.path, flags)

    def is_mounted(self) -> bool:
        return self.path.is_mount()

    def call(self, command: str) -> str:
        file = os.open(self.path / "call", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.write(file, command.encode())
            return os.read(file, 256).decode()
        finally:
            os.close(file)

    def returns(self, command: str) -> int:
        return int(self.call(command).split()[0])

    def background(self, command: str) -> Call:
        return Call(self, command)

    # Calls of the functions.

    def setup(self) -> int:
        return self.returns("setup")

    def start(self, rid: int, ip: str = "10.0.0.7", reason: int = CLIENT_RECOVERY) -> int:
        return self.returns(f"start {rid:x} {ip} {reason}")

    def start_addr(self, rid: int, address: str, reason: int = CLIENT_RECOVERY) -> int:
        return self.returns(f"start_addr {rid:x} {address} {reason}")

    def next(self, how: str = "") -> int | Finished:
        """The oldest finished request, or the errno if there is none."""
        answer = self.call(f"{how} next")
        found = re.fullmatch(r"0 rid=([0-9a-f]{16}) reason=(-?\d+) error=([01])\n", answer)
        if not found:
            return int(answer)
        return Finished(int(found[1], 16), int(found[2]), found[3] == "1")

    def wait_next(self, milliseconds: int) -> int:
        return self.returns(f"wait_next {milliseconds}")

    def wait_next_jiffies(self, jiffies: int) -> int:
        return self.returns(f"wait_next_jiffies {jiffies}")

    def drained(self, how: str = "") -> tuple[bool, bool]:
        """The return value and the resulting error, which must not depend on its previous value."""
        answers = {self.call(f"{how} drained {before}") for before in (0, 1)}
        equal(len(answers), 1, f"ways in which drained answers: {answers}")
        found = re.fullmatch(r"([01]) error=([01])\n", answers.pop())
        assert found
        return found[1] == "1", found[2] == "1"

    def reason_pending(self, reason: int, how: str = "") -> int:
        return self.returns(f"{how} reason_pending {reason}")

    def free(self, rid: int) -> int:
        return self.returns(f"free {rid:x}")

    def wait_fenced(self, milliseconds: int) -> int:
        return self.returns(f"wait_fenced {milliseconds}")

    def until_fenced(self) -> None:
        """Waits until all requests are fenced, for as long as a request has that starts now."""
        equal(self.wait_fenced(int(kernel.TIMEOUT_MS.read_text())), 0, "wait_fenced")

    def wait_fenced_jiffies(self, jiffies: int) -> int:
        return self.returns(f"wait_fenced_jiffies {jiffies}")

    def stop(self) -> None:
        equal(self.returns("stop"), 0)

    def destroy(self) -> None:
        equal(self.returns("destroy"), 0)

    def waiter(self, milliseconds: int = 2 * kernel.USUAL_TIMEOUT_MS) -> Call:
        """A blocked call of wait_fenced."""
        return self.background(f"wait_fenced {milliseconds}").until_blocked()

    def setup_under(self, parent: str = "own") -> int:
        """Sets it up below its own directory or another of the filesystem's."""
        result = self.returns(f"setup_under {parent}")
        if not result:
            self.directory = self.published if parent == "own" else kernel.SCOUTFS_SYSFS
        return result

    # The mount as userspace sees it.

    def request(self, rid: int) -> Request:
        return Request(self.directory / "fence" / f"{rid:016x}")

    def started(self, rid: int, ip: str = "10.0.0.7", reason: int = CLIENT_RECOVERY) -> Request:
        """Starts a request; returns its directory."""
        equal(self.start(rid, ip, reason), 0, f"start {rid:x}")
        return self.request(rid)

    def listed(self) -> set[str]:
        return {path.name for path in (self.directory / "fence").iterdir()}


class Leader(Mount):
    """A mount that can lead the cluster; its requests are in its own directory."""

    FILESYSTEM = "fence_test_leader"

    def __init__(self, path: Path, options: str = "") -> None:
        super().__init__(path, options)
        self.directory = self.published

    @staticmethod
    def address(rid: int) -> str:
        """The address that the filesystem reports for a mount with this rid."""
        return f"10.0.0.{rid & 0xFF}"

    @staticmethod
    def _words(rids: Iterable[int]) -> str:
        return ",".join(f"{rid:x}" for rid in rids) or "-"

    def elect(self, *previous: int) -> int:
        return self.returns(f"elect {self._words(previous)}")

    def election(self, *previous: int) -> Call:
        """An election that waits for the previous leaders to be fenced."""
        return self.background(f"elect {self._words(previous)}").until_blocked()

    def recover(self, *clients: int, milliseconds: int = 0) -> int:
        return self.returns(f"recover {milliseconds} {self._words(clients)}")

    def step_down(self) -> None:
        equal(self.returns("step_down"), 0)

    def standing(self) -> Standing:
        found = re.fullmatch(
            r"0 leading=([01]) reclaimed=(\d+) error=(-?\d+)\n", self.call("leader")
        )
        assert found
        return Standing(found[1] == "1", int(found[2]), int(found[3]))

    def until(self, *wanted: Standing, within: float = 20) -> None:
        """Waits until the leader is in one of these states."""
        watch = Stopwatch()
        while (standing := self.standing()) not in wanted:
            if watch.seconds() > within * kernel.PATIENCE:
                raise CaseFailed(f"got {standing} after {within} s, wanted {wanted}")
            time.sleep(0.01)


def name(rid: int) -> str:
    """The name of a request's directory."""
    return f"{rid:016x}"
