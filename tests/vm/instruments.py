# SPDX-License-Identifier: GPL-2.0-only
"""
Plants faults to check that the tests' instruments report them.

Each instrument runs like a case and must fail for the reason that it names. Some plant a fault in
the module itself by changing its sources; the host builds those.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENODEV, ENOENT
from functools import partial
from pathlib import Path

import case
import faults
import kernel
from case import Case, CaseFunction
from cases.allocations import ON_A_MOUNT, pile_up, try_all
from cases.kunit import run_unit_tests
from cases.load import Actors, ignoring
from fence import CaseFailed, Stopwatch, equal

FAULTS = "fence_test_faults"


@dataclass(frozen=True)
class Change:
    """A replacement in one of the module's files; the old text must occur exactly once."""

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
    # A pattern that one of the reported lines must match.
    reports: str
    # The kernel configuration option that it needs, if any.
    option: str
    change: Change | None
    # Whether the module is built with its unit tests.
    unit_tests: bool


ALL: dict[str, Instrument] = {}


def instrument(
    reports: str, option: str = "", change: Change | None = None, unit_tests: bool = False
) -> Callable[[CaseFunction], CaseFunction]:
    """Registers a function as an instrument, named after the function with hyphens."""

    def add(function: CaseFunction) -> CaseFunction:
        assert function.__doc__
        name = function.__name__.replace("_", "-")
        ALL[name] = Instrument(function, reports, option, change, unit_tests)
        return function

    return add


def plant(fault: str) -> None:
    """Triggers a fault in the module of faults."""
    kernel.load(FAULTS)
    try:
        kernel.set_parameter(FAULTS, "plant", fault)
    finally:
        kernel.unload(FAULTS)


def run_case(name: str) -> CaseFunction:
    return case.ALL[name]


@contextmanager
def told(**variables: str) -> Iterator[None]:
    """Sets environment variables for a case."""
    os.environ |= variables
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


START = [subject for subject in ON_A_MOUNT if subject.name == "start"]


# First, because most other reports switch lockdep off.
@instrument(
    r"possible circular locking dependency",
    option="CONFIG_PROVE_LOCKING",
    change=Change(
        "src/mount.rs",
        "        this.changed.wake_up_all();\n        Self::queue_notify(this, request);\n",
        "        let _admin = this.admin.lock();\n"
        "        this.changed.wake_up_all();\n        Self::queue_notify(this, request);\n",
    ),
)
def lock_inversion(case: Case) -> None:
    """A write to a file takes the lock that is held while the file is removed."""
    mount = case.mount()
    request = mount.started(1)
    request.set_fenced()
    # Lockdep sees a file's removal as a lock only if it waits for an active reference. Here a
    # reader holds that reference; with a writer both would deadlock.
    reader = Actors(ignoring(partial(request.read, "fenced"), ENOENT, ENODEV))
    watch = Stopwatch()
    while not case.log.complaints() and watch.seconds() < 60:
        mount.free(1)
        mount.started(1)
    reader.stop()


@instrument(
    r"sleeping function called from invalid context",
    option="CONFIG_DEBUG_ATOMIC_SLEEP",
    change=Change(
        "src/attrs.rs",
        "        if table.fence(&this, jiffies())? {\n",
        "        drop(KVec::<u8>::with_capacity(64, GFP_KERNEL));\n"
        "        if table.fence(&this, jiffies())? {\n",
    ),
)
def sleep_in_atomic(case: Case) -> None:
    """The module makes a sleeping allocation with the spinlock held."""
    case.mount().started(1).set_fenced()


