# SPDX-License-Identifier: GPL-2.0-only
"""The sysfs interface: a request's directory, its files' contents and accepted writes."""

import os
import stat
import time
from collections.abc import Callable
from errno import EACCES, EINVAL, EIO, ENODEV, ENOENT, ESTALE
from functools import partial
from pathlib import Path

from case import Case, case
from fence import (
    CLIENT_RECONNECT,
    CLIENT_RECOVERY,
    QUORUM_BLOCK_LEADER,
    CaseFailed,
    Finished,
    Request,
    Stopwatch,
    equal,
    fails_with,
    true,
)

TRUE = ["1", "1\n", "y", "Y", "yes\n", "t", "T", "true", "on", "ON", "On", "oN", "on\n"]
# kstrtobool only reads the beginning. C programs may write the terminating NUL.
TRUE += ["1 of 1", "yes, it is off\n", "10", "1\0"]
FALSE = ["0", "0\n", "n", "N", "no\n", "f", "F", "false\n", "of", "off", "OFF", "oF\n"]
NEITHER = ["", "\n", " 1", "2", "-1", "x", "o", "o1", "\0", "\0001", "z" * 5000, "_" * 4095]


def as_user(action: Callable[[], object]) -> int:
    """Runs the action in an unprivileged process; returns its errno, or 0."""
    pid = os.fork()
    if not pid:
        status = 255
        try:
            os.setgroups([])
            os.setgid(1000)
            os.setuid(1000)
            action()
            status = 0
        except OSError as error:
            status = error.errno or 255
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@case
def directory_is_named_by_the_rid(case: Case) -> None:
    """A request's directory is <parent>/fence/<rid>, with the rid as 16 lower-case hex digits."""
    mount = case.mount()
    for rid in (0xAA, 0xFEDCBA9876543210):
        equal(mount.start(rid), 0)
    parent = Path("/sys/fs/scoutfs_fence", mount.device, "fence")
    equal(sorted(os.listdir(parent)), ["00000000000000aa", "fedcba9876543210"])


@case
def directory_has_files_of_these_modes(case: Case) -> None:
    """All files are world-readable; only fenced and error are writable, by their owner root."""
    request = case.mount().started(0xAA)
    wanted = dict.fromkeys(Request.FILES, "-r--r--r--")
    wanted |= dict.fromkeys(("fenced", "error"), "-rw-r--r--")
    status = {path.name: path.stat() for path in request.path.iterdir()}
    equal({file: stat.filemode(status[file].st_mode) for file in status}, wanted)
    equal({(s.st_uid, s.st_gid) for s in status.values()}, {(0, 0)})


@case
def directory_is_written_by_root_only(case: Case) -> None:
    """Other users can read all files and write none; root cannot write the constant ones."""
    mount = case.mount()
    request = mount.started(0xAA)
    for file in Request.FILES:
        equal(as_user(partial(request.read, file)), 0, f"{file} is read")
        equal(as_user(partial(request.write, file, "1")), EACCES, f"{file} is written")
    for file in ("rid", "ipv4_addr", "inet_addr", "reason", "elapsed_secs"):
        fails_with(EACCES, request.write, file, "1")
    equal(mount.next(), -ENOENT)


@case
def values_end_in_a_newline(case: Case) -> None:
    """Each file holds a single line."""
    mount = case.mount()
    request = mount.started(0xAA)
    for file in Request.FILES:
        value = request.read(file)
        true(value.endswith("\n") and value.count("\n") == 1, f"{file} is one line: {value!r}")


@case
def rid_is_16_hex_digits(case: Case) -> None:
    """rid holds 16 lower-case hex digits."""
    mount = case.mount()
    for rid, text in ((0xAA, "00000000000000aa\n"), (0xFEDCBA9876543210, "fedcba9876543210\n")):
        equal(mount.started(rid).read("rid"), text)


@case
def ipv4_addr_is_a_dotted_quad(case: Case) -> None:
    """ipv4_addr holds the address in the usual notation, first byte first."""
    mount = case.mount()
    for rid, address in enumerate(["10.1.2.3", "192.168.255.0", "0.0.0.0", "1.0.0.254"]):
        equal(mount.started(rid, address).read("ipv4_addr"), f"{address}\n")


