# SPDX-License-Identifier: GPL-2.0-only
"""The socket `status` in the agent's folder, which reports the agent's state.

A client gets one JSON object, and the connection is closed. Its members:

  pid            the agent's process id
  since          when it began, in seconds since 1970
  configuration  the file
  events         whether the kernel's uevents are received
  refused        why the last reload changed nothing; null if it did
  stopping       whether a signal has stopped it
  attempts       a list of the running attempts, including those whose requests are already
                 answered: host (its name or its address), rids, step, and for
  devices        a list: host, level, device (its name, if the level has several), agent, state
                 (unknown, on, off, unusable or silent), well (whether it can fence), since (in
                 seconds since 1970), and why
  requests       a list, the one with the least time left first, each with
    directory, rid, address, reason, mount    as in sysfs
    age          seconds since it was made; the kernel shows whole seconds, so it may be less
    left         seconds until its caller gives up, less than 0 if it is late
    state        waiting-for-host, waiting-for-slot, running, pausing or done
    doing        its current step while it is running, else empty
    for          seconds for which it has been in this state
    attempt      which attempt this is, from 1 on; 0 if none has begun
    result       how the last attempt ended, or empty
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import suppress
from typing import Any

from scoutfs_fenced.scheduler import ServedRequest
from scoutfs_fenced.server import Server


async def serve_status(path: str, server: Server) -> asyncio.AbstractServer:
    """Starts answering connections; only root may connect."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The client may not wait for the answer.
        with suppress(OSError):
            writer.write(json.dumps(snapshot(server)).encode())
            await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    before = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(answer, path)
    finally:
        os.umask(before)


def snapshot(server: Server) -> dict[str, Any]:
    """The object that a client gets."""
    now = time.monotonic()
    requests = server.scheduler.requests.values()
    return {
        "pid": os.getpid(),
        "since": server.began,
        "configuration": server.settings.path,
        "events": server.discovery.has_uevents,
        "refused": server.refused,
        "stopping": server.scheduler.stopping,
        "attempts": [
            {
                "host": attempt.host.name if attempt.host else attempt.request.address,
                "rids": list(attempt.rids),
                "step": attempt.step,
                "for": round(now - attempt.began, 3),
            }
            for attempt in server.scheduler.attempts()
        ],
        "devices": [state.fields() for state in server.scheduler.devices.states()],
        "requests": [
            _of_request(served, now)
            for served in sorted(requests, key=lambda served: served.request.deadline)
        ],
    }


def _of_request(served: ServedRequest, now: float) -> dict[str, Any]:
    request = served.request
    state, attempt = served.state, served.attempt()
    if attempt is not None:
        state = "running"
    elif state == "waiting":
        state = "waiting-for-host" if served.host_is_busy() else "waiting-for-slot"
    return {
        "directory": request.directory,
        **request.fields(),
        "age": round(now - request.made, 3),
        "left": round(request.deadline - now, 3),
        "state": state,
        "doing": attempt.step if attempt else "",
        "for": round(now - served.since, 3),
        "attempt": served.attempts,
        "result": served.result,
    }
