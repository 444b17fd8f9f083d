# SPDX-License-Identifier: GPL-2.0-only
"""
Which operations wait for which while another task holds up the module's uevents, or reads a file.

The test filesystem holds up the module's uevents where the kernel sends them, like a task that
holds the kernel's uevent mutex while waiting for memory. It holds up the removal of a request's
directory by a file in it whose reader sleeps.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EBUSY, EIO, ENODEV, ETIMEDOUT

import kernel
from case import Case, case
from fence import Call, Mount, Request, Stopwatch, equal, name, true
from uevents import listening

HOLD_SECONDS = 10


@contextmanager
def uevents_held(mount: Mount) -> Iterator[None]:
    """Holds up all uevents of the module until the block ends, or for at most 10 s."""
    equal(mount.returns(f"hold_uevents {HOLD_SECONDS * 1000}"), 0)
    try:
        yield
    finally:
        equal(mount.returns("release_uevents"), 0)


def hold_one(mount: Mount) -> None:
    """Starts a request; returns once its uevent is held up."""
    equal(mount.start(0x10), 0)
    watch = Stopwatch()
    while not mount.returns("held_uevents"):
        watch.at_most(5)
        time.sleep(0.005)


@contextmanager
def removal_held(mount: Mount, request: Request) -> Iterator[None]:
    """Holds up the removal of a request's directory until the block ends, or for at most 10 s."""

    def read() -> None:
        with suppress(OSError):
            (request.path / "hold").read_text()

    equal(mount.returns(f"hold_readers {request.path.name} {HOLD_SECONDS * 1000}"), 0)
    reader = threading.Thread(target=read)
    reader.start()
    watch = Stopwatch()
    while not mount.returns("held_readers"):
        watch.at_most(5)
        time.sleep(0.005)
    try:
        yield
    finally:
        equal(mount.returns("release_readers"), 0)
        reader.join()


@case
def calls_do_not_wait_for_uevents(case: Case) -> None:
    """Start, next, free, stop and the waits return at once while uevents are held up."""
    mount, other = case.mount(), case.mount()
    with uevents_held(other):
        hold_one(mount)
        watch = Stopwatch()
        request = mount.started(0x11)
        request.set_fenced()
        equal(mount.wait_fenced(0), -ETIMEDOUT)
        equal(mount.free(0x11), 0)
        equal(mount.start(0x11), 0)
        true(mount.wait_next(0) >= 0, "wait_next looks")
        mount.stop()
        equal(mount.listed(), set())
        equal(mount.start(0x10), 0, "start of a dropped rid")
        mount.stop()
        watch.at_most(2)


@case
def stop_does_not_wait_for_uevents(case: Case) -> None:
    """Stop, after which a mount may be elected again, returns at once while uevents are held up."""
    mount, other = case.mount(), case.mount()
    with uevents_held(other):
        hold_one(mount)
        watch = Stopwatch()
        mount.stop()
        watch.at_most(2)


@case
def mounts_do_not_wait_for_each_other(case: Case) -> None:
    """While destroy of one mount waits for uevents, calls on other mounts return at once."""
    mount, other, third = case.mount(), case.mount(), case.mount("nosetup")
    with uevents_held(other):
        hold_one(mount)
        destroying = mount.background("destroy").until_blocked()
        watch = Stopwatch()
        equal(third.setup(), 0, "setup")
        equal(third.start(0x20), 0)
        third.stop()
        equal(other.start(0x21), 0)
        equal(other.free(0x21), 0)
        other.stop()
        case.mount("nosetup").unmount()
        watch.at_most(3)
        destroying.stays_blocked()
    equal(destroying.answer(), 0)


