# SPDX-License-Identifier: GPL-2.0-only
"""How the host of one request is fenced."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable

from scoutfs_fenced import process
from scoutfs_fenced.configuration import Configuration
from scoutfs_fenced.levels import LevelsError, Proof, fence_host
from scoutfs_fenced.request import Request

# systemd's word to the agent, which is not for its commands.
NOT_FOR_COMMANDS = (
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt."""

    # Whether the mount can surely write no more.
    fenced: bool
    # How that is known, or what went wrong: a phrase.
    how: str


async def fence(
    configuration: Configuration,
    request: Request,
    limit: float,
    *,
    step: Callable[[str], None],
    say: Callable[[str], None],
) -> Outcome:
    """Tries once to fence a request's host, for so many seconds.

    Its devices do it where it has any, else the fence command does. `step` gets each step as it
    begins, `say` what the commands print. Cancelling this ends them.
    """
    given = environment(configuration, request)
    host = configuration.hosts.host(request.address)
    if host is not None:
        proofs: list[Proof] = []
        end = time.monotonic() + limit
        try:
            await fence_host(
                host,
                due=end,
                end=end,
                environment=given,
                proven_off=proofs.append,
                step=step,
                say=say,
            )
        except LevelsError as error:
            return Outcome(False, str(error))
        return Outcome(True, proofs[0].how)
    if configuration.command:
        command = configuration.command
        step(f"running {command[0]}, for up to {limit:.3f} s")
        ending = await process.run(
            command, environment=given, limit=limit, say=lambda line: say(f"it says: {line}")
        )
        return Outcome(ending.succeeded, str(ending))
    return Outcome(
        False,
        f"no device is known for {request.address}; add its host to the hosts file, "
        "or set SCOUTFS_FENCED_RUN",
    )


def environment(configuration: Configuration, request: Request) -> dict[str, str]:
    """What a command is told.

    SCOUTFS_FENCED_REQ_IP is what `ipv4_addr` says; for a mount with an IPv6 address, of which that
    file says 0.0.0.0, it is that address.
    """
    return {
        **{
            name: value
            for name, value in configuration.environment.items()
            if name not in NOT_FOR_COMMANDS
        },
        "SCOUTFS_FENCED_REQ_RID": request.rid,
        "SCOUTFS_FENCED_REQ_IP": request.address,
        "SCOUTFS_FENCED_REQ_REASON": request.reason,
    }
