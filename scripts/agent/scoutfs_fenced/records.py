# SPDX-License-Identifier: GPL-2.0-only
"""What the agent knows beyond its own life: which rids are fenced, and which were mounted here.

A disk may be copied, and the copy be the disk of another host. So what was mounted here counts only
on the machine that wrote it; what was fenced is so anywhere.

Both are written to the state directory as they become known, by a thread, so that a slow disk
delays no answer. A record that is lost costs one more fencing; one that is wrong would cost the
filesystem. So a damaged file is put aside, loudly, and a record counts only together with the
address that it was made for.

Why a record may answer a request: a rid is the identity of one mount, and no mount gets a rid that
was used before. A mount that could not write once can never write again.
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

# How many rids are kept, of either kind, and how many seconds. A leader that asks again does so
# within minutes.
MOST = 4096
LONGEST = 30 * 86400.0

# The machine's own number, and that of the installation.
MACHINE = ("/sys/class/dmi/id/product_uuid", "/etc/machine-id")

# Seconds between two writes.
PAUSE = 0.2


class Records:
    """The records, in memory and in the state directory."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, "records")
        # By rid: address, time and how.
        self._fenced: dict[str, dict[str, Any]] = {}
        # By rid: when it was seen here first.
        self._mounted: dict[str, float] = {}
        self._changed = asyncio.Event()
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
                if now - float(record["time"]) < LONGEST:
                    self._fenced[rid] = {
                        "address": str(record["address"]),
                        "time": float(record["time"]),
                        "how": str(record["how"]),
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

    def fenced(self, rid: str, address: str) -> str | None:
        """How the rid was proven fenced at this address before; None if it was not."""
        record = self._fenced.get(rid)
        if record is None or record["address"] != address:
            return None
        return f"{record['how']}, on {_date(record['time'])}"

    def add_fenced(self, rid: str, address: str, how: str) -> None:
        """Notes that a rid is fenced for good. The first proof is kept."""
        before = self._fenced.get(rid)
        if before is not None and before["address"] == address:
            return
        self._fenced[rid] = {"address": address, "time": time.time(), "how": how}
        _drop_oldest(self._fenced)
        self._changed.set()

    def was_mounted_here(self, rid: str) -> bool:
        """Whether this host had the mount, in this boot or one before."""
        return rid in self._mounted

    def add_mounted(self, rids: AbstractSet[str]) -> None:
        """Notes the mounts that this host has now."""
        new = rids - self._mounted.keys()
        if new:
            self._mounted.update(dict.fromkeys(sorted(new), time.time()))
            _drop_oldest(self._mounted, rids)
            self._changed.set()

    async def keep_writing(self) -> None:
        """Writes what has changed, for ever."""
        while True:
            await self._changed.wait()
            await self.write()
            await asyncio.sleep(PAUSE)

    async def write(self) -> None:
        """Writes what has changed; a failure is logged once, until it works again."""
        if not self._changed.is_set():
            return
        self._changed.clear()
        content = {
            "machine": machine(),
            "fenced": dict(self._fenced),
            "mounted": dict(self._mounted),
        }
        try:
            await asyncio.get_running_loop().run_in_executor(None, write_state, self._path, content)
        except OSError as error:
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
    """What tells this machine from another one that has a copy of its disk."""
    found = []
    for path in MACHINE:
        with suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
            found.append(file.read().strip())
    return " ".join(found)


def _drop_oldest(records: dict[str, Any], keep: AbstractSet[str] = frozenset()) -> None:
    """Keeps a table small; it is in the order in which it was filled."""
    while len(records) > MOST:
        oldest = next((rid for rid in records if rid not in keep), None)
        if oldest is None:
            return
        del records[oldest]


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d at %H:%M:%S", time.localtime(seconds))
