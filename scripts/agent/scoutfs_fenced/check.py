# SPDX-License-Identifier: GPL-2.0-only
"""Tests the configuration, and whether every fence device answers. Nothing is switched off.

A device that says "off" for a host that is up is as wrong as one that does not answer: it belongs
to another host, or does not know this one.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from collections.abc import Iterable
from contextlib import suppress

from scoutfs_fenced.addresses import Address
from scoutfs_fenced.configuration import Configuration
from scoutfs_fenced.device import Calls, DeviceError
from scoutfs_fenced.devices import Devices
from scoutfs_fenced.hosts import Device, Host
from scoutfs_fenced.statefile import state_directory

# Seconds that a device may take, if the configuration sets no limit.
SECONDS = 30.0

# Seconds that a host may take to answer.
SECONDS_TO_ANSWER = 1.0

# A port at which hosts that are up accept or refuse connections. One that is off does neither.
PORT = 22

# How fence agents report that they ignore a parameter, and continue without it.
IGNORED = re.compile(r"Parse error: Ignoring (.*)")


async def run_checks(settings: Configuration, only: str | None = None) -> int:
    """Prints a line for each test; returns how many failed.

    With the name or an address of a host, only that host's devices are tested.
    """
    hosts = list(settings.hosts)
    if only is not None:
        host = settings.hosts.by_name(only) or settings.hosts.host(only)
        if host is None:
            print(f"FAILED  {only}: {settings.no_such_host()}", flush=True)
            return 1
        hosts = [host]
    elif settings.command:
        print(f"ok      {settings.command[0]} can be run, and was not", flush=True)
    else:
        print("ok      only hosts that have a device are fenced, as SCOUTFS_FENCED_RUN is not set")

    devices = Devices(state_directory())
    devices.set_hosts(settings.hosts)
    checks = _Checks(settings, devices)
    failed = 0
    tasks = [
        asyncio.ensure_future(checks.check(host, device))
        for host in hosts
        for device in host.devices
    ]
    for task in tasks:
        well, lines = await task
        failed += not well
        print("ok     " if well else "FAILED ", "\n        ".join(lines), flush=True)
    return failed


class _Checks:
    def __init__(self, settings: Configuration, devices: Devices) -> None:
        self._calls: Calls = devices.calls(settings.environment, patient=True)
        self._seconds = settings.limit or SECONDS
        self._places = asyncio.Semaphore(settings.parallel)
        self._own = {host.name for host in devices.own_hosts()}
        self._up: dict[str, asyncio.Future[Address | None]] = {}

    async def check(self, host: Host, device: Device) -> tuple[bool, list[str]]:
        """Whether a device is well, and the lines to print about it."""
        subject = f"{device} ({', '.join(map(str, host.addresses))})"
        said: list[str] = []
        async with self._places:
            try:
                if device.prepare:
                    await self._calls.usable(device)
                    return True, [f"{subject}: it only prepares, and was not asked"]
                status = await self._calls.status(device, self._seconds, said.append)
            except DeviceError as error:
                return False, [f"{subject}: {error}", *said]
        ignored = [found[1] for found in map(IGNORED.search, said) if found]
        if ignored:
            return False, [f"{subject}: the fence agent ignores parameters", *ignored]
        if status == "off":
            up = await self._is_up(host)
            if up is not None:
                return False, [f"{subject}: it is off, and yet the host answers at {up}", *said]
        return True, [f"{subject}: it is {status}"]

    async def _is_up(self, host: Host) -> Address | None:
        """An address at which the host is up, or None if there is no sign of that."""
        if host.name in self._own:
            return host.addresses[0]
        if host.name not in self._up:
            self._up[host.name] = asyncio.ensure_future(_first_that_answers(host.addresses))
        return await self._up[host.name]


async def _first_that_answers(addresses: Iterable[Address]) -> Address | None:
    for address in addresses:
        if await _answers(address):
            return address
    return None


async def _answers(address: Address) -> bool:
    """Whether a host accepts or refuses a connection."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        connect = asyncio.get_running_loop().sock_connect(connection, (str(address), PORT))
        try:
            await asyncio.wait_for(connect, SECONDS_TO_ANSWER)
        except asyncio.TimeoutError:
            return False
        except OSError as error:
            return error.errno == errno.ECONNREFUSED
        return True
    return False
