# SPDX-License-Identifier: GPL-2.0-only
"""The guest's kernel as the cases use it: system calls, modules and the kernel log."""

import ctypes
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

MODULES = Path(os.environ.get("FENCE_TEST_MODULES", "/tests"))
FENCE = "scoutfs_fence"
FILESYSTEM = "fence_test_fs"
LEADER_FILESYSTEM = "fence_test_leader_fs"
DROPIN = "fence_test_dropin"

FENCE_SYSFS = Path("/sys/fs/scoutfs_fence")
SCOUTFS_SYSFS = Path("/sys/fs/scoutfs")
TIMEOUT_MS = Path(f"/sys/module/{FENCE}/parameters/timeout_ms")

HUNG_TASK = Path("/proc/sys/kernel/hung_task_timeout_secs")
LOCKDEP = Path("/proc/lockdep_stats")
KMEMLEAK = Path("/sys/kernel/debug/kmemleak")
KCSAN = Path("/sys/kernel/debug/kcsan")
SLABS = Path("/sys/kernel/slab")
ALLOCATIONS = Path("/sys/kernel/debug/slab")

# An instrumented kernel is slow. os.path.exists() works for unprivileged users too.
INSTRUMENTED = os.path.exists(KMEMLEAK) or os.path.exists(KCSAN)

# Milliseconds that the loop below takes on the machine for which the time limits were set.
USUAL_LOOP_MS = 30


def _loop_ms() -> float:
    """Milliseconds that a loop takes here: the least of some, as a guest may stall in any."""

    def once() -> float:
        begin = time.perf_counter()
        sum(range(300_000))
        return (time.perf_counter() - begin) * 1000

    return min(once() for _ in range(5))


# Factor by which tight limits are extended: how much slower the kernel and the machine are.
SLOWNESS = (4 if INSTRUMENTED else 1) * max(1.0, _loop_ms() / USUAL_LOOP_MS)

# The same in whole numbers, for all other limits.
PATIENCE = round(SLOWNESS)

# The module's own default, and what cases use that set no timeout_ms: none of their requests may
# time out while a slow guest is still on its way to serve it.
DEFAULT_TIMEOUT_MS = 30_000
USUAL_TIMEOUT_MS = DEFAULT_TIMEOUT_MS * PATIENCE

MNT_DETACH = 2
# x86_64 system call numbers; the C library wraps neither.
SYS_DELETE_MODULE = 176
SYS_FINIT_MODULE = 313

# Taints by modules that are built out of tree, unsigned, or run unit tests.
USUAL_TAINTS = 1 << 12 | 1 << 13 | 1 << 18

# Log levels of the kernel.
WARNING = 4
INFORMATION = 6
DEBUG = 7

_libc = ctypes.CDLL(None, use_errno=True)


def _raise_errno(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), what)


def mount(filesystem: str, target: Path, options: str) -> None:
    if _libc.mount(b"none", str(target).encode(), filesystem.encode(), 0, options.encode()):
        _raise_errno(f"mount {target}")


def unmount(target: Path, flags: int = 0) -> None:
    if _libc.umount2(str(target).encode(), flags):
        _raise_errno(f"umount {target}")


def is_loaded(module: str) -> bool:
    return Path("/sys/module", module).exists()


