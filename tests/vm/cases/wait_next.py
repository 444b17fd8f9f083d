# SPDX-License-Identifier: GPL-2.0-only
"""scoutfs_fence_wait_next: sleeping until there is something to reclaim."""

from collections.abc import Callable
from errno import EINVAL, ESHUTDOWN

import kernel
from case import Case, case
from fence import LONG_MAX, LONG_MIN, Call, Finished, Mount, Stopwatch, equal, true

# Number of attempts to hit a race.
TRIES = 20

MINUTE = 60_000


def waiter(mount: Mount, milliseconds: int = MINUTE) -> Call:
    return mount.background(f"wait_next {milliseconds}").until_blocked()


@case
def wait_next_returns_at_once_if_a_request_is_finished(case: Case) -> None:
    """If next has a request to return, wait_next returns the time left, 1 up to the timeout."""
    mount = case.mount()
    case.expect_error_line(mount, 2)
    requests = [mount.started(rid) for rid in range(4)]
    requests[3].set_fenced()
    watch = Stopwatch()
    for timeout in (1, 2, 100, 100_000, LONG_MAX - 1, LONG_MAX):
        left = mount.wait_next_jiffies(timeout)
        true(1 <= left <= timeout, f"{left} is from 1 to {timeout}")
    watch.at_most(5)
    equal(mount.free(3), 0)
    requests[2].set_error()
    true(mount.wait_next_jiffies(LONG_MAX) > 0, "a failed request is one that is finished")


@case
def wait_next_returns_as_soon_as_a_request_is_finished(case: Case) -> None:
    """A fenced, failed or timed-out request wakes wait_next even if others are unfinished."""
    mount = case.mount()
    case.expect_error_line(mount, 2)
    requests = [mount.started(rid) for rid in range(3)]

    def wakes(rid: int, act: Callable[[], None], wanted: Finished) -> None:
        watch = Stopwatch()
        sleeper = waiter(mount)
        sleeper.stays_blocked()
        act()
        left, timeout = sleeper.numbers()
        watch.at_most(10)
        true(timeout * 5 // 6 <= left < timeout, f"{left} of {timeout} jiffies are left")
        equal(mount.next(), wanted)
        equal(mount.free(rid), 0)

    wakes(1, requests[1].set_fenced, Finished(1))
    wakes(2, requests[2].set_error, Finished(2, error=True))
    case.set_timeout_ms(500)
    case.expect_timeout_line(mount, 3, 500)
    wakes(3, lambda: equal(mount.start(3), 0), Finished(3, error=True))


@case
def wait_next_wakes_every_waiter(case: Case) -> None:
    """All waiters on a mount are woken; a waiter on another mount is not."""
    mount, other = case.mount(), case.mount()
    request = mount.started(0xAA)
    other.started(0xAA)
    elsewhere = waiter(other)
    waiters = [waiter(mount) for _ in range(4)]
    request.set_fenced()
    for each in waiters:
        true(each.answer() > 0, "there is something to reclaim")
    elsewhere.stays_blocked()
    other.stop()
    elsewhere.answer()


@case
def wait_next_is_0_when_its_time_is_over(case: Case) -> None:
    """If nothing finishes, wait_next returns 0 after its timeout, not sooner."""
    mount = case.mount()
    watch = Stopwatch()
    equal(mount.wait_next(200), 0, "nothing listed")
    watch.at_least(0.2)
    watch.at_most(5)
    mount.started(0xAA)
    watch = Stopwatch()
    sleeper = waiter(mount, 300 * kernel.PATIENCE)
    # A spurious wakeup does not cut the timeout short.
    mount.started(0xBB)
    equal(mount.free(0xBB), 0)
    equal(sleeper.answer(), 0, "one unfinished")
    watch.at_least(0.3 * kernel.PATIENCE)
    watch.at_most(5)


@case
def wait_next_of_zero_only_looks(case: Case) -> None:
    """A timeout of 0 returns 1 or 0 immediately."""
    mount = case.mount()
    watch = Stopwatch()
    equal(mount.wait_next_jiffies(0), 0, "nothing listed")
    request = mount.started(0xAA)
    equal(mount.wait_next_jiffies(0), 0, "one unfinished")
    request.set_fenced()
    equal(mount.wait_next_jiffies(0), 1, "one fenced")
    mount.stop()
    equal(mount.wait_next_jiffies(0), 0, "stopped")
    watch.at_most(1.5)


@case
def wait_next_refuses_negative_timeouts(case: Case) -> None:
    """A negative timeout returns EINVAL, whatever is listed."""
    mount = case.mount()
    for timeout in (-1, LONG_MIN):
        equal(mount.wait_next_jiffies(timeout), -EINVAL, f"timeout {timeout}")
    mount.started(0xAA).set_fenced()
    for timeout in (-1, LONG_MIN):
        equal(mount.wait_next_jiffies(timeout), -EINVAL, f"timeout {timeout}, one fenced")


@case
def wait_next_is_uninterruptible(case: Case) -> None:
    """A signal does not end the wait."""
    mount = case.mount()
    request = mount.started(0xAA)
    sleeper = waiter(mount)
    for _ in range(3):
        sleeper.interrupt()
        sleeper.stays_blocked()
    request.set_fenced()
    true(sleeper.answer() > 0, "it was woken by the request")


@case
def a_wait_for_something_to_reclaim_is_no_hung_task(case: Case) -> None:
    """A leader may wait idle for days without a hung-task report."""
    mount = case.mount()
    sleeper = waiter(mount)
    with kernel.hung_after(1):
        sleeper.stays_blocked(4)
    mount.stop()
    equal(sleeper.answer(), -ESHUTDOWN)


@case
def stop_wakes_wait_next_with_eshutdown(case: Case) -> None:
    """Stop makes every waiter return ESHUTDOWN, even if nothing was listed."""
    mount = case.mount()
    for listed in (0, 2):
        for rid in range(listed):
            mount.started(rid)
        waiters = [waiter(mount) for _ in range(3)]
        waiters.append(mount.background(f"wait_next_jiffies {LONG_MAX}").until_blocked())
        mount.stop()
        answers = [each.answer() for each in waiters]
        equal(answers, [-ESHUTDOWN] * 4, f"with {listed} requests")


@case
def stop_ends_wait_next_though_a_request_is_finished_again(case: Case) -> None:
    """A waiter notices stop even if another request is finished before the waiter runs."""
    mount = case.mount()
    for _ in range(TRIES):
        sleeper = waiter(mount)
        mount.stop()
        mount.started(0xAA).set_fenced()
        equal(sleeper.answer(), -ESHUTDOWN)
        true(mount.wait_next(0) > 0, "a later caller gets the new request")
        equal(mount.free(0xAA), 0)


@case
def destroy_wakes_wait_next_with_eshutdown(case: Case) -> None:
    """Destroy makes every waiter return ESHUTDOWN, even if nothing was listed."""
    mount = case.mount()
    for listed in (0, 1):
        for rid in range(listed):
            mount.started(rid)
        waiters = [waiter(mount) for _ in range(3)]
        mount.destroy()
        answers = [each.answer() for each in waiters]
        equal(answers, [-ESHUTDOWN] * 3, f"with {listed} requests")
        equal(mount.setup(), 0)
