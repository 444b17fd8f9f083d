# SPDX-License-Identifier: GPL-2.0-only
"""The agent process: signals, reloads, systemd's watchdog, and shutdown.

Discovery finds requests, the scheduler serves them.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import time
from collections.abc import Coroutine

from scoutfs_fenced import configuration, log
from scoutfs_fenced.configuration import Configuration, ConfigurationError
from scoutfs_fenced.discovery import Discovery
from scoutfs_fenced.history import History
from scoutfs_fenced.hook import Hook
from scoutfs_fenced.metrics import Metrics
from scoutfs_fenced.notify import notify, watchdog_pause
from scoutfs_fenced.records import Records
from scoutfs_fenced.scheduler import Scheduler
from scoutfs_fenced.statefile import state_directory

# Open files that the agent needs for each command, and for everything else.
FILES_PER_COMMAND = 8
OTHER_FILES = 128

# Seconds between two reads of this host's mounts and of the acknowledgements.
TICK = 2.0

# Seconds that writing files, and the hook's programs, may take at shutdown.
SECONDS_TO_WRITE = 5.0
SECONDS_FOR_HOOK = 5.0


class Server:
    """Serves requests until a signal stops it."""

    def __init__(self, settings: Configuration, sysfs: str) -> None:
        self.settings = settings
        self.began = time.time()
        # Why the last reload changed nothing.
        self.refused: str | None = None
        self.records = Records(state_directory())
        self.history = History(state_directory())
        self.scheduler = Scheduler(settings, sysfs, self.records, state_directory())
        self.metrics = Metrics(
            self.began,
            lambda: self.settings.metrics,
            self.scheduler.left,
            self.scheduler.devices.states,
        )
        self.hook = Hook(lambda: self.settings)
        for subscriber in (self.history.add, self.metrics.add, self.hook.add):
            self.scheduler.events.subscribe(subscriber)
        self._sysfs = sysfs
        self.discovery = Discovery(sysfs, self.scheduler)
        self._background: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._stop_at_once = asyncio.Event()
        self._reloading = asyncio.Lock()
        # The unexpected exception that ends the agent.
        self._unexpected: BaseException | None = None
        _allow_files(settings.parallel)

    async def serve(self) -> None:
        """Runs until a signal stops it; returns when nothing runs any more."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._ask_to_reload)
        self.discovery.listen()
        self._spawn(self._show_life())
        self.scheduler.tick()
        self._spawn(self._keep_ticking())
        self._spawn(self.records.keep_writing())
        self._spawn(self.history.keep_writing())
        self._spawn(self.metrics.keep_writing())
        self._spawn(self.discovery.run(self._scanned))
        stop = asyncio.ensure_future(self._stop.wait())
        # Mounts that are made after READY need access to their disks.
        unfencing = self._spawn(
            self.scheduler.devices.unfence(self._sysfs, self.settings.environment)
        )
        await asyncio.wait({stop, unfencing}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.done():
            self._spawn(
                self.scheduler.devices.watch(
                    self._sysfs,
                    lambda: self.settings.monitor,
                    lambda: self.settings.environment,
                )
            )
            log.event(f"serving fence requests, as {self.settings.path} says")
            notify("READY=1")
        await stop
        notify("STOPPING=1")
        at_once = asyncio.ensure_future(self._stop_at_once.wait())
        await self.scheduler.stop(at_once)
        written = (self.records, self.history, self.metrics)
        await asyncio.wait(
            [asyncio.ensure_future(each.write()) for each in written], timeout=SECONDS_TO_WRITE
        )
        await self.hook.stop(SECONDS_FOR_HOOK)
        log.event("stopped")
        if self._unexpected is not None:
            raise self._unexpected

    def _scanned(self) -> None:
        requests, running = len(self.scheduler.requests), self.scheduler.running()
        notify(f"STATUS={requests} requests, {running} of them being fenced")

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
                self.refused = str(error)
                log.event(f"the configuration stays as it was: {error}", level=log.ERROR)
            else:
                self.refused = None
                log.event(f"serving fence requests as {path} says now")
                _allow_files(self.settings.parallel)
                self.scheduler.configure(self.settings)
                self.discovery.scan_soon()
                self._spawn(self.scheduler.devices.unfence(self._sysfs, self.settings.environment))
            notify("READY=1")

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self.scheduler.tick()

    async def _show_life(self) -> None:
        pause = watchdog_pause()
        while pause is not None:
            notify("WATCHDOG=1")
            await asyncio.sleep(pause)

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        # The event loop itself keeps only a weak reference.
        self._background.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Stops the agent if one of its tasks has failed: systemd starts it again."""
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.event(f"unexpected, the agent ends: {error!r}", level=log.ERROR)
            self._unexpected = error
            self._stop.set()


def _allow_files(commands: int) -> None:
    """Raises the limit of open files for this many commands at a time.

    Not to the maximum: commands inherit the limit, and some rely on a small one.
    """
    wanted = commands * FILES_PER_COMMAND + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