def load(module: str, parameters: str = "", build: str = "") -> None:
    """Loads a module; `build` names the folder of a variant."""
    file = os.open(MODULES / build / f"{module}.ko", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syscall(SYS_FINIT_MODULE, file, parameters.encode(), 0):
            _raise_errno(f"load {module}")
    finally:
        os.close(file)


def unload(module: str) -> None:
    if _libc.syscall(SYS_DELETE_MODULE, module.encode(), os.O_NONBLOCK):
        _raise_errno(f"unload {module}")


def load_both() -> None:
    for module in (FENCE, FILESYSTEM):
        if not is_loaded(module):
            load(module)


def unload_both() -> None:
    for module in (LEADER_FILESYSTEM, FILESYSTEM, FENCE):
        if is_loaded(module):
            unload(module)


def set_parameter(module: str, parameter: str, value: object) -> None:
    Path("/sys/module", module, "parameters", parameter).write_text(f"{value}\n")


def taints() -> int:
    """The kernel's taints without the usual ones."""
    return int(Path("/proc/sys/kernel/tainted").read_text()) & ~USUAL_TAINTS


def lockdep_looks() -> bool:
    """Whether lockdep is still active; it switches itself off after a report."""
    return not LOCKDEP.exists() or re.search(r"debug_locks: +1\n", LOCKDEP.read_text()) is not None


def ignore_races_of_its_own() -> None:
    """Makes KCSAN ignore races between functions of the kernel that the module has no part in."""
    if KCSAN.exists():
        # Timers of idle processors, which tasks and timer interrupts migrate.
        KCSAN.write_text("!tmigr_handle_remote\n")


@contextmanager
def hung_after(seconds: int) -> Iterator[None]:
    """Makes the kernel report tasks that sleep uninterruptibly for this long."""
    before = HUNG_TASK.read_text()
    HUNG_TASK.write_text(f"{seconds}\n")
    try:
        yield
    finally:
        HUNG_TASK.write_text(before)


def leaks() -> list[str]:
    """Unreferenced allocations reported by kmemleak, with their call traces."""
    # kmemleak ignores allocations younger than five seconds, and reports those found twice.
    time.sleep(5)
    for _ in range(2):
        KMEMLEAK.write_text("scan\n")
    return [text for text in KMEMLEAK.read_text().split("unreferenced object ") if text]


def objects_of_module() -> Counter[str]:
    """
    Counts the objects allocated by the module or on its behalf, by call trace.

    Covers only the caches that the kernel has traced since it booted.
    """
    counts: Counter[str] = Counter()
    caches = sorted(ALLOCATIONS.iterdir())
    if not caches:
        raise RuntimeError("the kernel was booted without slab_debug=U, and knows of no object")
    for cache in caches:
        # This also frees the objects in KASAN's quarantine.
        (SLABS / cache.name / "shrink").write_text("1\n")
        for place in (cache / "alloc_traces").read_text().split("\n\n"):
            count, *stack = place.split("\n")
            ours = [number for number, line in enumerate(stack) if f"[{FENCE}]" in line]
            if ours:
                callers = [line.split("+")[0].strip() for line in stack[: ours[0] + 1]]
                counts[f"{cache.name}, {' < '.join(callers)}"] += int(count.split()[0])
    return counts


@dataclass(frozen=True)
class LogLine:
    level: int
    text: str


# Lines that the kernel prints if something is wrong, whatever the cause.
_COMPLAINT = re.compile(
    r"WARNING|BUG|Oops|Call Trace|INFO: (task|rcu|possible|trying)|rcu: INFO|blocked for more than"
    r"|general protection|unable to handle|list_(add|del) corruption|refcount_t"
    r"|scheduling while atomic|sleeping function|circular locking|inconsistent lock|suspicious RCU"
    r"|possible recursive|kobject|kernfs|sysfs|UBSAN|KASAN|kmemleak|ODEBUG|debugobjects"
    r"|soft lockup|hard LOCKUP|page allocation failure|panicked|rust_kernel",
)
# Printed once per boot for an unsigned out-of-tree module, and for each kobject whose release
# DEBUG_KOBJECT_RELEASE delays.
_ALLOWED = re.compile(
    r"loading out-of-tree module taints kernel|module verification failed"
    r"|^kobject: '.*: kobject_release, parent .* \(delayed \d+\)$"
)


class KernelLog:
    """The lines that the kernel has logged since this object was made."""

    def __init__(self) -> None:
        self._file = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._file, 0, os.SEEK_END)
        self._lines: list[LogLine] = []
        self._allowed: list[str] = []

    def __enter__(self) -> "KernelLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def lines(self) -> list[LogLine]:
        while True:
            try:
                record = os.read(self._file, 8192).decode(errors="replace")
            except BlockingIOError:
                return list(self._lines)
            except BrokenPipeError:
                # Lines were overwritten before they were read; any of them may be a complaint.
                self._lines.append(LogLine(WARNING, "BUG: the kernel's log has overflown"))
                continue
            head, _, message = record.partition(";")
            text = message.split("\n", 1)[0]
            self._lines.append(LogLine(int(head.split(",", 1)[0]) & 7, text))

    def skip(self) -> None:
        """Discards the lines so far."""
        os.lseek(self._file, 0, os.SEEK_END)
        self._lines.clear()

    def allow(self, pattern: str) -> None:
        """Accepts lines that match `pattern` in full: the case provokes them."""
        self._allowed.append(pattern)

    def take(self) -> list[LogLine]:
        """Returns the lines so far and discards them."""
        lines = self.lines()
        self._lines.clear()
        return lines

    def complaints(self) -> list[str]:
        return [
            line.text
            for line in self.lines()
            if _COMPLAINT.search(line.text)
            and not _ALLOWED.search(line.text)
            and not any(re.fullmatch(pattern, line.text) for pattern in self._allowed)
        ]

    def of_module(self) -> list[LogLine]:
        """The lines by or about the module."""
        return [
            line
            for line in self.lines()
            if line.text.startswith((FENCE, "scoutfs ")) and not _ALLOWED.search(line.text)
        ]
