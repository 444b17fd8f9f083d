# SPDX-License-Identifier: GPL-2.0-only
"""Which scoutfs mounts this host has, as sysfs shows them.

scoutfs has a directory /sys/fs/scoutfs/f.FSID.r.RID for each mount, created before the mount can
write and removed after it no longer can. Its name has the first six digits of the rid, its file
`rid` all of them. A filesystem that gives the module no directory of its own has one named by its
device number, /sys/fs/scoutfs_fence/MAJOR:MINOR, which does not show the rid.

In doubt, a mount counts as mounted here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

NAME = re.compile(r"f\.[0-9a-f]+\.r\.([0-9a-f]+)")
RID = re.compile(r"[0-9a-f]{16}")

# The name of a directory has the rid's first 24 bits.
SHIFT = 64 - 24


@dataclass(frozen=True)
class Mounts:
    """The mounts of this host, at one moment."""

    # Mounts whose rid is known.
    rids: frozenset[str]
    # The first 24 bits of rids that are not known in full.
    beginnings: frozenset[int]
    # Whether there may be other mounts, of which nothing is known.
    others: bool

    def has(self, rid: str) -> bool:
        """Whether the mount is certainly here."""
        return rid in self.rids

    def may_have(self, rid: str) -> bool:
        """Whether the mount is here or may be."""
        return self.others or rid in self.rids or int(rid, 16) >> SHIFT in self.beginnings


def read_mounts(sysfs: str, mountinfo: str = "/proc/self/mountinfo") -> Mounts:
    """Reads sysfs. Never raises: what cannot be read counts as a mount of every possible rid."""
    rids: set[str] = set()
    beginnings: set[int] = set()
    others = False
    for name in _names(os.path.join(sysfs, "fs/scoutfs")):
        if name is None:
            others = True
            continue
        rid = _read_rid(os.path.join(sysfs, "fs/scoutfs", name, "rid"))
        found = NAME.fullmatch(name)
        if rid is not None:
            rids.add(rid)
        elif found:
            beginnings.add(int(found[1], 16))
        else:
            others = True
    devices = list(_names(os.path.join(sysfs, "fs/scoutfs_fence")))
    if devices:
        # scoutfs mounts are found above, with their rid, wherever their requests are.
        known = _scoutfs_devices(mountinfo)
        others = others or any(device not in known for device in devices)
    return Mounts(frozenset(rids), frozenset(beginnings), others)


def _names(path: str) -> Iterator[str | None]:
    """The names of the directories in a directory; None if it cannot be read."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield entry.name
    except FileNotFoundError:
        return
    except OSError:
        yield None


def _read_rid(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            rid = file.read().strip()
    except OSError:
        return None
    return rid if RID.fullmatch(rid) else None


def _scoutfs_devices(mountinfo: str) -> set[str]:
    """The device numbers of mounted scoutfs filesystems."""
    try:
        with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.split() for line in file]
    except OSError:
        return set()
    return {
        words[2]
        for words in lines
        if "-" in words and words[words.index("-") + 1 : words.index("-") + 2] == ["scoutfs"]
    }
