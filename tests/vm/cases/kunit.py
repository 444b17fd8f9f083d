# SPDX-License-Identifier: GPL-2.0-only
"""The unit tests in the module's sources."""

import re

import kernel
from case import Case, case_with
from fence import CaseFailed, true


@case_with("CONFIG_KUNIT")
def kunit(case: Case) -> None:
    """Every unit test in the module's sources passes."""
    kernel.unload_both()
    # KUnit runs them while the module is being loaded.
    kernel.load(kernel.FENCE, build="kunit")
    kernel.unload(kernel.FENCE)
    log = [line.text for line in case.log.lines()]
    results = [re.fullmatch(r" +(ok|not ok) \d+ (\w+)", text) for text in log]
    ended = [found for found in results if found]
    suites = [text for text in log if re.fullmatch(r" +# Subtest: scoutfs_fence_\w+", text)]
    planned = sum(int(text.strip()[3:]) for text in log if re.fullmatch(r" +1\.\.\d+", text))
    true(bool(suites), "there are suites")
    true(len(ended) == planned, f"{len(ended)} of {planned} unit tests have ended")
    case.note(f"{len(ended)} unit tests in {len(suites)} suites")
    if failed := [found[2] for found in ended if found[1] != "ok"]:
        raise CaseFailed(f"failed: {', '.join(failed)}")
