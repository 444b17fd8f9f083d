# SPDX-License-Identifier: GPL-2.0-only
"""Requests below the filesystem's own directory: setup_under, and SCOUTFS_FENCE_PARENT."""

import os
from errno import EBUSY, EINVAL, EIO, ENODEV, ENOENT

import kernel
from case import Case, case
from fence import Finished, Mount, Stopwatch, equal, fails_with, name, true

FILES = {"rid", "data_device_maj_min"}


def under(case: Case) -> Mount:
    """A mount of the plain build, set up below its own directory."""
    mount = case.mount("nosetup")
    equal(mount.setup_under(), 0)
    return mount


def published(mount: Mount) -> set[str]:
    """The entries of the filesystem's directory for the mount."""
    return {path.name for path in mount.published.iterdir()}


@case
def setup_under_shows_requests_below_the_parent(case: Case) -> None:
    """After setup_under, requests are only in <parent>/fence/, and everything works."""
    mount = case.mount("nosetup")
    equal(published(mount), FILES)
    equal(mount.setup_under(), 0)
    equal(published(mount), {*FILES, "fence"})
    equal(os.listdir(kernel.FENCE_SYSFS), [])
    request = mount.started(0xAA)
    equal(request.path, mount.published / "fence" / name(0xAA))
    equal(mount.listed(), {name(0xAA)})
    request.set_fenced()
    equal(mount.wait_fenced(0), 0)
    equal(mount.next(), Finished(0xAA))
    equal(mount.free(0xAA), 0)
    equal(mount.listed(), set())


@case
def destroy_leaves_the_parent_to_the_filesystem(case: Case) -> None:
    """Destroy removes only fence/; the mount can be set up again."""
    mount = under(case)
    for how in ("own", "own", "shared"):
        mount.started(1).set_fenced()
        mount.started(2)
        mount.destroy()
        equal(published(mount), FILES)
        equal(mount.setup_under(how), 0)
        equal(mount.listed(), set())
    mount.destroy()
    equal(mount.setup(), 0)
    equal(published(mount), FILES, "with a directory of the module's")


@case
def setup_under_holds_a_reference_to_the_parent(case: Case) -> None:
    """The parent stays until the mount is destroyed, even if the filesystem has put it."""
    mount = case.mount("nosetup")
    before = mount.returns("references")
    equal(mount.setup_under(), 0)
    true(mount.returns("references") > before, "there are more references after setup_under")
    mount.destroy()
    equal(mount.returns("references"), before, "references after destroy")
    equal(mount.setup_under(), 0)
    mount.started(0xAA)
    equal(mount.returns("unpublish"), 0)
    equal(mount.returns("released"), 0, "released before destroy")
    mount.stop()
    equal(mount.returns("released"), 0, "released after stop")
    mount.destroy()
    # Immediately, except on kernels that delay the release of kobjects.
    watch = Stopwatch()
    while not mount.returns("released"):
        watch.at_most(2)


@case
def a_parent_that_the_filesystem_removes_is_no_harm(case: Case) -> None:
    """If the parent's directory is removed first, calls work or fail without crashing."""
    mount = under(case)
    fenced, freed, _ = (mount.started(rid) for rid in range(3))
    file = os.open(freed.path / "fenced", os.O_RDWR)
    try:
        fenced.set_fenced()
        waiter = mount.waiter()
        equal(mount.returns("unpublish"), 0)
        true(not mount.published.exists(), "the directory is gone")
        fails_with(ENODEV, os.write, file, b"1\n")
        waiter.stays_blocked()
        case.log.allow(r"(kobject: )?kobject_add_internal failed for 0{14}bb \(error: -2 .*\)")
        equal(mount.start(0xBB), -ENODEV, "start")
        equal(mount.next(), Finished(0))
        equal(mount.free(1), 0)
        waiter.stays_blocked()
        equal(mount.free(2), 0)
        equal(waiter.answer(), 0)
        mount.stop()
        equal(mount.next(), -ENOENT)
        mount.destroy()
    finally:
        os.close(file)
    equal(mount.setup(), 0)
    mount.unmount()

    # Once more, without an explicit destroy before the unmount.
    mount = under(case)
    mount.started(0xAA)
    equal(mount.returns("unpublish"), 0)
    mount.unmount()


