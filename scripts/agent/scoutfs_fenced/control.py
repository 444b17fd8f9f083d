# SPDX-License-Identifier: GPL-2.0-only
"""The socket `control` in the agent's folder, for commands that the agent itself carries out.

A client sends one JSON object on one line, and gets one back when the command is done. The only
command so far is that of `scoutfs-fenced fence`:

  {"command": "fence", "host": HOST, "by": LOGIN}
  {"fenced": whether it is, "how": a phrase}
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from typing import Any

from scoutfs_fenced.scheduler import Scheduler

SECONDS_TO_ASK = 5.0


async def serve_control(path: str, scheduler: Scheduler) -> asyncio.AbstractServer:
    """Starts answering connections; only root may connect."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.TimeoutError):
            line = await asyncio.wait_for(reader.readline(), SECONDS_TO_ASK)
            writer.write(json.dumps(await _carry_out(line, scheduler)).encode() + b"\n")
            await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    with suppress(FileNotFoundError):
        os.unlink(path)
    before = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(answer, path)
    finally:
        os.umask(before)


async def _carry_out(line: bytes, scheduler: Scheduler) -> dict[str, Any]:
    try:
        asked = json.loads(line)
        command, host, by = asked["command"], str(asked["host"]), str(asked["by"])
    except (ValueError, KeyError, TypeError) as error:
        return {"fenced": False, "how": f"the agent does not understand this: {error!r}"}
    if command != "fence":
        return {"fenced": False, "how": f"the agent knows no command {command}"}
    answered: asyncio.Future[tuple[bool, str]] = asyncio.get_running_loop().create_future()

    def answer(fenced: bool, how: str) -> None:
        if not answered.done():
            answered.set_result((fenced, how))

    try:
        scheduler.fence_by_hand(host, by, answer)
    except LookupError as error:
        return {"fenced": False, "how": str(error.args[0])}
    fenced, how = await answered
    return {"fenced": fenced, "how": how}
