# SPDX-License-Identifier: GPL-2.0-only
"""One line for each event, on standard output, or in the journal if that is connected to it.

The journal gets what the line is about as fields as well, SCOUTFS_FENCE_RID and so on, so that
`journalctl SCOUTFS_FENCE_RID=2f1a90c37be5d468` tells all about a request. A line with a result has
SCOUTFS_FENCE_RESULT and a MESSAGE_ID, which the file scoutfs-fenced.catalog explains. It is written
in the format of https://systemd.io/JOURNAL_NATIVE_PROTOCOL/.

Nothing here waits or fails: a reader of the log that stops cannot keep the agent from fencing.
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

# What a pipe that has room takes without waiting: PIPE_BUF.
LONGEST = 4096

# The MESSAGE_ID of each result: of a request, and of a look at a device.
MESSAGE_IDS = {
    "fenced": "5c4dc2710eda4ea1bd5c8091c3d7f90f",
    "failed": "cd13a75a7eb84f11b111aafeef39ff22",
    "lost": "d0d1841559274bc086b9578458ca4dc8",
    "back": "0bf1063ec95b443e83554cf3b6f1181a",
}

# These say which request a line is about, at its beginning.
SUBJECT = ("rid", "address", "reason", "mount")


def event(message: str, *, level: int = INFORMATION, **fields: str) -> None:
    """Logs something that has happened."""
    text = line(message, fields)
    if not (_leads_to_journal() and to_journal(text, level, fields)):
        _print(text)


def line(message: str, fields: dict[str, str]) -> str:
    """What people read, with what it is about at its beginning."""
    subject = " ".join(f"{name} {fields[name]}" for name in SUBJECT if name in fields)
    return f"{subject}: {message}" if subject else message


def _leads_to_journal() -> bool:
    """Whether standard output is what systemd has connected to the journal, and named."""
    try:
        file = os.fstat(1)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{file.st_dev}:{file.st_ino}"


def to_journal(text: str, level: int, fields: dict[str, str]) -> bool:
    """Puts a line and its fields into the journal; returns whether there is one."""
    message_id = MESSAGE_IDS.get(fields.get("result", ""))
    entry = {
        "MESSAGE": text,
        "PRIORITY": str(level),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        **({"MESSAGE_ID": message_id} if message_id else {}),
        **{f"SCOUTFS_FENCE_{name.upper()}": value for name, value in fields.items()},
    }
    # A value with a line's end in it would begin the next field.
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
        # A pipe that is full gets no line: its reader may never go on.
        if select.select([], [1], [], 0)[1]:
            os.write(1, encoded)
    except (OSError, ValueError):
        pass
