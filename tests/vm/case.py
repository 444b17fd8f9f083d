# SPDX-License-Identifier: GPL-2.0-only
"""Cases and their state: the mounts, and the lines that the kernel may log meanwhile."""

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import kernel
from fence import CaseFailed, Leader, Mount, Stopwatch

_MOUNTS = Path("/tmp/mounts")

# A line may be logged a moment after its event.
SECONDS_TO_LOG = 0.5
SECONDS_TO_LET_GO = 2


class Case:
    """The argument of a case; restores the initial state afterwards."""

    # Until then rate limiting may suppress lines about a superblock that is not set up.
    _limited_until = 0.0

    def __init__(self, log: kernel.KernelLog) -> None:
        self.log = log
        self.notes: list[str] = []
        self._mounts: list[Mount] = []
        self._expected: list[tuple[str, int | None]] = []
        self._calls_without_setup = False

    def mount(self, options: str = "") -> Mount:
        _MOUNTS.mkdir(exist_ok=True)
        mount = Mount(_MOUNTS / f"{len(self._mounts)}", options)
        self._mounts.append(mount)
        return mount

    def leader(self, options: str = "") -> Leader:
        """Mounts the filesystem's leader build; its module is unloaded after the case."""
        if not kernel.is_loaded(kernel.LEADER_FILESYSTEM):
            kernel.load(kernel.LEADER_FILESYSTEM)
        _MOUNTS.mkdir(exist_ok=True)
        mount = Leader(_MOUNTS / f"{len(self._mounts)}", options)
        self._mounts.append(mount)
        return mount

    def note(self, text: str) -> None:
        """Adds a line to the output for human readers."""
        self.notes.append(text)

    def expect_line(self, pattern: str, times: int | None = 1) -> None:
        """
        The module must log a line that matches `pattern` exactly `times` times in this case, or
        any number of times if None.  An unexpected line fails the case.
        """
        self._expected.append((pattern, times))

    def expect_error_line(self, mount: Mount, rid: int, times: int | None = 1) -> None:
        self.expect_line(
            f"{mount.log_name} error: error indicated by fence action for rid {rid:016x}", times
        )

    def expect_timeout_line(self, mount: Mount, rid: int, timeout_ms: int) -> None:
        self.expect_line(
            f"{mount.log_name} error: fence request for rid {rid:016x}"
            f" was not serviced in {timeout_ms}ms, raising error"
        )

    def expect_not_set_up(self, times: int | None) -> None:
        """Expects `times` calls for a superblock that is not set up, or any number if None."""
        if times is not None:
            # The module logs at most ten such lines a second.
            time.sleep(max(0.0, Case._limited_until - time.monotonic()))
        self._calls_without_setup = True
        self.expect_line(f"{kernel.FENCE} error: .*: the superblock is not set up", times)
        self.expect_line(r".*_log_not_set_up: \d+ callbacks suppressed", None)

    def set_timeout_ms(self, timeout_ms: int) -> None:
        kernel.TIMEOUT_MS.write_text(f"{timeout_ms}\n")

    def tidy(self) -> None:
        """Unmounts everything, by force if a failed case has left a call running."""
        busy = [mount.path.name for mount in self._mounts if not _unmount(mount)]
        if self._calls_without_setup:
            Case._limited_until = time.monotonic() + 1.1
        if busy:
            raise CaseFailed(f"mounts left in use: {' '.join(busy)}")
        if kernel.is_loaded(kernel.LEADER_FILESYSTEM):
            kernel.unload(kernel.LEADER_FILESYSTEM)
        left = os.listdir(kernel.FENCE_SYSFS) if kernel.FENCE_SYSFS.exists() else []
        if left:
            raise CaseFailed(f"left in {kernel.FENCE_SYSFS}: {' '.join(left)}")

    def check_log(self) -> None:
        complaints = self.log.complaints()
        if complaints:
            raise CaseFailed(f"the kernel complained: {complaints[0]}")

        watch = Stopwatch()
        while (problem := self._compare_log()) and watch.seconds() < SECONDS_TO_LOG:
            time.sleep(0.01)
        if problem:
            raise CaseFailed(problem)

    def _compare_log(self) -> str | None:
        """Describes the first missing or unexpected line of the module, if any."""
        unexpected = [
            line.text for line in self.log.of_module() if line.level <= kernel.INFORMATION
        ]
        for pattern, times in self._expected:
            matching = [text for text in unexpected if re.fullmatch(pattern, text)]
            if times is not None and len(matching) != times:
                return f"logged {len(matching)} times, not {times}: {pattern}"
            unexpected = [text for text in unexpected if text not in matching]
        return f"logged, and not expected: {unexpected[0]}" if unexpected else None


def _unmount(mount: Mount) -> bool:
    """Unmounts, by force if the mount is busy; returns whether it was idle."""
    if not mount.is_mounted():
        return True
    try:
        mount.unmount()
    except OSError:
        # Wakes calls that a failed case has left waiting, so that they release the mount.
        mount.destroy()
        watch = Stopwatch()
        while mount.is_mounted() and watch.seconds() < SECONDS_TO_LET_GO * kernel.PATIENCE:
            time.sleep(0.01)
            with suppress(OSError):
                mount.unmount()
        if mount.is_mounted():
            mount.unmount(kernel.MNT_DETACH)
        return False
    return True


CaseFunction = Callable[[Case], None]
ALL: dict[str, CaseFunction] = {}
# The kernel configuration option that a case needs, if any: built in, or with `=m` a module.
OPTIONS: dict[str, str] = {}


def case(function: CaseFunction) -> CaseFunction:
    """Registers a function as a case, named after the function with hyphens."""
    name = function.__name__.replace("_", "-")
    assert name not in ALL, f"two cases are called {name}"
    assert function.__doc__, f"{name} does not say what it promises"
    ALL[name] = function
    return function


def case_with(option: str) -> Callable[[CaseFunction], CaseFunction]:
    """Registers a function as a case for kernels configured with this option."""

    def with_option(function: CaseFunction) -> CaseFunction:
        OPTIONS[function.__name__.replace("_", "-")] = option
        return case(function)

    return with_option
