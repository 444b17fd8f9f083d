# SPDX-License-Identifier: GPL-2.0-only
"""One line for each event, on standard output, or in the journal if that is connected to it.

The journal also gets the subject of a line as fields, SCOUTFS_FENCE_RID and so on, so
`journalctl SCOUTFS_FENCE_RID=2f1a90c37be5d468` shows everything about a request. A line with a
result has SCOUTFS_FENCE_RESULT and a MESSAGE_ID, which the file scoutfs-fenced.catalog explains.
Entries have the format of https://systemd.io/JOURNAL_NATIVE_PROTOCOL/.

Nothing here blocks or fails: a log reader that stops reading cannot keep the agent from fencing.
"""

from __future__ import annotations

import os
import select
import socket

# Levels, as in syslog(3).
ERROR = 3
WARNING = 4
INFORMATION = 6

IDENTIFIER = "scoutfs-fenced"
JOURNAL = "/run/systemd/journal/socket"

# PIPE_BUF: how much a pipe that has room takes without blocking.
LONGEST = 4096

# The MESSAGE_ID of each result: of a request, and of a device's check.
MESSAGE_IDS = {
    "fenced": "5c4dc2710eda4ea1bd5c8091c3d7f90f",
    "failed": "cd13a75a7eb84f11b111aafeef39ff22",
    "lost": "d0d1841559274bc086b9578458ca4dc8",
    "back": "0bf1063ec95b443e83554cf3b6f1181a",
}

# The fields at the beginning of a line, which identify its request.
SUBJECT = ("rid", "address", "reason", "mount")


def event(message: str, *, level: int = INFORMATION, **fields: str) -> None:
    """Logs an event."""
    text = line(message, fields)
    if not (_leads_to_journal() and to_journal(text, level, fields)):
        _print(text)


def line(message: str, fields: dict[str, str]) -> str:
    """The line for people, which begins with its subject."""
    subject = " ".join(f"{name} {fields[name]}" for name in SUBJECT if name in fields)
    return f"{subject}: {message}" if subject else message


def _leads_to_journal() -> bool:
    """Whether standard output is the stream to the journal that systemd has named."""
    try:
        file = os.fstat(1)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{file.st_dev}:{file.st_ino}"


def to_journal(text: str, level: int, fields: dict[str, str]) -> bool:
    """Writes a line and its fields to the journal; returns whether there is one."""
    message_id = MESSAGE_IDS.get(fields.get("result", ""))
    entry = {
        "MESSAGE": text,
        "PRIORITY": str(level),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        **({"MESSAGE_ID": message_id} if message_id else {}),
        **{f"SCOUTFS_FENCE_{name.upper()}": value for name, value in fields.items()},
    }
    # A newline in a value would begin the next field.
    message = "".join(f"{name}={value}\n" for name, value in _one_line_each(entry))
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as journal:
            journal.sendto(message.encode(errors="replace"), JOURNAL)
    except OSError:
        return False
    return True


def _one_line_each(entry: dict[str, str]) -> list[tuple[str, str]]:
    return [(name, value.replace("\n", " ")) for name, value in entry.items()]


def _print(text: str) -> None:
    encoded = text.replace("\n", " ").encode(errors="replace")[: LONGEST - 1] + b"\n"
    try:
        # A full pipe gets no line: its reader may never resume.
        if select.select([], [1], [], 0)[1]:
            os.write(1, encoded)
    except (OSError, ValueError):
        pass
