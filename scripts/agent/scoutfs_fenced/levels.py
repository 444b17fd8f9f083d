# SPDX-License-Identifier: GPL-2.0-only
"""Fences one host by its topology levels: the interface between scheduling and fence devices.

The scheduler decides which host to fence, for which requests, and by when. It calls fence_host()
and knows nothing about fence agents. This module knows nothing about requests.

The scheduler guarantees:
  - It never runs two calls of fence_host() for one host at the same time. Calls for different hosts
    do run at the same time; this side of the interface limits the use of devices that they share.
  - It never calls it for a host that has an address of the agent's own host.
  - It cancels a call at most once, and then waits until the call ends; at its own exit for a few
    seconds only.

fence_host() guarantees:
  - It calls `proven_off` once, before any device restores the host's power or access, and only if
    every device of a level says that the host is off. `Proof.at` is not later than the moment at
    which the first of these answers was requested: every mount that existed then can no longer
    write. The callback is short, does not sleep, and has answered the kernel when it returns.
  - It leaves nothing running when it returns. A failure after the proof (the power did not come
    back) does not count: it is logged through `say`.
  - It raises LevelsError, with a phrase that names each level and its failure, if no level proves
    the host off. It raises nothing else but CancelledError.
  - It tries every level before `due`, when the first caller gives up, as far as that is possible.
    It continues after that, until `end` at the latest, or some seconds longer if it switches the
    host on again: a caller that asks again joins.
  - If it is cancelled, each running command gets SIGTERM and its second of grace before SIGKILL.

How the time until `due` is divided: a level begins when the previous one has failed, or as below;
the remaining time is divided again whenever a level begins. If there are 5 s for each level, they
get equal shares, one after another, and the last one continues until `end`. If not, they overlap:
each begins early enough to leave 5 s for the last one, and all continue until `end`.

    until due   levels   in seconds from the beginning
         12 s        1   0 -
         12 s        2   0 - 6,   6 -
         12 s        3   0 -,     3.5 -,    7 -
          8 s        2   0 -,     3 -
         27 s        3   0 - 9,   9 - 18,   18 -

A device that did not answer in time is tried last for some minutes, so later fencings do not wait
for it. A level that only prepares gets its share, and the next one begins after its end.
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

# Seconds that most devices need, and that each level gets if at all possible.
NEEDED = 5.0

# Minimum seconds for switching on after a late proof: the scheduler cancels a call 5 s after its
# `end`, and a command takes another second to end.
TO_SWITCH_ON = 3.0


@dataclass(frozen=True)
class Proof:
    """Proof that a host can no longer write."""

    # Since when, in seconds of time.monotonic(): no mount that existed then can write.
    at: float
    # How: a phrase for the log, such as "proven off at node1 level 1 by fence_ipmilan".
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
    """Switches a host off by its topology levels, until one of them proves it off.

    `due` and `end` are times of time.monotonic(). `step` gets each step as it begins, for the log
    and `status`; `say` gets the fence agents' output and why a level failed.
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
    """The levels in the order in which to try them: silent ones come last.

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
    """Returns how long the first of the levels may take, and when the next one begins.

    Both are in seconds from now; `left` is the time until an answer is due. Infinity means all the
    time there is, or no next level.
    """
    if levels == 1:
        return math.inf, math.inf
    share = max(0.0, left) / levels
    if prepares or share >= NEEDED:
        return share, share
    return math.inf, max(0.0, left - NEEDED) / (levels - 1)


class _Fencing:
    """The running levels of one fencing."""

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
        # The running level during whose share no other begins.
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
        """Switches the host off by all devices of a level; returns since when it is proven off.

        Nothing is proven if one of the devices fails: the host may still run on that one.
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
        """Ends the levels that still run."""
        await _end_all(self._running)


async def _end_all(tasks: Mapping[asyncio.Task[float], object]) -> None:
    """Cancels tasks once, and waits for all of them to end even if it is cancelled meanwhile."""
    pending = {task for task in tasks if not task.done()}
    for task in pending:
        task.cancel()
    cancelled = False
    while pending:
        try:
            _, pending = await asyncio.wait(pending)
        except asyncio.CancelledError:
            # Cancelling the tasks again would take away their commands' second of grace.
            cancelled = True
            pending = {task for task in pending if not task.done()}
    for task in tasks:
        if not task.cancelled():
            # Retrieved so that asyncio does not log it as unhandled.
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
    """Switches the host on again; failures are logged and do not affect the proof."""
    seconds = max(TO_SWITCH_ON, end - time.monotonic())

    async def switch_on(device: Device) -> None:
        step(f"{device}: on")
        try:
            await calls.switch_on(device, seconds, say)
        except DeviceError as error:
            say(f"{device}: it is off, and stays so: {error}")

    await asyncio.gather(*map(switch_on, level.devices))
