# SPDX-License-Identifier: GPL-2.0-only
"""Many requests at once, and many callers at once."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from errno import EBUSY, EIO, ENODEV, ENOENT, ESHUTDOWN, ESTALE, ETIMEDOUT

import kernel
from case import Case, case
from fence import CLIENT_RECONNECT, Finished, Mount, Stopwatch, equal, fails_with, true

# An instrumented kernel takes ten times as long for each.
MANY = 1_000 if kernel.INSTRUMENTED else 10_000


class Actors:
    """Processes that each repeat an action until they are stopped."""

    def __init__(self, *actions: Callable[[], None]) -> None:
        self._pids = [self._fork(action) for action in actions]

    @staticmethod
    def _fork(action: Callable[[], None]) -> int:
        # Blocked until the handler is installed.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            return pid
        going = True

        def stop(*_: object) -> None:
            nonlocal going
            going = False

        status = 1
        try:
            signal.signal(signal.SIGTERM, stop)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            while going:
                action()
            status = 0
        except Exception as error:
            print(f"# {error}", flush=True)
        finally:
            os._exit(status)

    def stop(self) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGTERM)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self._pids]
        equal(statuses, [0] * len(statuses), "how the processes ended")


def ignoring(function: Callable[[], object], *errors: int) -> Callable[[], None]:
    """Wraps a function so that these errors count as success."""

    def action() -> None:
        try:
            function()
        except OSError as error:
            if error.errno not in errors:
                raise

    return action


@case
def ten_thousand_requests_on_one_mount(case: Case) -> None:
    """Ten thousand requests are all listed, returned in start order, freed, and dropped by stop."""
    mount = case.mount()
    # Durations are printed but not checked.
    case.set_timeout_ms(3600000)
    watch = Stopwatch()
    rids = list(range(MANY))
    random.Random(1).shuffle(rids)
    for rid in rids:
        if mount.start(rid, reason=CLIENT_RECONNECT):
            equal(mount.start(rid), 0, f"start {rid}")
    case.note(f"started {MANY} requests in {watch.seconds():.1f} s")
    equal(len(mount.listed()), MANY)

    equal(mount.reason_pending(CLIENT_RECONNECT), 1)
    equal(mount.reason_pending(CLIENT_RECONNECT + 1), 0)
    equal(mount.wait_fenced(0), -ETIMEDOUT)

    watch = Stopwatch()
    some = rids[:: MANY // 100]
    for rid in reversed(some):
        mount.request(rid).set_fenced()
    for rid in some:
        equal(mount.next(), Finished(rid, CLIENT_RECONNECT))
        equal(mount.free(rid), 0)
    equal(mount.next(), -ENOENT)
    equal(len(mount.listed()), MANY - len(some))
    case.note(f"fenced, reported and freed {len(some)} of them in {watch.seconds():.1f} s")

    watch = Stopwatch()
    mount.stop()
    equal(mount.listed(), set())
    case.note(f"stopped with {MANY - len(some)} of them in {watch.seconds():.1f} s")


@case
def free_returns_while_a_file_is_being_written(case: Case) -> None:
    """Free and stop return while agents write as fast as they can; further writes get ENODEV."""
    mount = case.mount()
    rounds = 20
    case.expect_error_line(mount, 0xAA, rounds // 2)
    for number in range(rounds):
        request = mount.started(0xAA)
        name = ("fenced", "error")[number % 2]
        file = os.open(request.path / name, os.O_RDWR | os.O_CLOEXEC)
        # Writes lines of "1" until a write fails.
        writers = [
            subprocess.Popen(["yes", "1"], stdout=file, stderr=subprocess.DEVNULL) for _ in range(2)
        ]
        try:
            while request.read(name) != "1\n":
                pass
            if number % 4 < 2:
                equal(mount.free(0xAA), 0)
            else:
                mount.stop()
            true(not request.exists(), "the directory is gone")
            fails_with(ENODEV, os.write, file, b"1\n")
            true(all(writer.wait(10) for writer in writers), "the writers' writes failed")
        finally:
            for writer in writers:
                writer.kill()
                writer.wait()
            os.close(file)
    equal(mount.next(), -ENOENT)


@case
def writers_at_the_same_time_agree(case: Case) -> None:
    """However fenced and error are written concurrently, the request ends up failed."""
    mount = case.mount()
    for rid in range(12):
        case.expect_error_line(mount, rid)
        request = mount.started(rid)
        waiter = mount.background("wait_fenced 20000")
        actors = Actors(
            ignoring(request.set_fenced, ESTALE),
            ignoring(request.set_fenced, ESTALE),
            request.set_error,
        )
        answer = waiter.answer()
        request.until_failed()
        actors.stop()
        true(answer in (0, -EIO), f"the waiter got {answer}")
        fails_with(ESTALE, request.set_fenced)
        equal(mount.wait_fenced(0), -EIO)
        equal(mount.next(), Finished(rid, error=True))
        equal(mount.free(rid), 0)


@case
def calls_may_race_with_each_other_and_with_destroy(case: Case) -> None:
    """Calls concurrent with setup, stop and destroy return only their documented errors."""
    mount = case.mount()
    case.expect_not_set_up(None)
    rids = range(4)
    for rid in rids:
        case.expect_error_line(mount, rid, None)

    def one_of(allowed: set[int], call: Callable[[], int]) -> Callable[[], None]:
        def action() -> None:
            answer = call()
            true(answer in allowed, f"{answer} is one of {allowed}")

        return action

    def next_ends_well() -> None:
        answer = mount.next()
        true(
            isinstance(answer, Finished) or answer in (-ENOENT, -ENODEV), f"next returned {answer}"
        )

    def any_rid() -> int:
        return random.choice(rids)

    def agent() -> None:
        mount.request(any_rid()).write(random.choice(("fenced", "error")), "1")

    waited = {0, -EIO, -ETIMEDOUT, -ESHUTDOWN, -ENODEV}
    actors = Actors(
        one_of({0, -ENODEV}, lambda: mount.start(any_rid())),
        one_of({0, -ENODEV}, lambda: mount.start(any_rid())),
        one_of({0, -ENODEV, -ENOENT}, lambda: mount.free(any_rid())),
        one_of(waited, lambda: mount.wait_fenced(5)),
        one_of({0, 1, -ENODEV}, lambda: mount.reason_pending(0)),
        next_ends_well,
        ignoring(agent, ENOENT, ENODEV, ESTALE),
        one_of({0, -EBUSY}, mount.setup),
    )
    try:
        for _ in range(30):
            time.sleep(0.02)
            mount.stop()
            time.sleep(0.01)
            mount.destroy()
    finally:
        actors.stop()
    true(mount.setup() in (0, -EBUSY), "setup works at the end")
    mount.stop()
    mount.started(0xAA).set_fenced()
    equal(mount.next(), Finished(0xAA))


@case
def mounts_come_and_go_at_the_same_time(case: Case) -> None:
    """Several processes can mount, make requests and unmount at the same time."""
    first = case.mount()

    def come_and_go(number: int) -> Callable[[], None]:
        def action() -> None:
            mount = Mount(first.path.with_name(f"other{number}"))
            mount.started(0xAA).set_fenced()
            equal(mount.next(), Finished(0xAA))
            mount.unmount()

        return action

    actors = Actors(*map(come_and_go, range(3)))
    time.sleep(1)
    actors.stop()
    equal(first.listed(), set())