@instrument(
    r"KASAN: slab-use-after-free",
    option="CONFIG_KASAN",
    change=Change(
        "src/linux/glue.rs",
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
    """The module's Rust code reads freed memory."""
    case.mount().started(1).set_fenced()


# The waiter notices its condition only when its own timeout expires.
LOST_WAKE_UP = Change(
    "src/mount.rs",
    "        this.changed.wake_up_all();\n        Self::queue_notify(this, request);\n",
    "        Self::queue_notify(this, request);\n",
)


@instrument(r"has not returned within", change=LOST_WAKE_UP)
def lost_wake_up(case: Case) -> None:
    """No waiter is woken when a request is fenced."""
    run_case("wait-returns-once-every-request-is-fenced")(case)


@instrument(r"blocked for more than", option="CONFIG_DETECT_HUNG_TASK", change=LOST_WAKE_UP)
def hung_task(case: Case) -> None:
    """The same, with a waiter that sleeps longer than the hung task timeout."""
    mount = case.mount()
    request = mount.started(1)
    with kernel.hung_after(2):
        waiter = mount.waiter(10_000)
        request.set_fenced()
        waiter.answer(20)


@instrument(r"sleeping function called from invalid context", option="CONFIG_DEBUG_ATOMIC_SLEEP")
def wait_in_atomic(case: Case) -> None:
    """A caller holding a spinlock waits, with a timeout, for a condition that already holds."""
    equal(case.mount().returns("atomic wait_fenced_jiffies 10"), 0)


@instrument(r"UBSAN: shift-out-of-bounds", option="CONFIG_UBSAN_SHIFT")
def undefined_behaviour(case: Case) -> None:
    """A number is shifted by more bits than it has."""
    plant("shift_too_far")


@instrument(r"list_del corruption", option="CONFIG_DEBUG_LIST")
def list_corruption(case: Case) -> None:
    """An entry is removed from a list that it is not on."""
    plant("corrupt_a_list")


@instrument(r"ODEBUG: free active", option="CONFIG_DEBUG_OBJECTS_FREE")
def freed_while_active(case: Case) -> None:
    """A pending timer is freed."""
    plant("free_an_active_timer")


@instrument(r"ODEBUG: free active", option="CONFIG_DEBUG_KOBJECT_RELEASE")
def freed_with_the_last_reference(case: Case) -> None:
    """A kobject's memory is freed along with its last reference, before its release."""
    plant("free_a_kobject")


@instrument(
    r"failed: .*every_transition_is_as_the_diagram_has_it",
    option="CONFIG_KUNIT",
    change=Change(
        "src/request.rs",
        "            self.status = Status::Failed;\n",
        "            self.status = Status::Fenced;\n",
    ),
    unit_tests=True,
)
def failing_unit_test(case: Case) -> None:
    """A failed request counts as fenced."""
    run_unit_tests(case, "planted/failing-unit-test")


@instrument(r"KCSAN: data-race", option="CONFIG_KCSAN")
def data_race(case: Case) -> None:
    """Two threads count without a lock."""
    plant("race")


@instrument(r"the module differs from the model")
def model_difference(case: Case) -> None:
    """The model's stop drops no requests."""
    with told(FENCE_TEST_PLANT="StopsNothing", FENCE_TEST_STEPS="300"):
        run_case("the-module-does-what-the-model-does")(case)


# The planted module stays until torture reloads the modules after 20 s.
@instrument(r"was left asleep", change=LOST_WAKE_UP)
def left_asleep(case: Case) -> None:
    """During torture no waiter is woken when a request is fenced."""
    with told(FENCE_TEST_SECONDS_OF_TORTURE="20"):
        run_case("torture")(case)


@instrument(
    r"wait_fenced returned 0|no agent fenced it|not by both",
    change=Change(
        "src/table.rs",
        "        self.fail(&entry, Failure::TimedOut);\n        Some(entry)\n",
        "        let _ = self.fence(&entry, now);\n        Some(entry)\n",
    ),
)
def reported_as_fenced(case: Case) -> None:
    """A timed-out request counts as fenced."""
    with told(FENCE_TEST_SECONDS_OF_TORTURE="20"):
        run_case("torture")(case)


@instrument(
    r"it is not as it should be",
    option=faults.OPTION,
    change=Change(
        "src/linux/sysfs.rs",
        "                    ptr::null(),\n                )\n            })?;\n",
        "                    ptr::null(),\n                )\n            })\n"
        "            .unwrap_or_default();\n",
    ),
)
def overlooked_error(case: Case) -> None:
    """A file whose allocation fails is silently left out."""
    try_all(case, "", START)


FORGOTTEN_DIRECTORY = Change(
    "src/linux/kobject.rs",
    "            unsafe { bindings::kobject_put(raw.as_ptr()) };\n",
    "",
)


@instrument(r"leaves objects", option=faults.OPTION, change=FORGOTTEN_DIRECTORY)
def growing_slabs(case: Case) -> None:
    """Every directory that fails for lack of memory leaks what it had allocated."""
    pile_up(case, "", START)


@instrument(r"leaks, the first", option="CONFIG_DEBUG_KMEMLEAK", change=FORGOTTEN_DIRECTORY)
def leak_without_memory(case: Case) -> None:
    """The same, found by kmemleak."""
    kernel.KMEMLEAK.write_text("clear\n")
    try_all(case, "", START)
    run_case("nothing-is-leaked")(case)


# Near the end, because the kernel is damaged afterwards.
@instrument(
    r"panicked at|rust_kernel",
    option="CONFIG_RUST_OVERFLOW_CHECKS",
    change=Change(
        "src/request.rs",
        "    fn a_new_request_is_pending() {\n",
        "    fn a_new_request_is_pending() {\n"
        "        check_eq!(core::hint::black_box(u8::MAX) + 1, 0);\n",
    ),
    unit_tests=True,
)
def arithmetic_overflow(case: Case) -> None:
    """The module's Rust code overflows an addition."""
    run_unit_tests(case, "planted/arithmetic-overflow")


# Last, because the leaked memory keeps the module's directory in sysfs.
@instrument(
    r"leaks, the first",
    option="CONFIG_DEBUG_KMEMLEAK",
    change=Change(
        "src/mount.rs",
        "        Self::remove_directory(this, &request, Removal::Freed);\n",
        "        Self::remove_directory(this, &request, Removal::Freed);\n"
        "        mem::forget(request);\n",
    ),
)
def leak(case: Case) -> None:
    """The memory of a freed request is leaked."""
    kernel.KMEMLEAK.write_text("clear\n")
    mount = case.mount()
    for rid in range(5):
        mount.started(rid).set_fenced()
        mount.free(rid)
    run_case("nothing-is-leaked")(case)
