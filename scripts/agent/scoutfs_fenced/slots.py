# SPDX-License-Identifier: GPL-2.0-only
"""Slots for commands: so many at a time, one for each address, the most urgent first."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from scoutfs_fenced.request import UNKNOWN_ADDRESSES


@dataclass(order=True)
class _Waiting:
    urgency: tuple[float, ...]
    address: str = field(compare=False)
    granted: asyncio.Future[None] = field(compare=False)


class Slots:
    """Grants slots in the order of urgency.

    Nothing waits that could run: a task waits for one of the slots, or for another task that has
    one for the same address.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken = 0
        self._busy: set[str] = set()
        # The most urgent first.
        self._waiting: list[_Waiting] = []

    def set_count(self, count: int) -> None:
        """Changes how many commands may run at a time."""
        self._count = count
        self._grant()

    def address_is_busy(self, address: str) -> bool:
        """Whether a slot is taken for the address."""
        return address in self._busy

    @asynccontextmanager
    async def slot(self, address: str, *urgency: float) -> AsyncIterator[None]:
        """Waits for a slot, and holds it in the context; less comes first in urgency."""
        await self._acquire(address, urgency)
        try:
            yield
        finally:
            self._release(address)

    async def _acquire(self, address: str, urgency: tuple[float, ...]) -> None:
        if self._is_free(address):
            self._occupy(address)
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        bisect.insort(self._waiting, _Waiting(urgency, address, granted))
        try:
            await granted
        except asyncio.CancelledError:
            # If it was not granted yet, _grant() finds it cancelled.
            if not granted.cancelled():
                self._release(address)
            raise

    def _is_free(self, address: str) -> bool:
        return self._taken < self._count and address not in self._busy

    def _occupy(self, address: str) -> None:
        self._taken += 1
        if address not in UNKNOWN_ADDRESSES:
            self._busy.add(address)

    def _release(self, address: str) -> None:
        self._taken -= 1
        self._busy.discard(address)
        self._grant()

    def _grant(self) -> None:
        kept = []
        for number, waiting in enumerate(self._waiting):
            if self._taken >= self._count:
                kept += self._waiting[number:]
                break
            if waiting.granted.cancelled():
                continue
            if self._is_free(waiting.address):
                self._occupy(waiting.address)
                waiting.granted.set_result(None)
            else:
                kept.append(waiting)
        self._waiting = kept
