# SPDX-License-Identifier: GPL-2.0-only
"""What is measured in the guest: the agent, and beside it a loop that polls."""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import kernel
from agents import NOTE_START, Agent
from fence import Mount, Stopwatch, equal

HERE = Path(__file__).resolve().parent

# What was promised of the agent.
MOST_MILLISECONDS = 50
MOST_SECONDS = 10

HOSTS = 8
SECONDS_PER_HOST = 8

# The loop needs longer than the kernel would wait.
TIMEOUT_MS = 600_000


class PollingLoop(Agent):
    """The loop, which is given the agent's command."""

    def launch(self, *options: str) -> None:
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                [HERE / "polling-loop", self.folder / "fence-it"], stdout=output
            )


@dataclass
class Figures:
    """What was measured of one of them."""

    name: str
    lags: list[float]
    seconds: float

    def cells(self) -> tuple[str, ...]:
        median, worst = statistics.median(self.lags), max(self.lags)
        return (self.name, f"{median:.0f} ms", f"{worst:.0f} ms", f"{self.seconds:.1f} s")


def measure(name: str, kind: Callable[[Path], Agent], mount: Mount, times: int) -> Figures:
    """Measures one of them with new requests."""
    with tempfile.TemporaryDirectory() as folder:
        it = kind(Path(folder))
        it.configure(NOTE_START, delay="600", parallel=HOSTS, limit=60)
        it.begin()
        try:
            lags = []
            for rid in range(times):
                lags.append(it.lag(mount, rid) * 1000)
                equal(mount.wait_fenced(30_000), 0)
            mount.stop()

            it.command(f"sleep {SECONDS_PER_HOST}")
            watch = Stopwatch()
            for host in range(HOSTS):
                mount.started(host, f"10.0.0.{host}")
            equal(mount.wait_fenced(TIMEOUT_MS), 0)
            seconds = watch.seconds()
            mount.stop()
        finally:
            it.end()
    return Figures(name, lags, seconds)


def main() -> int:
    """Prints a table; returns how many bounds the agent misses."""
    kernel.load_both()
    kernel.TIMEOUT_MS.write_text(f"{TIMEOUT_MS}\n")
    mount = Mount(HERE / "mount")
    agent = measure("scoutfs-fenced", Agent, mount, 31)
    loop = measure("a loop that looks every second, one host at a time", PollingLoop, mount, 11)

    bounds = ("bound", f"{MOST_MILLISECONDS} ms", "", f"{MOST_SECONDS} s")
    heads = ("", "start to command, median", "worst", f"{HOSTS} hosts of {SECONDS_PER_HOST} s")
    rows = [heads, agent.cells(), bounds, loop.cells()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )

    missed = [statistics.median(agent.lags) >= MOST_MILLISECONDS, agent.seconds > MOST_SECONDS]
    print("\nA bound is missed." if any(missed) else "\nAll bounds are kept.", flush=True)
    return sum(missed)


if __name__ == "__main__":
    sys.exit(main())
