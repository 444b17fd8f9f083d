# SPDX-License-Identifier: GPL-2.0-only
"""scoutfs_fence_wait_fenced, and all the ways in which a wait ends."""

from errno import EINVAL, EIO, ESHUTDOWN, ESTALE, ETIMEDOUT

import kernel
from case import Case, case
from fence import LONG_MAX, LONG_MIN, Stopwatch, before_it_runs, equal, fails_with, true

# Number of attempts to hit a race.
TRIES = 20


@case
def wait_returns_at_once_if_nothing_is_listed(case: Case) -> None:
    """Without requests wait_fenced returns 0 immediately, for any timeout."""
    mount = case.mount()
    watch = Stopwatch()
    for timeout in (0, 1, LONG_MAX):
        equal(mount.wait_fenced_jiffies(timeout), 0, f"timeout {timeout}")
    mount.started(0xAA)
    equal(mount.free(0xAA), 0)
    equal(mount.wait_fenced_jiffies(LONG_MAX), 0)
    watch.at_most(5)


@case
def wait_returns_once_every_request_is_fenced(case: Case) -> None:
    """Wait_fenced returns 0 as soon as the last request is fenced, not sooner."""
    mount = case.mount()
    requests = [mount.started(rid) for rid in range(3)]
    waiter = mount.waiter()
    for request in requests[:-1]:
        request.set_fenced()
        waiter.stays_blocked()
    watch = Stopwatch()
    requests[-1].set_fenced()
    equal(waiter.answer(), 0)
    watch.at_most(5)
    equal(mount.wait_fenced_jiffies(LONG_MAX), 0, "all listed are fenced already")


@case
def wait_counts_requests_made_while_it_waits(case: Case) -> None:
    """A wait includes requests that are started while it waits."""
    mount = case.mount()
    first = mount.started(0xAA)
    waiter = mount.waiter()
    second = mount.started(0xBB)
    first.set_fenced()
    waiter.stays_blocked()
    second.set_fenced()
    equal(waiter.answer(), 0)


@case
def wait_is_eio_as_soon_as_one_failed(case: Case) -> None:
    """A failed request returns EIO at once, even if others are unfinished or fenced."""
    mount = case.mount()
    case.expect_error_line(mount, 1)
    requests = [mount.started(rid) for rid in range(3)]
    requests[2].set_fenced()
    waiter = mount.waiter()
    requests[1].set_error()
    equal(waiter.answer(), -EIO)
    equal(mount.wait_fenced_jiffies(LONG_MAX), -EIO, "another is unfinished")
    requests[0].set_fenced()
    equal(mount.wait_fenced_jiffies(LONG_MAX), -EIO, "all others are fenced")
    equal(mount.wait_fenced_jiffies(0), -EIO)
    equal(mount.free(1), 0)
    equal(mount.wait_fenced_jiffies(0), 0, "the failed one is freed")


@case
def wait_is_eio_if_the_failed_request_is_freed_at_once(case: Case) -> None:
    """A waiter notices a failure even if the request is gone before the waiter runs."""
    mount = case.mount()
    case.expect_error_line(mount, 0xAA, TRIES)
    for _ in range(TRIES):
        request = mount.started(0xAA)
        waiter = mount.waiter()
        with before_it_runs(waiter):
            request.set_error()
            equal(mount.free(0xAA), 0)
        equal(waiter.answer(), -EIO)
        equal(mount.wait_fenced(0), 0, "a later caller does not wait for it")


@case
def wait_returns_when_the_last_unfinished_request_is_freed(case: Case) -> None:
    """Free wakes waiters if all remaining requests are fenced."""
    mount = case.mount()
    mount.started(0xAA)
    mount.started(0xBB).set_fenced()
    waiter = mount.waiter()
    equal(mount.free(0xAA), 0)
    equal(waiter.answer(), 0)


@case
def wait_times_out_when_its_time_is_over(case: Case) -> None:
    """Wait_fenced returns ETIMEDOUT after its timeout, not sooner, and leaves requests alone."""
    mount = case.mount()
    request = mount.started(0xAA)
    watch = Stopwatch()
    equal(mount.wait_fenced(200), -ETIMEDOUT)
    watch.at_least(0.2)
    watch.at_most(5)
    equal(request.read("fenced") + request.read("error"), "0\n0\n")
    # A spurious wakeup does not cut the timeout short.
    watch = Stopwatch()
    waiter = mount.waiter(1000 * kernel.PATIENCE)
    mount.started(0xBB).set_fenced()
    equal(waiter.answer(), -ETIMEDOUT)
    watch.at_least(1.0 * kernel.PATIENCE)
    watch.at_most(5)


@case
def wait_of_zero_only_looks(case: Case) -> None:
    """A timeout of 0 returns the current state immediately."""
    mount = case.mount()
    case.expect_error_line(mount, 0xBB)
    watch = Stopwatch()
    equal(mount.wait_fenced_jiffies(0), 0, "nothing listed")
    first, second = mount.started(0xAA), mount.started(0xBB)
    equal(mount.wait_fenced_jiffies(0), -ETIMEDOUT, "two unfinished")
    first.set_fenced()
    equal(mount.wait_fenced_jiffies(0), -ETIMEDOUT, "one unfinished")
    second.set_fenced()
    equal(mount.wait_fenced_jiffies(0), 0, "both fenced")
    second.set_error()
    equal(mount.wait_fenced_jiffies(0), -EIO, "one failed")
    mount.stop()
    equal(mount.wait_fenced_jiffies(0), 0, "stopped")
    watch.at_most(1.5)


