# SPDX-License-Identifier: GPL-2.0-only
"""
Faults that are planted to see that they are told of: does what the tests rely on work?

Each instrument runs like a case, and must fail for the reason that it names. Some plant a fault in
the module itself, by a change of its sources; the host builds those.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from errno import ENODEV, ENOENT
from functools import partial
from pathlib import Path

import case
import kernel
from case import Case, CaseFunction
from cases.load import Actors, ignoring
from fence import CaseFailed, Stopwatch

FAULTS = "fence_test_faults"
HUNG_TASK = Path("/proc/sys/kernel")


@dataclass(frozen=True)
class Change:
    """What is to be replaced in one of the module's files, where it stands once."""

    file: str
    old: str
    new: str

    def apply(self, sources: Path) -> None:
        path = sources / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise CaseFailed(f"{self.file} has not once: {self.old!r}; mend {Path(__file__).name}")
        path.write_text(text.replace(self.old, self.new))


@dataclass(frozen=True)
class Instrument:
    function: CaseFunction
    # What one of the lines says that tell why the case failed.
    reports: str
    # The option of the kernel's configuration that it needs, if any.
    option: str
    change: Change | None


ALL: dict[str, Instrument] = {}


def instrument(
    reports: str, option: str = "", change: Change | None = None
) -> Callable[[CaseFunction], CaseFunction]:
    """Makes a function an instrument, called by the function's name with hyphens."""

    def add(function: CaseFunction) -> CaseFunction:
        assert function.__doc__
        name = function.__name__.replace("_", "-")
        ALL[name] = Instrument(function, reports, option, change)
        return function

    return add


def plant(fault: str) -> None:
    """Has the module of faults make one."""
    kernel.load(FAULTS)
    try:
        kernel.set_parameter(FAULTS, "plant", fault)
    finally:
        kernel.unload(FAULTS)


def run_case(name: str) -> CaseFunction:
    return case.ALL[name]


# First: after most other reports lockdep looks no more.
@instrument(
    r"possible circular locking dependency",
    option="CONFIG_PROVE_LOCKING",
    change=Change(
        "src/mount.rs",
        "    fn fenced(&self) -> Result {\n",
        "    fn fenced(&self) -> Result {\n"
        "        let _directories = self.mount.directories.lock();\n",
    ),
)
def lock_inversion(case: Case) -> None:
    """A write to a file takes the lock under which the file is removed."""
    mount = case.mount()
    request = mount.started(1)
    request.set_fenced()
    # The removal of a file is a lock to lockdep only where it has to wait for somebody. That is a
    # reader here, as with a writer both would wait for ever.
    reader = Actors(ignoring(partial(request.read, "rid"), ENOENT, ENODEV))
    watch = Stopwatch()
    while not case.log.complaints() and watch.seconds() < 60:
        mount.free(1)
        mount.started(1)
    reader.stop()


@instrument(
    r"sleeping function called from invalid context",
    option="CONFIG_DEBUG_ATOMIC_SLEEP",
    change=Change(
        "src/mount.rs",
        "        let news = requests.fence(self)?;\n",
        "        let news = requests.fence(self)?;\n"
        "        drop(KVec::<u8>::with_capacity(64, GFP_KERNEL));\n",
    ),
)
def sleep_in_atomic(case: Case) -> None:
    """Memory is allocated, which may sleep, with the spinlock held."""
    case.mount().started(1).set_fenced()


@instrument(
    r"KASAN: slab-use-after-free",
    option="CONFIG_KASAN",
    change=Change(
        "src/linux/module.rs",
        "    unsafe { header::scoutfs_fence_glue_timeout_ms() }\n",
        "    let timeout_ms = unsafe { header::scoutfs_fence_glue_timeout_ms() };\n"
        "    let Ok(kept) = KBox::new(timeout_ms, GFP_KERNEL) else {\n"
        "        return timeout_ms;\n"
        "    };\n"
        "    let kept = KBox::into_raw(kept);\n"
        "    // SAFETY: Planted: it is read after it was freed.\n"
        "    unsafe {\n"
        "        drop(KBox::from_raw(kept));\n"
        "        core::hint::black_box(kept.read_volatile());\n"
        "    }\n"
        "    timeout_ms\n",
    ),
)
def use_after_free(case: Case) -> None:
    """The module's Rust code reads what it has freed."""
    case.mount().started(1).set_fenced()


# The waiter learns of what it waits for when its own time is over.
LOST_WAKE_UP = Change(
    "src/mount.rs",
    "            self.mount.changed.wake_up_all();\n            events::fenced(",
    "            events::fenced(",
)


@instrument(r"has not returned within", change=LOST_WAKE_UP)
def lost_wake_up(case: Case) -> None:
    """Nobody is woken when a request is fenced."""
    run_case("wait-returns-once-every-request-is-fenced")(case)


@instrument(r"blocked for more than", option="CONFIG_DETECT_HUNG_TASK", change=LOST_WAKE_UP)
def hung_task(case: Case) -> None:
    """The same, for a waiter that waits for longer than the kernel thinks right."""
    before = (HUNG_TASK / "hung_task_timeout_secs").read_text()
    (HUNG_TASK / "hung_task_timeout_secs").write_text("2\n")
    mount = case.mount()
    request = mount.started(1)
    waiter = mount.waiter(10_000)
    request.set_fenced()
    waiter.answer(20)
    (HUNG_TASK / "hung_task_timeout_secs").write_text(before)


@instrument(r"UBSAN: shift-out-of-bounds", option="CONFIG_UBSAN_SHIFT")
def undefined_behaviour(case: Case) -> None:
    """A number is shifted by more bits than it has."""
    plant("shift_too_far")


@instrument(r"list_del corruption", option="CONFIG_DEBUG_LIST")
def list_corruption(case: Case) -> None:
    """An entry is taken off a list that it is not on."""
    plant("corrupt_a_list")


@instrument(r"ODEBUG: free active", option="CONFIG_DEBUG_OBJECTS_FREE")
def freed_while_active(case: Case) -> None:
    """A timer that is going to expire is freed."""
    plant("free_an_active_timer")


@instrument(r"KCSAN: data-race", option="CONFIG_KCSAN")
def data_race(case: Case) -> None:
    """Two threads count without a lock."""
    plant("race")


@instrument(r"the module differs from the model")
def model_difference(case: Case) -> None:
    """In the model a stop drops no request."""
    os.environ |= {"FENCE_TEST_PLANT": "StopsNothing", "FENCE_TEST_STEPS": "300"}
    try:
        run_case("the-module-does-what-the-model-does")(case)
    finally:
        del os.environ["FENCE_TEST_PLANT"], os.environ["FENCE_TEST_STEPS"]


# Last: what is leaked keeps the module's directory in sysfs.
@instrument(
    r"leaks, the first",
    option="CONFIG_DEBUG_KMEMLEAK",
    change=Change(
        "src/mount.rs",
        "        drop(listed);\n        Ok(())\n",
        "        core::mem::forget(listed);\n        Ok(())\n",
    ),
)
def leak(case: Case) -> None:
    """A freed request is forgotten, and its memory with it."""
    mount = case.mount()
    for rid in range(5):
        mount.started(rid).set_fenced()
        mount.free(rid)
    run_case("nothing-is-leaked")(case)
