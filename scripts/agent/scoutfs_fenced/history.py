# SPDX-License-Identifier: GPL-2.0-only
"""The history of requests and devices: kept in the state directory, shown by `history`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import deque
from typing import Any

from scoutfs_fenced import log
from scoutfs_fenced.events import Event
from scoutfs_fenced.statefile import StateError, read_state, state_directory, write_state
from scoutfs_fenced.thread import in_thread

# How many events are kept.
MOST = 1000

# Seconds between two writes, and after one that has failed.
PAUSE = 1.0
FAILURE_PAUSE = 5.0

HEADINGS = ("TIME", "EVENT", "RID OR DEVICE", "ADDRESS", "REASON", "MOUNT", "HOW")


class History:
    """The latest events."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, "history")
        self._events: deque[dict[str, Any]] = deque(maxlen=MOST)
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._complained = False
        try:
            self._events.extend(_entries(read_state(self._path)))
        except StateError as error:
            log.event(f"{error}; the history begins anew", level=log.ERROR)

    def add(self, event: Event) -> None:
        """Adds an event."""
        self._events.append({"time": event.time, "event": event.kind, **event.fields})
        self._changed.set()

    async def keep_writing(self) -> None:
        """Writes changes forever."""
        while True:
            await self._changed.wait()
            await self.write()
            await asyncio.sleep(FAILURE_PAUSE if self._complained else PAUSE)

    async def write(self) -> None:
        """Writes changes; logs a failure once, until it works again."""
        async with self._writing:
            if self._changed.is_set():
                self._changed.clear()
                await self._write()

    async def _write(self) -> None:
        try:
            await in_thread(write_state, self._path, list(self._events))
        except OSError as error:
            self._changed.set()
            if not self._complained:
                log.event(
                    f"the history cannot be written to {self._path}: {error.strerror}",
                    level=log.WARNING,
                )
            self._complained = True
        else:
            self._complained = False


def print_history(as_json: bool) -> int:
    """Prints the history, the oldest event first; returns the exit status."""
    try:
        entries = _entries(read_state(os.path.join(state_directory(), "history")))
    except StateError as error:
        print(f"scoutfs-fenced: {error}", file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps(entries, indent=2))
        return 0
    rows = [HEADINGS, *map(_row, entries)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip())
    return 0


def _entries(content: Any) -> list[dict[str, Any]]:
    entries = content if isinstance(content, list) else []
    return [each for each in entries if isinstance(each, dict) and "event" in each]


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    seconds = float(entry.get("time", 0))
    how = str(entry.get("how", ""))
    if "duration" in entry:
        how += f" ({float(entry['duration']):.1f} s)"
    return (
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)),
        str(entry["event"]),
        str(entry.get("rid") or entry.get("device", "")),
        str(entry.get("address") or entry.get("host", "")),
        str(entry.get("reason", "")),
        str(entry.get("mount", "")),
        how,
    )
