# SPDX-License-Identifier: GPL-2.0-only
"""The C interface, except for the waits, which have their own files."""

from errno import EBUSY, EINVAL, EIO, ENODEV, ENOENT

from case import Case, case
from fence import (
    CLIENT_RECONNECT,
    CLIENT_RECOVERY,
    LONG_MAX,
    QUORUM_BLOCK_LEADER,
    Finished,
    Request,
    Stopwatch,
    equal,
    fails_with,
    name,
    true,
)

INT_MAX = 2**31 - 1
INT_MIN = -(2**31)

# setup


@case
def setup_makes_the_mounts_directory(case: Case) -> None:
    """Setup makes /sys/fs/scoutfs_fence/<major>:<minor>/fence, named after the device."""
    mount = case.mount()
    equal([path.name for path in mount.directory.iterdir()], ["fence"])
    equal(mount.listed(), set())


@case
def setup_twice_is_busy(case: Case) -> None:
    """Setup of a superblock that is already set up returns EBUSY and leaves its requests alone."""
    mount = case.mount()
    request = mount.started(0xAA)
    equal(mount.setup(), -EBUSY)
    true(request.exists(), "the request is still there")
    equal(mount.free(0xAA), 0)


@case
def setup_works_again_after_destroy(case: Case) -> None:
    """A destroyed superblock can be set up again, and has none of its old requests."""
    mount = case.mount()
    mount.started(0xAA)
    mount.destroy()
    equal(mount.setup(), 0)
    equal(mount.listed(), set())
    mount.started(0xAA).set_fenced()
    equal(mount.next(), Finished(0xAA))


@case
def setup_by_hand_is_the_same_as_on_mount(case: Case) -> None:
    """Setup returns 0 for a superblock that is not set up, and all calls work afterwards."""
    mount = case.mount("nosetup")
    true(not mount.directory.exists(), "nothing is set up")
    equal(mount.setup(), 0)
    mount.started(0xAA).set_fenced()
    equal(mount.wait_fenced(0), 0)


# start


@case
def start_returns_with_the_directory_visible(case: Case) -> None:
    """When start returns 0, the request's directory exists with all its files."""
    mount = case.mount()
    for rid in range(50):
        request = mount.started(rid)
        equal({path.name for path in request.path.iterdir()}, set(Request.FILES))
        equal([request.read(file) for file in ("rid", "fenced")], [f"{name(rid)}\n", "0\n"])


@case
def start_twice_keeps_one_request_with_both_reasons(case: Case) -> None:
    """Start of a pending rid returns 0; its single request then carries both reasons."""
    mount = case.mount()
    request = mount.started(0xAA, reason=CLIENT_RECONNECT)
    equal(mount.start(0xAA, reason=QUORUM_BLOCK_LEADER), 0)
    equal(mount.listed(), {name(0xAA)})
    equal(mount.reason_pending(CLIENT_RECONNECT), 1)
    equal(mount.reason_pending(QUORUM_BLOCK_LEADER), 1)
    equal(mount.reason_pending(CLIENT_RECOVERY), 0)

    equal(request.read("reason"), "client_reconnect\n")
    request.set_fenced()
    equal(mount.next(), Finished(0xAA, CLIENT_RECONNECT))
    equal(mount.reason_pending(QUORUM_BLOCK_LEADER), 1)

    equal(mount.free(0xAA), 0)
    equal(mount.next(), -ENOENT)
    equal(mount.reason_pending(CLIENT_RECONNECT), 0)
    equal(mount.reason_pending(QUORUM_BLOCK_LEADER), 0)


@case
def start_of_a_finished_rid_does_not_begin_again(case: Case) -> None:
    """Start of a rid whose finished request is still listed leaves that request finished."""
    mount = case.mount()
    case.expect_error_line(mount, 0xBB)
    mount.started(0xAA).set_fenced()
    mount.started(0xBB).set_error()
    for rid in (0xAA, 0xBB):
        equal(mount.start(rid, reason=QUORUM_BLOCK_LEADER), 0)
    equal(mount.listed(), {name(0xAA), name(0xBB)})
    equal(mount.reason_pending(QUORUM_BLOCK_LEADER), 1)
    true(mount.request(0xAA).fenced(), "aa is fenced")
    true(mount.request(0xBB).failed(), "bb failed")
    equal(mount.next(), Finished(0xAA))
    equal(mount.free(0xAA), 0)
    equal(mount.next(), Finished(0xBB, error=True))


