# SPDX-License-Identifier: GPL-2.0-only
"""Runs what may block, such as writing a file, in a thread.

An executor waits for its threads when the process ends. One that hangs on a disk would keep the
process, and so the single-instance lock, until systemd kills it. Only a thread in uninterruptible
sleep still does.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from contextlib import suppress
from typing import Callable


async def in_thread(work: Callable[..., None], *arguments: object) -> None:
    """Calls `work` in a thread of its own; raises what that raises, or OSError without a thread."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def end(error: Exception | None) -> None:
        if ended.cancelled():
            return
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)

    def run() -> None:
        failure = None
        try:
            work(*arguments)
        except Exception as error:
            failure = error
        # The loop may be closed by now.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(end, failure)

    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error
    await ended
