# SPDX-License-Identifier: GPL-2.0-only
"""Acknowledgements: an administrator's word that a host is off, or a mount fenced, for some time.

The command `ack` writes them to the state directory, even before there is a request, on a host that
does not lead, or while no agent runs. As long as one holds, the agent answers every request that it
is about. The time is counted by CLOCK_BOOTTIME, which cannot be set; after a reboot of this host
none holds.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from scoutfs_fenced.statefile import StateError, read_state, write_state

NAME = "acknowledgements"
BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True)
class Acknowledgement:
    """What was acknowledged, by which login, and until when it holds."""

    # What it is about, for people: "host node1" or "rid 2f1a90c37be5d468".
    subject: str
    # The rid, or an empty string; the host's addresses in canonical form, or none.
    rid: str
    addresses: Sequence[str]
    by: str
    # In seconds since 1970, for people.
    given: float
    until: float
    # What counts: the boot, and seconds of CLOCK_BOOTTIME in it.
    boot: str
    end: float

    def holds(self) -> bool:
        """Whether it counts now."""
        return self.boot == boot_id() and boot_seconds() < self.end

    def is_about(self, rid: str, address: str) -> bool:
        """Whether it answers a request for this rid, at this address in canonical form."""
        return rid == self.rid if self.rid else address in self.addresses

    def __str__(self) -> str:
        until = time.strftime("%H:%M:%S on %Y-%m-%d", time.localtime(self.until))
        return f"{self.subject}, by the word of {self.by}, until {until}"


def boot_id() -> str:
    """The id of this host's current boot."""
    with open(BOOT_ID, encoding="ascii") as file:
        return file.read().strip()


def boot_seconds() -> float:
    """Seconds since this boot, including those that the host was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def new_acknowledgement(
    subject: str, rid: str, addresses: Sequence[str], by: str, seconds: float
) -> Acknowledgement:
    """One that is given now and holds for `seconds`."""
    now = time.time()
    return Acknowledgement(
        subject, rid, tuple(addresses), by, now, now + seconds, boot_id(), boot_seconds() + seconds
    )


def read_acknowledgements(directory: str) -> list[Acknowledgement]:
    """Those that hold now. Raises StateError."""
    path = os.path.join(directory, NAME)
    try:
        found = [
            Acknowledgement(
                str(each["subject"]),
                str(each["rid"]),
                tuple(map(str, each["addresses"])),
                str(each["by"]),
                float(each["given"]),
                float(each["until"]),
                str(each["boot"]),
                float(each["end"]),
            )
            for each in read_state(path) or []
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path} is damaged: {error!r}") from error
    return [each for each in found if each.holds()]


def add_acknowledgement(directory: str, added: Acknowledgement) -> str:
    """Adds an acknowledgement. Raises OSError.

    If the file of earlier ones cannot be trusted, it is put aside, and this returns why.
    """
    path = os.path.join(directory, NAME)
    damage = ""
    with _locked(directory):
        try:
            before = read_acknowledgements(directory)
        except StateError as error:
            os.replace(path, f"{path}.damaged")
            before, damage = [], str(error)
        _write(directory, [*before, added])
    return damage


def withdraw_acknowledgements(
    directory: str, subject: str, addresses: Iterable[str] = ()
) -> list[Acknowledgement]:
    """Withdraws all about a subject, or about one of its addresses, and returns them.

    Raises StateError or OSError.
    """
    with _locked(directory):
        before = read_acknowledgements(directory)
        of_subject = [each for each in before if each.subject == subject]
        about = {*addresses, *(address for each in of_subject for address in each.addresses)}
        taken = [
            each for each in before if each in of_subject or not about.isdisjoint(each.addresses)
        ]
        if taken:
            _write(directory, [each for each in before if each not in taken])
    return taken


def file_stamp(directory: str) -> tuple[int, int] | None:
    """Changes whenever an acknowledgement is given or withdrawn; None until there is one."""
    try:
        status = os.stat(os.path.join(directory, NAME))
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _write(directory: str, acknowledgements: list[Acknowledgement]) -> None:
    content: list[dict[str, Any]] = [asdict(each) for each in acknowledgements]
    write_state(os.path.join(directory, NAME), content)


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    os.makedirs(directory, mode=0o700, exist_ok=True)
    lock = os.open(
        os.path.join(directory, f"{NAME}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