@case
def start_does_not_mix_up_two_mounts_with_the_same_rid(case: Case) -> None:
    """Two mounts can have the same rid pending, and each is fenced separately."""
    one, other = case.mount(), case.mount()
    mine, theirs = one.started(0xAA), other.started(0xAA)
    mine.set_fenced()
    equal(theirs.read("fenced"), "0\n")
    equal(one.next(), Finished(0xAA))
    equal(other.next(), -ENOENT)
    equal(one.free(0xAA), 0)
    true(theirs.exists(), "the other mount's request is still there")
    theirs.set_fenced()
    equal(other.next(), Finished(0xAA))


@case
def requests_of_one_mount_are_never_seen_in_another(case: Case) -> None:
    """No call on one mount sees, counts or drops the requests of another."""
    one, other = case.mount(), case.mount()
    request = one.started(0xAA, reason=CLIENT_RECONNECT)
    equal(other.listed(), set())
    equal(other.reason_pending(CLIENT_RECONNECT), 0)
    equal(other.wait_fenced_jiffies(LONG_MAX), 0)
    equal(other.free(0xAA), -ENOENT)
    request.set_fenced()
    equal(other.next(), -ENOENT)
    other.stop()
    other.destroy()
    true(request.exists(), "the request outlives the other mount")
    equal(one.next(), Finished(0xAA, CLIENT_RECONNECT))


# next


@case
def next_is_enoent_if_none_is_finished(case: Case) -> None:
    """Next returns ENOENT if there are no requests or only unfinished ones."""
    mount = case.mount()
    equal(mount.next(), -ENOENT)
    mount.started(0xAA)
    mount.started(0xBB)
    equal(mount.next(), -ENOENT)


@case
def next_returns_how_a_request_finished(case: Case) -> None:
    """Next returns the rid, reason and error of a fenced or failed request."""
    mount = case.mount()
    fenced, failed = 0x1122334455667788, 0xFFEEDDCCBBAA9988
    case.expect_error_line(mount, failed)
    mount.started(fenced, reason=CLIENT_RECONNECT).set_fenced()
    mount.started(failed, reason=QUORUM_BLOCK_LEADER).set_error()
    equal(mount.next(), Finished(fenced, CLIENT_RECONNECT))
    equal(mount.free(fenced), 0)
    equal(mount.next(), Finished(failed, QUORUM_BLOCK_LEADER, error=True))


@case
def next_reports_finished_requests_in_start_order(case: Case) -> None:
    """Next returns the oldest finished request, whichever finished first."""
    mount = case.mount()
    # Neither in ascending nor in descending order.
    rids = [0x50, 0x10, 0x90, 0x30, 0x70]
    requests = {rid: mount.started(rid) for rid in rids}
    for rid in (0x70, 0x10, 0x30):
        requests[rid].set_fenced()
    equal(mount.next(), Finished(0x10))
    requests[0x50].set_fenced()
    equal(mount.next(), Finished(0x50))
    for rid in (0x50, 0x10, 0x30, 0x70):
        equal(mount.next(), Finished(rid))
        equal(mount.free(rid), 0)
    equal(mount.next(), -ENOENT)
    equal(mount.listed(), {name(0x90)})


@case
def next_leaves_the_request_listed(case: Case) -> None:
    """Next returns the same request, and its directory stays, until it is freed."""
    mount = case.mount()
    request = mount.started(0xAA)
    request.set_fenced()
    for _ in range(3):
        equal(mount.next(), Finished(0xAA))
    true(request.fenced(), "the directory is there and says so")
    equal(mount.free(0xAA), 0)
    equal(mount.next(), -ENOENT)


@case
def next_never_sleeps(case: Case) -> None:
    """Next can be called with a spinlock held, whatever its result."""
    mount, bare = case.mount(), case.mount("nosetup")
    case.expect_not_set_up(1)
    equal(mount.next("atomic"), -ENOENT)
    requests = [mount.started(rid) for rid in range(20)]
    equal(mount.next("atomic"), -ENOENT)
    requests[-1].set_fenced()
    equal(mount.next("atomic"), Finished(19))
    equal(bare.next("atomic"), -ENODEV)


