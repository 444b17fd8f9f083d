# SPDX-License-Identifier: GPL-2.0-only
"""Control groups: one for each command and everything that it starts.

systemd delegates the control group of the agent's unit to the agent (Delegate=), which creates a
group below it for each command. No process can leave it, and one write kills all processes in it.

A command moves into its group before it begins, which takes the kernel some 20 ms, as a move waits
for an RCU grace period. Cloning it into the group would be faster, but Python has no call for that,
and several ctypes calls in its place deadlock: between them the child, which has no other thread,
waits for one to take Python's lock.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

# How systemd marks a group that it has delegated; old versions set only the first.
DELEGATED = ("trusted.delegate", "user.delegate")

_numbers = itertools.count(1)


@functools.lru_cache(maxsize=1)
def delegated() -> str | None:
    """The directory of the control group that is delegated to this process, or None.

    Only version 2 of control groups has `cgroup.kill`, since Linux 5.14.
    """
    try:
        directory = _own_directory()
        if directory is None or not os.access(os.path.join(directory, "cgroup.kill"), os.W_OK):
            return None
        return directory if _is_delegated(directory) else None
    except OSError:
        return None


def _own_directory() -> str | None:
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        paths = [line.rstrip("\n")[len("0::") :] for line in file if line.startswith("0::")]
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = [line.split() for line in file]
    for mount in mounts:
        if paths and mount[mount.index("-") + 1] == "cgroup2":
            return os.path.normpath(mount[4] + paths[0])
    return None


def _is_delegated(directory: str) -> bool:
    for name in DELEGATED:
        with suppress(OSError):
            if os.getxattr(directory, name) == b"1":
                return True
    return False


class ControlGroup:
    """One control group, made for one command."""

    def __init__(self, parent: str) -> None:
        """Creates it below a directory of the delegated tree, or raises OSError."""
        while True:
            self.directory = os.path.join(parent, f"command-{os.getpid()}-{next(_numbers)}")
            # An earlier agent may have had the same process id.
            with suppress(FileExistsError):
                os.mkdir(self.directory)
                return

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        files: tuple[int, int, int],
    ) -> int:
        """Starts a command in it; returns the process id.

        The files become its standard input, output and error.

        Raises OSError if that is impossible. Only the main thread may call this.
        """
        group = os.open(os.path.join(self.directory, "cgroup.procs"), os.O_WRONLY)
        # A child inherits this process's signal handlers until it execs; blocked, they never run.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

        def move() -> None:
            os.write(group, b"0")
            signal.set_wakeup_fd(-1)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

        try:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=files[0],
                stdout=files[1],
                stderr=files[2],
                preexec_fn=move,
            )
        except subprocess.SubprocessError as error:
            raise OSError(errno.EIO, f"it cannot be moved into {self.directory}") from error
        finally:
            os.close(group)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # _reap() in process.py waits for it instead.
        process.returncode = 0
        return process.pid

    def processes(self) -> Iterator[int]:
        """The ids of all processes in it, and in groups that they have created below it."""
        for directory, _, _ in os.walk(self.directory):
            with suppress(OSError), open(f"{directory}/cgroup.procs", encoding="ascii") as file:
                yield from map(int, file.read().split())

    def is_empty(self) -> bool:
        """Whether nothing runs in it any more."""
        try:
            with open(f"{self.directory}/cgroup.events", encoding="ascii") as file:
                return "populated 0" in file.read()
        except OSError:
            return True

    def kill(self) -> None:
        """Kills all processes in it, and those that they are about to start."""
        with suppress(OSError), open(f"{self.directory}/cgroup.kill", "wb", buffering=0) as file:
            file.write(b"1")

    def remove(self) -> bool:
        """Removes it unless processes run in it; returns whether it is gone."""
        for directory, _, _ in os.walk(self.directory, topdown=False):
            with suppress(OSError):
                os.rmdir(directory)
        return not os.path.exists(self.directory)
