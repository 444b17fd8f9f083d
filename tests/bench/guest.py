# SPDX-License-Identifier: GPL-2.0-only
"""
Benchmarks a module in the guest. Prints progress, and finally one line with the results as JSON.

guest.py MODULE SHORT    where MODULE is the name of the module to measure, SHORT is 0 or 1
"""

import array
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import kernel

BENCH = "fence_bench"
FILE = Path("/sys/kernel/debug", BENCH)
PROBE = 0xABCDEF

# The values of the command "rounds", in order; each of the last four covers many calls.
ROUND = (
    *("make", "floor write", "remove"),
    *("make and notify", "write and notify", "remove and notify"),
    *("start", "write to fenced", "next once", "free"),
    *("next", "reason_pending", "wait_fenced", "drained"),
)
LOOKING = ROUND[-4:]
CALLS = 64

# The values that add up to the life of a request or floor.
LIVES = {
    "floor": ("make", "remove"),
    "notifying floor": ("make and notify", "write and notify", "remove and notify"),
    "request": ("start", "write to fenced", "next once", "free"),
}

# The machine has settled after being mostly idle for this many seconds.
SETTLED = 0.1

# For listening to uevents.
NETLINK_KOBJECT_UEVENT = 15
SO_RCVBUFFORCE = 33

Summary = dict[str, float]


def say(text: str) -> None:
    print(f"# {time.monotonic():.0f} s: {text}", flush=True)


def summary(values: Iterable[float]) -> Summary:
    """The median and spread of samples."""
    ordered = sorted(values)
    last = len(ordered) - 1

    def at(part: float) -> float:
        return ordered[round(part * last)]

    return {
        "median": statistics.median(ordered),
        "quartile1": at(0.25),
        "quartile3": at(0.75),
        "percentile99": at(0.99),
        "samples": len(ordered),
    }


def command(*words: object) -> list[int]:
    """Sends a command to the module; returns its measurements."""
    file = os.open(FILE, os.O_RDWR)
    try:
        os.write(file, " ".join(map(str, words)).encode())
        values = array.array("Q")
        while data := os.read(file, 1 << 20):
            values.frombytes(data)
    except OSError as error:
        raise SystemExit(f"{' '.join(map(str, words))}: {error.strerror}") from error
    finally:
        os.close(file)
    return values.tolist()


def table(columns: int, *words: object) -> list[list[int]]:
    """The same for a command with several values per round; returns one list for each value."""
    values = command(*words)
    return [values[column::columns] for column in range(columns)]


def rounds(count: int) -> dict[str, list[int]]:
    """Measures a number of rounds."""
    return dict(zip(ROUND, table(len(ROUND), "rounds", count), strict=True))


def lifetimes(columns: dict[str, list[int]], life: str) -> list[int]:
    """The sum of a life's parts for each round."""
    return [sum(parts) for parts in zip(*(columns[part] for part in LIVES[life]), strict=True)]


def slab_bytes() -> int:
    """The bytes handed out by the slab allocator."""
    lines = Path("/proc/slabinfo").read_text().splitlines()[2:]
    fields = (line.split() for line in lines)
    return sum(int(active) * int(size) for _, active, _, size, *_ in fields)


def settle() -> None:
    """Waits until deferred work, such as sending events, is done."""
    ticks = os.sysconf("SC_CLK_TCK")
    processors = os.cpu_count() or 1
    while True:
        idle = idle_ticks()
        time.sleep(SETTLED)
        if (idle_ticks() - idle) / ticks > 0.8 * SETTLED * processors:
            return


def idle_ticks() -> int:
    return int(Path("/proc/stat").read_text().split()[4])