@case
def reason_has_the_first_reasons_name(case: Case) -> None:
    """reason holds the first reason's name, or unknown."""
    mount = case.mount()
    names = {
        CLIENT_RECOVERY: "client_recovery\n",
        CLIENT_RECONNECT: "client_reconnect\n",
        QUORUM_BLOCK_LEADER: "quorum_block_leader\n",
        3: "unknown\n",
        -1: "unknown\n",
        2**31 - 1: "unknown\n",
        -(2**31): "unknown\n",
    }
    for rid, (reason, text) in enumerate(names.items()):
        request = mount.started(rid, reason=reason)
        equal(request.read("reason"), text, f"reason {reason}")
        equal(mount.start(rid, reason=(reason + 1) % 3), 0)
        equal(request.read("reason"), text, f"reason {reason}, with a second one")


@case
def elapsed_secs_counts_whole_seconds(case: Case) -> None:
    """elapsed_secs counts whole seconds since start, whether the request is finished or not."""
    mount = case.mount()
    before = Stopwatch()
    first, second = mount.started(0xAA), mount.started(0xBB)
    after = Stopwatch()

    def look() -> None:
        for request in (first, second):
            least = int(after.seconds() - 0.01)
            seconds = int(request.read("elapsed_secs"))
            true(least <= seconds <= int(before.seconds()), f"{seconds} seconds have elapsed")

    look()
    second.set_fenced()
    time.sleep(1.2)
    equal(mount.start(0xAA), 0)
    look()


@case
def fenced_and_error_are_0_or_1(case: Case) -> None:
    """Both start as 0; writing one sets it to 1 and leaves the other unchanged."""
    mount = case.mount()
    case.expect_error_line(mount, 0xBB)
    one, other = mount.started(0xAA), mount.started(0xBB)
    for request in (one, other):
        equal([request.read("fenced"), request.read("error")], ["0\n", "0\n"])
    one.set_fenced()
    equal([one.read("fenced"), one.read("error")], ["1\n", "0\n"])
    other.set_error()
    equal([other.read("fenced"), other.read("error")], ["0\n", "1\n"])


@case
def fenced_takes_true_as_kstrtobool_reads_it(case: Case) -> None:
    """Writing any kstrtobool spelling of true to fenced means fenced."""
    mount = case.mount()
    for rid, text in enumerate(TRUE):
        request = mount.started(rid)
        request.write("fenced", text)
        equal(request.read("fenced"), "1\n", repr(text))
        equal(mount.next(), Finished(rid), repr(text))
        equal(mount.free(rid), 0)


@case
def error_takes_true_as_kstrtobool_reads_it(case: Case) -> None:
    """Writing any kstrtobool spelling of true to error means failed."""
    mount = case.mount()
    for rid, text in enumerate(TRUE):
        case.expect_error_line(mount, rid)
        request = mount.started(rid)
        request.write("error", text)
        equal(request.read("error"), "1\n", repr(text))
        equal(mount.next(), Finished(rid, error=True), repr(text))
        equal(mount.free(rid), 0)


def refuses(request: Request, file: str, text: str) -> None:
    """Checks that a write fails with EINVAL; sysfs itself accepts and ignores empty writes."""
    if text:
        fails_with(EINVAL, request.write, file, text)
    else:
        request.write(file, text)


@case
def writing_false_does_not_finish_a_request(case: Case) -> None:
    """Writing 0, or any spelling of false, fails with EINVAL and changes nothing: not fenced."""
    mount = case.mount()
    request = mount.started(0xAA)
    waiter = mount.waiter()
    for file in ("fenced", "error"):
        for text in FALSE:
            refuses(request, file, text)
            equal(request.read("fenced") + request.read("error"), "0\n0\n", f"{text!r} to {file}")
    equal(mount.next(), -ENOENT)
    waiter.stays_blocked()
    request.set_fenced()
    equal(waiter.answer(), 0)


