# SPDX-License-Identifier: GPL-2.0-only
"""One attempt to fence a host: by its devices if it is in the hosts file, else by the command.

What proves that a mount can no longer write:
  - Devices prove it for every mount that existed when their status was requested; levels.py says
    when that was.
  - A command proves it, by exit status 0, for mounts that existed when it began: it may have
    switched the host off and on again in its first second. It proves it for every mount of the
    host only if it fences hosts; a command that unmounts or revokes fences only the mount that it
    was given. See Configuration.fences_host.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Callable

from scoutfs_fenced import process
from scoutfs_fenced.configuration import Configuration
from scoutfs_fenced.devices import Devices
from scoutfs_fenced.hosts import Host
from scoutfs_fenced.levels import LevelsError, Proof, fence_host
from scoutfs_fenced.request import Request

# Set by systemd for the agent, not for its commands.
NOT_FOR_COMMANDS = (
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)


class AttemptError(Exception):
    """Why an attempt has not fenced the host, as a phrase."""


@dataclass
class Attempt:
    """One attempt, and which requests its proof covers."""

    # The request that the command is called for: the most urgent one.
    request: Request
    # The host in the hosts file; None if it is fenced by the command.
    host: Host | None
    # The addresses, in canonical form, whose mounts it fences.
    addresses: AbstractSet[str]
    # Whether it fences the whole host, not only the one mount.
    fences_host: bool
    # Mounts that it fences and that existed when it began: those requested by then, each with the
    # address in its request.
    rids: Mapping[str, str]
    began: float = field(default_factory=time.monotonic)
    # The current step: a phrase.
    step: str = ""
    # Set once the host is proven off.
    proof: Proof | None = None

    def answers(self, request: Request, address: str) -> bool:
        """Whether its proof covers a request, whose `address` is given in canonical form."""
        if self.proof is None or address not in self.addresses:
            return False
        existed = self.fences_host and request.made_by <= self.proof.at
        return existed or request.rid in self.rids


async def run_attempt(
    settings: Configuration,
    devices: Devices,
    attempt: Attempt,
    *,
    due: float,
    end: float,
    proven: Callable[[Proof], None],
    step: Callable[[str], None],
    say: Callable[[str], None],
) -> None:
    """Fences the host, or raises AttemptError.

    `proven` is called as soon as there is a proof; the attempt may then continue and switch the
    host on again. `due` is when the first caller gives up, `end` when the attempt does, in seconds
    of time.monotonic(). `step` gets each step as it begins, `say` the commands' output. Cancelling
    this ends the commands, with their second of grace.
    """
    environment = command_environment(settings, attempt.request)
    if attempt.host is not None:
        try:
            await fence_host(
                attempt.host,
                devices,
                due=due,
                end=end,
                environment=environment,
                proven_off=proven,
                step=step,
                say=say,
            )
        except LevelsError as error:
            raise AttemptError(str(error)) from error
        if attempt.proof is None:
            raise AttemptError("the devices have not proven it off")
        return
    if not settings.command:
        raise AttemptError(
            f"no device is known for {attempt.request.address}; add its host to the hosts file, "
            "or set SCOUTFS_FENCED_RUN"
        )
    limit = max(0.0, end - time.monotonic())
    step(f"running {settings.command[0]}, for up to {limit:.3f} s")
    ending = await process.run_file(
        settings.command,
        environment=environment,
        limit=limit,
        say=lambda line: say(f"it says: {line}"),
    )
    if not ending.succeeded:
        raise AttemptError(str(ending))
    proven(Proof(attempt.began, str(ending)))


def command_environment(settings: Configuration, request: Request) -> dict[str, str]:
    """The environment of a fence command.

    SCOUTFS_FENCED_REQ_IP is the value of `ipv4_addr`; for a mount with an IPv6 address, for which
    that file has 0.0.0.0, it is the IPv6 address.
    """
    return {
        **{
            name: value
            for name, value in settings.environment.items()
            if name not in NOT_FOR_COMMANDS
        },
        "SCOUTFS_FENCED_REQ_RID": request.rid,
        "SCOUTFS_FENCED_REQ_IP": request.address,
        "SCOUTFS_FENCED_REQ_REASON": request.reason,
    }
