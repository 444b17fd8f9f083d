# SPDX-License-Identifier: GPL-2.0-only
"""Records that outlive the agent: which rids are fenced, and which were mounted here.

A disk may be copied for use in another host. So records of mounts count only on the machine that
wrote them; records of fencings count anywhere.

Both are written to the state directory as they are made, by a thread, so a slow disk delays no
answer. A lost record costs one more fencing; a wrong one would cost the filesystem. So a damaged
file is put aside with an error in the log, and a record counts only for addresses of the host that
it was made for, and only while the hosts file gives that host the same name and devices: it may
have been corrected since. A record of a fencing by the command counts for addresses that are not in
the hosts file, whatever the command is now.

Why a record may answer a request: a rid identifies one mount, and no mount gets a rid that was used
before. A mount that could not write once can never write again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Any

from scoutfs_fenced import log
from scoutfs_fenced.statefile import StateError, read_state, write_state
from scoutfs_fenced.thread import in_thread

# How many rids of either kind are kept, and for how many seconds fenced ones. A leader that asks
# again does so within minutes.
MOST = 4096
LONGEST = 30 * 86400.0

# The ids of the machine and of the installation.
MACHINE = ("/sys/class/dmi/id/product_uuid", "/etc/machine-id")

# Seconds between two writes, and after one that has failed.
PAUSE = 0.2
FAILURE_PAUSE = 5.0


class Records:
    """The records, in memory and in the state directory."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, "records")
        # By rid: address, time, how, and `host`: Host.digest, or "" if the command has fenced it.
        self._fenced: dict[str, dict[str, Any]] = {}
        # By rid: when it was first seen here.
        self._mounted: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._complained = False
        self._load()

    def _load(self) -> None:
        try:
            content = read_state(self._path)
            if content is None:
                return
            now = time.time()
            fenced, mounted = content["fenced"], content["mounted"]
            if content["machine"] != machine():
                mounted = {}
            for rid, record in fenced.items():
                # Agents before this one did not record the host: which devices it had is unknown.
                if "host" in record and now - float(record["time"]) < LONGEST:
                    self._fenced[rid] = {
                        "address": str(record["address"]),
                        "time": float(record["time"]),
                        "how": str(record["how"]),
                        "host": str(record["host"]),
                    }
            self._mounted = {rid: float(since) for rid, since in mounted.items()}
        except (StateError, KeyError, TypeError, ValueError, AttributeError) as error:
            self._fenced, self._mounted = {}, {}
            why = str(error) if isinstance(error, StateError) else f"{self._path}: {error!r}"
            log.event(
                f"{why}; the agent begins without records, and keeps the file as "
                f"{self._path}.damaged",
                level=log.ERROR,
            )
            with suppress(OSError):
                os.replace(self._path, f"{self._path}.damaged")

    def fenced(self, rid: str, address: str, host: str) -> str | None:
        """How the rid was proven fenced at this address of this host before, or None.

        `host` is Host.digest, or an empty string if the hosts file does not have the address.
        """
        record = self._fenced.get(rid)
        if record is None or (record["address"], record["host"]) != (address, host):
            return None
        return f"{record['how']}, on {_date(record['time'])}"

    def add_fenced(self, rid: str, address: str, host: str, how: str) -> None:
        """Records that a rid is fenced for good, for fenced(); keeps the first proof."""
        if self.fenced(rid, address, host) is not None:
            return
        self._fenced[rid] = {"address": address, "time": time.time(), "how": how, "host": host}
        _drop_oldest(self._fenced)
        self._changed.set()

    def was_mounted_here(self, rid: str) -> bool:
        """Whether this host had the mount, in this boot or one before."""
        return rid in self._mounted

    def add_mounted(self, rids: AbstractSet[str]) -> None:
        """Records the mounts that this host has now."""
        new = rids - self._mounted.keys()
        if new:
            self._mounted.update(dict.fromkeys(sorted(new), time.time()))
            _drop_oldest(self._mounted, rids)
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
        content = {
            "machine": machine(),
            "fenced": dict(self._fenced),
            "mounted": dict(self._mounted),
        }
        try:
            await in_thread(write_state, self._path, content)
        except OSError as error:
            self._changed.set()
            if not self._complained:
                log.event(
                    f"records cannot be written to {self._path}: {error.strerror}; "
                    "after a restart, mounts that are fenced already are fenced again",
                    level=log.ERROR,
                )
            self._complained = True
        else:
            self._complained = False


def machine() -> str:
    """Distinguishes this machine from another with a copy of its disk."""
    found = []
    for path in MACHINE:
        with suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
            found.append(file.read().strip())
    return " ".join(found)


def _drop_oldest(records: dict[str, Any], keep: AbstractSet[str] = frozenset()) -> None:
    """Drops the oldest records above MOST; a table is in the order in which it was filled."""
    while len(records) > MOST:
        oldest = next((rid for rid in records if rid not in keep), None)
        if oldest is None:
            return
        del records[oldest]


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d at %H:%M:%S", time.localtime(seconds))
