# SPDX-License-Identifier: GPL-2.0-only
"""The engine: which request gets what, and when.

Requests are learned of by uevents, and by looking through sysfs: at the beginning, after messages
were lost, and now and then. Each that is not finished has a task. It waits for its turn, opens the
request's files, has the host fenced and tells the kernel; where that fails, it pauses and begins
again, as long as there is time. A request that goes, or that is finished by somebody else, has its
task cancelled, which ends its command.

Nothing is remembered elsewhere than in sysfs: an agent that is killed has told the kernel nothing
about what it was doing, and the next one does it again.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass

from scoutfs_fenced import configuration, fencing, log, process
from scoutfs_fenced.configuration import Configuration, ConfigurationError
from scoutfs_fenced.notify import notify, watchdog_pause
from scoutfs_fenced.request import GONE, Files, Request, find, look_at
from scoutfs_fenced.turns import Turns
from scoutfs_fenced.uevents import Event, Overflown, Uevents

# So many requests, or messages, are taken up before others get to do something.
AT_ONCE = 50

# How long after the message that it goes a directory may still be there.
SECONDS_TO_GO = 0.02

# Open files that each command needs here, and that are needed besides.
FILES_PER_COMMAND = 8
OTHER_FILES = 128


@dataclass
class Known:
    """A request, and what is done about it."""

    request: Request
    # One of status.py's states, and since when, as time.monotonic() counts.
    state: str = "done"
    since: float = 0.0
    # Which try it is, from 1 on, what is being done in it, and how the last one ended.
    attempt: int = 0
    doing: str = ""
    result: str = ""
    # Open while a command runs.
    files: Files | None = None
    task: asyncio.Task[None] | None = None
    # Why nobody wants a result any more.
    unwanted: str = ""

    def becomes(self, state: str) -> None:
        """Notes what happens to it from now on."""
        self.state, self.doing, self.since = state, "", time.monotonic()

    def does(self, doing: str) -> None:
        """Notes and logs what is being done while it runs."""
        self.doing = doing
        self.tell(doing if self.attempt == 1 else f"try {self.attempt}: {doing}")

    def tell(self, message: str, *, level: int = log.INFORMATION, **fields: str) -> None:
        """Logs what has happened to it."""
        log.event(message, level=level, **self.request.fields(), **fields)


class Server:
    """Serves requests until told to stop."""

    def __init__(self, settings: Configuration, sysfs: str) -> None:
        self.settings = settings
        self.began = time.time()
        self.stopping = False
        # By directory.
        self.known: dict[str, Known] = {}
        self._sysfs = sysfs
        self._turns = Turns(settings.parallel)
        self._serving: set[asyncio.Task[None]] = set()
        self._others: set[asyncio.Task[None]] = set()
        self._unreadable: set[str] = set()
        self._uevents: Uevents | None = None
        self._look_now = asyncio.Event()
        self._stop = asyncio.Event()
        self._stop_at_once = asyncio.Event()
        self._reloading = asyncio.Lock()
        _allow_files(settings.parallel)

    @property
    def has_events(self) -> bool:
        """Whether the kernel can tell of requests as they are made."""
        return self._uevents is not None

    def at_work_on(self, request: Request) -> bool:
        """Whether a command runs for the request's address, be it for another request."""
        return self._turns.address_is_busy(request.address)

    async def serve(self) -> None:
        """Returns once it was told to stop, and nothing runs any more."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._ask_to_reload)
        self._listen()
        self._spawn(self._show_life())
        looking = self._spawn(self._keep_looking())
        log.event(f"serving fence requests, as {self.settings.path} says")
        notify("READY=1")

        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({stop, looking}, return_when=asyncio.FIRST_COMPLETED)
        if looking.done():
            # What it did not expect is for systemd to see, and to begin anew.
            looking.result()
        await self._finish_serving()
        log.event("stopped")

    # Learning of requests.

    def _listen(self) -> None:
        try:
            self._uevents = Uevents()
        except OSError as error:
            log.event(
                f"the kernel's events cannot be had: {error.strerror}; "
                f"sysfs is looked through every {self.settings.delay:g} s",
                level=log.WARNING,
            )
        else:
            asyncio.get_running_loop().add_reader(self._uevents, self._receive)

    def _receive(self) -> None:
        assert self._uevents is not None
        try:
            for _ in range(AT_ONCE):
                event = self._uevents.receive()
                if event is None:
                    return
                self._act_on(event)
        except Overflown:
            log.event("some of the kernel's events are lost", level=log.WARNING)
            self._look_now.set()

    def _act_on(self, event: Event) -> None:
        directory = os.path.join(self._sysfs, event.directory)
        known = self.known.get(directory)
        if event.action == "add":
            self._start(self._take_up([directory]))
        elif known is not None:
            self._check(known)
            if event.action == "remove":
                # The directory may be about to go. Or this is about an earlier one.
                asyncio.get_running_loop().call_later(SECONDS_TO_GO, self._check, known)

    async def _keep_looking(self) -> None:
        while True:
            self._look_now.clear()
            await self._look()
            notify(f"STATUS={len(self.known)} requests, {self._running()} of them being fenced")
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._look_now.wait(), self.settings.delay)

    def _running(self) -> int:
        return sum(known.files is not None for known in self.known.values())

    async def _look(self) -> None:
        """Finds what no message told."""
        there = dict(find(self._sysfs))
        for directory in self.known.keys() - there.keys():
            self._drop(self.known.pop(directory), "the request is gone")
        self._unreadable &= there.keys()
        new = []
        for directory, inode in there.items():
            known = self.known.get(directory)
            if known is None or known.request.inode != inode:
                new.append(directory)
            elif known.files is not None:
                self._check(known)
        for begin in range(0, len(new), AT_ONCE):
            self._start(self._take_up(new[begin : begin + AT_ONCE]))
            await asyncio.sleep(0)

    def _take_up(self, directories: list[str]) -> list[Known]:
        """Gets to know requests; returns those that are to be served."""
        new = []
        for directory in directories:
            try:
                request, finished = look_at(directory, self._sysfs)
            except (OSError, ValueError) as error:
                self._cannot_read(directory, error)
                continue
            before = self.known.get(directory)
            if before is not None:
                if before.request.inode == request.inode:
                    continue
                self._drop(before, "the request is gone")
            known = self.known[directory] = Known(request)
            known.becomes("done")
            if not finished:
                new.append(known)
        return new

    def _cannot_read(self, directory: str, error: OSError | ValueError) -> None:
        if isinstance(error, OSError) and error.errno in GONE:
            return
        if directory not in self._unreadable:
            self._unreadable.add(directory)
            log.event(f"cannot read the request {directory}: {error}", level=log.ERROR)

    def _check(self, known: Known) -> None:
        """Does nothing more for a request that needs it no more."""
        if known.task is None:
            return
        try:
            if known.files is not None:
                finished = known.files.finished()
            else:
                with Files(known.request) as files:
                    finished = files.finished()
        except OSError as error:
            if error.errno in GONE:
                self._drop(known, "the request is gone")
            return
        if finished:
            self._drop(known, "the request was finished by somebody else")

    def _drop(self, known: Known, why: str) -> None:
        if known.task is not None:
            known.unwanted = why
            known.task.cancel()

    # Serving them.

    def _start(self, new: list[Known]) -> None:
        if self.stopping:
            return
        for known in sorted(new, key=lambda known: known.request.deadline):
            known.becomes("waiting")
            known.task = asyncio.ensure_future(self._serve(known))
            self._serving.add(known.task)
            known.task.add_done_callback(self._serving.discard)

    async def _serve(self, known: Known) -> None:
        try:
            while not await self._try(known):
                known.becomes("pausing")
                await asyncio.sleep(self.settings.retry_pause)
                known.becomes("waiting")
        except asyncio.CancelledError:
            if known.unwanted:
                known.tell(f"nothing more is done, {known.unwanted}", level=log.WARNING)
        except Exception as error:
            # It must not take other requests with it, and the next look begins anew.
            known.tell(f"unexpected: {error!r}", level=log.ERROR)
            self.known.pop(known.request.directory, None)
        known.task = None
        known.becomes("done")

    async def _try(self, known: Known) -> bool:
        """Tries to have a request's host fenced; returns whether no other try is needed."""
        request = known.request
        # A first try comes before another's second.
        async with self._turns.turn(request.address, known.attempt, request.deadline):
            try:
                files = Files(request)
            except OSError as error:
                return self._cannot_open(known, error)
            with files:
                if files.finished():
                    known.tell("was finished by somebody else before its turn came")
                    return True
                known.attempt += 1
                if known.attempt > 1 and request.left() <= 0:
                    outcome = fencing.Outcome(False, f"no time is left, after {known.result}")
                    return self._conclude(known, files, outcome, 0)
                limit = self._limit(request)
                known.becomes("running")
                known.files = files
                try:
                    outcome = await fencing.fence(
                        self.settings, request, limit, doing=known.does, say=known.tell
                    )
                finally:
                    known.files = None
                return self._conclude(known, files, outcome, time.monotonic() - known.since)

    def _limit(self, request: Request) -> float:
        """Seconds that a try may take."""
        if self.settings.limit is not None:
            return self.settings.limit
        # A late one is tried until the kernel gives it up, which may be later than is known here.
        left = request.left()
        return left if left > request.margin else request.timeout

    def _cannot_open(self, known: Known, error: OSError) -> bool:
        if error.errno in GONE:
            known.tell("is gone before its turn came")
            return True
        known.result = f"its files cannot be opened: {error.strerror}"
        known.tell(known.result, level=log.ERROR)
        return known.request.left() <= 0

    def _conclude(
        self, known: Known, files: Files, outcome: fencing.Outcome, seconds: float
    ) -> bool:
        """Decides what a try's outcome means; returns whether it was the last."""
        known.result = outcome.how
        duration = f"{seconds:.3f}"
        ending = f"{outcome.how} after {duration} s"
        if not outcome.fenced and self._may_try_again(known):
            if self.stopping:
                known.tell(f"not fenced, {ending}; left to the next agent", level=log.WARNING)
                return True
            pause = self.settings.retry_pause
            known.tell(
                f"not fenced yet, {ending}; another try follows in {pause:g} s",
                level=log.WARNING,
                duration=duration,
            )
            return False
        try:
            files.finish(outcome.fenced)
        except OSError as error:
            known.tell(f"{ending}, but {_why_lost(error)}", level=log.WARNING, duration=duration)
            return True
        if outcome.fenced:
            known.tell(f"fenced, {ending}", duration=duration)
        else:
            known.tell(f"could not be fenced, {ending}", level=log.ERROR, duration=duration)
        return True

    def _may_try_again(self, known: Known) -> bool:
        retries = self.settings.retries
        if retries is not None and known.attempt > retries:
            return False
        return known.request.left() > self.settings.retry_pause

    # Being told.

    def _ask_to_stop(self) -> None:
        if self._stop.is_set():
            self._stop_at_once.set()
        self._stop.set()

    def _ask_to_reload(self) -> None:
        self._spawn(self._reload())

    async def _reload(self) -> None:
        async with self._reloading:
            notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            path = self.settings.path
            try:
                self.settings = await configuration.read(path, log.event)
            except ConfigurationError as error:
                log.event(f"the configuration stays as it was: {error}", level=log.ERROR)
            else:
                log.event(f"serving fence requests as {path} says now")
                _allow_files(self.settings.parallel)
                self._turns.set_places(self.settings.parallel)
                self._look_now.set()
            notify("READY=1")

    async def _finish_serving(self) -> None:
        """Lets commands that run come to their end, for a while, and starts nothing new."""
        self.stopping = True
        notify("STOPPING=1")
        for known in self.known.values():
            if known.task is not None and known.files is None:
                known.task.cancel()
        if self._running():
            log.event(
                f"waiting up to {self.settings.stop_timeout:g} s for commands that run: "
                f"{self._running()}"
            )
        at_once = asyncio.ensure_future(self._stop_at_once.wait())
        end = time.monotonic() + self.settings.stop_timeout
        while self._serving and not at_once.done() and time.monotonic() < end:
            await asyncio.wait(
                {*self._serving, at_once},
                timeout=end - time.monotonic(),
                return_when=asyncio.FIRST_COMPLETED,
            )
        if self._serving:
            log.event(
                f"killing commands that still run: {self._running()}; "
                "their requests are left to the next agent",
                level=log.WARNING,
            )
        patience = 0.05 if at_once.done() else process.GRACE + process.TO_DIE
        while self._serving:
            # A task that is cancelled once more ends its command without more ado.
            for task in self._serving:
                task.cancel()
            await asyncio.wait(self._serving, timeout=patience)
            patience = 0.05

    async def _show_life(self) -> None:
        pause = watchdog_pause()
        while pause is not None:
            notify("WATCHDOG=1")
            await asyncio.sleep(pause)

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        # Nobody else holds on to it.
        self._others.add(task)
        task.add_done_callback(self._others.discard)
        return task


def _why_lost(error: OSError) -> str:
    """What it means that the kernel did not take a result."""
    if error.errno in GONE:
        return "the request is gone"
    if error.errno == errno.ESTALE:
        return "the request had already failed"
    return f"the kernel did not take it: {error.strerror}"


def _allow_files(commands: int) -> None:
    """Makes room for the open files of so many commands at a time.

    Not for as many as possible, because commands inherit this, and some count on a small number.
    """
    wanted = commands * FILES_PER_COMMAND + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
