# SPDX-License-Identifier: GPL-2.0-only
"""
Requests without an agent.

A guest can stall for some tenths of a second at any moment, so cases allow about a second for
anything that must happen before a request times out, and more on a slow kernel.
"""

import time
from errno import EINVAL, EIO, ENOENT, ESTALE

import kernel
from case import Case, case
from fence import CLIENT_RECONNECT, Finished, Stopwatch, equal, fails_with, true

# Several times the number of requests that the module handles before it drops the lock.
AT_ONCE = 70

SECOND = 1.0 * kernel.PATIENCE
SECOND_MS = 1000 * kernel.PATIENCE


@case
def timeout_ms_is_30_seconds_unless_set(case: Case) -> None:
    """The module parameter timeout_ms is 30000 by default and world-readable."""
    kernel.unload_both()
    kernel.load_both()
    equal(kernel.TIMEOUT_MS.read_text(), f"{kernel.DEFAULT_TIMEOUT_MS}\n")
    equal(kernel.TIMEOUT_MS.stat().st_mode & 0o777, 0o644)


@case
def timeout_ms_has_bounds(case: Case) -> None:
    """timeout_ms accepts 100 to 3600000; anything else returns EINVAL and changes nothing."""
    for good in (100, 101, 3599999, 3600000, kernel.DEFAULT_TIMEOUT_MS):
        case.set_timeout_ms(good)
        equal(kernel.TIMEOUT_MS.read_text(), f"{good}\n")
    bad = ["99", "3600001", "0", "-1", "-200", "abc", "200x", "", "\n", " ", "1e3", "200.5"]
    # These become 200 if truncated to 16, 32 or 64 bits.
    bad += [str(2**16 * 2**16 + 200), str(2**64 + 200), str(200 - 2**64), "9" * 400]
    for text in bad:
        if text:
            fails_with(EINVAL, kernel.TIMEOUT_MS.write_text, text)
        equal(kernel.TIMEOUT_MS.read_text(), f"{kernel.DEFAULT_TIMEOUT_MS}\n", f"after {text!r}")


@case
def timeout_ms_can_be_given_on_load(case: Case) -> None:
    """Loading accepts timeout_ms within the same bounds; otherwise it fails with EINVAL."""
    kernel.unload_both()
    for bad in ("99", "3600001", "never"):
        case.expect_line(f"{kernel.FENCE}: `{bad}' invalid for parameter `timeout_ms'")
        fails_with(EINVAL, kernel.load, kernel.FENCE, f"timeout_ms={bad}")
        true(not kernel.is_loaded(kernel.FENCE), "it is not loaded")
        true(not kernel.FENCE_SYSFS.exists(), "and has left nothing")
    kernel.load(kernel.FENCE, "timeout_ms=150")
    kernel.load(kernel.FILESYSTEM)
    equal(kernel.TIMEOUT_MS.read_text(), "150\n")
    mount = case.mount()
    case.expect_timeout_line(mount, 0xAA, 150)
    mount.started(0xAA).until_failed()


@case
def a_request_that_no_agent_serves_fails_in_time(case: Case) -> None:
    """After timeout_ms, not sooner, a request fails, is logged and can no longer be fenced."""
    mount = case.mount()
    case.set_timeout_ms(SECOND_MS)
    case.expect_timeout_line(mount, 0xDEADBEEF, SECOND_MS)
    watch = Stopwatch()
    request = mount.started(0xDEADBEEF)
    equal(request.read("error"), "0\n")
    equal(mount.next(), -ENOENT)
    request.until_failed()
    watch.at_least(SECOND)
    watch.at_most(5)
    equal(mount.next(), Finished(0xDEADBEEF, error=True))
    equal(mount.wait_fenced(0), -EIO)
    equal(request.read("fenced"), "0\n")
    fails_with(ESTALE, request.set_fenced)


@case
def a_finished_request_does_not_time_out(case: Case) -> None:
    """A fenced, failed or freed request does not time out later; a pending one beside it does."""
    mount = case.mount()
    case.set_timeout_ms(SECOND_MS)
    case.expect_error_line(mount, 2)
    case.expect_timeout_line(mount, 3, SECOND_MS)
    fenced, failed, unserved, _ = (mount.started(rid) for rid in (1, 2, 3, 4))
    fenced.set_fenced()
    failed.set_error()
    equal(mount.free(4), 0)
    unserved.until_failed()
    time.sleep(0.2)
    equal([fenced.read("fenced"), fenced.read("error")], ["1\n", "0\n"])
    equal(mount.next(), Finished(1))


