# SPDX-License-Identifier: GPL-2.0-only
"""Shared by the commands that ask people: confirmation, and the login in the log."""

from __future__ import annotations

import os
import pwd
import syslog
from contextlib import suppress

from scoutfs_fenced import log

LOGIN = "/proc/self/loginuid"

# The content for a process without a login.
NO_LOGIN = 0xFFFFFFFF


class Refused(Exception):
    """Why a command is not carried out, as a sentence."""


def confirm(question: str, wanted: str) -> None:
    """Asks a person to type a word; raises Refused for any other."""
    try:
        typed = input(f"{question}, type {wanted}: ").strip()
    except (EOFError, KeyboardInterrupt):
        print()
        typed = ""
    if typed != wanted:
        raise Refused("nothing was done: that was something else")


def log_and_print(message: str, fields: dict[str, str]) -> None:
    """Logs a person's decision, to the journal or else the system's log, and prints it."""
    line = log.line(message, fields)
    if not log.to_journal(line, log.WARNING, fields):
        syslog.openlog(log.IDENTIFIER, syslog.LOG_PID, syslog.LOG_DAEMON)
        syslog.syslog(syslog.LOG_WARNING, line)
    print(line)


def who() -> str:
    """The login behind this process, and the user it runs as if that is another."""
    login = NO_LOGIN
    with suppress(OSError, ValueError), open(LOGIN, encoding="ascii") as file:
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
