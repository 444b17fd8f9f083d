# SPDX-License-Identifier: GPL-2.0-only
"""
Everything at once: see tests/torture/fence_torture.c, and crew.py.

In the environment FENCE_TEST_SECONDS_OF_TORTURE says for how long.
"""

import os
import time

import kernel
from case import Case, case
from crew import TIMEOUTS_MS, TORTURE, Crew, Tally, at_work, unload_all
from fence import Stopwatch, equal, true
from fuzz import quiet_console, say

SECONDS = 20
# The modules are loaded anew after so long.
SECONDS_OF_A_ROUND = 20
SECONDS_BETWEEN_SIGNS = 10
ENDS = ("fenced", "failed", "unanswered", "dropped")
# What must have been done at all, or else nothing was tortured.
DONE = (
    *("judgements", "waits", "stops", "destroys", "mounts"),
    *("fenced written", "error written", "bad writes", "reads", "reads of what has gone"),
    *("uevents add", "uevents change", "uevents remove"),
)


def one_round(crew: Crew, tally: Tally, seconds: float) -> None:
    kernel.load_both()
    # By default a request may take longer than its judges have patience.
    kernel.set_parameter(kernel.FENCE, "timeout_ms", max(TIMEOUTS_MS))
    kernel.load(TORTURE)
    say("all threads run")
    crew.paused = False
    watch = Stopwatch()
    sign = 0.0
    try:
        while watch.seconds() < seconds:
            time.sleep(0.5)
            tally.read()
            if watch.seconds() > sign:
                # A guest that prints nothing is taken for one that hangs.
                say(f"{watch.seconds():.0f} s of this round")
                sign = watch.seconds() + SECONDS_BETWEEN_SIGNS
    finally:
        crew.paused = True
        say("ending all threads")
        kernel.unload(TORTURE)
    say("unloading the modules")
    unload_all()
    tally.read()


@case
def torture(case: Case) -> None:
    """With everything at once each request has one end, answers are right, no waiter sleeps on."""
    seconds = float(os.environ.get("FENCE_TEST_SECONDS_OF_TORTURE") or SECONDS)
    case.expect_line(".*", None)
    tally = Tally(case.log)
    with quiet_console(), at_work() as crew:
        # A kernel that watches itself takes its time to start processes.
        watch = Stopwatch()
        while (left := seconds - watch.seconds()) > 0:
            one_round(crew, tally, min(left, SECONDS_OF_A_ROUND))
        spent = watch.seconds()
        crew_told = crew.end()
    kernel.load_both()
    tally.read()
    equal(crew_told.problems, [], "what the crew saw and should not have")

    counts = tally.counts + crew_told.counts
    for name, number in sorted(counts.items()):
        case.note(f"{number:8} {name}, {number / spent:.0f} a second")
    for name in (*DONE, *ENDS):
        true(counts[name] > 0, f"there are some of these: {name}")
    equal(counts["wrong"], 0, "wrong answers")
    ends = {name: counts[name] for name in ENDS}
    equal(sum(ends.values()), counts["started"], f"how many requests were started; ends: {ends}")
    for action in ("add", "remove"):
        equal(counts[f"uevents {action}"], counts["started"], f"uevents of requests: {action}")
    rids = crew_told.rids
    # Requests that end otherwise may have been answered before.
    for name in ("fenced", "failed"):
        told = len(rids[name])
        true(told >= counts[name], f"of {counts[name]} {name} there are uevents of {told}")
    equal(rids["failed"] ^ tally.failed, set(), "failed by uevents or the log, but not by both")
    false = rids["fenced"] - rids["written"]
    true(not false, f"an agent wrote to fenced of each that is reported as fenced, not {false}")
