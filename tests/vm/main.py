# SPDX-License-Identifier: GPL-2.0-only
"""
Runs cases in the guest and prints KTAP.

main.py [NAME...]    runs these cases, or all
main.py --list       prints their names and the kernel options they need; works anywhere
main.py --instruments NAME...   runs these instruments instead
"""

import importlib
import re
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import case
import instruments
import kernel
from fence import CaseFailed

HERE = Path(__file__).resolve().parent

# The leak check runs last and covers all other cases.
_FILES = sorted((HERE / "cases").glob("*.py"), key=lambda file: (file.stem == "leaks", file))
for _file in _FILES:
    importlib.import_module(f"cases.{_file.stem}")


def say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)


def where(error: BaseException) -> list[str]:
    """The case's lines that led to the error, innermost last."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).parent.name == "cases"
    ]
    return [f"{Path(f.filename).name}:{f.lineno}: {f.line}" for f in frames]


def explain(error: BaseException) -> list[str]:
    kind = "" if isinstance(error, CaseFailed) else f"{type(error).__name__}: "
    return [*where(error), f"{kind}{error}"]


def run(function: case.CaseFunction) -> tuple[list[str], list[str]]:
    """Runs one case; returns what went wrong, and the case's notes."""
    problems: list[str] = []
    taints = kernel.taints()
    with kernel.KernelLog() as log:
        try:
            kernel.load_both()
        except OSError as error:
            return explain(error), []
        problems += [f"the kernel complained of loading: {line}" for line in log.complaints()]
        # Lines logged from here on belong to the case.
        log.skip()
        state = case.Case(log)
        state.set_timeout_ms(kernel.USUAL_TIMEOUT_MS)
        steps: list[Callable[[], None]] = [partial(function, state), state.tidy, state.check_log]
        for step in steps:
            try:
                step()
            except Exception as error:  # any exception fails the case
                problems += explain(error)
        if kernel.taints() != taints:
            problems.append(f"the kernel is tainted now: {taints} became {kernel.taints()}")
        if problems:
            problems += [f"kernel log: <{line.level}> {line.text}" for line in log.lines()[-40:]]
    return problems, state.notes


def run_instrument(name: str) -> tuple[list[str], list[str]]:
    """Plants a fault; fails only if it is not reported."""
    instrument = instruments.ALL[name]
    try:
        kernel.unload_both()
        if instrument.change:
            kernel.load(kernel.FENCE, build=f"planted/{name}")
        reports, notes = run(instrument.function)
        kernel.unload_both()
    except OSError as error:
        return explain(error), []
    for report in reports:
        if re.search(instrument.reports, report):
            return [], [*notes, f"reported: {report}"]
    return [f"planted, and not reported: {instrument.reports}", *reports], notes


def check_kernel() -> None:
    """Exits if something was wrong with the kernel before the first case."""
    if taints := kernel.taints():
        sys.exit(f"The kernel is tainted since it booted: {taints}.")
    if not kernel.lockdep_looks():
        sys.exit("Lockdep has looked no more since the kernel booted.")


def run_all(names: list[str], run: Callable[[str], tuple[list[str], list[str]]]) -> int:
    failed = 0
    check_kernel()
    kernel.ignore_races_of_its_own()
    say("KTAP version 1", f"1..{len(names)}")
    for number, name in enumerate(names, 1):
        say(f"# running {name}")
        begin = time.monotonic()
        problems, notes = run(name)
        seconds = time.monotonic() - begin
        say(*(f"# {line}" for line in [*notes, *problems]))
        failed += bool(problems)
        say(f"{'not ok' if problems else 'ok'} {number} {name} # {seconds:.2f} s")
    return 1 if failed else 0


def main(arguments: list[str]) -> int:
    if arguments == ["--list"]:
        say(*(f"{name} {case.OPTIONS.get(name, '')}".rstrip() for name in case.ALL))
        return 0
    if arguments[:1] == ["--instruments"]:
        return run_all(arguments[1:], run_instrument)
    unknown = [name for name in arguments if name not in case.ALL]
    if unknown:
        print(f"There is no case called {unknown[0]}.", file=sys.stderr)
        return 2
    return run_all(arguments or list(case.ALL), lambda name: run(case.ALL[name]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
