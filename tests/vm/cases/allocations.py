# SPDX-License-Identifier: GPL-2.0-only
"""
Makes every allocation of the module fail once: in each function, in each write to a file, and on
loading. The leak check after all cases covers these failures too.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from errno import EIO, ENOENT, ENOMEM
from pathlib import Path

import faults
import kernel
from case import Case, case_with
from fence import CaseFailed, Mount, Stopwatch, equal, true
from fuzz import quiet_console, say
from uevents import listening

REQUEST = "start aa 10.0.0.7 0"
# Logged by the kernel if it cannot create a directory.
NO_DIRECTORY = r"kobject: (.*error: -12.*|can not set name properly!)"
# More allocations than anything here makes, and the minimum number that loading cannot do without.
MANY = 200
LOADING = 30
# One in so many allocations fails while uevents are sent.
EVERY = (1, 5, 7, 11, 13)
# DEBUG_KOBJECT_RELEASE delays the release of each kobject by up to four seconds, and then that of
# its parent: a request's directory, then fence/, then the mount's.
SECONDS_TO_FREE = 20


@dataclass(frozen=True)
class Subject:
    """
    An operation on a mount.

    `errors` of its allocations are essential: it fails without them.
    """

    name: str
    # The text written to `file`.
    text: str
    # Run once before the first attempt.
    prepare: tuple[str, ...] = ()
    # Restores the previous state.
    undo: tuple[str, ...] = ()
    errors: int = 0
    file: str = "call"
    answer: int = 0


def path_of(mount: Mount, file: str) -> Path:
    return mount.path / file if file == "call" else mount.request(0xAA).path / file


def do(mount: Mount, commands: tuple[str, ...]) -> None:
    for command in commands:
        equal(mount.returns(command), 0, command)


def picture(mount: Mount) -> list[str]:
    """The visible state of a mount, except values that change over time."""
    roots = (mount.published, kernel.FENCE_SYSFS)
    seen = []
    for path in sorted(path for root in roots for path in root.rglob("*")):
        readable = path.is_file() and path.name != "elapsed_secs"
        seen.append(f"{path} {path.read_text() if readable else ''}")
    commands = ("next", "drained 0", *(f"reason_pending {reason}" for reason in range(3)))
    return seen + [mount.call(command) for command in commands]


class Trial:
    """Tries a subject with each of its allocations failing in turn."""

    def __init__(self, mount: Mount, subject: Subject, injector: faults.Faults) -> None:
        self._mount = mount
        self._subject = subject
        self._faults = injector
        self._errors = 0
        self._survived = 0
        do(mount, subject.prepare)
        self._before = picture(mount)
        self._attempt(0)
        self._after = picture(mount)
        do(mount, subject.undo)

    def _attempt(self, number: int) -> tuple[int, bool]:
        """Returns the answer, and whether an allocation failed."""
        subject = self._subject
        text = subject.text.encode()
        file = os.open(path_of(self._mount, subject.file), os.O_RDWR | os.O_CLOEXEC)
        try:
            answer, injected = self._faults.call(number, lambda: os.write(file, text))
            if subject.file == "call" and answer >= 0:
                answer = int(os.read(file, 256).split()[0])
        finally:
            os.close(file)
        return answer, injected

    def _look(self, wanted: list[str], what: str) -> None:
        now = picture(self._mount)
        if now != wanted:
            different = sorted({*now} ^ {*wanted})
            raise CaseFailed(f"{what}, it is not as it should be: {different}")

    def run(self) -> str:
        """Makes each allocation fail once; returns a summary."""
        for number in range(1, MANY):
            what = f"{self._subject.name}, with allocation {number} failing"
            answer, injected = self._attempt(number)
            if answer == -ENOMEM and self._subject.errors:
                true(injected, f"{what}: an error for lack of memory comes from that")
                self._errors += 1
                # The next call gets one allocation further; the last call succeeds.
                self._look(self._before, f"after {what}")
                continue
            equal(answer, self._subject.answer, what)
            self._look(self._after, f"after {what}")
            do(self._mount, self._subject.undo)
            self._look(self._before, f"when all is undone after {what}")
            if injected:
                self._survived += 1
            else:
                return self._verdict()
        raise CaseFailed(f"{self._subject.name} never ends to allocate")

    def run_without_a_look(self) -> None:
        """Does the same without checking the state, so that leftovers can be counted."""
        for number in range(1, MANY):
            answer, injected = self._attempt(number)
            if answer == self._subject.answer:
                do(self._mount, self._subject.undo)
            if not injected:
                return

    def _verdict(self) -> str:
        name = self._subject.name
        equal(self._errors, self._subject.errors, f"allocations that fail {name}")
        return f"{name}: {self._errors} errors, {self._survived} did no harm"


NOT_SET_UP = "nosetup"
ON_A_NEW_SUPERBLOCK = [
    Subject("setup", "setup", (), ("destroy",), errors=17),
    Subject("setup_under", "setup_under own", (), ("destroy",), errors=11),
]
ON_A_MOUNT = [
    Subject("start", REQUEST, (), ("free aa",), errors=22),
    Subject("start_addr", "start_addr aa fe80::1 2", (), ("free aa",), errors=22),
    Subject(
        "start for a second reason",
        "start aa 10.0.0.7 77",
        (REQUEST,),
        ("free aa", REQUEST),
    ),
    Subject("free", "free aa", (REQUEST,), (REQUEST,)),
    Subject("stop", "stop", (REQUEST, "start bb 10.0.0.8 1"), (REQUEST, "start bb 10.0.0.8 1")),
    Subject("destroy", "destroy", (REQUEST,), ("setup", REQUEST)),
    Subject("next", "next", answer=-ENOENT),
    Subject("wait_next", "wait_next 1"),
    Subject("drained", "drained 0", answer=1),
    Subject("reason_pending", "reason_pending 0"),
    Subject("wait_fenced", "wait_fenced 1"),
    Subject("a write to fenced", "1\n", (REQUEST,), ("free aa", REQUEST), file="fenced", answer=2),
    Subject("a write to error", "1\n", (REQUEST,), ("free aa", REQUEST), file="error", answer=2),
]


@contextmanager
def failing(case: Case) -> Iterator[faults.Faults]:
    """Injects failures into the module's allocations; accepts the resulting log lines."""
    case.log.allow(NO_DIRECTORY)
    case.expect_not_set_up(None)
    with faults.failing(faults.the_module()) as injector, quiet_console():
        yield injector


