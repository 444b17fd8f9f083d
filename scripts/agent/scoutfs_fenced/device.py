# SPDX-License-Identifier: GPL-2.0-only
"""Fences a host by its devices, which fence agents know how to talk to.

A fence agent reads its parameters from standard input, as lines NAME=VALUE, and tells by its exit
status how it went. Its word that it has switched a host off is not enough: it is asked for the
host's status, too, and only where that is off has the host been fenced.
"""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Callable

from scoutfs_fenced import process
from scoutfs_fenced.hosts import Device, SecretError, read_secret

# What the exit status of the action `status` means. Everything else is no answer.
STATUS = {0: "on", 2: "off"}

HIDDEN = "***"

# Stands for a character of which only a part was read.
REPLACEMENT = "\ufffd"


class DeviceError(Exception):
    """Why a device has not done what was asked of it, as a phrase."""


async def fence(
    devices: Sequence[Device],
    *,
    seconds: float,
    environment: Mapping[str, str],
    doing: Callable[[str], None],
    say: Callable[[str], None],
) -> str:
    """Has a host switched off by the first of its devices that can; tells by which.

    Raises DeviceError where none can. What is being done is told, and what the fence agents print
    is said. A device takes no more than its share of the time, so that the last one still has its
    turn.
    """
    end = time.monotonic() + seconds
    failures = []
    for number, device in enumerate(devices):
        share = (end - time.monotonic()) / (len(devices) - number)
        try:
            await _fence_by(device, min(share, device.limit), environment, doing, say)
        except DeviceError as error:
            failures.append(f"{device}: {error}")
            say(failures[-1])
        else:
            return f"proven off at {device}"
    raise DeviceError("; ".join(failures))


async def _fence_by(
    device: Device,
    seconds: float,
    environment: Mapping[str, str],
    doing: Callable[[str], None],
    say: Callable[[str], None],
) -> None:
    """Has a host switched off by one device, and makes sure of it."""
    end = time.monotonic() + seconds

    async def call(action: str) -> process.Ending:
        left = end - time.monotonic()
        doing(f"{device}: {action}, for up to {left:.3f} s")
        return await _call(device, action, left, environment, say)

    ending = await call("off")
    if not ending.succeeded:
        raise DeviceError(f"off failed, {ending}")
    ending = await call("status")
    status = STATUS.get(-1 if ending.status is None else ending.status)
    if status is None:
        raise DeviceError(f"off succeeded, but is not proven: status failed, {ending}")
    if status != "off":
        raise DeviceError(f"off succeeded, but by its status it is {status}")
    if device.action == "reboot":
        # It is fenced already, and nobody need wait long for more.
        end -= (end - time.monotonic()) / 2
        ending = await call("on")
        if not ending.succeeded:
            say(f"{device}: it is off, and stays so: on failed, {ending}")


async def status(
    device: Device,
    *,
    seconds: float,
    environment: Mapping[str, str],
    say: Callable[[str], None],
) -> str:
    """Whether the device says that its host is on or off; raises DeviceError where it does not."""
    ending = await _call(device, "status", min(seconds, device.limit), environment, say)
    answer = STATUS.get(-1 if ending.status is None else ending.status)
    if answer is None:
        raise DeviceError(f"status failed, {ending}")
    return answer


async def _call(
    device: Device,
    action: str,
    seconds: float,
    environment: Mapping[str, str],
    say: Callable[[str], None],
) -> process.Ending:
    """Calls the fence agent of a device by the fence agents' interface."""
    try:
        secrets = {name: read_secret(path) for name, path in device.secrets.items()}
    except SecretError as error:
        raise DeviceError(str(error)) from error
    given = {name: quoted(secret) for name, secret in secrets.items()}
    if device.secrets_by_file:
        given = dict(device.secrets)
    lines = {"action": action, **device.parameters, **given}
    hide = hiding(secrets.values())
    return await process.run(
        [device.agent],
        environment=environment,
        limit=seconds,
        stdin="".join(f"{name}={value}\n" for name, value in lines.items()).encode(),
        say=lambda line: say(f"{device}: {action} says: {hide(line)}"),
    )


def quoted(secret: str) -> str:
    """A secret as fence agents read it: they take quotation marks around it away."""
    return f'"{secret}"' if secret[:1] == secret[-1:] == '"' else secret


def hiding(secrets: Iterable[str]) -> Callable[[str], str]:
    """What takes secrets out of a line, in the spellings in which programs print them."""
    spellings = set()
    for secret in secrets:
        spellings |= {secret, repr(secret)[1:-1], urllib.parse.quote(secret, safe="")}
    # One may be a part of another.
    longest_first = sorted(spellings, key=len, reverse=True)

    def hide(line: str) -> str:
        if len(line.encode()) >= process.LONGEST_LINE - len(REPLACEMENT.encode()):
            line = _hide_cut(line.rstrip(REPLACEMENT), longest_first)
        for secret in longest_first:
            line = line.replace(secret, HIDDEN)
        return line

    return hide


def _hide_cut(line: str, secrets: Sequence[str]) -> str:
    """A long line may have been cut within a secret."""
    lengths = [
        length
        for secret in secrets
        for length in range(1, len(secret) + 1)
        if line.endswith(secret[:length])
    ]
    return line[: -max(lengths)] + HIDDEN if lengths else line
