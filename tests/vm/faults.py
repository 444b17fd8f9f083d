# SPDX-License-Identifier: GPL-2.0-only
"""
Makes allocations fail one at a time, on kernels with failslab.

Only allocations below a piece of code, such as the module's, are counted. The kernel's own for the
system call that leads there are not, nor are those that it makes only now and then: they would
shift the count of all later ones from one call to the next.
"""

import bisect
import gc
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import kernel
from fence import true

OPTION = "CONFIG_FAILSLAB"

_SETTINGS = Path("/sys/kernel/debug/failslab")
# The kernel fills its reserves from these caches, and goes on if that fails: the memory in which it
# records allocations and tracks objects, and the nodes of the tree of kernfs's inode numbers.
_OF_RESERVES = ("kmemleak_object", "kmemleak_scan_area", "debug_objects_cache", "radix_tree_node")
_COUNTDOWN = "/proc/thread-self/fail-nth"

# The first address, and the first one past the end.
Range = tuple[int, int]


def _function(*patterns: str) -> Range:
    """
    The addresses of the function that matches the first pattern with a match.

    Patterns match names as in kallsyms, with the module in brackets. The compiler may have
    inlined the function of one pattern into that of the next.
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
    """The addresses of the loaded module's code."""
    symbols = [line.split() for line in Path("/proc/kallsyms").read_text().splitlines()]
    code = [
        int(symbol[0], 16)
        for symbol in symbols
        if symbol[3:] == [f"[{kernel.FENCE}]"] and symbol[1] in "tT"
    ]
    return min(code), max(code) + 1


def initialisation() -> Range:
    """The addresses of the kernel's function that calls a module's init function."""
    return _function("do_one_initcall")


def the_notify_work() -> Range:
    """The module's function that sends events: the mount's work item 1."""
    return _function(
        rf"\w*DelayedWorkItemKy1_E3run \[{kernel.FENCE}\]",
        rf"\w*7run_raw\w*5MountKy1_\w* \[{kernel.FENCE}\]",
    )


def _set(settings: dict[str, object]) -> None:
    for name, value in settings.items():
        (_SETTINGS / name).write_text(f"{value}\n")


def _only_below(code: Range) -> None:
    for cache in kernel.SLABS.iterdir():
        # The kernel refuses this for caches that share their slabs with others.
        with suppress(OSError):
            (cache / "failslab").write_text(f"{int(cache.name not in _OF_RESERVES)}\n")
    _set(
        {
            "verbose": 0,
            "ignore-gfp-wait": "N",
            "stacktrace-depth": 32,
            "require-start": code[0],
            "require-end": code[1],
            "cache-filter": "Y",
        }
    )


class Faults:
    """Makes chosen allocations below a piece of code fail."""

    def __init__(self, code: Range) -> None:
        _only_below(code)
        self._countdown = os.open(_COUNTDOWN, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._countdown)

    def call(self, number: int, action: Callable[[], int]) -> tuple[int, bool]:
        """
        Runs `action`, a single system call, with the `number`th allocation from now failing.

        Returns the result, a negative errno on error, and whether that allocation was reached.
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
    # Allocations for Python's garbage collector must not count down.
    gc.disable()
    try:
        yield faults
    finally:
        gc.enable()
        faults.close()


@contextmanager
def failing_in_every_task(code: Range, every: int) -> Iterator[None]:
    """Makes one in `every` allocations below a piece of code fail, in any task."""
    _only_below(code)
    _set({"task-filter": "N", "interval": every, "times": -1, "probability": 100})
    try:
        yield
    finally:
        _set({"probability": 0, "times": 1, "interval": 1})
