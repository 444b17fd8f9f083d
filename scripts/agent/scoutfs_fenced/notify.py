# SPDX-License-Identifier: GPL-2.0-only
"""Messages to systemd about the agent's state, as sd_notify(3) sends them."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def notify(*assignments: str) -> None:
    """Sends the assignments, such as READY=1, if systemd has asked for them."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)
        manager.sendto("\n".join(assignments).encode(), address)


def watchdog_pause() -> float | None:
    """Seconds between two watchdog messages, half of systemd's limit; None if it wants none."""
    limit = os.environ.get("WATCHDOG_USEC", "")
    watched = os.environ.get("WATCHDOG_PID") or str(os.getpid())
    if not limit.isdigit() or int(limit) == 0 or watched != str(os.getpid()):
        return None
    return int(limit) / 2_000_000
