# SPDX-License-Identifier: GPL-2.0-only
"""Tracepoints and debug lines for watching requests."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EIO, ESHUTDOWN, ETIMEDOUT
from pathlib import Path

import kernel
from case import Case, case_with
from fence import CLIENT_RECONNECT, QUORUM_BLOCK_LEADER, Stopwatch, equal, name, true

TRACING = Path("/sys/kernel/tracing")
EVENTS = TRACING / "events" / kernel.FENCE
CONTROL = Path("/sys/kernel/debug/dynamic_debug/control")


@contextmanager
def mounted(filesystem: str, path: Path) -> Iterator[None]:
    """Mounts a kernel filesystem, unless it is already mounted."""
    if os.listdir(path):
        yield
        return
    kernel.mount(filesystem, path, "")
    try:
        yield
    finally:
        kernel.unmount(path)


@contextmanager
def traced() -> Iterator[None]:
    """Enables all of the module's tracepoints."""
    with mounted("tracefs", TRACING):
        (TRACING / "trace").write_text("")
        (EVENTS / "enable").write_text("1\n")
        try:
            yield
        finally:
            (EVENTS / "enable").write_text("0\n")


def trace() -> list[str]:
    """Returns the events so far, without timestamps, and clears the trace."""
    lines = (TRACING / "trace").read_text().splitlines()
    (TRACING / "trace").write_text("")
    found = [re.search(r": (scoutfs_fence_\w+: .*)", line) for line in lines]
    return [match[1].removeprefix("scoutfs_fence_") for match in found if match]


@case_with("CONFIG_EVENT_TRACING")
def tracepoints_have_every_event_in_order(case: Case) -> None:
    """Start, duplicate, fenced, failed, freed, dropped and waits are traced in order."""
    mount, under = case.mount(), case.mount("nosetup")
    equal(under.setup_under(), 0)
    case.expect_error_line(mount, 2)
    case.expect_timeout_line(under, 3, 100)
    with traced():
        one = mount.started(1)
        equal(mount.start(1, reason=QUORUM_BLOCK_LEADER), 0)
        one.set_fenced()
        one.set_fenced()
        equal(mount.free(1), 0)
        label = mount.log_name
        equal(
            trace(),
            [
                f"start: {label} rid {name(1)} addr 10.0.0.7 reason 0 (client_recovery)",
                f"duplicate: {label} rid {name(1)} reason 2 (quorum_block_leader)",
                f"fenced: {label} rid {name(1)}",
                f"freed: {label} rid {name(1)}",
            ],
        )
        equal(mount.start_addr(2, "2001:db8::7", CLIENT_RECONNECT), 0)
        equal(mount.wait_fenced_jiffies(1), -ETIMEDOUT)
        mount.request(2).set_error()
        equal(mount.wait_fenced(0), -EIO)
        true(mount.wait_next_jiffies(5) > 0, "a request is finished")
        mount.stop()
        equal(
            [re.sub(r"wait_next result \d+", "wait_next result N", line) for line in trace()],
            [
                f"start: {label} rid {name(2)} addr 2001:db8::7 reason 1 (client_reconnect)",
                f"wait_begin: {label} wait_fenced timeout 1",
                f"wait_end: {label} wait_fenced result {-ETIMEDOUT}",
                f"failed: {label} rid {name(2)} why indicated",
                f"wait_begin: {label} wait_fenced timeout 0",
                f"wait_end: {label} wait_fenced result {-EIO}",
                f"wait_begin: {label} wait_next timeout 5",
                f"wait_end: {label} wait_next result N",
                f"dropped: {label} rid {name(2)}",
            ],
        )
        case.set_timeout_ms(100)
        under.started(3, reason=77).until_failed()
        waiter = mount.background("wait_next 60000").until_blocked()
        mount.stop()
        equal(waiter.answer(), -ESHUTDOWN)
        under.destroy()
        sent = [line for line in trace() if "wait_begin" not in line]
        equal(
            sent,
            [
                f"start: {under.log_name} rid {name(3)} addr 10.0.0.7 reason 77 (0x4d)",
                f"failed: {under.log_name} rid {name(3)} why timed_out",
                f"wait_end: {label} wait_next result {-ESHUTDOWN}",
                f"dropped: {under.log_name} rid {name(3)}",
            ],
        )
    case.set_timeout_ms(kernel.USUAL_TIMEOUT_MS)
    mount.started(4)
    with mounted("tracefs", TRACING):
        equal(trace(), [], "when they are off")


@case_with("CONFIG_DYNAMIC_DEBUG")
def debug_lines_have_what_happens_to_requests(case: Case) -> None:
    """With dynamic debug a line is logged for each request made, fenced, freed or dropped."""
    mount = case.mount()
    label = mount.log_name
    with mounted("debugfs", Path("/sys/kernel/debug")):
        CONTROL.write_text(f"module {kernel.FENCE} +p\n")
        try:
            mount.started(1).set_fenced()
            equal(mount.free(1), 0)
            equal(mount.start_addr(2, "2001:db8::7", CLIENT_RECONNECT), 0)
            mount.destroy()
        finally:
            CONTROL.write_text(f"module {kernel.FENCE} -p\n")
    request = f"{label}: fence request for rid"
    wanted = [
        f"{request} {name(1)} at 10.0.0.7 made: client_recovery",
        f"{request} {name(1)} fenced after \\d+ms",
        f"{request} {name(1)} freed",
        f"{request} {name(2)} at 2001:db8::7 made: client_reconnect",
        f"{request} {name(2)} dropped",
    ]
    watch = Stopwatch()
    while len(lines := case.log.of_module()) < len(wanted) and watch.seconds() < 1:
        time.sleep(0.01)
    equal(len(lines), len(wanted), "lines")
    for line, pattern in zip(lines, wanted, strict=True):
        true(re.fullmatch(pattern, line.text) is not None, f"{line.text!r} is {pattern!r}")
        equal(line.level, kernel.DEBUG, "its level")
