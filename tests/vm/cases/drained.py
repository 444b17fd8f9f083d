# SPDX-License-Identifier: GPL-2.0-only
"""scoutfs_fence_drained: whether everything has been reclaimed."""

from case import Case, case
from fence import equal


@case
def drained_is_true_only_if_nothing_is_listed(case: Case) -> None:
    """Drained is true without requests, and false until the last one is freed, fenced or not."""
    mount, other = case.mount(), case.mount()
    equal(mount.drained(), (True, False), "at first")
    one = mount.started(1)
    two = mount.started(2)
    equal(mount.drained(), (False, False), "two unfinished")
    one.set_fenced()
    two.set_fenced()
    equal(mount.drained(), (False, False), "both fenced")
    equal(mount.free(1), 0)
    equal(mount.drained(), (False, False), "one freed")
    equal(mount.free(2), 0)
    equal(mount.drained(), (True, False), "both freed")
    mount.started(3)
    equal(other.drained(), (True, False), "another mount")
    mount.stop()
    equal(mount.drained(), (True, False), "stopped")


@case
def drained_returns_whether_a_listed_request_has_failed(case: Case) -> None:
    """Error is true from a request's failure until that request is freed."""
    mount, other = case.mount(), case.mount()
    case.expect_error_line(mount, 2)
    mount.started(1).set_fenced()
    failing = mount.started(2)
    mount.started(3)
    failing.set_fenced()
    equal(mount.drained(), (False, False), "before")
    failing.set_error()
    equal(mount.drained(), (False, True), "after")
    equal(other.drained(), (True, False), "another mount")
    for rid in (1, 3):
        equal(mount.free(rid), 0)
    equal(mount.drained(), (False, True), "only the failed one is left")
    equal(mount.free(2), 0)
    equal(mount.drained(), (True, False), "all are freed")


@case
def drained_reports_a_timeout(case: Case) -> None:
    """Error is true for a request that timed out."""
    mount = case.mount()
    case.set_timeout_ms(100)
    case.expect_timeout_line(mount, 0xAA, 100)
    mount.started(0xAA).until_failed()
    equal(mount.drained(), (False, True))


@case
def drained_never_sleeps(case: Case) -> None:
    """Drained can be called with a spinlock held, whatever its result."""
    mount, bare = case.mount(), case.mount("nosetup")
    case.expect_error_line(mount, 19)
    case.expect_not_set_up(2)
    equal(mount.drained("atomic"), (True, False))
    requests = [mount.started(rid) for rid in range(20)]
    equal(mount.drained("atomic"), (False, False))
    requests[-1].set_error()
    equal(mount.drained("atomic"), (False, True))
    equal(bare.drained("atomic"), (False, True))


@case
def drained_of_an_unknown_superblock_is_false_with_error(case: Case) -> None:
    """Without setup drained is false with error: an unknown superblock is never drained."""
    bare, mount = case.mount("nosetup"), case.mount()
    case.expect_not_set_up(4)
    equal(bare.drained(), (False, True), "never set up")
    mount.destroy()
    equal(mount.drained(), (False, True), "destroyed")
    equal(mount.drained("null"), (False, True), "a null pointer")


@case
def drained_into_a_null_error_is_false(case: Case) -> None:
    """Without a pointer for the error drained is always false."""
    mount = case.mount()
    equal(mount.returns("drained_null"), 0)
    equal(mount.returns("null drained_null"), 0)
