# SPDX-License-Identifier: GPL-2.0-only
"""Slots for attempts: SCOUTFS_FENCED_PARALLEL hosts are fenced at a time, the most urgent first."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Urgency = tuple[float, ...]


@dataclass(order=True)
class Place:
    """A place in the queue for slots; the lesser urgency value comes first."""

    urgency: Urgency
    granted: asyncio.Future[None] = field(compare=False)


class Slots:
    """Grants slots in the order of urgency."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken = 0
        # The most urgent first.
        self._waiting: list[Place] = []

    def set_count(self, count: int) -> None:
        """Changes the number of slots."""
        self._count = count
        self._grant()

    def place(self, urgency: Urgency) -> Place:
        """Joins the queue; the place is for one use of slot()."""
        place = Place(urgency, asyncio.get_running_loop().create_future())
        bisect.insort(self._waiting, place)
        self._grant()
        return place

    def hurry(self, place: Place, urgency: Urgency) -> None:
        """Moves a place forward, if it still waits and this is more urgent."""
        others = [each for each in self._waiting if each is not place]
        if urgency < place.urgency and len(others) < len(self._waiting):
            self._waiting = others
            place.urgency = urgency
            bisect.insort(self._waiting, place)

    @asynccontextmanager
    async def slot(self, place: Place) -> AsyncIterator[None]:
        """Waits for a slot, and holds it within the context."""
        try:
            await place.granted
        except asyncio.CancelledError:
            # If it was not granted yet, _grant() skips it, as it is cancelled.
            if not place.granted.cancelled():
                self._release()
            raise
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        self._taken -= 1
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._taken < self._count:
            place = self._waiting.pop(0)
            if not place.granted.cancelled():
                self._taken += 1
                place.granted.set_result(None)
