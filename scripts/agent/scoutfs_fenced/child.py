# SPDX-License-Identifier: GPL-2.0-only
"""Starts a program in a child process, without waiting until the kernel has loaded it.

A program on a network filesystem that hangs, or on the very filesystem that waits for a fencing,
may take for ever to load. subprocess and posix_spawn wait for that; here only the child does. So
whether the program could be run is known when the child has ended, by what it wrote to a pipe.

A shell in between, which replaces itself by the program, would do the same. But shells have exit
statuses of their own, 2 among them, which would be taken for a fence agent's "off".

A child of a process with threads may only take locks that fork() handles, as those of other threads
are never released in it. This one takes the interpreter's and malloc()'s, which it does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

# Open files for standard input, output and error.
Files = tuple[int, int, int]

# What Python ignores, and what the agent handles, which programs expect to be neither.
SIGNALS = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGCHLD,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGTERM,
)


class Child:
    """A program that was started in a session of its own, with these open files and no other.

    The path is not looked up in PATH. A script without a #! line is run by `shell`. With `group`,
    an open cgroup.procs, the child moves into that control group first.

    The constructor raises OSError if there can be no process. Only the main thread may call it.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        files: Files,
        *,
        shell: str,
        group: int | None = None,
    ) -> None:
        self._failure, failure = os.pipe()
        # A child inherits this process's signal handlers until it execs; blocked, they never run.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _become(command, environment, files, shell, group, failure, before)
        except OSError:
            os.close(self._failure)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(failure)

    def failure(self) -> str:
        """Why the program could not be run, or an empty string; called once the child has ended."""
        return os.read(self._failure, 4096).decode(errors="replace")

    def close(self) -> None:
        """Closes the pipe."""
        os.close(self._failure)


def _become(
    command: Sequence[str],
    environment: Mapping[str, str],
    files: Files,
    shell: str,
    group: int | None,
    failure: int,
    mask: set[int | signal.Signals],
) -> NoReturn:
    """The child: replaces this process by the program, or writes why that failed, and ends."""
    try:
        # Above 2, where nothing below closes or replaces it.
        failure = fcntl.fcntl(failure, fcntl.F_DUPFD_CLOEXEC, 3)
        try:
            signal.set_wakeup_fd(-1)
            os.setsid()
            if group is not None:
                os.write(group, b"0")
            for number, file in enumerate([fcntl.fcntl(file, fcntl.F_DUPFD, 3) for file in files]):
                os.dup2(file, number)
            for name in os.listdir("/proc/self/fd"):
                if int(name) > 2 and int(name) != failure:
                    with suppress(OSError):
                        os.close(int(name))
            for handled in SIGNALS:
                signal.signal(handled, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            try:
                os.execve(command[0], list(command), environment)
            except OSError as error:
                if error.errno != errno.ENOEXEC:
                    raise
                os.execve(shell, [shell, *command], environment)
        except OSError as error:
            os.write(failure, (error.strerror or str(error)).encode())
        except Exception as error:
            os.write(failure, str(error).encode())
    finally:
        os._exit(127)
