# SPDX-License-Identifier: GPL-2.0-only
"""Fences one host by its topology levels: the interface between scheduling and fence devices.

The scheduler decides that a host has to be fenced, for which requests, and by when. It calls
fence_host() and knows nothing of fence agents. This module knows nothing of requests.

What the scheduler promises:
  - It calls fence_host() for a host once at a time. Different hosts are fenced at the same time;
    devices that several hosts share are limited on this side of the interface.
  - It never calls it for a host that has an address of the host that the agent runs on.
  - It cancels a call at most once, and then waits for it to end, however long that takes.

What fence_host() promises:
  - It calls `proven_off` once, before any device gives the host its power or its access back, and
    only if every device of a level says that the host is off. `Proof.at` is not later than the
    moment at which the first of these answers was asked for: every mount that existed then can
    no longer write. The callback is short, does not sleep, and has answered the kernel when it
    returns.
  - It returns once nothing of it runs any more. A failure after the proof (the power did not come
    back) is no failure: it is logged by `say`.
  - It raises LevelsError, with a phrase that names each level and its failure, if no level proves
    the host off. Nothing else is raised but CancelledError.
  - Every level has had its turn before `due`, as far as that is possible: then the first caller
    gives up. It goes on after that, until `end` at the latest, or some seconds later if it switches
    the host on again: a caller that asks again joins.
  - If it is cancelled, each command that runs gets SIGTERM and its second of grace before SIGKILL.

How the time until `due` is divided. A level begins when the one before has failed, or as below, and
the time that is left is divided anew whenever one begins. If each level can have 5 s, they have
equal shares, one after another; the last one goes on until `end`. If not, they overlap: each begins
so early that the last one has 5 s, and all go on until `end`.

    until due   levels   in seconds from the beginning
         12 s        1   0 -
         12 s        2   0 - 6,   6 -
         12 s        3   0 -,     3.5 -,    7 -
          8 s        2   0 -,     3 -
         27 s        3   0 - 9,   9 - 18,   18 -

A device that did not answer in its time is taken last for some minutes, so a fencing after that
does not wait for it. A level that only prepares has its share and overlaps with no other.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Callable

from scoutfs_fenced.device import Calls, DeviceError
from scoutfs_fenced.devices import Devices
from scoutfs_fenced.hosts import Device, Host, Level

# Seconds that most devices need, and that each level gets if there is any way to give them.
NEEDED = 5.0

# Seconds that switching on has at least, if the proof came late: the scheduler cancels what has not
# returned 5 s after its end, and a command takes another second to end.
TO_SWITCH_ON = 3.0


@dataclass(frozen=True)
class Proof:
    """That a host can no longer write."""

    # When it was certain, in seconds of time.monotonic(): no mount that existed then can write.
    at: float
    # How it is known: a phrase for the log, as in "proven off at node1 level 1 by fence_ipmilan".
    how: str


class LevelsError(Exception):
    """Why no level has proven the host off, as a phrase."""


async def fence_host(
    host: Host,
    devices: Devices,
    *,
    due: float,
    end: float,
    environment: Mapping[str, str],
    proven_off: Callable[[Proof], None],
    step: Callable[[str], None],
    say: Callable[[str], None],
) -> None:
    """Has a host switched off, by one topology level after another until one proves it off.

    `due` and `end` are times of time.monotonic(). `step` gets each step as it begins, for the log
    and `status`; `say` gets what fence agents print and why a level failed.
    """
    calls = devices.calls(environment)
    fencing = _Fencing(devices, calls, end, step, say)
    try:
        level, at = await fencing.first_of(in_order(host.levels, devices), due)
    finally:
        await fencing.stop()
    how = " and ".join(map(str, level.devices))
    proven_off(Proof(at, f"proven off at {how}"))
    if level.reboots:
        await _switch_on(level, calls, end, step, say)


def in_order(levels: Sequence[Level], devices: Devices) -> list[Level]:
    """The levels in the order in which to begin them: those that were silent come last.

    A level that only prepares stays before the one that it prepares.
    """
    groups: list[list[Level]] = [[]]
    for level in levels:
        groups[-1].append(level)
        if not level.prepares:
            groups.append([])
    silent = {
        level.number: any(devices.is_silent(device) for device in level.devices)
        for level in levels
        if not level.prepares
    }
    whole = [group for group in groups if group]
    whole.sort(key=lambda group: silent.get(group[-1].number, False))
    return [level for group in whole for level in group]


def turn(left: float, levels: int, *, prepares: bool = False) -> tuple[float, float]:
    """How long the first of so many levels may take, and after how long the next begins.

    Both are in seconds, `left` is the time until an answer is due. Infinity stands for all the time
    that there is, and for no next level.
    """
    if levels == 1:
        return math.inf, math.inf
    share = max(0.0, left) / levels
    if prepares or share >= NEEDED:
        return share, share
    return math.inf, max(0.0, left - NEEDED) / (levels - 1)


class _Fencing:
    """The levels of one fencing that run."""

    def __init__(
        self,
        devices: Devices,
        calls: Calls,
        end: float,
        step: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        self._devices = devices
        self._calls = calls
        self._end = end
        self._step = step
        self._say = say
        self._running: dict[asyncio.Task[float], Level] = {}
        self._failures: list[str] = []

    async def first_of(self, levels: list[Level], due: float) -> tuple[Level, float]:
        """The first level that proves the host off, and since when; raises LevelsError."""
        next_begins = 0.0
        # A level that has its time for itself.
        alone: asyncio.Task[float] | None = None
        while True:
            now = time.monotonic()
            if levels and (not self._running or (alone is None and now >= next_begins)):
                level = levels.pop(0)
                seconds, until_next = turn(due - now, len(levels) + 1, prepares=level.prepares)
                task = asyncio.ensure_future(self._switch_off(level, min(seconds, self._end - now)))
                self._running[task] = level
                next_begins = now + until_next
                alone = task if seconds < math.inf else None
                continue
            if not self._running:
                raise LevelsError("; ".join(self._failures))
            done, _ = await asyncio.wait(
                self._running,
                timeout=next_begins - now if levels and alone is None else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                level = self._running.pop(task)
                if task is alone:
                    alone, next_begins = None, 0.0
                try:
                    at = task.result()
                except LevelsError as error:
                    self._failures.append(str(error))
                    self._say(str(error))
                else:
                    if not level.prepares:
                        return level, at

    async def _switch_off(self, level: Level, seconds: float) -> float:
        """Has all devices of a level prove the host off; returns since when it is.

        What a device says does not count if another of the level fails: the host may run on that.
        """
        tasks = {
            asyncio.ensure_future(self._switch_off_by(device, seconds)): device
            for device in level.devices
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            failures = []
            for task, device in tasks.items():
                if task.done() and task.exception() is not None:
                    failures.append(f"{device}: {task.exception()}")
            if failures:
                raise LevelsError("; ".join(failures))
            return min(task.result() for task in tasks)
        finally:
            await _end_all(tasks)

    async def _switch_off_by(self, device: Device, seconds: float) -> float:
        try:
            at = await self._calls.switch_off(device, seconds, self._step, self._say)
        except DeviceError as error:
            self._devices.failed(device, error)
            raise
        if not device.prepare:
            self._devices.answered(device, "off")
        return at

    async def stop(self) -> None:
        """Ends what still runs."""
        await _end_all(self._running)


async def _end_all(tasks: Mapping[asyncio.Task[float], object]) -> None:
    """Cancels tasks, once, and returns when they have ended, also if it is cancelled meanwhile."""
    pending = {task for task in tasks if not task.done()}
    for task in pending:
        task.cancel()
    cancelled = False
    while pending:
        try:
            _, pending = await asyncio.wait(pending)
        except asyncio.CancelledError:
            # Cancelling the tasks again would take their commands' second of grace.
            cancelled = True
            pending = {task for task in pending if not task.done()}
    for task in tasks:
        if not task.cancelled():
            # What came of it meanwhile is not needed.
            task.exception()
    if cancelled:
        raise asyncio.CancelledError


async def _switch_on(
    level: Level,
    calls: Calls,
    end: float,
    step: Callable[[str], None],
    say: Callable[[str], None],
) -> None:
    """Switches the host on again; what fails is said, and changes nothing about the proof."""
    seconds = max(TO_SWITCH_ON, end - time.monotonic())

    async def switch_on(device: Device) -> None:
        step(f"{device}: on")
        try:
            await calls.switch_on(device, seconds, say)
        except DeviceError as error:
            say(f"{device}: it is off, and stays so: {error}")

    await asyncio.gather(*map(switch_on, level.devices))