@case
def next_refuses_null_outputs(case: Case) -> None:
    """A null pointer for any output returns EINVAL, with or without a finished request."""
    mount = case.mount()
    for output in ("rid", "reason", "error"):
        equal(mount.returns(f"next_null {output}"), -EINVAL, output)
    mount.started(0xAA).set_fenced()
    for output in ("rid", "reason", "error"):
        equal(mount.returns(f"next_null {output}"), -EINVAL, output)
    equal(mount.next(), Finished(0xAA))


# reason_pending


@case
def reason_pending_counts_every_listed_request(case: Case) -> None:
    """A reason is pending from start to free, whether its request is finished or not."""
    mount = case.mount()
    reasons = [CLIENT_RECOVERY, CLIENT_RECONNECT, QUORUM_BLOCK_LEADER]

    def pending() -> list[int]:
        return [mount.reason_pending(reason) for reason in reasons]

    case.expect_error_line(mount, 2)
    equal(pending(), [0, 0, 0])
    mount.started(0, reason=CLIENT_RECOVERY)
    equal(pending(), [1, 0, 0])
    mount.started(1, reason=CLIENT_RECONNECT).set_fenced()
    equal(pending(), [1, 1, 0])
    mount.started(2, reason=QUORUM_BLOCK_LEADER).set_error()
    equal(pending(), [1, 1, 1])

    mount.started(3, reason=CLIENT_RECOVERY)
    equal(mount.free(0), 0)
    equal(pending(), [1, 1, 1], "another request has the reason of the freed one")
    equal(mount.free(1), 0)
    equal(pending(), [1, 0, 1])
    equal(mount.free(2), 0)
    equal(mount.free(3), 0)
    equal(pending(), [0, 0, 0])


@case
def reason_pending_counts_reasons_without_a_name_as_one(case: Case) -> None:
    """All unnamed reasons are pending while a request has any unnamed reason."""
    mount = case.mount()
    odd = [3, 4, -1, 31, 32, 1000, INT_MAX, INT_MIN]
    named = [CLIENT_RECOVERY, CLIENT_RECONNECT, QUORUM_BLOCK_LEADER]

    def pending() -> list[int]:
        equal(len({mount.reason_pending(reason) for reason in odd}), 1, "they are as one")
        return [mount.reason_pending(reason) for reason in (*named, odd[0])]

    equal(pending(), [0, 0, 0, 0])
    for rid, reason in enumerate(odd):
        mount.started(rid, reason=reason)
        equal(pending(), [0, 0, 0, 1])
        equal(mount.free(rid), 0)
        equal(pending(), [0, 0, 0, 0])
    # As second and third reasons, and of two requests.
    mount.started(1, reason=CLIENT_RECONNECT)
    for reason in (1000, -7, 1000):
        equal(mount.start(1, reason=reason), 0)
    mount.started(2, reason=-5).set_fenced()
    equal(mount.next(), Finished(2, -5))
    equal(pending(), [0, 1, 0, 1])
    equal(mount.free(1), 0)
    equal(pending(), [0, 0, 0, 1])
    equal(mount.free(2), 0)
    equal(pending(), [0, 0, 0, 0])


@case
def reason_pending_never_sleeps(case: Case) -> None:
    """Reason_pending can be called with a spinlock held, whatever its result."""
    mount, bare = case.mount(), case.mount("nosetup")
    case.expect_not_set_up(1)
    for rid in range(20):
        mount.started(rid, reason=rid % 2 * 7)
    equal(mount.reason_pending(19, "atomic"), 1)
    equal(mount.reason_pending(CLIENT_RECONNECT, "atomic"), 0)
    equal(bare.reason_pending(0, "atomic"), -ENODEV)


# free


@case
def free_takes_request_and_directory_away(case: Case) -> None:
    """Free removes a request and its directory, whatever the request's state."""
    mount = case.mount()
    case.expect_error_line(mount, 2)
    requests = [mount.started(rid, reason=rid) for rid in range(4)]
    requests[1].set_fenced()
    requests[2].set_error()
    for rid in (2, 0, 1):
        equal(mount.free(rid), 0)
        true(not requests[rid].exists(), f"the directory of {rid} is gone")
        equal(mount.reason_pending(rid), 0)
    equal(mount.next(), -ENOENT)
    equal(mount.listed(), {name(3)})


