# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's notifications: uevents and files that can be polled."""

import errno
import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import kernel
from fence import Request, Stopwatch, equal

SUBSYSTEM = "scoutfs_fence"

# Missing from Python's socket module.
NETLINK_KOBJECT_UEVENT = 15
SO_RCVBUFFORCE = 33

# Seconds within which an event must arrive, and in which no other one may.
SOON = 5
QUIET = 0.03

_OF_EVERY_UEVENT = {"ACTION", "DEVPATH", "SUBSYSTEM", "SEQNUM"}
_OURS = {f"SCOUTFS_FENCE_{name}" for name in ("RID", "ADDRESS", "REASON", "STATE")}


@dataclass(frozen=True)
class Event:
    """A request's uevent; comparisons ignore the number."""

    action: str
    path: Path
    rid: str
    address: str
    reason: str
    state: str
    number: int = field(compare=False, default=0)

    def __repr__(self) -> str:
        words = (self.action, self.path, self.rid, self.address, self.reason, self.state)
        return " ".join(map(str, words))


def _parse(message: bytes) -> Event | None:
    """Parses a message; returns None if it is not about a request."""
    head, *variables = message.decode().rstrip("\0").split("\0")
    values = dict(variable.split("=", 1) for variable in variables)
    if values.get("SUBSYSTEM") != SUBSYSTEM:
        return None
    equal(set(values), _OF_EVERY_UEVENT | _OURS, f"the variables of {head}")
    equal(len(values), len(variables), f"how many variables {head} has")
    equal(head, f"{values['ACTION']}@{values['DEVPATH']}")
    return Event(
        values["ACTION"],
        Path(f"/sys{values['DEVPATH']}"),
        values["SCOUTFS_FENCE_RID"],
        values["SCOUTFS_FENCE_ADDRESS"],
        values["SCOUTFS_FENCE_REASON"],
        values["SCOUTFS_FENCE_STATE"],
        int(values["SEQNUM"]),
    )


class Listener:
    """Receives all uevents of requests from its creation on; some `may_be_lost`."""

    def __init__(self, may_be_lost: bool = False) -> None:
        self._may_be_lost = may_be_lost
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT
        )
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self._socket.bind((0, 1))

    def events(self, within: float = 0) -> list[Event]:
        """The events since the last call; waits up to `within` seconds for the first message."""
        events = []
        while select.select([self._socket], [], [], within)[0]:
            within = 0
            try:
                event = _parse(self._socket.recv(8192))
            except OSError as error:
                if error.errno != errno.ENOBUFS or not self._may_be_lost:
                    raise
                continue
            if event:
                events.append(event)
        return events

    def next(self, count: int) -> list[Event]:
        """Waits for `count` events, and a moment longer for unexpected ones."""
        events: list[Event] = []
        watch = Stopwatch()
        while len(events) < count and watch.seconds() < SOON * kernel.PATIENCE:
            events += self.events(0.1)
        return events + self.events(QUIET)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def listening(may_be_lost: bool = False) -> Iterator[Listener]:
    listener = Listener(may_be_lost)
    try:
        yield listener
    finally:
        listener.close()


class Polled:
    """A file of a request, read once and then polled for changes."""

    def __init__(self, request: Request, name: str) -> None:
        self._name = name
        self._file = os.open(request.path / name, os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLPRI)
        self.read()

    def read(self) -> str:
        return os.pread(self._file, 4096, 0).decode()

    def news(self, within: float) -> str | None:
        """The new content, or None if poll reports no change within so many seconds."""
        woken = self._poll.poll(within * 1000)
        if not woken:
            return None
        equal(woken, [(self._file, select.POLLPRI | select.POLLERR)], "what poll says")
        return self.read()

    def tells(self, news: str | None) -> None:
        """Checks that the file changes to `news`, or does not change if None."""
        equal(self.news(QUIET if news is None else SOON * kernel.PATIENCE), news, self._name)

    def close(self) -> None:
        os.close(self._file)


@contextmanager
def polling(request: Request) -> Iterator[tuple[Polled, Polled]]:
    """Polls the files fenced and error of a request."""
    files = (Polled(request, "fenced"), Polled(request, "error"))
    try:
        yield files
    finally:
        for file in files:
            file.close()