@case
def writing_anything_else_is_einval(case: Case) -> None:
    """Any other text, whatever its length, fails with EINVAL and changes nothing."""
    mount = case.mount()
    request = mount.started(0xAA)
    for file in ("fenced", "error"):
        for text in NEITHER:
            refuses(request, file, text)
            equal(request.read("fenced") + request.read("error"), "0\n0\n", f"{text!r} to {file}")
    equal(mount.next(), -ENOENT)


@case
def a_finished_request_stays_finished(case: Case) -> None:
    """A fenced or failed request never becomes unfinished again, whatever is written."""
    mount = case.mount()
    case.expect_error_line(mount, 0xBB)
    fenced, failed = mount.started(0xAA), mount.started(0xBB)
    fenced.set_fenced()
    failed.set_error()
    for text in (*FALSE, *NEITHER):
        for request in (fenced, failed):
            for file in ("fenced", "error"):
                refuses_or_is_stale(request, file, text)
    equal([fenced.read("fenced"), fenced.read("error")], ["1\n", "0\n"])
    equal([failed.read("fenced"), failed.read("error")], ["0\n", "1\n"])
    fenced.set_fenced()
    equal([fenced.read("fenced"), fenced.read("error")], ["1\n", "0\n"])
    equal(mount.next(), Finished(0xAA))


def refuses_or_is_stale(request: Request, file: str, text: str) -> None:
    """Checks that a text other than true is refused with EINVAL or ESTALE."""
    try:
        request.write(file, text)
    except OSError as error:
        true(error.errno in (EINVAL, ESTALE), f"{text!r} to {file} is refused: {error}")
        return
    if text:
        raise CaseFailed(f"{text!r} to {file} was taken")


@case
def fenced_on_a_failed_request_is_estale(case: Case) -> None:
    """Failed wins: a late write to fenced returns ESTALE, and the request stays failed."""
    mount = case.mount()
    case.expect_error_line(mount, 0xAA)
    request = mount.started(0xAA)
    request.set_error()
    for text in ("1\n", "yes", "on"):
        fails_with(ESTALE, request.write, "fenced", text)
    equal(request.read("error"), "1\n")
    equal(mount.next(), Finished(0xAA, error=True))
    equal(mount.wait_fenced(0), -EIO)


@case
def error_after_fenced_fails_the_request(case: Case) -> None:
    """error can be written after fenced, and wins."""
    mount = case.mount()
    case.expect_error_line(mount, 0xAA)
    request = mount.started(0xAA)
    request.set_fenced()
    equal(mount.wait_fenced(0), 0)
    request.set_error()
    equal(request.read("error"), "1\n")
    equal(mount.next(), Finished(0xAA, error=True))
    equal(mount.wait_fenced(0), -EIO)
    fails_with(ESTALE, request.set_fenced)


@case
def error_is_logged(case: Case) -> None:
    """Writing error logs the line that monitors expect, with mount and rid; fenced does not."""
    one, other = case.mount(), case.mount()
    for mount in (one, other):
        case.expect_line(
            f"scoutfs_fence {mount.device} error:"
            " error indicated by fence action for rid 00000000deadbeef"
        )
        mount.started(0xAA).set_fenced()
        mount.started(0xDEADBEEF).set_error()


@case
def an_open_file_of_a_freed_request_is_enodev(case: Case) -> None:
    """Free does not wait for open files; reading or writing them then returns ENODEV."""
    mount = case.mount()
    request = mount.started(0xAA)
    files = [os.open(request.path / file, os.O_RDONLY) for file in Request.FILES]
    writable = [os.open(request.path / file, os.O_RDWR) for file in ("fenced", "error")]
    try:
        equal(mount.free(0xAA), 0)
        again = mount.started(0xAA)
        for file in files:
            fails_with(ENODEV, os.read, file, 16)
        for file in writable:
            fails_with(ENODEV, os.write, file, b"1\n")
        equal(again.read("fenced") + again.read("error"), "0\n0\n", "the new request")
        equal(mount.next(), -ENOENT)
    finally:
        for file in (*files, *writable):
            os.close(file)
