# SPDX-License-Identifier: GPL-2.0-only
"""Fences one host by its topology levels: the interface between scheduling and fence devices.

The scheduler decides that a host has to be fenced, for which requests, and by when. It calls
fence_host() and knows nothing of fence agents. This module knows nothing of requests.

What the scheduler promises:
  - It calls fence_host() for a host once at a time. Different hosts are fenced at the same time;
    devices that several hosts share are limited on this side of the interface.
  - It never calls it for a host that has an address of the host that the agent runs on.
  - It cancels a call at most once, and then waits for it to end, however long that takes.

What fence_host() promises:
  - It calls `proven_off` once, before any device gives the host its power or its access back, and
    only if every device of a level says that the host is off. `Proof.at` is not later than the
    moment at which the first of these answers was asked for: every mount that existed then can
    no longer write. The callback is short, does not sleep, and has answered the kernel when it
    returns.
  - It returns once nothing of it runs any more. A failure after the proof (the power did not come
    back) is no failure: it is logged by `say`.
  - It raises LevelsError, with a phrase that names each level and its failure, if no level proves
    the host off. Nothing else is raised but CancelledError.
  - Every level has had its turn before `due`, as far as that is possible: then the first caller
    gives up. It goes on after that, until `end` at the latest: a caller that asks again joins.
  - If it is cancelled, each command that runs gets SIGTERM and its second of grace before SIGKILL.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Callable

from scoutfs_fenced import device
from scoutfs_fenced.hosts import Host


@dataclass(frozen=True)
class Proof:
    """That a host can no longer write."""

    # When it was certain, in seconds of time.monotonic(): no mount that existed then can write.
    at: float
    # How it is known: a phrase for the log, as in "proven off at node1 level 1 by fence_ipmilan".
    how: str


class LevelsError(Exception):
    """Why no level has proven the host off, as a phrase."""


async def fence_host(
    host: Host,
    *,
    due: float,
    end: float,
    environment: Mapping[str, str],
    proven_off: Callable[[Proof], None],
    step: Callable[[str], None],
    say: Callable[[str], None],
) -> None:
    """Has a host switched off, by one topology level after another until one proves it off.

    `due` and `end` are times of time.monotonic(). `step` gets each step as it begins, for the log
    and `status`; `say` gets what fence agents print and why a level failed.
    """
    del due
    began = time.monotonic()
    try:
        how = await device.fence(
            host.devices,
            seconds=end - began,
            environment=environment,
            doing=step,
            say=say,
        )
    except device.DeviceError as error:
        raise LevelsError(str(error)) from error
    proven_off(Proof(began, how))
