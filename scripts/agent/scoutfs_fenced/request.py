# SPDX-License-Identifier: GPL-2.0-only
"""A fence request, as the kernel shows it in sysfs."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Callable

# Where mounts have their requests, below sysfs: scoutfs's own directory, and the module's.
PARENTS = ("fs/scoutfs", "fs/scoutfs_fence")

# The reason of a request for the host of a former leader: its caller waits less than the kernel.
LEADER = "quorum_block_leader"

# Seconds that scoutfs waits for such a request, before it steps down and the next leader asks.
DEFAULT_LEADER_TIMEOUT = 15.0

# How long the module waits, which may be loaded beside a scoutfs with built-in fencing; that always
# waits for the default.
TIMEOUT = "module/scoutfs_fence/parameters/timeout_ms"
DEFAULT_TIMEOUT_MS = 30000

# Addresses that no host has: requests with the same one have nothing in common.
UNKNOWN_ADDRESSES = ("", "none", "0.0.0.0", "::")

RID = re.compile(r"[0-9a-f]{16}")

# Errors from a request's files once it is gone, or while its directory is incomplete.
GONE = (errno.ENOENT, errno.ENODEV, errno.ENOTDIR)


@dataclass(frozen=True)
class Request:
    """The properties of a request, none of which changes."""

    directory: str
    # The directory's; a later directory for the same rid has another.
    inode: int
    rid: str
    # IPv4 or IPv6. A kernel without this module knows only IPv4.
    address: str
    reason: str
    mount: str
    # The bounds of when it was made, in seconds of time.monotonic().
    made: float
    made_by: float
    # Seconds after which the caller gives up.
    timeout: float
    # Seconds after which the kernel does.
    kernel_timeout: float
    # Whether the caller takes `error` for success, as a leader with scoutfs's built-in fencing does
    # when it waits for the host of the former leader.
    error_is_success: bool = False

    @property
    def deadline(self) -> float:
        """When the caller may give up."""
        return self.made + self.timeout

    @property
    def margin(self) -> float:
        """Seconds before the deadline by which to be finished, so that no answer is late."""
        return min(2.0, self.timeout / 10)

    def left(self) -> float:
        """Seconds that remain for fencing."""
        return self.deadline - self.margin - time.monotonic()

    def fields(self) -> dict[str, str]:
        """Identifies the request in the log."""
        return {
            "rid": self.rid,
            "address": self.address,
            "reason": self.reason,
            "mount": self.mount,
        }


def find_requests(
    sysfs: str, unreadable: Callable[[str, OSError], None] = lambda _path, _error: None
) -> Iterator[tuple[str, int]]:
    """The directory and inode of every request; `unreadable` gets each unreadable directory."""

    def folders(path: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(path) as entries:
                return [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            if error.errno not in GONE:
                unreadable(path, error)
            return []

    for parent in PARENTS:
        for mount in folders(os.path.join(sysfs, parent)):
            for entry in folders(os.path.join(mount.path, "fence")):
                yield entry.path, entry.inode()


def is_scanned(path: str) -> bool:
    """Whether find_requests() finds a request at this path below sysfs."""
    words = path.split("/")
    return "/".join(words[:-3]) in PARENTS and words[-2] == "fence"


def read_request(directory: str, sysfs: str, leader_timeout: float) -> tuple[Request, bool]:
    """Reads a request, and whether it is finished.

    Raises OSError if its directory is incomplete or gone, and ValueError if it is no request.
    `leader_timeout` is how long a caller waits for the host of a former leader to be fenced.
    """
    with ExitStack() as opened:
        top = _open_directory(directory, opened)

        def value(name: str) -> str:
            file = os.open(name, os.O_RDONLY, dir_fd=top)
            try:
                return _read(file)
            finally:
                os.close(file)

        # The module has both files, built-in fencing one or the other.
        addresses = []
        for name in ("inet_addr", "ipv4_addr"):
            with suppress(FileNotFoundError):
                addresses.append(value(name))
        if not addresses:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "ipv4_addr")
        built_in = len(addresses) == 1
        rid = value("rid")
        if not RID.fullmatch(rid):
            raise ValueError(f"its rid is '{rid}'")
        # The kernel shows whole seconds only.
        age = int(value("elapsed_secs"))
        now = time.monotonic()
        reason = value("reason")
        kernel_timeout = DEFAULT_TIMEOUT_MS / 1000 if built_in else _timeout(sysfs)
        timeout = min(kernel_timeout, leader_timeout) if reason == LEADER else kernel_timeout
        request = Request(
            directory=directory,
            inode=os.fstat(top).st_ino,
            rid=rid,
            address=addresses[0],
            reason=reason,
            mount=os.path.basename(os.path.dirname(os.path.dirname(directory))),
            made=now - age - 1,
            made_by=now - age,
            timeout=timeout,
            kernel_timeout=kernel_timeout,
            error_is_success=reason == LEADER and built_in,
        )
        return request, value("fenced") == "1" or value("error") == "1"


def read_outcome(directory: str) -> str:
    """The outcome of a request: pending, fenced or failed. Raises OSError if it is gone."""
    with ExitStack() as opened:
        top = _open_directory(directory, opened)
        for name, meaning in (("error", "failed"), ("fenced", "fenced")):
            with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=top), "rb", buffering=0) as file:
                if _read(file.fileno()) == "1":
                    return meaning
    return "pending"


class RequestFiles:
    """A request's files, held open to read or write its answer.

    The kernel may drop a request at any time, and the same rid may be requested again. Only files
    in a directory with the request's inode are opened. They remain those of that request after it
    is dropped, when writes to them fail: an answer reaches no other request.

    The constructor raises OSError if the request is gone.
    """

    def __init__(self, request: Request) -> None:
        with ExitStack() as opened:
            top = _open_directory(request.directory, opened)
            if os.fstat(top).st_ino != request.inode:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

            def hold(name: str) -> int:
                file = os.open(name, os.O_RDWR, dir_fd=top)
                opened.callback(os.close, file)
                return file

            self._fenced = hold("fenced")
            self._error = hold("error")
            self._opened = opened.pop_all()

    def __enter__(self) -> RequestFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def finished(self) -> bool:
        """Whether it already has an answer. Raises OSError if the request is gone."""
        return _read(self._fenced) == "1" or _read(self._error) == "1"

    def finish(self, fenced: bool) -> None:
        """Writes the answer."""
        os.pwrite(self._fenced if fenced else self._error, b"1\n", 0)


def _open_directory(path: str, opened: ExitStack) -> int:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    opened.callback(os.close, directory)
    return directory


def _read(file: int) -> str:
    """The current value of an open sysfs file."""
    return os.fsdecode(os.pread(file, 4096, 0)).strip()


def _timeout(sysfs: str) -> float:
    milliseconds = DEFAULT_TIMEOUT_MS
    with suppress(OSError, ValueError), open(os.path.join(sysfs, TIMEOUT), "rb") as file:
        milliseconds = int(file.read())
    return milliseconds / 1000
