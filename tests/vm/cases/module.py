# SPDX-License-Identifier: GPL-2.0-only
"""Loading and unloading the module without leftovers."""

import os
from errno import EAGAIN, EBUSY, ENODEV
from pathlib import Path

import kernel
from case import Case, case, case_with
from fence import CaseFailed, Finished, equal, fails_with, true


def refuses_to_unload(module: str) -> None:
    try:
        kernel.unload(module)
    except OSError as error:
        true(error.errno in (EAGAIN, EBUSY), f"{module} is in use: {error}")
    else:
        raise CaseFailed(f"{module} was unloaded while in use")


# The module's lock classes as named by lockdep.
LOCKS = [
    "registry",
    "idle",
    "admin",
    "table",
    "changed",
    "directory",
    "notify",
    "sender",
    "timeout_work",
    "timeout_timer",
    "notify_work",
    "notify_timer",
]


@case_with("CONFIG_PROVE_LOCKING")
def every_lock_has_a_class_of_its_own(case: Case) -> None:
    """Every lock, wait queue, work item and timer of the module has its own lockdep class."""
    mount = case.mount()
    case.set_timeout_ms(100)
    case.expect_timeout_line(mount, 0xAA, 100)
    mount.started(0xAA).until_failed()
    mount.destroy()
    classes = Path("/proc/lockdep").read_text()
    missing = [lock for lock in LOCKS if f": {kernel.FENCE}_{lock}\n" not in classes]
    equal(missing, [], "locks that share a class with others")


@case
def loading_and_serving_requests_print_nothing(case: Case) -> None:
    """From loading to unloading, nothing is logged unless something fails."""
    kernel.unload_both()
    kernel.load_both()
    mount, under = case.mount(), case.mount("nosetup")
    equal(under.setup_under(), 0)
    for leader in (mount, under):
        leader.started(0xAA).set_fenced()
        equal(leader.wait_fenced(0), 0)
        equal(leader.free(0xAA), 0)
        leader.started(0xBB)
        leader.stop()
        leader.started(0xCC)
        leader.destroy()
        leader.unmount()
    kernel.unload_both()
    equal(case.log.of_module(), [])


@case
def unloading_leaves_nothing(case: Case) -> None:
    """Repeated loading and unloading, with requests in between, leaves nothing in /sys."""
    kernel.unload_both()
    # If the release of kobjects is delayed, unloading waits for it.
    for _ in range(3 if kernel.INSTRUMENTED else 10):
        kernel.load_both()
        true(kernel.FENCE_SYSFS.is_dir(), "the module's directory is there")
        equal(list(kernel.FENCE_SYSFS.iterdir()), [])
        mount = case.mount()
        mount.started(0xAA).set_fenced()
        mount.started(0xBB)
        equal(mount.next(), Finished(0xAA))
        mount.unmount()
        kernel.unload_both()
        true(not kernel.FENCE_SYSFS.exists(), "the module's directory is gone")
        true(not kernel.is_loaded(kernel.FENCE), "the module is gone")


@case
def unload_is_refused_while_a_filesystem_uses_it(case: Case) -> None:
    """The module cannot be unloaded while a filesystem using it is loaded or mounted."""
    mount = case.mount()
    request = mount.started(0xAA)
    refuses_to_unload(kernel.FENCE)
    refuses_to_unload(kernel.FILESYSTEM)
    true(request.exists(), "the request is still there")
    mount.unmount()
    refuses_to_unload(kernel.FENCE)
    kernel.unload_both()
    true(not kernel.is_loaded(kernel.FENCE), "and then it can")


@case
def unload_works_with_a_dropped_requests_file_open(case: Case) -> None:
    """An open file of a dropped request neither blocks unloading nor works afterwards."""
    mount = case.mount()
    request = mount.started(0xAA)
    files = [os.open(request.path / file, os.O_RDWR) for file in ("fenced", "error")]
    try:
        mount.unmount()
        kernel.unload_both()
        for file in files:
            fails_with(ENODEV, os.read, file, 16)
            fails_with(ENODEV, os.write, file, b"1\n")
    finally:
        for file in files:
            os.close(file)


@case
def publishes_each_mount_as_scoutfs_does(case: Case) -> None:
    """The test filesystem publishes each mount's rid in /sys/fs/scoutfs, as agents expect."""
    case.mount("rid=abcdef0123456789")
    case.mount("rid=abcdef0123456789")
    case.mount()
    rids = [path.read_text() for path in kernel.SCOUTFS_SYSFS.glob("f.*.r.*/rid")]
    equal(len(rids), 3)
    equal(rids.count("abcdef0123456789\n"), 2)
    equal(len(list(kernel.SCOUTFS_SYSFS.glob("f.*.r.abcdef"))), 2)