@case
def free_of_an_unknown_rid_is_enoent(case: Case) -> None:
    """Free returns ENOENT for a rid that was never started or is already freed."""
    mount = case.mount()
    equal(mount.free(0xAA), -ENOENT)
    mount.started(0xAA)
    equal(mount.free(0xAB), -ENOENT)
    equal(mount.free(0xAA), 0)
    equal(mount.free(0xAA), -ENOENT)


@case
def free_lets_the_rid_be_started_anew(case: Case) -> None:
    """A freed rid can be started again; nothing of its former request remains."""
    mount = case.mount()
    case.expect_error_line(mount, 0xAA)
    mount.started(0xAA, "10.0.0.1", CLIENT_RECONNECT).set_error()
    equal(mount.free(0xAA), 0)
    request = mount.started(0xAA, "10.0.0.2", QUORUM_BLOCK_LEADER)
    equal([request.read(file) for file in ("fenced", "error")], ["0\n", "0\n"])
    equal(request.read("ipv4_addr"), "10.0.0.2\n")
    equal(request.read("reason"), "quorum_block_leader\n")
    equal(mount.reason_pending(CLIENT_RECONNECT), 0)
    equal(mount.next(), -ENOENT)


# stop


@case
def stop_drops_every_request(case: Case) -> None:
    """Stop drops all requests, finished or not, and their directories."""
    mount = case.mount()
    case.expect_error_line(mount, 2)
    requests = [mount.started(rid, reason=rid) for rid in range(3)]
    requests[1].set_fenced()
    requests[2].set_error()
    mount.stop()
    equal(mount.listed(), set())
    equal(mount.next(), -ENOENT)
    equal([mount.reason_pending(rid) for rid in range(3)], [0, 0, 0])
    equal([mount.free(rid) for rid in range(3)], [-ENOENT] * 3)
    true(mount.directory.exists(), "the mount's directory stays")


@case
def stop_lets_start_work_again(case: Case) -> None:
    """The same mount can be elected again: stop restores the state after setup."""
    mount = case.mount()
    for rid in (0xAA, 0xBB):
        mount.started(rid)
    mount.stop()
    mount.stop()
    equal(mount.wait_fenced_jiffies(LONG_MAX), 0, "wait with nothing listed")
    request = mount.started(0xAA)
    equal(request.read("fenced"), "0\n")
    request.set_fenced()
    equal(mount.wait_fenced(0), 0)
    equal(mount.next(), Finished(0xAA))


# destroy


@case
def destroy_takes_the_mounts_directory_away(case: Case) -> None:
    """Destroy drops all requests and removes the mount's directory."""
    mount = case.mount()
    case.expect_error_line(mount, 2)
    requests = [mount.started(rid) for rid in range(3)]
    requests[1].set_fenced()
    requests[2].set_error()
    mount.destroy()
    true(not mount.directory.exists(), "the directory is gone")


@case
def destroy_twice_is_harmless(case: Case) -> None:
    """Destroying a superblock again, by hand and then by unmount, does nothing."""
    mount = case.mount()
    mount.started(0xAA)
    mount.destroy()
    mount.destroy()
    mount.unmount()


@case
def destroy_and_stop_without_setup_are_harmless(case: Case) -> None:
    """Destroy and stop of a superblock that was never set up do nothing."""
    other = case.mount()
    request = other.started(0xAA)
    mount = case.mount("nosetup")
    mount.stop()
    mount.destroy()
    mount.stop()
    mount.unmount()
    true(request.exists(), "another mount's request is still there")


@case
def destroy_cleans_up_after_a_failed_mount(case: Case) -> None:
    """A mount that fails half-way leaves nothing behind, and the next mount works."""
    for _ in range(5):
        fails_with(EIO, case.mount, "fail")
        fails_with(EIO, case.mount, "fail,nosetup")
    mount = case.mount()
    mount.started(0xAA).set_fenced()
    equal(mount.next(), Finished(0xAA))


