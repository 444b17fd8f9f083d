# SPDX-License-Identifier: GPL-2.0-only
"""What the agent reports to its own parts: the history, the hook, metrics.

A subscriber is a function that gets each event as it happens. It must return at once: it runs on
the event loop, between two answers to the kernel. One that raises is logged and stays subscribed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Callable

from scoutfs_fenced import log

# A request was found. Fields: rid, address, reason, mount, and host if the hosts file has one.
REQUEST_BEGUN = "request-begun"
# The kernel has its answer, `fenced` or `error`. Besides: how, a phrase; duration, in seconds since
# the agent found the request.
REQUEST_FENCED = "request-fenced"
REQUEST_FAILED = "request-failed"
# The agent answers it no more: it is gone, or was finished by someone else. Besides: how.
REQUEST_DROPPED = "request-dropped"
# A device stopped answering, or answers again. Fields: device, host, and how, a phrase.
DEVICE_LOST = "device-lost"
DEVICE_BACK = "device-back"


@dataclass(frozen=True)
class Event:
    """Something that has happened."""

    kind: str
    fields: Mapping[str, str]
    # In seconds since 1970.
    time: float = field(default_factory=time.time)


Subscriber = Callable[[Event], None]


class Events:
    """Passes each event on to every subscriber."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> None:
        """Has it called for each event from now on."""
        self._subscribers.append(subscriber)

    def publish(self, kind: str, **fields: str) -> None:
        """Tells every subscriber. Does not sleep, and never raises."""
        event = Event(kind, fields)
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception as error:
                log.event(f"unexpected, on {kind}: {error!r}", level=log.ERROR)
