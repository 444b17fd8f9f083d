# SPDX-License-Identifier: GPL-2.0-only
"""
Everything at once: see tests/torture/fence_torture.c and crew.py.

The environment variable FENCE_TEST_SECONDS_OF_TORTURE sets the duration.
"""

import os
import time

import kernel
from case import Case, case
from crew import TIMEOUTS_MS, TORTURE, Crew, Tally, at_work, unload_all
from fence import Stopwatch, equal, true
from fuzz import quiet_console, say

# In less time a slow guest does not get to everything.
SECONDS = max(20, 10 * kernel.PATIENCE)
# The modules are reloaded after each round.
SECONDS_OF_A_ROUND = 20
SECONDS_BETWEEN_SIGNS = 10
ENDS = ("fenced", "failed", "unanswered", "dropped")
# Each of these must have happened, or the test has tested nothing.
DONE = (
    *("judgements", "waits", "stops", "destroys", "mounts"),
    *("fenced written", "error written", "bad writes", "reads", "reads of what has gone"),
    *("uevents add", "uevents change", "uevents remove"),
)


def one_round(crew: Crew, tally: Tally, seconds: float) -> None:
    kernel.load_both()
    # With the default timeout a request may outlast the patience of the threads that judge it.
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
                # A silent guest is considered hung.
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
    """Under full load each request ends once, answers are right, and no waiter is left asleep."""
    seconds = float(os.environ.get("FENCE_TEST_SECONDS_OF_TORTURE") or SECONDS)
    case.expect_line(".*", None)
    tally = Tally(case.log)
    with quiet_console(), at_work() as crew:
        # The clock starts now, as an instrumented kernel is slow to start processes.
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
    # Requests may also be answered first and then end another way.
    for name in ("fenced", "failed"):
        told = len(rids[name])
        true(told >= counts[name], f"of {counts[name]} {name} there are uevents of {told}")
    equal(rids["failed"] ^ tally.failed, set(), "failed by uevents or the log, but not by both")
    false = rids["fenced"] - rids["written"]
    true(not false, f"an agent wrote to fenced of each that is reported as fenced, not {false}")
