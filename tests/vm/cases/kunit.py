# SPDX-License-Identifier: GPL-2.0-only
"""The unit tests in the module's sources."""

import re

import kernel
from case import Case, case_with
from fence import CaseFailed, equal, true

BUILD = "kunit"


def suites_in_sources(build: str) -> list[str]:
    return [
        name
        for file in (kernel.MODULES / build / "src").rglob("*.rs")
        for name in re.findall(r"^ +suite!\(\s*(\w+)", file.read_text(), re.MULTILINE)
    ]


@case_with("CONFIG_KUNIT")
def kunit(case: Case) -> None:
    """Every unit test in the module's sources passes."""
    run_unit_tests(case, BUILD)


def run_unit_tests(case: Case, build: str) -> None:
    kernel.unload_both()
    # KUnit runs the tests while the module loads.
    kernel.load(kernel.FENCE, build=build)
    kernel.unload(kernel.FENCE)
    log = [line.text for line in case.log.lines()]
    results = [re.fullmatch(r" +(ok|not ok) \d+ (\w+)", text) for text in log]
    ended = [found for found in results if found]
    run = re.findall(r"^ +# Subtest: (scoutfs_fence_\w+)$", "\n".join(log), re.MULTILINE)
    planned = sum(int(text.strip()[3:]) for text in log if re.fullmatch(r" +1\.\.\d+", text))
    equal(sorted(run), sorted(suites_in_sources(build)), "the suites")
    true(len(ended) == planned, f"{len(ended)} of {planned} unit tests have ended")
    case.note(f"{len(ended)} unit tests in {len(run)} suites")
    if failed := [found[2] for found in ended if found[1] != "ok"]:
        raise CaseFailed(f"failed: {', '.join(failed)}")
