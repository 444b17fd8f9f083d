# SPDX-License-Identifier: GPL-2.0-only
"""Runs the administrator's program for each event: SCOUTFS_FENCED_HOOK.

The program gets the kind of event as its argument, and the event in its environment:

  SCOUTFS_FENCED_EVENT         its kind, as in events.py
  SCOUTFS_FENCED_EVENT_TIME    in seconds since 1970
  SCOUTFS_FENCED_EVENT_...     for each field of the event: RID, ADDRESS, HOST, HOW and so on

Fencing never waits for it: few programs run at a time, each for a limited time, and further events
are queued here, up to a bound. A program that fails or is skipped is logged.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Callable

from scoutfs_fenced import log, process
from scoutfs_fenced.configuration import Configuration
from scoutfs_fenced.events import Event
from scoutfs_fenced.fencing import NOT_FOR_COMMANDS

# How many run at a time, how long one may take, and how many events wait.
AT_ONCE = 4
SECONDS = 30.0
MOST = 1000


class Hook:
    """Passes events on to the program that the configuration names."""

    def __init__(self, settings: Callable[[], Configuration]) -> None:
        self._settings = settings
        self._waiting: deque[Event] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._left_out = 0

    def add(self, event: Event) -> None:
        """Runs the program for an event, now or later."""
        if not self._settings().hook:
            return
        if len(self._waiting) >= MOST:
            self._left_out += 1
            if self._left_out == 1:
                log.event(
                    f"the hook is not run for every event: {MOST} wait for it", level=log.WARNING
                )
            return
        self._waiting.append(event)
        self._start()

    def _start(self) -> None:
        while self._waiting and len(self._running) < AT_ONCE:
            task = asyncio.ensure_future(self._run(self._waiting.popleft()))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not self._waiting and self._left_out:
            log.event(f"the hook was not run for {self._left_out} events", level=log.WARNING)
            self._left_out = 0
        self._start()

    async def _run(self, event: Event) -> None:
        settings = self._settings()
        if not settings.hook:
            return
        given = {
            name: value
            for name, value in settings.environment.items()
            if name not in NOT_FOR_COMMANDS
        }
        given["SCOUTFS_FENCED_EVENT"] = event.kind
        given["SCOUTFS_FENCED_EVENT_TIME"] = f"{event.time:.3f}"
        for name, value in event.fields.items():
            given[f"SCOUTFS_FENCED_EVENT_{name.upper()}"] = value
        ending = await process.run_file(
            [settings.hook, event.kind],
            environment=given,
            limit=SECONDS,
            say=lambda line: log.event(f"the hook says about {event.kind}: {line}"),
        )
        if not ending.succeeded:
            log.event(f"the hook failed for {event.kind}: {ending}", level=log.WARNING)

    async def stop(self, seconds: float) -> None:
        """Gives running and queued programs `seconds`, then ends them."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self._running and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._running, timeout=left)
        self._waiting.clear()
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
