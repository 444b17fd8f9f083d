# SPDX-License-Identifier: GPL-2.0-only
"""The agent's runtime folder, and the lock in it that allows one agent on each host."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

DEFAULT_FOLDER = "/run/scoutfs-fenced"


class InstanceError(Exception):
    """Why the lock cannot be taken, as a sentence."""


def folder() -> str:
    """The folder that systemd has created, or else the default one."""
    return os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or DEFAULT_FOLDER


def acquire_instance_lock() -> None:
    """Takes the single-instance lock until this process ends, or raises InstanceError."""
    path = os.path.join(folder(), "lock")
    try:
        os.makedirs(folder(), mode=0o755, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InstanceError(
            f"{path} cannot be made: {error.strerror}; "
            "run the agent as root, or name a folder of yours with RUNTIME_DIRECTORY"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(lock, 32).decode(errors="replace").strip()
        os.close(lock)
        who = f"with the process id {holder}" if holder else "which has not said its process id"
        raise InstanceError(f"another agent is running, {who}; stop that one first") from error
    # Only for the message above, so a full disk does not keep the agent from starting.
    with suppress(OSError):
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
