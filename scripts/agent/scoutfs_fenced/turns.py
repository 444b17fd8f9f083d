# SPDX-License-Identifier: GPL-2.0-only
"""Whose command may run now: so many at a time, one for each address, the most urgent first."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

# Addresses of nobody: requests that have them have nothing in common.
UNKNOWN = ("", "none", "0.0.0.0", "::")


@dataclass(order=True)
class _Waiting:
    urgency: tuple[float, ...]
    address: str = field(compare=False)
    granted: asyncio.Future[None] = field(compare=False)


class Turns:
    """Gives turns, and takes them back.

    Nobody waits who could run: each waits for one of the places, or for another at its address.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._taken = 0
        self._busy: set[str] = set()
        # The most urgent first.
        self._waiting: list[_Waiting] = []

    def set_places(self, places: int) -> None:
        """Changes how many may run at a time."""
        self._places = places
        self._grant()

    def address_is_busy(self, address: str) -> bool:
        """Whether somebody else has a turn at the address."""
        return address in self._busy

    @asynccontextmanager
    async def turn(self, address: str, *urgency: float) -> AsyncIterator[None]:
        """Waits for a turn, and has it meanwhile; less comes first in urgency."""
        await self._take(address, urgency)
        try:
            yield
        finally:
            self._give_back(address)

    async def _take(self, address: str, urgency: tuple[float, ...]) -> None:
        if self._is_free(address):
            self._occupy(address)
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        bisect.insort(self._waiting, _Waiting(urgency, address, granted))
        try:
            await granted
        except asyncio.CancelledError:
            # Else it is found to be cancelled once the next turn is given.
            if not granted.cancelled():
                self._give_back(address)
            raise

    def _is_free(self, address: str) -> bool:
        return self._taken < self._places and address not in self._busy

    def _occupy(self, address: str) -> None:
        self._taken += 1
        if address not in UNKNOWN:
            self._busy.add(address)

    def _give_back(self, address: str) -> None:
        self._taken -= 1
        self._busy.discard(address)
        self._grant()

    def _grant(self) -> None:
        kept = []
        for number, waiting in enumerate(self._waiting):
            if self._taken >= self._places:
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
