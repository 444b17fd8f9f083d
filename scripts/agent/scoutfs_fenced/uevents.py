# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's uevents about requests, received through a netlink socket.

C header: linux/netlink.h; the format of a message is that of the kernel's lib/kobject_uevent.c
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass

SUBSYSTEM = b"scoutfs_fence"

_NETLINK_KOBJECT_UEVENT = 15
_KERNELS_GROUP = 1
_SO_RCVBUFFORCE = 33

# Room for some thousand messages: a leader may ask for that many hosts at once.
_ROOM = 8 << 20


class UeventsLost(Exception):
    """The socket was full, and some messages are lost."""


@dataclass(frozen=True)
class Uevent:
    """A uevent about a request."""

    # `add`, `change` if it was finished, or `remove`.
    action: str
    # Its directory, below sysfs.
    directory: str


class Uevents:
    """Receives uevents about requests. The constructor raises OSError if that is impossible."""

    def __init__(self) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_KOBJECT_UEVENT)
        try:
            # SO_RCVBUF is for an agent without the right to SO_RCVBUFFORCE.
            for option in (socket.SO_RCVBUF, _SO_RCVBUFFORCE):
                with suppress(OSError):
                    self._socket.setsockopt(socket.SOL_SOCKET, option, _ROOM)
            self._socket.bind((0, _KERNELS_GROUP))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For the event loop to wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stops listening."""
        self._socket.close()

    def receive(self) -> Uevent | None:
        """The next uevent about a request, or None if there is none now."""
        while True:
            try:
                message, sender = self._socket.recvfrom(1 << 14)
            except BlockingIOError:
                return None
            except OSError as error:
                raise UeventsLost from error
            event = parse(message)
            # Any process may send to this socket, but only the kernel's port id is 0.
            if event is not None and sender[0] == 0:
                return event


def parse(message: bytes) -> Uevent | None:
    """The uevent in a message; None if it is not about a request."""
    variables = dict(part.partition(b"=")[::2] for part in message.split(b"\0")[1:])
    if variables.get(b"SUBSYSTEM") != SUBSYSTEM:
        return None
    action, directory = variables.get(b"ACTION"), variables.get(b"DEVPATH")
    if action is None or directory is None:
        return None
    return Uevent(os.fsdecode(action), os.fsdecode(directory).lstrip("/"))
