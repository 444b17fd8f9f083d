# SPDX-License-Identifier: GPL-2.0-only
"""What a case is, and the state around one: its mounts, and what the kernel may say meanwhile."""

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import kernel
from fence import CaseFailed, Leader, Mount, Stopwatch

_MOUNTS = Path("/tmp/mounts")

# A line may come a moment after its event.
SECONDS_TO_LOG = 0.5
SECONDS_TO_LET_GO = 2


class Case:
    """The argument of a case; restores the initial state when the case is over."""

    # Until then the kernel may print no line about a superblock that is not set up.
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
        """A mount of the filesystem's other build, whose module is unloaded after the case."""
        if not kernel.is_loaded(kernel.LEADER_FILESYSTEM):
            kernel.load(kernel.LEADER_FILESYSTEM)
        _MOUNTS.mkdir(exist_ok=True)
        mount = Leader(_MOUNTS / f"{len(self._mounts)}", options)
        self._mounts.append(mount)
        return mount

    def note(self, text: str) -> None:
        """A line for people, in the output."""
        self.notes.append(text)

    def expect_line(self, pattern: str, times: int | None = 1) -> None:
        """
        The module prints this line and nothing else, so many times in this case; None for any
        number.  A line that no case expects is a failure.
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
        """Calls for a superblock that is not set up; so many of them, or None for any number."""
        if times is not None:
            # At most ten lines a second are printed.
            time.sleep(max(0.0, Case._limited_until - time.monotonic()))
        self._calls_without_setup = True
        self.expect_line(f"{kernel.FENCE} error: .*: the superblock is not set up", times)
        self.expect_line(r".*_log_not_set_up: \d+ callbacks suppressed", None)

    def set_timeout_ms(self, timeout_ms: int) -> None:
        kernel.TIMEOUT_MS.write_text(f"{timeout_ms}\n")

    def tidy(self) -> None:
        """Takes the mounts away, by force if a failed case has left something running."""
        busy = [mount.path.name for mount in self._mounts if not _unmount(mount)]
        if self._calls_without_setup:
            Case._limited_until = time.monotonic() + 1.1
        if kernel.is_loaded(kernel.FENCE):
            self.set_timeout_ms(30000)
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
        """What is wrong with the module's lines, if anything."""
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
    """Whether the mount was idle; afterwards it is."""
    if not mount.is_mounted():
        return True
    try:
        mount.unmount()
    except OSError:
        # Calls that a failed case has left waiting return, and let go of the mount.
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
# The option of the kernel's configuration that a case needs, if it needs one: built in, or `=m`.
OPTIONS: dict[str, str] = {}


def case(function: CaseFunction) -> CaseFunction:
    """Makes a function a case, called by the function's name with hyphens."""
    name = function.__name__.replace("_", "-")
    assert name not in ALL, f"two cases are called {name}"
    assert function.__doc__, f"{name} does not say what it promises"
    ALL[name] = function
    return function


def case_with(option: str) -> Callable[[CaseFunction], CaseFunction]:
    """Makes a function a case for the kernels that have this option in their configuration."""

    def with_option(function: CaseFunction) -> CaseFunction:
        OPTIONS[function.__name__.replace("_", "-")] = option
        return case(function)

    return with_option