@contextmanager
def trial_of(
    case: Case, mount_options: str, subject: Subject, injector: faults.Faults
) -> Iterator[Trial]:
    mount = case.mount(mount_options)
    case.expect_error_line(mount, 0xAA, None)
    yield Trial(mount, subject, injector)
    mount.unmount()


def try_all(case: Case, mount_options: str, subjects: list[Subject]) -> None:
    # Uevents are sent only if someone listens.
    with failing(case) as injector, listening():
        for subject in subjects:
            with trial_of(case, mount_options, subject, injector) as trial:
                say(trial.run())


def left_by(action: Callable[[], None]) -> Counter[str]:
    """The objects of the module that an action leaves behind."""
    # Objects still being freed from earlier would offset leftovers.
    time.sleep(SECONDS_TO_FREE)
    before = kernel.objects_of_module()
    action()
    watch = Stopwatch()
    while left := kernel.objects_of_module() - before:
        if watch.seconds() > SECONDS_TO_FREE:
            break
        time.sleep(1)
    return left


def pile_up(case: Case, mount_options: str, subjects: list[Subject]) -> None:
    """Makes each allocation fail once more; raises CaseFailed if objects are left."""
    # Requests must not time out while objects are counted.
    case.set_timeout_ms(3_600_000)
    with failing(case) as injector, ExitStack() as stack:
        # All mounts at once, as the objects of a mount take a while to go away.
        trials = [
            stack.enter_context(trial_of(case, mount_options, subject, injector))
            for subject in subjects
        ]

        def try_each() -> None:
            for trial in trials:
                trial.run_without_a_look()

        # The first round makes whatever is allocated once and kept.
        try_each()
        if left := left_by(try_each):
            names = ", ".join(subject.name for subject in subjects)
            raise CaseFailed(f"what fails for lack of memory leaves objects ({names}): {left}")