@case
def wait_of_zero_does_not_sleep(case: Case) -> None:
    """With a timeout of 0 both waits can be called with a spinlock held, whatever is listed."""
    mount = case.mount()
    equal(mount.returns("atomic wait_fenced_jiffies 0"), 0)
    equal(mount.returns("atomic wait_next_jiffies 0"), 0)
    request = mount.started(0xAA)
    equal(mount.returns("atomic wait_fenced_jiffies 0"), -ETIMEDOUT)
    request.set_fenced()
    equal(mount.returns("atomic wait_fenced_jiffies 0"), 0)
    true(mount.returns("atomic wait_next_jiffies 0") >= 0, "a request is finished")


@case
def wait_refuses_negative_timeouts(case: Case) -> None:
    """A negative timeout returns EINVAL, whatever is listed."""
    mount = case.mount()
    for timeout in (-1, LONG_MIN):
        equal(mount.wait_fenced_jiffies(timeout), -EINVAL, f"timeout {timeout}")
    mount.started(0xAA)
    for timeout in (-1, LONG_MIN):
        equal(mount.wait_fenced_jiffies(timeout), -EINVAL, f"timeout {timeout}, one unfinished")


@case
def wait_can_wait_for_ever(case: Case) -> None:
    """With the longest possible timeout it waits until the requests are fenced."""
    mount = case.mount()
    for timeout in (LONG_MAX, LONG_MAX - 1):
        request = mount.started(0xAA)
        waiter = mount.background(f"wait_fenced_jiffies {timeout}").until_blocked()
        waiter.stays_blocked()
        request.set_fenced()
        equal(waiter.answer(), 0, f"timeout {timeout}")
        equal(mount.free(0xAA), 0)


@case
def wait_is_uninterruptible(case: Case) -> None:
    """A signal does not end the wait."""
    mount = case.mount()
    request = mount.started(0xAA)
    waiter = mount.waiter()
    for _ in range(3):
        waiter.interrupt()
        waiter.stays_blocked()
    request.set_fenced()
    equal(waiter.answer(), 0)


@case
def wait_wakes_every_waiter(case: Case) -> None:
    """Each of several waiters on a mount is woken and has its own timeout."""
    mount, other = case.mount(), case.mount()
    case.expect_error_line(mount, 0xBB)
    request = mount.started(0xAA)
    theirs = other.started(0xAA)
    elsewhere = other.waiter()
    waiters = [mount.waiter() for _ in range(6)]
    short = mount.background("wait_fenced 100")
    equal(short.answer(), -ETIMEDOUT)
    request.set_fenced()
    equal([waiter.answer() for waiter in waiters], [0] * len(waiters))

    request = mount.started(0xBB)
    waiters = [mount.waiter() for _ in range(6)]
    request.set_error()
    equal([waiter.answer() for waiter in waiters], [-EIO] * len(waiters))

    elsewhere.stays_blocked()
    theirs.set_fenced()
    equal(elsewhere.answer(), 0)


@case
def wait_is_eio_when_a_request_times_out(case: Case) -> None:
    """A request that times out fails, and waiters return at once."""
    mount = case.mount()
    # Longer than a slow kernel takes to begin to wait.
    timeout_ms = 1000 * kernel.PATIENCE
    case.set_timeout_ms(timeout_ms)
    case.expect_timeout_line(mount, 0xAA, timeout_ms)
    watch = Stopwatch()
    request = mount.started(0xAA)
    waiter = mount.waiter()
    equal(waiter.answer(), -EIO)
    watch.at_least(timeout_ms / 1000)
    true(request.failed(), "the request failed")
    fails_with(ESTALE, request.set_fenced)


@case
def stop_wakes_waiters_with_eshutdown(case: Case) -> None:
    """A dropped request is not fenced: stop makes every waiter return ESHUTDOWN."""
    mount = case.mount()
    mount.started(0xAA)
    mount.started(0xBB).set_fenced()
    waiters = [mount.waiter() for _ in range(3)]
    forever = mount.background(f"wait_fenced_jiffies {LONG_MAX}").until_blocked()
    mount.stop()
    equal([waiter.answer() for waiter in [*waiters, forever]], [-ESHUTDOWN] * 4)


@case
def stop_ends_waits_though_the_rid_starts_again(case: Case) -> None:
    """A waiter notices stop even if new requests are listed or fenced before it runs."""
    mount = case.mount()
    for _ in range(TRIES):
        mount.started(0xAA)
        waiter = mount.waiter()
        with before_it_runs(waiter):
            mount.stop()
            mount.started(0xAA).set_fenced()
        equal(waiter.answer(), -ESHUTDOWN)
        equal(mount.wait_fenced(0), 0, "a later caller waits for the new request")
        equal(mount.free(0xAA), 0)


@case
def destroy_wakes_waiters_with_eshutdown(case: Case) -> None:
    """Destroy makes every waiter return ESHUTDOWN, for requests that it dropped."""
    mount = case.mount()
    mount.started(0xAA)
    waiters = [mount.waiter() for _ in range(3)]
    mount.destroy()
    equal([waiter.answer() for waiter in waiters], [-ESHUTDOWN] * 3)
