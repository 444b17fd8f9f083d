# SPDX-License-Identifier: GPL-2.0-only
"""Decides which request's host is fenced when, and answers the kernel.

Each unfinished request has a task. It waits for a slot, opens the request's files, has the host
fenced and answers the kernel; if that fails, it pauses and makes another attempt, as long as there
is time. If a request is removed, or is finished by someone else, its task is cancelled, which ends
its command.

Nothing is remembered outside sysfs: an agent that is killed has told the kernel nothing about what
it was doing, and the next one does it again.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import KeysView
from dataclasses import dataclass
from typing import Any, Literal

from scoutfs_fenced import fencing, log, process
from scoutfs_fenced.configuration import Configuration
from scoutfs_fenced.request import GONE, Request, RequestFiles
from scoutfs_fenced.slots import Slots


@dataclass
class ServedRequest:
    """A request, and what is done about it."""

    request: Request
    # One of the states that status.py lists, and since when, as time.monotonic() counts.
    state: str = "done"
    since: float = 0.0
    # The number of the attempt, from 1 on, its current step, and how the last one ended.
    attempt: int = 0
    step: str = ""
    result: str = ""
    # Open while a command runs.
    files: RequestFiles | None = None
    task: asyncio.Task[None] | None = None
    # Why the task was cancelled.
    cancelled: str = ""

    def enter(self, state: str) -> None:
        """Notes a new state."""
        self.state, self.step, self.since = state, "", time.monotonic()

    def begin_step(self, step: str) -> None:
        """Notes and logs the next step of an attempt."""
        self.step = step
        self.log(step if self.attempt == 1 else f"attempt {self.attempt}: {step}")

    def log(self, message: str, *, level: int = log.INFORMATION, **fields: str) -> None:
        """Logs what has happened to it."""
        log.event(message, level=level, **self.request.fields(), **fields)


class Scheduler:
    """Serves the requests that discovery finds."""

    def __init__(self, settings: Configuration) -> None:
        self.settings = settings
        self.stopping = False
        # By directory.
        self.requests: dict[str, ServedRequest] = {}
        self._slots = Slots(settings.parallel)
        self._serving: set[asyncio.Task[None]] = set()

    def configure(self, settings: Configuration) -> None:
        """Goes on with another configuration; commands that run are not changed."""
        self.settings = settings
        self._slots.set_count(settings.parallel)

    def running(self) -> int:
        """How many requests have a command that runs."""
        return sum(served.files is not None for served in self.requests.values())

    def address_is_busy(self, request: Request) -> bool:
        """Whether a command runs for the request's address, be it for another request."""
        return self._slots.address_is_busy(request.address)

    # What discovery reports.

    def directories(self) -> KeysView[str]:
        """The directories of all requests that are known."""
        return self.requests.keys()

    def inode(self, directory: str) -> int | None:
        """The inode of the request that is known by this directory; None if there is none."""
        served = self.requests.get(directory)
        return served.request.inode if served else None

    def add(self, found: list[tuple[Request, bool]]) -> None:
        """Serves new requests; each comes with whether it is finished already."""
        new = []
        for request, finished in found:
            before = self.requests.get(request.directory)
            if before is not None:
                if before.request.inode == request.inode:
                    continue
                self._cancel(before, "the request is gone")
            served = self.requests[request.directory] = ServedRequest(request)
            served.enter("done")
            if not finished:
                new.append(served)
        if self.stopping:
            return
        for served in sorted(new, key=lambda served: served.request.deadline):
            served.enter("waiting")
            served.task = asyncio.ensure_future(self._serve(served))
            self._serving.add(served.task)
            served.task.add_done_callback(self._serving.discard)

    def remove(self, directory: str) -> None:
        """Forgets a request that is gone."""
        self._cancel(self.requests.pop(directory), "the request is gone")

    def recheck_running(self, directory: str) -> None:
        """Like recheck, but only for a request whose command runs: its files are open already."""
        served = self.requests.get(directory)
        if served is not None and served.files is not None:
            self.recheck(directory)

    def recheck(self, directory: str) -> None:
        """Cancels what is done for a request that was finished or removed."""
        served = self.requests.get(directory)
        if served is None or served.task is None:
            return
        try:
            if served.files is not None:
                finished = served.files.finished()
            else:
                with RequestFiles(served.request) as files:
                    finished = files.finished()
        except OSError as error:
            if error.errno in GONE:
                self._cancel(served, "the request is gone")
            return
        if finished:
            self._cancel(served, "the request was finished by someone else")

    def _cancel(self, served: ServedRequest, why: str) -> None:
        if served.task is not None:
            served.cancelled = why
            served.task.cancel()

    # Serving them.

    async def _serve(self, served: ServedRequest) -> None:
        try:
            while not await self._attempt(served):
                served.enter("pausing")
                await asyncio.sleep(self.settings.retry_pause)
                served.enter("waiting")
        except asyncio.CancelledError:
            if served.cancelled:
                served.log(f"nothing more is done, {served.cancelled}", level=log.WARNING)
        except Exception as error:
            # It must not end the other requests' tasks, and the next scan begins anew.
            served.log(f"unexpected: {error!r}", level=log.ERROR)
            self.requests.pop(served.request.directory, None)
        served.task = None
        served.enter("done")

    async def _attempt(self, served: ServedRequest) -> bool:
        """Makes an attempt; returns whether no other is needed."""
        request = served.request
        # A first attempt comes before another's second.
        async with self._slots.slot(request.address, served.attempt, request.deadline):
            try:
                files = RequestFiles(request)
            except OSError as error:
                return self._cannot_open(served, error)
            with files:
                if files.finished():
                    served.log("was finished by someone else before it had a slot")
                    return True
                served.attempt += 1
                if served.attempt > 1 and request.left() <= 0:
                    outcome = fencing.Outcome(False, f"no time is left, after {served.result}")
                    return self._conclude(served, files, outcome, 0)
                limit = self._limit(request)
                served.enter("running")
                served.files = files
                try:
                    outcome = await fencing.fence(
                        self.settings, request, limit, step=served.begin_step, say=served.log
                    )
                finally:
                    served.files = None
                return self._conclude(served, files, outcome, time.monotonic() - served.since)

    def _limit(self, request: Request) -> float:
        """Seconds that an attempt may take."""
        if self.settings.limit is not None:
            return self.settings.limit
        # A late one is attempted until the kernel gives up, which may be later than is known here.
        left = request.left()
        return left if left > request.margin else request.timeout

    def _cannot_open(self, served: ServedRequest, error: OSError) -> bool:
        if error.errno in GONE:
            served.log("is gone before it had a slot")
            return True
        served.result = f"its files cannot be opened: {error.strerror}"
        served.log(served.result, level=log.ERROR)
        return served.request.left() <= 0

    def _conclude(
        self, served: ServedRequest, files: RequestFiles, outcome: fencing.Outcome, seconds: float
    ) -> bool:
        """Decides what an attempt's outcome means; returns whether it was the last."""
        served.result = outcome.how
        duration = f"{seconds:.3f}"
        ending = f"{outcome.how} after {duration} s"
        if not outcome.fenced and self._may_try_again(served):
            if self.stopping:
                served.log(f"not fenced, {ending}; left to the next agent", level=log.WARNING)
                return True
            pause = self.settings.retry_pause
            served.log(
                f"not fenced yet, {ending}; another attempt follows in {pause:g} s",
                level=log.WARNING,
                duration=duration,
            )
            return False
        try:
            files.finish(outcome.fenced)
        except OSError as error:
            served.log(f"{ending}, but {_why_lost(error)}", level=log.WARNING, duration=duration)
            return True
        if outcome.fenced:
            served.log(f"fenced, {ending}", duration=duration)
        else:
            served.log(f"could not be fenced, {ending}", level=log.ERROR, duration=duration)
        return True

    def _may_try_again(self, served: ServedRequest) -> bool:
        retries = self.settings.retries
        if retries is not None and served.attempt > retries:
            return False
        return served.request.left() > self.settings.retry_pause

    # Stopping.

    async def stop(self, at_once: asyncio.Future[Literal[True]]) -> None:
        """Lets commands that run end, but not for ever, nor after `at_once`; starts none."""
        self.stopping = True
        for served in self.requests.values():
            if served.task is not None and served.files is None:
                served.task.cancel()
        if self.running():
            log.event(
                f"waiting up to {self.settings.stop_timeout:g} s for commands that run: "
                f"{self.running()}"
            )
        end = time.monotonic() + self.settings.stop_timeout
        while self._serving and not at_once.done() and time.monotonic() < end:
            waited_for: set[asyncio.Future[Any]] = {*self._serving, at_once}
            await asyncio.wait(
                waited_for,
                timeout=end - time.monotonic(),
                return_when=asyncio.FIRST_COMPLETED,
            )
        if self._serving:
            log.event(
                f"killing commands that still run: {self.running()}; "
                "their requests are left to the next agent",
                level=log.WARNING,
            )
        patience = 0.05 if at_once.done() else process.GRACE + process.TO_DIE
        while self._serving:
            # Cancelling a task once more ends its command without any grace.
            for task in self._serving:
                task.cancel()
            await asyncio.wait(self._serving, timeout=patience)
            patience = 0.05


def _why_lost(error: OSError) -> str:
    """What it means that the kernel did not take a result."""
    if error.errno in GONE:
        return "the request is gone"
    if error.errno == errno.ESTALE:
        return "the request had already failed"
    return f"the kernel did not take it: {error.strerror}"
