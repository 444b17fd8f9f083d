# SPDX-License-Identifier: GPL-2.0-only
"""Notifications for agents: uevents of requests, and poll() on their files."""

import os
import signal
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from errno import EBUSY, EINVAL, ENOENT, ESTALE

import kernel
from case import Case, case
from fence import (
    CLIENT_RECOVERY,
    CaseFailed,
    Mount,
    Request,
    Stopwatch,
    equal,
    fails_with,
    name,
    true,
)
from uevents import Event, Listener, listening, polling

# Number of attempts to hit a race.
TRIES = 200

REASONS = ("client_recovery", "client_reconnect", "quorum_block_leader", "unknown")


def event(
    action: str,
    mount: Mount,
    rid: int,
    state: str = "pending",
    *,
    address: str = "10.0.0.7",
    reason: int = CLIENT_RECOVERY,
) -> Event:
    """The expected uevent of a request with these arguments."""
    path = mount.request(rid).path
    return Event(action, path, name(rid), address, REASONS[reason], state)


def of_each_kind(case: Case) -> list[Mount]:
    """A mount for each place where requests can be."""
    under = case.mount("nosetup")
    equal(under.setup_under(), 0)
    return [case.mount(), under, case.leader()]


def write_in_vain(fenced: Request, failed: Request) -> None:
    """Writes to finished requests that change nothing."""
    fenced.set_fenced()
    failed.set_error()
    fails_with(ESTALE, failed.set_fenced)
    for request in (fenced, failed):
        for file in ("fenced", "error"):
            fails_with(EINVAL, request.write, file, "0")


@case
def uevents_announce_the_life_of_a_request(case: Case) -> None:
    """Add, change and remove follow start, the write and free soon, wherever the request is."""
    for rid, mount in enumerate(of_each_kind(case), 0xFEDCBA9876543210):
        case.expect_error_line(mount, rid)
        with listening() as listener:
            request = mount.started(rid)
            equal(listener.next(1), [event("add", mount, rid)])
            request.set_fenced()
            equal(listener.next(1), [event("change", mount, rid, "fenced")])
            request.set_error()
            equal(listener.next(1), [event("change", mount, rid, "failed")])
            equal(mount.free(rid), 0)
            equal(listener.next(1), [event("remove", mount, rid, "failed")])


@case
def uevents_of_a_request_that_is_freed_early(case: Case) -> None:
    """Remove carries the state at removal: pending, fenced or failed."""
    mount = case.mount()
    case.expect_error_line(mount, 3)
    with listening() as listener:
        _, fenced, failed = (mount.started(rid) for rid in (1, 2, 3))
        fenced.set_fenced()
        failed.set_error()
        equal(len(listener.next(5)), 5)
        for rid, state in ((3, "failed"), (1, "pending"), (2, "fenced")):
            equal(mount.free(rid), 0)
            equal(listener.next(1), [event("remove", mount, rid, state)])


@case
def uevents_have_address_and_reason_as_the_files_do(case: Case) -> None:
    """A uevent's address and reason equal inet_addr and reason, for either address family."""
    addresses = ("10.1.2.3", "0.0.0.0", "2001:db8::1:0:0:1", "::", "fe80::5efe:10.0.0.1")
    longest = "1111:2222:3333:4444:5555:6666:7777:8888"
    for mount in of_each_kind(case):
        with listening() as listener:
            for rid, address in enumerate([*addresses, longest]):
                reason = rid % len(REASONS)
                equal(mount.start_addr(rid, address, reason), 0)
                request = mount.request(rid)
                [told] = listener.next(1)
                equal(told, event("add", mount, rid, address=address, reason=reason))
                equal(f"{told.address}\n", request.read("inet_addr"))
                equal(f"{told.reason}\n", request.read("reason"))
                equal(f"{told.rid}\n", request.read("rid"))
                request.set_fenced()
                equal(listener.next(1), [replace(told, action="change", state="fenced")])
                equal(mount.free(rid), 0)
                equal(listener.next(1), [replace(told, action="remove", state="fenced")])