class Bench:
    """All measurements, in order."""

    def __init__(self, module: str, short: bool) -> None:
        self.module = module
        self.rounds = 100 if short else 400
        self.counts = (1, 100, 10_000) if short else (1, 100, 10_000, 100_000)
        self.drains = (100, 1000) if short else (100, 10_000)
        self.waits = 20 if short else 200
        self.found: dict[str, object] = {}
        self.functions: dict[str, dict[str, dict[int, Summary]]] = {}

    def run(self) -> dict[str, object]:
        self.loading()
        self.begin()
        self.cycle("without a listener")
        self.cycle_with_listener()
        self.found["functions"] = self.functions
        for count in self.counts:
            self.pending(count)
        self.draining()
        self.waiting()
        self.found["kernel"] = os.uname().release
        self.found["emulated"] = "QEMU TCG" in Path("/proc/cpuinfo").read_text()
        return self.found

    def begin(self) -> None:
        """Loads the module to measure and the benchmark module."""
        kernel.load(self.module)
        kernel.load(BENCH)
        self.find_directory()
        self.let_requests_wait()

    def loading(self) -> None:
        say("loading and unloading")
        load, unload = [], []
        for _ in range(12):
            begin = time.monotonic_ns()
            kernel.load(self.module)
            loaded = time.monotonic_ns()
            size = int(Path("/sys/module", self.module, "coresize").read_text())
            middle = time.monotonic_ns()
            kernel.unload(self.module)
            unload.append(time.monotonic_ns() - middle)
            load.append(loaded - begin)
        self.found["load"] = summary(load[2:])
        self.found["unload"] = summary(unload[2:])
        self.found["module_bytes"] = size

    def find_directory(self) -> None:
        """Finds the directory in which the measured module shows its requests."""
        command("start", f"{PROBE:x}")
        found = list(Path("/sys/fs").glob(f"**/{PROBE:016x}"))
        if len(found) != 1:
            raise SystemExit(f"not one directory of the request was found: {found}")
        self.found["files"] = len(list(found[0].iterdir()))
        command("free", f"{PROBE:x}")
        command("directory", found[0].parent, self.found["files"])

    def let_requests_wait(self) -> None:
        """Raises the timeout: making and measuring many requests takes longer than the default."""
        parameter = Path("/sys/module", self.module, "parameters/timeout_ms")
        if parameter.exists():
            parameter.write_text("3600000")

    def cycle(self, name: str) -> None:
        """Measures the lives of a request and the floors."""
        say(f"one request, {name}")
        rounds(50)
        columns = rounds(self.rounds)
        lives = {life: lifetimes(columns, life) for life in LIVES}
        settle()
        sent = {name: self.until_sent(name) for name in ("lives", "notifying_lives")}
        found = {part: summary(values) for part, values in {**columns, **lives}.items()}
        self.found[name] = found | {name: summary(values) for name, values in sent.items()}

    def until_sent(self, lives: str) -> list[float]:
        """Measures many lives until all their events have been sent; returns the share of each."""
        samples = []
        for _ in range(5):
            samples += [value / self.rounds for value in command(lives, self.rounds)]
            settle()
        return samples

    def cycle_with_listener(self) -> None:
        """The same with a uevent listener whose buffer holds all events."""
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_KOBJECT_UEVENT) as netlink:
            netlink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
            netlink.bind((0, 1))
            self.cycle("with a listener")

    def pending(self, count: int) -> None:
        """Measures each function with this many pending requests."""
        say(f"{count} pending")
        before = slab_bytes()
        command("fill_floor", count)
        between = slab_bytes()
        command("fill", count)
        # The last count is kept: with many requests other activity is negligible.
        self.found["floor_bytes"] = (between - before) / count
        self.found["request_bytes"] = (slab_bytes() - between) / count

        self.each_function(count, "nowhere")
        command("add_finished")
        self.each_function(count, "back")
        command("free_last")
        command("finish_first")
        self.each_function(count, "front")

        setup, stop, destroy = table(3, "mounts", 20)
        self.add("setup", "elsewhere", count, setup[2:])
        self.add("stop", "elsewhere", count, stop[2:])
        self.add("destroy", "elsewhere", count, destroy[2:])
        self.dropping(count)

    def each_function(self, count: int, where: str) -> None:
        """Measures each function; `where` names the position of the finished request."""
        settle()
        number = max(20, self.rounds // 4 if count <= 100 else self.rounds // 10)
        rounds(5)
        columns = rounds(number)
        self.add("floor", where, count, lifetimes(columns, "floor"))
        for name in ("start", "write to fenced", "free"):
            self.add(name, where, count, columns[name])
        for name in LOOKING:
            if any(columns[name]):
                self.add(name, where, count, (value / CALLS for value in columns[name]))

    def add(self, function: str, where: str, count: int, values: Iterable[float]) -> None:
        self.functions.setdefault(function, {}).setdefault(where, {})[count] = summary(values)

    def dropping(self, count: int) -> None:
        """Measures the cost of stop and destroy per dropped request."""
        samples: dict[str, list[float]] = {"floor": [], "stop": [], "destroy": []}
        for _ in range(20 if count <= 100 else 1):
            for function in ("stop", "destroy"):
                command("fill", count)
                command("fill_floor", count)
                settle()
                samples["floor"].append(command("empty_floor")[0] / count)
                samples[function].append(command(function)[0] / count)
        for function, values in samples.items():
            self.add(function, "dropping", count, values)

    def draining(self) -> None:
        """Measures the time per request when requests finish in reverse order."""
        drained: dict[str, dict[int, dict[str, Summary]]] = {}
        for how in ("each", "all"):
            for count in self.drains:
                say(f"draining {count}, {how}")
                samples = []
                for _ in range(20 if count == min(self.drains) else 1):
                    command("fill", count)
                    command("fill_floor", count)
                    settle()
                    samples.append([value / count for value in command("drain", how)])
                floor, drain = zip(*samples, strict=True)
                drained.setdefault(how, {})[count] = {
                    "floor": summary(floor),
                    "drain": summary(drain),
                }
        self.found["drains"] = drained

    def waiting(self) -> None:
        """Measures the time from the write to each waiter's return."""
        waits: dict[str, dict[int, Summary]] = {}
        for kind in ("floor", "wait_fenced", "wait_next"):
            for waiters in (1, 100):
                say(f"{waiters} in {kind}")
                number = self.waits if waiters == 1 else self.waits // 10
                try:
                    command("wait", kind, waiters, 2)
                    values = command("wait", kind, waiters, number)
                except SystemExit as missing:
                    if kind != "wait_next":
                        raise
                    say(str(missing))
                    continue
                waits.setdefault(kind, {})[waiters] = summary(values)
        self.found["waits"] = waits


def main(module: str, short: str) -> None:
    found = Bench(module, short == "1").run()
    say("done")
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