@case
def a_dropped_request_does_not_time_out(case: Case) -> None:
    """Requests dropped by stop, destroy or unmount do not time out later."""
    case.set_timeout_ms(SECOND_MS)
    stopped, destroyed, unmounted = (case.mount() for _ in range(3))
    for mount in (stopped, destroyed, unmounted):
        mount.started(0xAA)
    stopped.stop()
    destroyed.destroy()
    unmounted.unmount()
    time.sleep(SECOND + 0.2)
    equal(stopped.next(), -ENOENT)


@case
def a_rid_started_again_has_its_time_from_then_on(case: Case) -> None:
    """A freed rid's new request does not fail when the old one would have."""
    mount = case.mount()
    case.set_timeout_ms(SECOND_MS)
    case.expect_timeout_line(mount, 0xAA, SECOND_MS)
    mount.started(0xAA)
    time.sleep(0.3 * SECOND)
    equal(mount.free(0xAA), 0)
    watch = Stopwatch()
    mount.started(0xAA).until_failed()
    watch.at_least(SECOND)


@case
def starting_a_pending_rid_does_not_prolong_it(case: Case) -> None:
    """A second start of a pending rid does not move its deadline."""
    mount = case.mount()
    case.set_timeout_ms(3 * SECOND_MS // 2)
    case.expect_timeout_line(mount, 0xAA, 3 * SECOND_MS // 2)
    watch = Stopwatch()
    request = mount.started(0xAA)
    time.sleep(0.8 * SECOND)
    equal(mount.start(0xAA, reason=CLIENT_RECONNECT), 0)
    request.until_failed()
    watch.at_least(1.5 * SECOND)
    watch.at_most(2.2)


@case
def each_request_times_out_for_itself(case: Case) -> None:
    """Requests of one or several mounts each fail at their own deadline."""
    one, other = case.mount(), case.mount()
    case.set_timeout_ms(SECOND_MS)
    watches = []
    requests = []
    for mount, rid in ((one, 0xAA), (other, 0xAA), (one, 0xBB)):
        case.expect_timeout_line(mount, rid, SECOND_MS)
        watches.append(Stopwatch())
        requests.append(mount.started(rid))
        time.sleep(0.2)
    for request, watch in zip(requests, watches, strict=True):
        request.until_failed()
        watch.at_least(SECOND)
        watch.at_most(5)


@case
def many_requests_time_out_at_once(case: Case) -> None:
    """If many deadlines expire at once, all those requests fail, and the next one at its own."""
    mount = case.mount()
    timed_out = "fence request for rid .* was not serviced in .*, raising error"
    case.expect_line(f"{mount.log_name} error: {timed_out}", AT_ONCE + 1)
    watch = Stopwatch()
    requests = []
    for rid in range(AT_ONCE):
        case.set_timeout_ms(round((3 * SECOND - watch.seconds()) * 1000))
        requests.append(mount.started(rid))
    true(not requests[0].failed(), "all were started in time")
    case.set_timeout_ms(5 * SECOND_MS)
    last = mount.started(AT_ONCE)
    for request in requests:
        request.until_failed()
    true(not last.failed(), "the last one has time left")
    last.until_failed()
    watch.at_least(5 * SECOND)
    watch.at_most(10)


@case
def raising_timeout_ms_changes_later_requests_only(case: Case) -> None:
    """Raising timeout_ms does not change the deadlines of existing requests."""
    mount = case.mount()
    case.set_timeout_ms(200)
    case.expect_timeout_line(mount, 0xAA, 200)
    older = mount.started(0xAA)
    case.set_timeout_ms(3600000)
    younger = mount.started(0xBB)
    older.until_failed()
    time.sleep(0.2)
    true(not younger.failed(), "the younger one has its hour")


@case
def lowering_timeout_ms_changes_later_requests_only(case: Case) -> None:
    """After timeout_ms is lowered, a younger request fails first, the older at its own deadline."""
    mount = case.mount()
    case.set_timeout_ms(2 * SECOND_MS)
    case.expect_timeout_line(mount, 0xAA, 2 * SECOND_MS)
    case.expect_timeout_line(mount, 0xBB, 100)
    watch = Stopwatch()
    older = mount.started(0xAA)
    case.set_timeout_ms(100)
    younger = mount.started(0xBB)
    younger.until_failed()
    equal(mount.next(), Finished(0xBB, error=True))
    true(not older.failed(), "the older one has time left")
    older.until_failed()
    watch.at_least(2 * SECOND)
    watch.at_most(5)
    equal(mount.next(), Finished(0xAA, error=True))
