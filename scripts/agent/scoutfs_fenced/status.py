# SPDX-License-Identifier: GPL-2.0-only
"""Answers whoever asks how it stands, at the socket `status` in the agent's folder.

A connection gets one JSON object and is closed. Its members:

  pid            the agent's process id
  since          when it began, in seconds since 1970
  configuration  the file
  events         whether the kernel's events are listened to
  stopping       whether it was told to stop
  requests       a list, the one with the least time left first, each with
    directory, rid, address, reason, mount    as in sysfs
    age          seconds since it was made; the kernel tells whole seconds, so it may be less
    left         seconds until the kernel gives it up, less than 0 where it is late
    state        waiting-for-address, waiting-for-slot, running, pausing or done
    doing        what is being done while it is running, else empty
    for          seconds since it is in this state
    attempt      which try this is, from 1 on; 0 where none has begun
    result       how the last try ended, or empty
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

from scoutfs_fenced.server import Known, Server


async def answer_at(path: str, server: Server) -> asyncio.AbstractServer:
    """Begins to answer; only root may ask."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(json.dumps(status(server)).encode())
            await writer.drain()
            writer.close()
        except ConnectionError:
            # Whoever asked did not wait for the answer.
            writer.close()

    before = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(answer, path)
    finally:
        os.umask(before)


def status(server: Server) -> dict[str, Any]:
    """What is told."""
    now = time.monotonic()
    known = sorted(server.known.values(), key=lambda known: known.request.deadline)
    return {
        "pid": os.getpid(),
        "since": server.began,
        "configuration": server.settings.path,
        "events": server.has_events,
        "stopping": server.stopping,
        "requests": [_of_request(server, each, now) for each in known],
    }


def _of_request(server: Server, known: Known, now: float) -> dict[str, Any]:
    request = known.request
    state = known.state
    if state == "waiting":
        state = "waiting-for-address" if server.at_work_on(request) else "waiting-for-slot"
    return {
        "directory": request.directory,
        **request.fields(),
        "age": round(now - request.made, 3),
        "left": round(request.deadline - now, 3),
        "state": state,
        "doing": known.doing,
        "for": round(now - known.since, 3),
        "attempt": known.attempt,
        "result": known.result,
    }
