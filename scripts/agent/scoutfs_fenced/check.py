# SPDX-License-Identifier: GPL-2.0-only
"""Tests the configuration, and whether every fence device answers. Nothing is switched off."""

from __future__ import annotations

import asyncio
import re

from scoutfs_fenced import device
from scoutfs_fenced.configuration import Configuration
from scoutfs_fenced.hosts import Device, Host

# Seconds that a device has, where the configuration sets no limit.
SECONDS = 30.0

# How fence agents say that they leave out a parameter, and go on as if it were not there.
IGNORED = re.compile(r"Parse error: Ignoring (.*)")


async def run_checks(settings: Configuration) -> int:
    """Prints a line for each thing that can be tested; returns how many are not well."""
    failed = 0
    if settings.command:
        print(f"ok      {settings.command[0]} can be run, and was not", flush=True)
    else:
        print("ok      only hosts that have a device are fenced, as SCOUTFS_FENCED_RUN is not set")

    places = asyncio.Semaphore(settings.parallel)
    tasks = [
        asyncio.create_task(_report(settings, places, host, level))
        for host in settings.hosts
        for level in host.devices
    ]
    for task in tasks:
        well, lines = await task
        failed += not well
        print("ok     " if well else "FAILED ", "\n        ".join(lines), flush=True)
    return failed


async def _report(
    settings: Configuration, places: asyncio.Semaphore, host: Host, level: Device
) -> tuple[bool, list[str]]:
    """Whether a device is well, and what to tell about it."""
    subject = f"{level} ({', '.join(map(str, host.addresses))})"
    said: list[str] = []
    async with places:
        try:
            status = await device.status(
                level,
                seconds=settings.limit or SECONDS,
                environment=settings.environment,
                say=said.append,
            )
        except device.DeviceError as error:
            return False, [f"{subject}: {error}", *said]
    ignored = [found[1] for found in map(IGNORED.search, said) if found]
    if ignored:
        return False, [f"{subject}: it ignores what it was told", *ignored]
    return True, [f"{subject}: it is {status}"]
