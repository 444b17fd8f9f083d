# SPDX-License-Identifier: GPL-2.0-only
"""scoutfs-fenced's commands for administrators, `status` and `ack`, on real requests."""

import json
import subprocess

import kernel
from case import Case, case
from fence import CLIENT_RECONNECT, Finished, equal, true

AGENT = kernel.MODULES / "scoutfs-fenced"

# Python starts slowly in an emulated machine, and no request may time out meanwhile.
SECONDS = 100


def run(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [AGENT, *arguments], input=typed, capture_output=True, text=True, check=False
    )


@case
def status_shows_the_requests_of_every_mount(case: Case) -> None:
    """Without an agent status says so, and still lists pending, fenced and failed requests."""
    one, other = case.mount(), case.mount()
    case.set_timeout_ms(SECONDS * 1000)
    case.expect_error_line(one, 3)
    one.started(1, "10.0.0.1")
    one.started(2, "10.0.0.2").set_fenced()
    one.started(3, "10.0.0.3").set_error()
    equal(other.start_addr(4, "fd00::4", CLIENT_RECONNECT), 0)
    done = run("status", "--json")
    equal(done.returncode, 1)
    true("no agent is running" in done.stderr, f"it says so: {done.stderr}")
    told = {request["rid"][-1]: request for request in json.loads(done.stdout)["requests"]}
    equal(
        {rid: request["outcome"] for rid, request in told.items()},
        {"1": "pending", "2": "fenced", "3": "failed", "4": "pending"},
    )
    equal(
        [told["4"][name] for name in ("address", "reason", "mount")],
        ["fd00::4", "client_reconnect", other.directory.name],
    )
    left = told["1"]["left"]
    true(0 < left <= SECONDS, f"it has some of its {SECONDS} s left: {left}")


@case
def ack_passes_on_the_word_of_a_person(case: Case) -> None:
    """A waiter continues once the host's address has been typed, not before."""
    mount = case.mount()
    case.set_timeout_ms(SECONDS * 1000)
    request = mount.started(0xAA, "10.0.0.9")
    waiter = mount.waiter(SECONDS * 1000)
    equal(run("ack", "aa", typed="10.0.0.8\n").returncode, 1)
    waiter.stays_blocked()
    true(not request.fenced(), "the wrong address says nothing")
    done = run("ack", "aa", typed="10.0.0.9\n")
    equal([done.returncode, done.stderr], [0, ""])
    equal(waiter.answer(), 0)
    equal(mount.next(), Finished(0xAA))


@case
def ack_of_a_request_that_has_failed_is_refused(case: Case) -> None:
    """The leader has already seen the failure."""
    mount = case.mount()
    case.expect_error_line(mount, 0xAA)
    mount.started(0xAA, "10.0.0.9").set_error()
    done = run("ack", "aa", typed="10.0.0.9\n")
    equal(done.returncode, 1)
    true("failed" in done.stderr, f"it says why: {done.stderr}")
    equal(mount.next(), Finished(0xAA, error=True))
