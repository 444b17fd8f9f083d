# SPDX-License-Identifier: GPL-2.0-only
"""An administrator's word that a host is off, or that a mount is fenced, and until when it holds.

`ack` gives words, also before there is a request, on a host that does not lead, or while no agent
runs. They are in the state directory. The agent answers every request that one is about as long as
it holds, which it counts by a clock that people do not set; after a reboot of this host none holds.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from scoutfs_fenced.statefile import StateError, read_state, write_state

NAME = "acknowledgements"
BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True)
class Word:
    """What was said, by whom, and until when it holds."""

    # Of what it was said, for people: "host node1" or "rid 2f1a90c37be5d468".
    subject: str
    # The rid, or nothing; the host's addresses, each in its one spelling, or none.
    rid: str
    addresses: Sequence[str]
    by: str
    # In seconds since 1970, for people.
    given: float
    until: float
    # What counts: seconds of CLOCK_BOOTTIME, of this boot.
    boot: str
    end: float

    def holds(self) -> bool:
        """Whether it counts now."""
        return self.boot == boot_id() and boot_seconds() < self.end

    def is_about(self, rid: str, address: str) -> bool:
        """Whether it answers a request for this rid, at this address in its one spelling."""
        return rid == self.rid if self.rid else address in self.addresses

    def __str__(self) -> str:
        until = time.strftime("%H:%M:%S on %Y-%m-%d", time.localtime(self.until))
        return f"{self.subject}, by the word of {self.by}, until {until}"


def boot_id() -> str:
    """Which boot of this host this is."""
    with open(BOOT_ID, encoding="ascii") as file:
        return file.read().strip()


def boot_seconds() -> float:
    """Seconds since this boot, also those that the host slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def new_word(subject: str, rid: str, addresses: Sequence[str], by: str, seconds: float) -> Word:
    """A word that is given now and holds for so many seconds."""
    now = time.time()
    return Word(
        subject, rid, tuple(addresses), by, now, now + seconds, boot_id(), boot_seconds() + seconds
    )


def read_words(directory: str) -> list[Word]:
    """The words that hold now. Raises StateError."""
    path = os.path.join(directory, NAME)
    try:
        told = read_state(path) or []
        words = [
            Word(
                str(each["subject"]),
                str(each["rid"]),
                tuple(map(str, each["addresses"])),
                str(each["by"]),
                float(each["given"]),
                float(each["until"]),
                str(each["boot"]),
                float(each["end"]),
            )
            for each in told
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path} is damaged: {error!r}") from error
    return [word for word in words if word.holds()]


def give_word(directory: str, word: Word) -> None:
    """Adds a word. Raises StateError or OSError."""
    with _locked(directory):
        _write(directory, [*read_words(directory), word])


def withdraw_words(directory: str, subject: str) -> list[Word]:
    """Takes back all words about a subject; returns them. Raises StateError or OSError."""
    with _locked(directory):
        words = read_words(directory)
        taken = [word for word in words if word.subject == subject]
        if taken:
            _write(directory, [word for word in words if word.subject != subject])
    return taken


def stamp(directory: str) -> tuple[int, int] | None:
    """Changes whenever a word is given or taken back; None as long as there was none."""
    try:
        status = os.stat(os.path.join(directory, NAME))
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _write(directory: str, words: list[Word]) -> None:
    told: list[dict[str, Any]] = [asdict(word) for word in words]
    write_state(os.path.join(directory, NAME), told)


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
