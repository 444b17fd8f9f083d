# SPDX-License-Identifier: GPL-2.0-only
"""Which hosts a device was seen to let in: the file `registrations.json` in the state folder.

A device that keeps hosts out by their name (`unfence` in the hosts file) says "off" for a misspelt
name too. Once it has said "on" for a host, the name is right; this is recorded here, also for later
agents. The record is a digest of Device.parameters: if any of them changes, it no longer counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import Callable

from scoutfs_fenced.hosts import Device
from scoutfs_fenced.statefile import StateError, read_state, write_state

FILE = "registrations.json"


class Registrations:
    """The devices that have said "on"; read once, and written when one is added."""

    def __init__(self, directory: str, say: Callable[[str], None]) -> None:
        self._path = os.path.join(directory, FILE)
        self._say = say
        self._seen: dict[str, int] = {}
        self._written = True
        try:
            seen = read_state(self._path)
        except StateError as error:
            # Unknown counts as not seen, which is safe.
            say(str(error))
        else:
            if isinstance(seen, dict):
                self._seen = seen

    def __contains__(self, device: Device) -> bool:
        return _digest(device) in self._seen

    def add(self, device: Device) -> None:
        """Records that the device lets its host in."""
        digest = _digest(device)
        if digest in self._seen and self._written:
            return
        self._seen.setdefault(digest, int(time.time()))
        try:
            write_state(self._path, self._seen)
            self._written = True
        except OSError as error:
            # Tried again when a device says "on" the next time.
            if self._written:
                self._say(
                    f"{self._path} cannot be written, so that the next agent will not know that "
                    f"{device} has let its host in: {error.strerror}"
                )
            self._written = False


def _digest(device: Device) -> str:
    return hashlib.sha256(json.dumps(device.parameters).encode()).hexdigest()
