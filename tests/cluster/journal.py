# SPDX-License-Identifier: GPL-2.0-only
"""What has happened, by the lab's clock: all parts write it, faults wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


class FaultFailed(Exception):
    """Something did not happen, or happened that must not."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a host, or that it reported."""

    # Seconds by the lab's monotonic clock, when the lab came to know of it.
    time: float
    host: int
    name: str
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def rid(self) -> int:
        """The rid that it is about; 0 is none."""
        return int(self.facts.get("rid", "0"), 16)

    @property
    def slot(self) -> int:
        """The slot of the host that it is about, which need not be the one that reports it."""
        return int(self.facts.get("slot", self.host))


class Journal:
    """Events in the order in which the lab came to know of them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.listeners: list[Callable[[Event], None]] = []
        self._changed = threading.Condition()

    def add(self, host: int, name: str, **facts: object) -> Event:
        """Notes that something has just happened."""
        texts = {key: str(fact) for key, fact in facts.items()}
        with self._changed:
            event = Event(time.monotonic(), host, name, texts)
            self.events.append(event)
            for listener in self.listeners:
                listener(event)
            self._changed.notify_all()
        return event

    def position(self) -> int:
        """The index that the next event will get."""
        return len(self.events)

    def find(self, since: int, test: Callable[[Event], bool]) -> Event | None:
        """The first event from a position on of which something is true."""
        return next((event for event in self.events[since:] if test(event)), None)

    def wait(self, what: str, since: int, within: float, test: Callable[[Event], bool]) -> Event:
        """The first event from a position on of which something is true, once it is there."""
        end = time.monotonic() + within
        with self._changed:
            while not (event := self.find(since, test)):
                left = end - time.monotonic()
                if left <= 0:
                    raise FaultFailed(f"it did not happen within {within:g} s: {what}")
                self._changed.wait(left)
            return event
