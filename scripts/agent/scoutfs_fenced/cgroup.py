# SPDX-License-Identifier: GPL-2.0-only
"""Control groups: one for each command, in which everything that the command starts stays.

systemd delegates the control group of the agent's unit to the agent (Delegate=), which makes a
group below it for each command. No process falls out of it, and one write ends all that are in it.

A command starts inside its group. Moving it there would take the kernel some 20 ms, because a move
waits for an RCU grace period.

C header: linux/sched.h
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import itertools
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

# How systemd marks a group that it has delegated; old versions set the first only.
DELEGATED = ("trusted.delegate", "user.delegate")

# The number on every architecture that has the system call.
_SYS_CLONE3 = 435
_CLONE_INTO_CGROUP = 1 << 33

_FIRST_FREE = 3

_numbers = itertools.count(1)


class _CloneArguments(ctypes.Structure):
    """struct clone_args of linux/sched.h."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size"),
            *("tls", "set_tid", "set_tid_size", "cgroup"),
        )
    ]


@functools.lru_cache(maxsize=1)
def delegated() -> str | None:
    """The directory of the control group that is delegated to this process; None without one.

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
        """Makes it below a directory of the delegated tree, or raises OSError."""
        while True:
            self.directory = os.path.join(parent, f"command-{os.getpid()}-{next(_numbers)}")
            # An agent before this one may have had the same process id.
            with suppress(FileExistsError):
                os.mkdir(self.directory)
                return

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        files: tuple[int, int, int],
    ) -> int:
        """Starts a command in it, in a session of its own; returns the process id.

        The files become its standard input, output and error.

        Raises OSError if the command cannot be run. Only the main thread may call this. What others
        do without Python's lock meanwhile are system calls, and leaves no lock to the child.
        """
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        # A successful exec closes the writing end.
        failure, failed = os.pipe()
        # Handlers of this process, which a child inherits until it execs, never run there.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = _clone_into(directory)
            if pid == 0:
                _exec(command, environment, files, before, failed)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(directory)
            os.close(failed)
            with os.fdopen(failure, "rb") as file:
                number = file.read()
        if number:
            os.waitpid(pid, 0)
            raise OSError(int(number), os.strerror(int(number)))
        return pid

    def processes(self) -> Iterator[int]:
        """The process ids of all that run in it, and in groups that they have made below it."""
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
        """Kills everything that runs in it, and what that is about to start."""
        with suppress(OSError), open(f"{self.directory}/cgroup.kill", "wb", buffering=0) as file:
            file.write(b"1")

    def remove(self) -> bool:
        """Removes it; returns whether it is gone, which it is not while anything runs in it."""
        for directory, _, _ in os.walk(self.directory, topdown=False):
            with suppress(OSError):
                os.rmdir(directory)
        return not os.path.exists(self.directory)


def _clone_into(directory: int) -> int:
    """fork(2), with the child in a control group; returns 0 in the child."""
    # Unlike CDLL it keeps Python's lock, which the child needs.
    libc = ctypes.PyDLL(None, use_errno=True)
    arguments = _CloneArguments(
        flags=_CLONE_INTO_CGROUP, exit_signal=signal.SIGCHLD, cgroup=directory
    )
    size = ctypes.c_size_t(ctypes.sizeof(arguments))
    # What os.fork() calls for Python's own state: the child has one thread.
    ctypes.pythonapi.PyOS_BeforeFork()
    pid: int = libc.syscall(ctypes.c_long(_SYS_CLONE3), ctypes.byref(arguments), size)
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return pid
    number = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(number, os.strerror(number))
    return pid


def _exec(
    command: Sequence[str],
    environment: Mapping[str, str],
    files: tuple[int, int, int],
    mask: set[signal.Signals | int],
    failed: int,
) -> None:
    """What the child does; it does not return."""
    number = errno.ENOEXEC
    try:
        os.setsid()
        # Python ignores these, and a program inherits that.
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(ignored, signal.SIG_DFL)
        # One of them may be among the numbers that are about to be replaced.
        copies = [fcntl.fcntl(file, fcntl.F_DUPFD, _FIRST_FREE) for file in files]
        for standard, file in enumerate(copies):
            os.dup2(file, standard)
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in (0, 1, 2, failed):
                with suppress(OSError):
                    os.close(int(name))
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvpe(command[0], list(command), dict(environment))
    except OSError as error:
        number = error.errno or number
    finally:
        os.write(failed, str(number).encode())
        os._exit(127)
