# SPDX-License-Identifier: GPL-2.0-only
"""The shared disk: one sector for each host's stamps, and one for its reclaims.

Both hosts and judge use this module. All reads and writes use O_DIRECT, so that
no reader sees data that is only in a page cache.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
SLOTS = 8
PAGE = 4096
# One page of stamps, one of reclaims.
SIZE = 1 << 20

_STAMP = struct.Struct("<8sIIQQQQd")
_STAMP_MAGIC = b"FNCSTAMP"
_RECLAIM = struct.Struct("<8sIIQQq")
_RECLAIM_MAGIC = b"FNCRECLM"
_CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True)
class Stamp:
    """A host writes stamps repeatedly to show that it can write."""

    slot: int
    rid: int
    counter: int
    # The term this host was elected for, if it leads, or the newest known.
    term: int
    leads: bool
    # The rid of the host's previous mount, if no leader has reclaimed it; otherwise 0.
    previous: int
    # By the host's own clock, for human readers.
    time: float

    def pack(self) -> bytes:
        """The sector."""
        return _with_checksum(
            _STAMP.pack(
                _STAMP_MAGIC,
                self.slot,
                self.leads,
                self.rid,
                self.counter,
                self.term,
                self.previous,
                self.time,
            )
        )


@dataclass(frozen=True)
class Reclaim:
    """A record that a leader has taken over what a fenced mount held."""

    slot: int
    rid: int
    # The leader's own rid and slot.
    by: int
    by_slot: int
    # The number of the last stamp as read by the leader after the mount was fenced; -1 if the
    # host's next life had overwritten it.
    counter: int

    def pack(self) -> bytes:
        """The sector."""
        return _with_checksum(
            _RECLAIM.pack(_RECLAIM_MAGIC, self.slot, self.by_slot, self.rid, self.by, self.counter)
        )


def _with_checksum(data: bytes) -> bytes:
    return (data + _CHECKSUM.pack(zlib.crc32(data))).ljust(SECTOR, b"\0")


def _is_whole(sector: bytes, size: int) -> bool:
    (checksum,) = _CHECKSUM.unpack_from(sector, size)
    return bool(checksum == zlib.crc32(sector[:size]))


def _stamp(sector: bytes) -> Stamp | None:
    magic, slot, leads, rid, counter, term, previous, time = _STAMP.unpack_from(sector)
    if magic != _STAMP_MAGIC or not _is_whole(sector, _STAMP.size):
        return None
    return Stamp(slot, rid, counter, term, bool(leads), previous, time)


def _reclaim(sector: bytes) -> Reclaim | None:
    magic, slot, by_slot, rid, by, counter = _RECLAIM.unpack_from(sector)
    if magic != _RECLAIM_MAGIC or not _is_whole(sector, _RECLAIM.size):
        return None
    return Reclaim(slot, rid, by, by_slot, counter)


@dataclass(frozen=True)
class Content:
    """The disk at one moment; None for a slot that was never written."""

    stamps: list[Stamp | None]
    reclaims: list[Reclaim | None]

    def is_reclaimed(self, slot: int, rid: int) -> bool:
        """Whether a leader has taken over what this mount held."""
        reclaim = self.reclaims[slot]
        return reclaim is not None and reclaim.rid == rid


class Disk:
    """The shared disk; not thread-safe."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        # O_DIRECT needs buffers aligned to the sector size, which mmap provides.
        self._read = mmap.mmap(-1, 2 * PAGE)
        self._write = mmap.mmap(-1, PAGE)

    def read(self) -> Content:
        """Reads the whole content at once."""
        os.preadv(self._file, [self._read], 0)
        data = self._read[:]
        sectors = [data[start : start + SECTOR] for start in range(0, 2 * PAGE, SECTOR)]
        return Content(
            [_stamp(sector) for sector in sectors[:SLOTS]],
            [_reclaim(sector) for sector in sectors[SLOTS:]],
        )

    def _put(self, data: bytes, offset: int) -> None:
        self._write[:SECTOR] = data
        os.pwritev(self._file, [memoryview(self._write)[:SECTOR]], offset)

    def write_stamp(self, stamp: Stamp) -> None:
        """Writes a host's stamp into its slot."""
        self._put(stamp.pack(), stamp.slot * SECTOR)

    def write_reclaim(self, reclaim: Reclaim) -> None:
        """Records that a mount was reclaimed."""
        self._put(reclaim.pack(), PAGE + reclaim.slot * SECTOR)