@case
def uevents_announce_a_timeout(case: Case) -> None:
    """A request that times out sends one change, even if many time out at once."""
    mount = case.mount()
    case.set_timeout_ms(1000)
    rids = range(40)
    for rid in rids:
        case.expect_timeout_line(mount, rid, 1000)
    with listening() as listener:
        for rid in rids:
            mount.started(rid)
        events = listener.next(2 * len(rids))
        equal(sorted(told.rid for told in events if told.action == "add"), list(map(name, rids)))
        failed = [told for told in events if told.action == "change"]
        equal(failed, [event("change", mount, rid, "failed") for rid in rids])
        fails_with(ESTALE, mount.request(0).set_fenced)
        mount.request(1).set_error()
        equal(listener.events(0.3), [], "later")
        equal(mount.free(0), 0)
        equal(listener.next(1), [event("remove", mount, 0, "failed")])


@case
def uevents_announce_stop_destroy_and_unmount(case: Case) -> None:
    """Each dropped request sends one remove with its last state."""
    drops: tuple[Callable[[Mount], None], ...] = (Mount.stop, Mount.destroy, Mount.unmount)
    for drop in drops:
        for mount in of_each_kind(case):
            states = {0xAA: "pending", 0xBB: "fenced", 0xCC: "pending"}
            with listening() as listener:
                for rid in states:
                    mount.started(rid)
                mount.request(0xBB).set_fenced()
                equal(len(listener.next(4)), 4)
                wanted = [event("remove", mount, rid, states[rid]) for rid in states]
                drop(mount)
                # Destroy and unmount return after all events have been sent.
                events = listener.next(3) if drop is Mount.stop else listener.events()
                equal(sorted(events, key=lambda told: told.rid), wanted)


@case
def uevents_have_the_path_after_its_parent_was_removed(case: Case) -> None:
    """A uevent has the request's path even if the filesystem's directory was removed first."""
    mount = case.mount("nosetup")
    equal(mount.setup_under(), 0)
    with listening() as listener:
        mount.started(1)
        wanted = [event(action, mount, 1) for action in ("add", "remove")]
        equal(mount.returns("unpublish"), 0)
        mount.destroy()
        equal(listener.events(), wanted)


@case
def uevents_are_sent_only_for_changes(case: Case) -> None:
    """Further reasons, repeated or refused writes, and waits change nothing and send nothing."""
    mount = case.mount()
    case.expect_error_line(mount, 2)
    with listening() as listener:
        one, two = mount.started(1), mount.started(2)
        one.set_fenced()
        two.set_error()
        equal(len(listener.next(4)), 4)
        for rid in (1, 2):
            for reason in range(3):
                equal(mount.start(rid, reason=reason), 0)
        write_in_vain(one, two)
        mount.next()
        mount.wait_fenced(0)
        mount.wait_next(0)
        equal(mount.free(3), -ENOENT)
        equal(mount.setup(), -EBUSY)
        other = case.mount()
        other.stop()
        other.unmount()
        equal(listener.events(0.1), [])


@case
def uevents_are_of_requests_alone(case: Case) -> None:
    """The directories above a request send no events."""
    with listening() as listener:
        for mount in of_each_kind(case):
            mount.started(1)
            mount.stop()
            mount.destroy()
            events = [(told.action, told.path) for told in listener.next(2)]
            path = mount.request(1).path
            equal(events, [("add", path), ("remove", path)])


@case
def add_is_sent_when_every_file_exists(case: Case) -> None:
    """All files of a request exist when its add uevent is sent."""
    mount = case.mount()
    listener = Listener()
    missing, tell = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            count = 0
            while count < TRIES:
                for told in listener.events(10):
                    if told.action == "add":
                        count += 1
                        there = set(os.listdir(told.path))
                        os.write(tell, b"." if there == set(Request.FILES) else b"x")
        finally:
            os._exit(0)
    listener.close()
    os.close(tell)
    try:
        for rid in range(TRIES):
            mount.started(rid)
            # Keeps the other process awake while the next request's files are made.
            equal(os.read(missing, 1), b".", "all files were there")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(missing)