@case
def unmount_leaves_nothing(case: Case) -> None:
    """Unmount removes the mount's directory, including requests in any state."""
    mount = case.mount()
    case.expect_error_line(mount, 2)
    requests = [mount.started(rid) for rid in range(3)]
    requests[1].set_fenced()
    requests[2].set_error()
    true(mount.directory.exists(), "the directory is there")
    mount.unmount()
    true(not mount.directory.exists(), "the directory is gone")


# invalid superblocks and extreme arguments


@case
def a_call_without_setup_is_enodev(case: Case) -> None:
    """Without setup, functions with an int result, except setup, return ENODEV and log one line."""
    mount = case.mount("nosetup")
    case.expect_not_set_up(8)
    equal(mount.start(0xAA), -ENODEV)
    equal(mount.start_addr(0xAA, "fe80::1"), -ENODEV)
    equal(mount.next(), -ENODEV)
    equal(mount.reason_pending(CLIENT_RECOVERY), -ENODEV)
    equal(mount.free(0xAA), -ENODEV)
    equal(mount.wait_fenced(0), -ENODEV)
    equal(mount.wait_fenced_jiffies(LONG_MAX), -ENODEV)
    equal(mount.wait_next(0), -ENODEV)


@case
def a_call_after_destroy_is_enodev(case: Case) -> None:
    """A destroyed superblock behaves like one that was never set up, also in the log."""
    mount = case.mount()
    mount.started(0xAA)
    mount.destroy()
    case.expect_not_set_up(7)
    equal(mount.start(0xAA), -ENODEV)
    equal(mount.start_addr(0xAA, "fe80::1"), -ENODEV)
    equal(mount.next(), -ENODEV)
    equal(mount.reason_pending(CLIENT_RECOVERY), -ENODEV)
    equal(mount.free(0xAA), -ENODEV)
    equal(mount.wait_fenced(0), -ENODEV)
    equal(mount.wait_next(0), -ENODEV)


@case
def calls_without_setup_do_not_flood_the_log(case: Case) -> None:
    """Calls for a superblock that is not set up log at most ten lines a second."""
    mount = case.mount("nosetup")
    case.expect_not_set_up(None)
    watch = Stopwatch()
    for _ in range(100):
        equal(mount.next(), -ENODEV)
    spent = watch.seconds()
    lines = [line for line in case.log.of_module() if "not set up" in line.text]
    true(0 < len(lines) <= 10 * (spent + 1), f"{len(lines)} lines in {spent:.1f} s")


@case
def a_null_superblock_is_einval(case: Case) -> None:
    """For a null superblock functions with an int result return EINVAL; the others do nothing."""
    mount = case.mount()
    request = mount.started(0xAA)
    for command in (
        "setup",
        "setup_under shared",
        "start aa 10.0.0.7 0",
        "start_addr aa fe80::1 0",
        "next",
        "atomic next",
        "reason_pending 0",
        "atomic reason_pending 0",
        "free aa",
        "wait_fenced 0",
        f"wait_fenced_jiffies {LONG_MAX}",
        "wait_fenced_jiffies -1",
        "wait_next 0",
        f"wait_next_jiffies {LONG_MAX}",
    ):
        equal(mount.returns(f"null {command}"), -EINVAL, command)
    for command in ("stop", "destroy"):
        equal(mount.returns(f"null {command}"), 0, command)
    true(request.exists(), "the request is still there")


@case
def extreme_arguments_are_taken(case: Case) -> None:
    """Any rid, address and reason makes a request that works like any other."""
    mount = case.mount()
    rids = [0, 2**64 - 1, 2**63, 2**63 - 1, 1]
    addresses = ["0.0.0.0", "255.255.255.255", "255.0.0.0", "0.0.0.255", "127.0.0.1"]
    reasons = [INT_MIN, INT_MAX, -1, 2**16, CLIENT_RECOVERY]
    for rid, address, reason in zip(rids, addresses, reasons, strict=True):
        request = mount.started(rid, address, reason)
        equal(request.read("rid"), f"{rid:016x}\n")
        equal(request.read("ipv4_addr"), f"{address}\n")
        request.set_fenced()
    for rid, reason in zip(rids, reasons, strict=True):
        equal(mount.next(), Finished(rid, reason))
        equal(mount.free(rid), 0)
