# SPDX-License-Identifier: GPL-2.0-only
"""Events that the agent publishes to its history, hook and metrics.

A subscriber is a function that is called with each event as it happens. It must return at once: it
runs on the event loop, between two answers to the kernel. If it raises, the exception is logged and
it stays subscribed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Callable

from scoutfs_fenced import log

# A request was found. Fields: rid, address, reason, mount, and host if the hosts file has one.
REQUEST_BEGUN = "request-begun"
# A request was answered with `fenced` or `error`. More fields: how, a phrase; duration, in seconds
# since the agent found the request.
REQUEST_FENCED = "request-fenced"
REQUEST_FAILED = "request-failed"
# The agent stopped serving it: it is gone, or was finished by another writer. One more field: how.
REQUEST_DROPPED = "request-dropped"
# A device stopped answering, or answers again. Fields: device, host, and how, a phrase.
DEVICE_LOST = "device-lost"
DEVICE_BACK = "device-back"


@dataclass(frozen=True)
class Event:
    """One event."""

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
        """Calls the subscriber for each event from now on."""
        self._subscribers.append(subscriber)

    def publish(self, kind: str, **fields: str) -> None:
        """Calls every subscriber. Does not sleep, and never raises."""
        event = Event(kind, fields)
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception as error:
                log.event(f"unexpected, on {kind}: {error!r}", level=log.ERROR)
