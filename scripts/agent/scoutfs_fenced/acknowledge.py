# SPDX-License-Identifier: GPL-2.0-only
"""`scoutfs-fenced ack RID`: an administrator's own word that a host is off.

The request's files are opened before the administrator is asked, so that the word never reaches a
later request for the same rid. The log tells who gave it.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import sys
import syslog
from contextlib import suppress

from scoutfs_fenced import log
from scoutfs_fenced.request import (
    DEFAULT_LEADER_TIMEOUT,
    GONE,
    Request,
    RequestFiles,
    find_requests,
    read_outcome,
    read_request,
)

# What the kernel says where nobody has logged in.
NO_LOGIN = 0xFFFFFFFF

WARNING = """\
If this host is not off, or if it comes back and writes, the filesystem is damaged beyond repair.
Say so only if you have seen for yourself that it is off.
"""


class Refused(Exception):
    """Why a word cannot be passed on, as a sentence."""


def acknowledge(sysfs: str, rid: str, mount: str | None) -> int:
    """Asks, and passes the answer on; returns the exit status."""
    try:
        request = _choose(sysfs, _parse(rid), mount)
        with _open(request) as files:
            _confirm(request)
            _finish(request, files)
    except Refused as error:
        print(f"scoutfs-fenced: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(rid: str) -> str:
    """A rid as the kernel writes it."""
    if not re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,16}", rid):
        raise Refused(f"a rid has up to 16 hexadecimal digits, '{rid}' has something else")
    return f"{int(rid, 16):016x}"


def _choose(sysfs: str, rid: str, mount: str | None) -> Request:
    """The request that is meant."""
    found = []
    for directory, _inode in find_requests(sysfs):
        if os.path.basename(directory) == rid:
            with suppress(OSError, ValueError):
                found.append(read_request(directory, sysfs, DEFAULT_LEADER_TIMEOUT)[0])
    if mount is not None:
        found = [request for request in found if request.mount == mount]
    if not found:
        where = f" of the mount {mount}" if mount is not None else ""
        raise Refused(f"there is no request for rid {rid}{where}; see: scoutfs-fenced status")
    if len(found) > 1:
        mounts = ", ".join(sorted(request.mount for request in found))
        raise Refused(f"several mounts ask for rid {rid}; say which with --mount: {mounts}")
    return found[0]


def _open(request: Request) -> RequestFiles:
    """The files of a request that still waits for an answer."""
    try:
        files = RequestFiles(request)
        state = read_outcome(request.directory)
    except PermissionError as error:
        raise Refused("only root can say that a host is off; run this as root") from error
    except OSError as error:
        raise Refused(_why_lost(error)) from error
    if state != "pending":
        files.__exit__()
        raise Refused(f"the request for rid {request.rid} has been answered already: {state}")
    return files


def _confirm(request: Request) -> None:
    """Has the address typed, or the rid where there is no address."""
    wanted = request.address if request.address not in ("", "0.0.0.0", "::") else request.rid
    print(f"The mount with the rid {request.rid}")
    print(f"at the address         {request.address}")
    print(f"is to be fenced for    {request.reason}")
    print(f"by the leader at       {request.mount}")
    print(f"\n{WARNING}")
    try:
        typed = input(f"If it is off, type {wanted}: ").strip()
    except (EOFError, KeyboardInterrupt):
        print()
        typed = ""
    if typed != wanted:
        raise Refused("nothing was said to the kernel: that was something else")


def _finish(request: Request, files: RequestFiles) -> None:
    """Tells the kernel, and the log."""
    fields = {**request.fields(), "acknowledged_by": _who()}
    try:
        files.finish(True)
    except OSError as error:
        raise Refused(f"the kernel was not told that it is fenced: {_why_lost(error)}") from error
    line = log.line(f"fenced, by the word of {fields['acknowledged_by']}", fields)
    if not log.to_journal(line, log.WARNING, fields):
        syslog.openlog(log.IDENTIFIER, syslog.LOG_PID, syslog.LOG_DAEMON)
        syslog.syslog(syslog.LOG_WARNING, line)
    print(line)


def _why_lost(error: OSError) -> str:
    if error.errno in GONE:
        return "the request is gone"
    if error.errno == errno.ESTALE:
        return "the request has failed meanwhile"
    return f"{error.strerror}"


def _who() -> str:
    """Who has logged in, be it as somebody else, and what the process runs as."""
    login = NO_LOGIN
    with suppress(OSError, ValueError), open("/proc/self/loginuid", encoding="ascii") as file:
        login = int(file.read())
    if login == NO_LOGIN:
        sudo = os.environ.get("SUDO_UID", "")
        login = int(sudo) if sudo.isdigit() else os.getuid()
    runs_as = f", as {_name(os.getuid())}" if login != os.getuid() else ""
    return f"{_name(login)}{runs_as}"


def _name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