@case
def uevents_come_in_order_in_every_race(case: Case) -> None:
    """Order holds even if an agent answers before add and a leader frees at once."""
    mount = case.mount()
    pid = os.fork()
    if not pid:
        fence = mount.directory / "fence"
        while True:
            for entry in os.listdir(fence):
                try:
                    Request(fence / entry).set_fenced()
                except OSError:
                    continue
    finished = 0
    try:
        with listening() as listener:
            for rid in range(TRIES):
                mount.started(rid)
                if rid % 2:
                    mount.until_fenced()
                equal(mount.free(rid), 0)
            stories = defaultdict(list)
            numbers = []
            gone = 0
            watch = Stopwatch()
            while gone < TRIES:
                watch.at_most(10)
                for told in listener.events(1):
                    numbers.append(told.number)
                    stories[told.rid].append((told.action, told.state))
                    gone += told.action == "remove"
            equal(listener.next(0), [])
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    equal(numbers, sorted(numbers), "the numbers of the events")
    equal(set(stories), set(map(name, range(TRIES))))
    served = [("add", "pending"), ("change", "fenced"), ("remove", "fenced")]
    unserved = [("add", "pending"), ("remove", "pending")]
    for rid in range(TRIES):
        story = stories[name(rid)]
        if story not in ([served] if rid % 2 else [served, unserved]):
            raise CaseFailed(f"the events of request {rid}: {story}")
        finished += story == served
    case.note(f"{finished} of {TRIES} requests were answered before they were freed")


@case
def polls_wake_when_a_file_changes(case: Case) -> None:
    """fenced and error can be polled: each wakes all its readers when its own value changes."""
    for mount in of_each_kind(case):
        case.expect_error_line(mount, 1)
        case.expect_error_line(mount, 2)
        one, two = mount.started(1), mount.started(2)
        with polling(one) as (fenced, error), polling(two) as (other_fenced, other_error):
            fenced.tells(None)
            error.tells(None)
            one.set_fenced()
            fenced.tells("1\n")
            error.tells(None)
            fenced.tells(None)
            error.tells(None)
            one.set_error()
            fenced.tells("0\n")
            error.tells("1\n")
            other_fenced.tells(None)
            other_error.tells(None)
            two.set_error()
            other_fenced.tells(None)
            other_error.tells("1\n")


@case
def polls_wake_on_a_timeout(case: Case) -> None:
    """A poll of error wakes when the request times out."""
    mount = case.mount()
    # Longer than a slow kernel takes to begin to poll.
    timeout_ms = 1000 * kernel.PATIENCE
    case.set_timeout_ms(timeout_ms)
    case.expect_timeout_line(mount, 1, timeout_ms)
    watch = Stopwatch()
    with polling(mount.started(1)) as (fenced, error):
        equal(error.news(10 * kernel.PATIENCE), "1\n")
        watch.at_most(5)
        fenced.tells(None)


@case
def polls_do_not_wake_without_a_change(case: Case) -> None:
    """Repeated and refused writes, further reasons and other requests wake no poll."""
    mount = case.mount()
    case.expect_error_line(mount, 2)
    with listening() as listener:
        one, two = mount.started(1), mount.started(2)
        one.set_fenced()
        two.set_error()
        equal(len(listener.next(4)), 4)
    with polling(one) as files, polling(two) as other_files:
        write_in_vain(one, two)
        equal(mount.start(1, reason=1), 0)
        mount.started(3).set_fenced()
        equal(mount.free(3), 0)
        mount.next()
        true(mount.wait_next(0) > 0, "a request is finished")
        for file in (*files, *other_files):
            file.tells(None)
