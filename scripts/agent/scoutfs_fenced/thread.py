# SPDX-License-Identifier: GPL-2.0-only
"""Runs what may block, such as reading or writing a file, in a thread.

An executor waits for its threads when the process ends. One that hangs on a disk would keep the
process, and so the single-instance lock, until systemd kills it. Only a thread in uninterruptible
sleep still does.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from contextlib import suppress
from typing import Callable, TypeVar

Result = TypeVar("Result")


async def in_thread(work: Callable[..., Result], *arguments: object) -> Result:
    """Calls `work` in a thread of its own; returns or raises what that does.

    Raises OSError if there can be no thread.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Result] = loop.create_future()

    def unless_cancelled(end: Callable[..., None], outcome: Result | Exception) -> None:
        if not ended.cancelled():
            end(outcome)

    def run() -> None:
        end: Callable[..., None]
        outcome: Result | Exception
        try:
            end, outcome = ended.set_result, work(*arguments)
        except Exception as error:
            end, outcome = ended.set_exception, error
        # The loop may be closed by now.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(unless_cancelled, end, outcome)

    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error
    return await ended
