# SPDX-License-Identifier: GPL-2.0-only
"""Limits the concurrent logins to each device.

A switched power strip serves many hosts, and most allow one login: a second one is refused, or ends
the first. So all calls to one address share a number of sessions: that of the word `sessions` in
the hosts file, else one if several devices in the file have that address, else any number.

A call for monitoring never makes a fencing wait: it is cancelled if a fencing needs its session.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from scoutfs_fenced.hosts import Device, Hosts

# Parameters for a device's address, and for the port there: two servers on one host are two.
ADDRESS = ("ip", "ipaddr")
PORT = ("ipport",)


class NoSession(Exception):
    """A device was busy with other hosts for too long; a phrase."""


def address_of(device: Device) -> str:
    """Identifies devices that share their sessions; empty if a device has no address."""
    address = device.says(*ADDRESS)
    if not address and device.says("port_as_ip") in ("1", "yes", "on", "true"):
        address = device.says("plug", "port")
    return f"{address.lower()} {device.says(*PORT)}".strip() if address else ""


@dataclass(eq=False)
class _Use:
    """A call that has a session, or waits for one."""

    urgent: bool
    task: asyncio.Task[object]
    granted: asyncio.Future[None]


@dataclass
class _Address:
    held: list[_Use] = field(default_factory=list)
    waiting: list[_Use] = field(default_factory=list)


class Sessions:
    """Grants the sessions of all devices."""

    def __init__(self) -> None:
        self._limits: dict[str, int] = {}
        self._addresses: dict[str, _Address] = {}

    def set_hosts(self, hosts: Hosts) -> None:
        """Takes the limits from a hosts file; sessions in use continue."""
        devices: dict[str, list[Device]] = {}
        for host in hosts:
            for device in host.devices:
                devices.setdefault(address_of(device), []).append(device)
        devices.pop("", None)
        self._limits.clear()
        for address, sharing in devices.items():
            said = [device.sessions for device in sharing if device.sessions is not None]
            if said or len(sharing) > 1:
                self._limits[address] = min(said, default=1)
        for address in list(self._addresses):
            self._grant(address)

    @asynccontextmanager
    async def session(self, device: Device, seconds: float, *, urgent: bool) -> AsyncIterator[None]:
        """Waits up to `seconds` for a session, and holds it within the context.

        Raises NoSession. If this is not urgent, the calling task may be cancelled.
        """
        address = address_of(device)
        if address not in self._limits:
            yield
            return
        task = asyncio.current_task()
        assert task is not None
        entry = self._addresses.setdefault(address, _Address())
        use = _Use(urgent, task, asyncio.get_running_loop().create_future())
        entry.waiting.append(use)
        try:
            self._grant(address)
            if urgent and not use.granted.done():
                for other in entry.held:
                    if not other.urgent:
                        other.task.cancel()
            timeout = None if seconds == math.inf else max(0.0, seconds)
            await asyncio.wait({use.granted}, timeout=timeout)
            if not use.granted.done():
                raise NoSession(
                    f"the device at {address} was busy with other hosts for {seconds:.3g} s; it "
                    f"takes {self._limits.get(address, 1)} at a time, as `sessions` says"
                )
            yield
        finally:
            (entry.held if use in entry.held else entry.waiting).remove(use)
            self._grant(address)

    def _grant(self, address: str) -> None:
        """Grants free sessions, to urgent calls first."""
        entry = self._addresses.get(address, _Address())
        limit = self._limits.get(address)
        while entry.waiting and (limit is None or len(entry.held) < limit):
            use = next((use for use in entry.waiting if use.urgent), entry.waiting[0])
            entry.waiting.remove(use)
            entry.held.append(use)
            use.granted.set_result(None)
        if not entry.held and not entry.waiting:
            self._addresses.pop(address, None)
