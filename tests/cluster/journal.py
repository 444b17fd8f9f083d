# SPDX-License-Identifier: GPL-2.0-only
"""The events so far, by the lab's clock: all parts add events, faults wait for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


class FaultFailed(Exception):
    """An expected event did not happen, or a forbidden one did."""


@dataclass(frozen=True)
class Event:
    """An event that happened to a host or was reported by it."""

    # When the lab noticed it, in seconds of its monotonic clock.
    time: float
    host: int
    name: str
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def rid(self) -> int:
        """The rid that it concerns, or 0."""
        return int(self.facts.get("rid", "0"), 16)

    @property
    def slot(self) -> int:
        """The slot of the host that it concerns, which may differ from the one that reports it."""
        return int(self.facts.get("slot", self.host))


class Journal:
    """Events in the order in which the lab noticed them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.listeners: list[Callable[[Event], None]] = []
        self._changed = threading.Condition()

    def add(self, host: int, name: str, **facts: object) -> Event:
        """Records an event that has just happened."""
        texts = {key: str(fact) for key, fact in facts.items()}
        with self._changed:
            event = Event(time.monotonic(), host, name, texts)
            self.events.append(event)
            for listener in self.listeners:
                listener(event)
            self._changed.notify_all()
        return event

    def position(self) -> int:
        """The index of the next event."""
        return len(self.events)

    def find(self, since: int, test: Callable[[Event], bool]) -> Event | None:
        """The first event from `since` on that passes the test, or None."""
        return next((event for event in self.events[since:] if test(event)), None)

    def wait(self, what: str, since: int, within: float, test: Callable[[Event], bool]) -> Event:
        """Waits for an event from `since` on that passes the test."""
        end = time.monotonic() + within
        with self._changed:
            while not (event := self.find(since, test)):
                left = end - time.monotonic()
                if left <= 0:
                    raise FaultFailed(f"it did not happen within {within:g} s: {what}")
                self._changed.wait(left)
            return event
