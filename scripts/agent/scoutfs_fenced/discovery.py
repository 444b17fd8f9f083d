# SPDX-License-Identifier: GPL-2.0-only
"""Finds fence requests: by the kernel's uevents, and by scanning sysfs.

Sysfs is scanned at the start, after uevents were lost, and every SCOUTFS_FENCED_DELAY seconds:
scoutfs's built-in fencing sends no uevents. The requests found go to the scheduler.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Callable

from scoutfs_fenced import log
from scoutfs_fenced.request import (
    GONE,
    PARENTS,
    Request,
    find_requests,
    is_scanned,
    read_request,
)
from scoutfs_fenced.scheduler import Scheduler
from scoutfs_fenced.uevents import Uevent, Uevents, UeventsLost

# How many requests or messages are handled before the event loop continues with other work.
BATCH = 50


class Discovery:
    """Reports requests to the scheduler as they come, change and go."""

    def __init__(self, sysfs: str, scheduler: Scheduler) -> None:
        self._sysfs = sysfs
        self._scheduler = scheduler
        self._uevents: Uevents | None = None
        self._scan_now = asyncio.Event()
        # Directories that could not be read, and how often; each is logged once.
        self._unreadable: dict[str, int] = {}

    @property
    def has_uevents(self) -> bool:
        """Whether the kernel's uevents are received."""
        return self._uevents is not None

    def listen(self) -> None:
        """Subscribes to uevents; without them, only scans find requests."""
        try:
            self._uevents = Uevents()
        except OSError as error:
            log.event(
                f"uevents cannot be received: {error.strerror}; "
                f"sysfs is scanned every {self._scheduler.settings.delay:g} s",
                level=log.WARNING,
            )
        else:
            asyncio.get_running_loop().add_reader(self._uevents, self._receive)

    def scan_soon(self) -> None:
        """Starts the next scan without waiting."""
        self._scan_now.set()

    async def run(self, scanned: Callable[[], None]) -> None:
        """Scans forever; `scanned` is called after each scan."""
        while True:
            self._scan_now.clear()
            await self.scan()
            scanned()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._scan_now.wait(), self._scheduler.settings.delay)

    async def scan(self) -> None:
        """Looks through sysfs once."""
        unknown: list[str] = []

        def cannot_scan(path: str, error: OSError) -> None:
            unknown.append(os.path.join(path, ""))
            self._cannot_scan(path, error)

        present = dict(find_requests(self._sysfs, cannot_scan))
        for directory in self._scheduler.directories() - present.keys():
            # Below a directory that could not be read, for want of open files, it may be there.
            if not directory.startswith(tuple(unknown)):
                self._scheduler.remove(directory)
        self._unreadable = {
            path: times for path, times in self._unreadable.items() if os.path.isdir(path)
        }
        new = []
        for directory, inode in present.items():
            if self._scheduler.inode(directory) != inode:
                new.append(directory)
            else:
                self._scheduler.recheck_running(directory)
        for begin in range(0, len(new), BATCH):
            self._read(new[begin : begin + BATCH])
            await asyncio.sleep(0)

    def _receive(self) -> None:
        assert self._uevents is not None
        try:
            for _ in range(BATCH):
                event = self._uevents.receive()
                if event is None:
                    return
                self._handle(event)
        except UeventsLost:
            log.event("some of the kernel's uevents are lost", level=log.WARNING)
            self.scan_soon()

    def _handle(self, event: Uevent) -> None:
        directory = os.path.join(self._sysfs, event.directory)
        if not is_scanned(event.directory):
            # The next scan would take it for gone, and mounts.py does not know its mount.
            if event.action == "add":
                log.event(
                    f"the request {directory} is not served: only those of mounts in "
                    f"{' and '.join(PARENTS)} are",
                    level=log.ERROR,
                )
            return
        if event.action == "add":
            self._read([directory])
        else:
            # Even after `remove` there may be a directory, of a later request for this rid.
            self._scheduler.recheck(directory)

    def _read(self, directories: list[str]) -> None:
        """Reads new requests, and passes them on together."""
        found: list[tuple[Request, bool]] = []
        leader_timeout = self._scheduler.settings.leader_timeout
        for directory in directories:
            try:
                found.append(read_request(directory, self._sysfs, leader_timeout))
            except (OSError, ValueError) as error:
                self._cannot_read(directory, error)
        self._scheduler.add(found)

    def _cannot_scan(self, path: str, error: OSError) -> None:
        if path not in self._unreadable:
            log.event(f"cannot look for requests in {path}: {error.strerror}", level=log.ERROR)
        self._unreadable[path] = 1

    def _cannot_read(self, directory: str, error: OSError | ValueError) -> None:
        times = self._unreadable[directory] = self._unreadable.get(directory, 0) + 1
        # A directory may be incomplete while it is created or removed, but not in two scans.
        incomplete = isinstance(error, OSError) and error.errno in GONE
        if times == (2 if incomplete else 1):
            log.event(f"cannot read the request {directory}: {error}", level=log.ERROR)