@case
def setup_under_twice_is_busy(case: Case) -> None:
    """A superblock set up either way returns EBUSY, and its requests are left alone."""
    first, second = under(case), case.mount()
    for mount, parents in ((first, ("own", "shared")), (second, ("own",))):
        request = mount.started(0xAA)
        equal(mount.setup(), -EBUSY)
        for parent in parents:
            equal(mount.returns(f"setup_under {parent}"), -EBUSY, f"parent {parent}")
        true(request.exists(), "the request is still there")
        request.set_fenced()
        equal(mount.next(), Finished(0xAA))


@case
def a_parent_has_one_mount(case: Case) -> None:
    """A second superblock below the same parent gets EBUSY until the first is destroyed."""
    one, other = case.mount("nosetup"), case.mount("nosetup")
    case.expect_not_set_up(1)
    equal(one.setup_under("shared"), 0)
    equal(other.setup_under("shared"), -EBUSY)
    equal(other.start(0xAA), -ENODEV, "it is not set up")
    request = one.started(0xAA)
    one.destroy()
    equal(other.setup_under("shared"), 0)
    true(not request.exists(), "and has no old requests")


@case
def setup_under_refuses_what_is_no_directory(case: Case) -> None:
    """A null or unnamed parent returns EINVAL, and nothing is set up."""
    mount = case.mount("nosetup")
    case.expect_not_set_up(1)
    equal(mount.setup_under("none"), -EINVAL)
    equal(mount.setup_under("nameless"), -EINVAL)
    equal(mount.start(0xAA), -ENODEV)
    equal(mount.setup_under(), 0)


@case
def log_lines_name_the_mount_by_the_parent(case: Case) -> None:
    """Log lines have scoutfs's format: `scoutfs <name of its directory> error: <words>`."""
    mount = under(case)
    name = mount.published.name
    case.expect_line(f"scoutfs {name} error: error indicated by fence action for rid {0xAA:016x}")
    case.expect_line(
        f"scoutfs {name} error: fence request for rid {0xBB:016x} was not serviced in 100ms,"
        " raising error"
    )
    mount.started(0xAA).set_error()
    mount.started(0xCC).set_fenced()
    case.set_timeout_ms(100)
    mount.started(0xBB).until_failed()
    mount.stop()


@case
def the_define_makes_setup_mean_setup_under(case: Case) -> None:
    """With SCOUTFS_FENCE_PARENT, setup puts requests below the directory from that function."""
    mount = case.leader("rid=abcdef0123456789")
    equal(mount.published.name[-6:], "abcdef")
    equal(published(mount), {*FILES, "fence"})
    equal((mount.published / "rid").read_text(), "abcdef0123456789\n")
    equal((mount.published / "data_device_maj_min").read_text(), f"{mount.device}\n")
    equal(os.listdir(kernel.FENCE_SYSFS), [])
    mount.started(0xAA).set_fenced()
    equal(mount.next(), Finished(0xAA))
    equal(mount.setup(), -EBUSY)
    mount.destroy()
    equal(published(mount), FILES)
    equal(mount.setup(), 0)
    equal(mount.listed(), set())
    mount.unmount()
    true(not mount.published.exists(), "all is gone")


@case
def the_define_leaves_nothing_of_a_failed_mount(case: Case) -> None:
    """A mount that fails half-way leaves nothing in /sys/fs/scoutfs, and the next one works."""
    for options in ("fail", "fail,nosetup"):
        fails_with(EIO, case.leader, options)
    equal(list(kernel.SCOUTFS_SYSFS.iterdir()), [])
    case.leader().started(0xAA)


@case
def filesystems_with_and_without_the_define_go_together(case: Case) -> None:
    """Mounts of both kinds can have the same rid pending without seeing each other's requests."""
    plain, leader, parented = case.mount(), case.leader(), under(case)
    mounts = [plain, leader, parented]
    requests = [mount.started(0xAA) for mount in mounts]
    for mount, request in zip(mounts, requests, strict=True):
        equal(mount.next(), -ENOENT)
        request.set_fenced()
        equal(mount.next(), Finished(0xAA))
        mount.stop()
    equal([request.exists() for request in requests], [False] * 3)
