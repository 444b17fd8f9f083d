# SPDX-License-Identifier: GPL-2.0-only
"""Turns measurements into figures with their bounds."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# The guest's results, decoded from JSON.
Found = dict[str, Any]

# The position of the finished request among the pending ones.
FINISHED = {
    "nowhere": "none finished",
    "front": "the oldest finished",
    "back": "the newest finished",
    "elsewhere": "those of another mount",
    "dropping": "for each that it drops",
}


@dataclass(frozen=True)
class Bounds:
    """The upper bound of each figure."""

    # A request's whole life, relative to the floor's.
    ratio: float
    # The same until its events have been sent, relative to a notifying floor.
    sent: float
    # How much more than the floor a function's cost may grow with the number of requests.
    growth: float
    # Wake-up latency relative to a notifying floor: the median, and the 99th percentile, which
    # depends on the machine's other activity.
    waking: float
    late_waking: float
    # A request's memory, relative to the floor's.
    memory: float
    module_bytes: int
    load_milliseconds: float
    unload_milliseconds: float


FULL = Bounds(
    # scoutfs's C code is at 1.30.
    ratio=1.30,
    sent=1.30,
    # The write to `fenced` is at 0.30 on Debian's default kernel, because of a tree lookup.
    growth=0.35,
    # On that kernel a single waiter is at 1.69; the floor there is a sixth of Linux 7.3's.
    waking=2.0,
    late_waking=4.0,
    memory=2.0,
    # The module is twice as large if it embeds the Rust code that a kernel lacks.
    module_bytes=256 << 10,
    # The kernel spends most of this, on tracepoints and symbols.
    load_milliseconds=30,
    unload_milliseconds=200,
)
# Never missed by chance; these only check the shape.
SHORT = Bounds(
    ratio=1.5,
    sent=1.5,
    growth=0.6,
    waking=4.0,
    late_waking=40.0,
    memory=3.0,
    module_bytes=256 << 10,
    load_milliseconds=200,
    unload_milliseconds=2000,
)


@dataclass(frozen=True)
class Figure:
    name: str
    measured: str
    floor: str
    bound: str
    # None if the figure only explains another.
    kept: bool | None


def growth(by_count: dict[str, dict[str, float]]) -> tuple[float, float]:
    """A function's cost with the most requests, and its ratio to that with the fewest."""
    counts = sorted(by_count, key=int)
    least, most = (by_count[counts[end]]["median"] for end in (0, -1))
    return most, most / least


def figures(found: Found, bounds: Bounds, unit: str) -> Iterator[Figure]:
    """All figures; `unit` is the guest's clock's unit."""
    yield from cycle_figures(found, bounds, unit)
    yield from growth_figures(found, bounds, unit)
    yield from drain_figures(found, bounds, unit)
    yield from waking_figures(found, bounds, unit)
    yield from size_figures(found, bounds, unit)


def cycle_figures(found: Found, bounds: Bounds, unit: str) -> Iterator[Figure]:
    """
    A request also sends three uevents and wakes pollers, off the callers' path. The figure that
    includes these is compared with a floor that does the same in plain C.
    """
    for listeners in ("without a listener", "with a listener"):
        lives = found[listeners]
        request, floor, sent, notifying = (
            lives[life]["median"] for life in ("request", "floor", "lives", "notifying_lives")
        )
        name = f"start + write to fenced + next + free, {listeners}"
        yield Figure(
            name,
            f"{request:.0f} {unit}, {request / floor:.3f} of the floor",
            f"{floor:.0f}",
            f"{bounds.ratio:.2f}",
            request <= bounds.ratio * floor,
        )
        yield Figure(
            "    the same with opening the file, until all events are sent",
            f"{sent:.0f} {unit}, {sent / notifying:.3f} of a notifying floor",
            f"{notifying:.0f}",
            f"{bounds.sent:.2f}",
            sent <= bounds.sent * notifying,
        )


def growth_figures(found: Found, bounds: Bounds, unit: str) -> Iterator[Figure]:
    functions = found["functions"]
    for function, places in functions.items():
        if function == "floor":
            continue
        for place, by_count in places.items():
            pending = max(map(int, by_count))
            most, grown = growth(by_count)
            floor_place = place if place in functions["floor"] else "nowhere"
            _, floor_grown = growth(functions["floor"][floor_place])
            bound = max(floor_grown, 1) + bounds.growth
            yield Figure(
                f"{function}, {pending} pending, {FINISHED[place]}",
                f"{most:.0f} {unit}, {grown:.2f} times that with 1",
                f"{floor_grown:.2f}",
                f"{bound:.2f}",
                grown <= bound,
            )


def drain_figures(found: Found, bounds: Bounds, unit: str) -> Iterator[Figure]:
    names = {"each": "each taken off at once", "all": "taken off at the end"}
    for how, by_count in found["drains"].items():
        count = max(map(int, by_count))
        least = min(map(int, by_count))
        drains = {number: drain["drain"] for number, drain in by_count.items()}
        floors = {number: drain["floor"] for number, drain in by_count.items()}
        most, grown = growth(drains)
        _, floor_grown = growth(floors)
        bound = max(floor_grown, 1) + bounds.growth
        yield Figure(
            f"draining {count} that finish in reverse, {names[how]}",
            f"{most:.0f} {unit} for each, {grown:.2f} times that of {least}",
            f"{floor_grown:.2f}",
            f"{bound:.2f}",
            grown <= bound,
        )


def waking_figures(found: Found, bounds: Bounds, unit: str) -> Iterator[Figure]:
    waits = found["waits"]
    for function, by_waiters in waits.items():
        if function == "floor":
            continue
        for waiters, taken in by_waiters.items():
            for what, key, bound in (
                ("median", "median", bounds.waking),
                ("99th percentile", "percentile99", bounds.late_waking),
            ):
                floor = waits["floor"][waiters][key]
                yield Figure(
                    f"from the write to the return of {function}, {waiters} waiting, {what}",
                    f"{taken[key]:.0f} {unit}, {taken[key] / floor:.2f} of the notifying floor",
                    f"{floor:.0f}",
                    f"{bound:.2f}",
                    taken[key] <= bound * floor,
                )


def size_figures(found: Found, bounds: Bounds, unit: str) -> Iterator[Figure]:
    memory, floor = found["request_bytes"], found["floor_bytes"]
    yield Figure(
        "memory for each pending request",
        f"{memory:.0f} bytes, {memory / floor:.2f} of the floor",
        f"{floor:.0f}",
        f"{bounds.memory:.2f}",
        memory <= bounds.memory * floor,
    )
    size = found["module_bytes"]
    yield Figure(
        "size of the loaded module",
        f"{size} bytes",
        "",
        f"{bounds.module_bytes}",
        size <= bounds.module_bytes,
    )
    for what, bound in (
        ("load", bounds.load_milliseconds),
        ("unload", bounds.unload_milliseconds),
    ):
        nanoseconds = found[what]["median"]
        yield Figure(
            f"time to {what} the module",
            f"{nanoseconds:.0f} {unit}",
            "",
            f"{bound * 1e6:.0f}",
            nanoseconds <= bound * 1e6,
        )


def by_pending(found: Found) -> dict[str, dict[str, float]]:
    """Each function's cost by number of requests, with the finished one in the worst position."""
    return {
        function: {
            count: max(places[place][count]["median"] for place in ("nowhere", "front", "back"))
            for count in places["nowhere"]
        }
        for function, places in found["functions"].items()
        if "nowhere" in places
    }