@case
def setup_is_busy_while_destroy_of_the_mount_waits(case: Case) -> None:
    """Until destroy returns, setup of its superblock or directory returns EBUSY at once."""
    mount, other, parented = case.mount(), case.mount(), case.mount("nosetup")
    equal(parented.setup_under("shared"), 0)
    case.expect_not_set_up(2)
    with uevents_held(other):
        hold_one(mount)
        equal(parented.start(0x12), 0)
        destroying = [one.background("destroy").until_blocked() for one in (mount, parented)]
        again = mount.background("destroy").until_blocked()
        watch = Stopwatch()
        equal(mount.setup(), -EBUSY, "the superblock")
        equal(case.mount("nosetup").setup_under("shared"), -EBUSY, "the directory")
        equal(mount.start(0x13), -ENODEV)
        equal(mount.next(), -ENODEV)
        mount.stop()
        watch.at_most(2)
        again.stays_blocked()
    equal([call.answer() for call in (*destroying, again)], [0, 0, 0])
    true(not mount.directory.exists(), "all is gone")
    equal(mount.setup(), 0)
    equal(mount.listed(), set())


@case
def held_up_uevents_come_in_order(case: Case) -> None:
    """A dropped request's remove precedes the add of the rid's next request."""
    mount, other = case.mount(), case.mount()
    with listening() as listener:
        with uevents_held(other):
            hold_one(mount)
            for _ in range(3):
                mount.stop()
                equal(mount.start(0x10), 0)
            equal(mount.free(0x10), 0)
            equal(mount.start(0x10), 0)
        mount.destroy()
        sent = [told.action for told in listener.events() if told.rid == name(0x10)]
    equal(sent, ["add", "remove"] * 5)


@case
def a_remove_uevent_is_sent_after_the_removal(case: Case) -> None:
    """Free and stop send `remove` once the directory is gone, even if events are being sent."""
    for function in ("free 10", "stop"):
        mount = case.mount()
        with listening() as listener:
            request = mount.started(0x10)
            equal([told.action for told in listener.next(1)], ["add"])
            with removal_held(mount, request):
                removing = mount.background(function).until_blocked()
                early = [told.action for told in listener.events(0.3 * kernel.PATIENCE)]
                equal(early, [], f"during {function}")
                removing.stays_blocked()
            equal(removing.answer(), 0)
            equal([told.action for told in listener.next(1)], ["remove"], f"after {function}")


@case
def a_reader_holds_up_the_removal_only(case: Case) -> None:
    """While free waits for a reader of the request's file, nothing but the list's changes waits."""
    mount, other = case.mount(), case.mount()
    request = mount.started(0x10)
    fenced = mount.started(0x11)
    with removal_held(mount, request):
        removing: list[Call] = [mount.background("free 10").until_blocked()]
        watch = Stopwatch()
        fenced.set_fenced()
        equal(mount.wait_fenced(1000), 0)
        true(mount.wait_next(1000) > 0, "wait_next finds it")
        equal(mount.reason_pending(0), 1)
        equal(mount.drained(), (False, False))
        equal(other.start(0x10), 0, "start of another mount")
        other.stop()
        watch.at_most(2)
        removing.append(mount.background("start 12 10.0.0.7 0").until_blocked())
        removing.append(mount.background("stop").until_blocked())
        for call in removing:
            call.stays_blocked()
    equal([call.answer() for call in removing], [0, 0, 0])


@case
def timeouts_do_not_wait_for_uevents(case: Case) -> None:
    """A request times out, and its waiter returns, even while uevents are held up."""
    mount, other = case.mount(), case.mount()
    case.expect_timeout_line(mount, 0x11, 500)
    with uevents_held(other):
        hold_one(mount)
        equal(mount.free(0x10), 0)
        case.set_timeout_ms(500)
        watch = Stopwatch()
        request = mount.started(0x11)
        equal(mount.wait_fenced(8000), -EIO)
        true(request.failed(), "it failed")
        watch.at_most(3)
        mount.stop()


@case
def unloading_waits_for_held_up_uevents(case: Case) -> None:
    """Unmounting waits for pending uevents; the modules can be unloaded right afterwards."""
    mount, other = case.mount(), case.mount()
    with uevents_held(other):
        hold_one(mount)
        destroying = mount.background("destroy").until_blocked()
        destroying.stays_blocked(0.2)
    equal(destroying.answer(), 0)
    mount.unmount()
    other.unmount()
    kernel.unload_both()
    true(not kernel.FENCE_SYSFS.exists(), "nothing is left")
