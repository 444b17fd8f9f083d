# SPDX-License-Identifier: GPL-2.0-only
"""Files in the agent's state directory: replaced atomically, and refused when damaged.

A file is one line of JSON and one line with its SHA-256. It is replaced by rename, so a reader, or
the next start after a power cut, sees the old one or the new one. A file whose checksum is wrong,
or that others than root may write, is refused: its content can mean `fenced`.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from contextlib import suppress
from typing import Any

DEFAULT_DIRECTORY = "/var/lib/scoutfs-fenced"


class StateError(Exception):
    """Why a file cannot be used, as a sentence."""


def state_directory() -> str:
    """The directory that systemd has created, or else the default one."""
    return os.environ.get("STATE_DIRECTORY", "").split(":")[0] or DEFAULT_DIRECTORY


def read_state(path: str) -> Any:
    """The value that was last written, as from JSON; None without a file. Raises StateError."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            content = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror}") from error
    if status.st_uid not in (0, os.geteuid()) or stat.S_IMODE(status.st_mode) & 0o022:
        raise StateError(f"{path} can be written by other users, and is not believed")
    body, _, checksum = content.rstrip(b"\n").rpartition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        raise StateError(f"{path} is damaged: its checksum is wrong")
    try:
        return json.loads(body)
    except ValueError as error:
        raise StateError(f"{path} is damaged: {error}") from error


def write_state(path: str, value: Any) -> None:
    """Replaces a file, and returns once the new one is on disk. Raises OSError. May block."""
    body = json.dumps(value).encode()
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    new = f"{path}.{os.getpid()}.new"
    try:
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "wb") as stream:
            stream.write(body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(new, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
