# SPDX-License-Identifier: GPL-2.0-only
"""
Allocations that fail, one at a time, on kernels with failslab.

Only allocations below a piece of code, such as the module's, are counted: the kernel's own for the
system call that leads there do not matter.
"""

import bisect
import gc
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import kernel
from fence import true

OPTION = "CONFIG_FAILSLAB"

_SETTINGS = Path("/sys/kernel/debug/failslab")
_COUNTDOWN = "/proc/thread-self/fail-nth"

# From the first address to before the second.
Range = tuple[int, int]


def _function(*patterns: str) -> Range:
    """
    The addresses of the function with this name, and its module's in brackets if it has one.

    The first pattern that a function has: the compiler may have inlined it into the next.
    """
    symbols = [line.split() for line in Path("/proc/kallsyms").read_text().splitlines()]
    addresses = sorted(int(symbol[0], 16) for symbol in symbols)
    begin = next(
        int(address, 16)
        for pattern in patterns
        for address, kind, *name in symbols
        if kind in "tT" and re.fullmatch(pattern, " ".join(name))
    )
    return begin, addresses[bisect.bisect_right(addresses, begin)]


def the_module() -> Range:
    """Where the code of the loaded module is."""
    symbols = [line.split() for line in Path("/proc/kallsyms").read_text().splitlines()]
    code = [
        int(symbol[0], 16)
        for symbol in symbols
        if symbol[3:] == [f"[{kernel.FENCE}]"] and symbol[1] in "tT"
    ]
    return min(code), max(code) + 1


def initialisation() -> Range:
    """Where the kernel's code is that calls what a module does when it is loaded."""
    return _function("do_one_initcall")


def the_notify_work() -> Range:
    """The module's function that sends events: that of the mount's work item 1."""
    return _function(
        rf"\w*DelayedWorkItemKy1_E3run \[{kernel.FENCE}\]",
        rf"\w*7run_raw\w*5MountKy1_\w* \[{kernel.FENCE}\]",
    )


def _set(settings: dict[str, object]) -> None:
    for name, value in settings.items():
        (_SETTINGS / name).write_text(f"{value}\n")


def _only_below(code: Range) -> None:
    kmemleak = _function("kmemleak_alloc")
    _set(
        {
            "verbose": 0,
            "ignore-gfp-wait": "N",
            "stacktrace-depth": 32,
            "require-start": code[0],
            "require-end": code[1],
            # It copes by itself with having no memory for its notes.
            "reject-start": kmemleak[0],
            "reject-end": kmemleak[1],
        }
    )


class Faults:
    """Lets chosen allocations below a piece of code fail."""

    def __init__(self, code: Range) -> None:
        _only_below(code)
        self._countdown = os.open(_COUNTDOWN, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._countdown)

    def call(self, number: int, action: Callable[[], int]) -> tuple[int, bool]:
        """
        Does something, which is one system call, while allocation `number` from now on fails.

        What came of it, which is a negative errno for an error, and whether it came to that
        allocation.
        """
        os.pwrite(self._countdown, b"%d" % number, 0)
        try:
            answer = action()
        except OSError as error:
            answer = -(error.errno or 0)
        left = int(os.pread(self._countdown, 16, 0))
        os.pwrite(self._countdown, b"0", 0)
        true(left in (0, *range(number + 1)), f"{left} of {number} are left")
        return answer, left == 0


@contextmanager
def failing(code: Range) -> Iterator[Faults]:
    faults = Faults(code)
    # What Python allocates by the way must not be counted down.
    gc.disable()
    try:
        yield faults
    finally:
        gc.enable()
        faults.close()


@contextmanager
def failing_in_every_task(code: Range, every: int) -> Iterator[None]:
    """Lets one allocation of so many fail below a piece of code, in any task."""
    _only_below(code)
    _set({"task-filter": "N", "interval": every, "times": -1, "probability": 100})
    try:
        yield
    finally:
        _set({"probability": 0, "times": 1, "interval": 1})