@case_with(faults.OPTION)
def setting_up_without_memory_fails_and_leaves_nothing(case: Case) -> None:
    """If an allocation fails, setup returns an error, leaves nothing behind, and works again."""
    try_all(case, NOT_SET_UP, ON_A_NEW_SUPERBLOCK)


@case_with(faults.OPTION)
def nothing_piles_up_when_memory_is_short(case: Case) -> None:
    """Repeated failures for lack of memory do not use up memory."""
    pile_up(case, NOT_SET_UP, ON_A_NEW_SUPERBLOCK)
    pile_up(case, "", ON_A_MOUNT)


@case_with(faults.OPTION)
def requests_without_memory_fail_and_leave_nothing(case: Case) -> None:
    """If an allocation fails, a function returns an error or does its work, and works again."""
    try_all(case, "", ON_A_MOUNT)


@case_with(faults.OPTION)
def notifying_without_memory_does_no_harm(case: Case) -> None:
    """Uevents are lost only if there is no memory for them; everything else is as usual."""
    mount = case.mount()
    story = [("add", "pending"), ("change", "fenced"), ("change", "failed"), ("remove", "failed")]
    sent: Counter[int] = Counter()
    with listening(may_be_lost=True) as listener:
        for every in EVERY:
            case.expect_error_line(mount, every)
            with faults.failing_in_every_task(faults.the_notify_work(), every):
                request = mount.started(every)
                request.set_fenced()
                equal(mount.wait_fenced(0), 0)
                request.set_error()
                equal(mount.wait_fenced(0), -EIO)
                equal(mount.free(every), 0)
                # Returns after all events have been sent.
                mount.destroy()
                equal(mount.setup(), 0)
            told = [(told.action, told.state) for told in listener.events()]
            left = iter(story)
            true(all(event in left for event in told), f"{told} is in order")
            sent[len(told)] += 1
            if every == 1:
                equal(told, [], "without any memory")
    say(f"so many of {len(story)} uevents were sent, so often: {dict(sorted(sent.items()))}")
    true(len(sent) > 2, "some of the uevents were sent")


@case_with(faults.OPTION)
def loading_without_memory_fails_and_leaves_nothing(case: Case) -> None:
    """If an allocation fails, loading fails, leaves nothing behind, and works again."""
    case.log.allow(NO_DIRECTORY)
    kernel.unload_both()
    errors = survived = 0
    with faults.failing(faults.initialisation()) as injector, quiet_console():
        for number in range(1, MANY):
            answer, injected = injector.call(number, load)
            if answer == -ENOMEM:
                true(injected, "an error for lack of memory comes from that")
                true(not kernel.is_loaded(kernel.FENCE), f"{number}: it is not loaded")
                true(not kernel.FENCE_SYSFS.exists(), f"{number}: there is no directory")
                errors += 1
                say(f"loading with allocation {number} failing: an error")
                continue
            equal(answer, 0, f"loading with allocation {number} failing")
            true(kernel.FENCE_SYSFS.exists(), f"{number}: there is a directory")
            kernel.unload(kernel.FENCE)
            if not injected:
                break
            survived += 1
    true(errors >= LOADING, f"loading fails for {LOADING} allocations, not {errors}")
    say(f"loading: {errors} errors, {survived} did no harm")


def load() -> int:
    kernel.load(kernel.FENCE)
    return 0
