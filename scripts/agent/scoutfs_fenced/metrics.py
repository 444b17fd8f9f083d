# SPDX-License-Identifier: GPL-2.0-only
"""A file of metrics for node_exporter's textfile collector: SCOUTFS_FENCED_METRICS.

Its format is that of https://prometheus.io/docs/specs/om/open_metrics_spec/, as far as the
collector supports it, which takes counters for values without a type. The file is replaced by
rename, so a reader sees a complete one, and is written after each event and every PAUSE seconds:
its age shows whether the agent is alive. Counters start at 0 with each start of the agent.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Callable

from scoutfs_fenced import events, log, version
from scoutfs_fenced.devices import DeviceState
from scoutfs_fenced.events import Event
from scoutfs_fenced.thread import in_thread

# Seconds between two writes: at most, and at least.
PAUSE = 15.0
SHORTEST_PAUSE = 1.0

REASONS = ("client_recovery", "client_reconnect", "quorum_block_leader", "unknown")

# The counters, by kind of event.
COUNTED = {
    events.REQUEST_BEGUN: ("requests", "Fence requests that were found."),
    events.REQUEST_FENCED: ("requests_fenced", "Fence requests that were answered with fenced."),
    events.REQUEST_FAILED: ("requests_failed", "Fence requests that were answered with error."),
    events.REQUEST_DROPPED: ("requests_dropped", "Fence requests that needed no answer any more."),
}

Sample = tuple[str, dict[str, str], float]


class Metrics:
    """The counters, and the file that they are written to."""

    def __init__(
        self,
        began: float,
        path: Callable[[], str],
        left: Callable[[], list[float]],
        devices: Callable[[], Iterable[DeviceState]],
    ):
        """`began` is when the agent started, in seconds since 1970.

        The others are called for each write. `path` returns the file's path, empty for none; `left`
        the seconds until the caller gives up, for each unanswered request; `devices` the state of
        each fence device.
        """
        self._began = began
        self._path = path
        self._left = left
        self._devices = devices
        self._counts: Counter[tuple[str, str]] = Counter()
        self._seconds = 0.0
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._complained = False

    def add(self, event: Event) -> None:
        """Counts an event."""
        self._counts[event.kind, event.fields.get("reason", "unknown")] += 1
        if event.kind == events.REQUEST_FENCED:
            self._seconds += float(event.fields.get("duration", 0))
        self._changed.set()

    async def keep_writing(self) -> None:
        """Writes the file forever."""
        while True:
            self._changed.clear()
            await self.write()
            await asyncio.sleep(SHORTEST_PAUSE)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), PAUSE - SHORTEST_PAUSE)

    async def write(self) -> None:
        """Writes the file, if one is named; logs a failure once, until it works again."""
        path = self._path()
        if not path:
            return
        try:
            async with self._writing:
                await in_thread(_replace, path, self.text())
        except OSError as error:
            if not self._complained:
                log.event(
                    f"metrics cannot be written to {path}: {error.strerror}", level=log.WARNING
                )
            self._complained = True
        else:
            self._complained = False

    def text(self) -> str:
        """The file's content."""
        return "".join(_lines(self._families(self._left())))

    def _families(self, left: list[float]) -> Iterator[tuple[str, str, str, list[Sample]]]:
        # The collector reads an older format, and refuses a file with the type `info`.
        yield "build_info", "gauge", "The agent's version.", [("", {"version": version()}, 1)]
        yield "start_time_seconds", "gauge", "When the agent began.", [("", {}, self._began)]
        for kind, (name, about) in COUNTED.items():
            reasons = {*REASONS, *(reason for which, reason in self._counts if which == kind)}
            yield (
                name,
                "counter",
                about,
                [
                    ("_total", {"reason": reason}, self._counts[kind, reason])
                    for reason in sorted(reasons)
                ],
            )
        fenced = sum(n for (kind, _), n in self._counts.items() if kind == events.REQUEST_FENCED)
        yield (
            "fencing_seconds",
            "summary",
            "From the moment that a request was found until it was answered with fenced.",
            [("_count", {}, fenced), ("_sum", {}, self._seconds)],
        )
        yield "requests_pending", "gauge", "Requests without an answer.", [("", {}, len(left))]
        yield (
            "request_left_seconds",
            "gauge",
            "Until the caller gives up the most urgent request without an answer.",
            [("", {}, min(left))] if left else [],
        )
        yield (
            "device_well",
            "gauge",
            "Whether a fence device can fence its host, as far as is known.",
            [
                (
                    "",
                    {
                        "host": each.device.host,
                        "level": str(each.device.level),
                        "device": each.device.name,
                    },
                    each.well,
                )
                for each in self._devices()
            ],
        )


def _lines(families: Iterator[tuple[str, str, str, list[Sample]]]) -> Iterator[str]:
    for name, kind, about, samples in families:
        if not samples:
            continue
        yield f"# TYPE scoutfs_fenced_{name} {kind}\n"
        if name.endswith("_seconds"):
            yield f"# UNIT scoutfs_fenced_{name} seconds\n"
        yield f"# HELP scoutfs_fenced_{name} {about}\n"
        for suffix, labels, value in samples:
            given = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
            braces = f"{{{given}}}" if given else ""
            yield f"scoutfs_fenced_{name}{suffix}{braces} {value:.15g}\n"
    yield "# EOF\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _replace(path: str, text: str) -> None:
    """Replaces a file atomically, and lets everyone read it."""
    # The collector reads only *.prom.
    new = f"{path}.new"
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    # A full disk may take a part of the text, which a single os.write() does not report.
    with os.fdopen(file, "wb") as stream:
        os.fchmod(file, 0o644)
        stream.write(text.encode())
    os.replace(new, path)
