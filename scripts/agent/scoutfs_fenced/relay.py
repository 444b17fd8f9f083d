# SPDX-License-Identifier: GPL-2.0-only
"""Runs commands such as `check` as children of the agent, through the socket `relay` in its folder.

What a person's shell can do says little about what the agent can: it has another environment, and
whatever the unit and its drop-in files set. So the running agent runs the command, with the
standard input, output and error of the process that asks.

A client sends one JSON object on one line, together with these three open files, and gets the
command's exit status, in digits. The command is ended if the connection is closed before that. The
members:

  arguments      the command line, without the program
  configuration  the configuration file, if it is not the agent's
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from scoutfs_fenced import log, process
from scoutfs_fenced.configuration import PATH_VARIABLE
from scoutfs_fenced.fencing import NOT_FOR_COMMANDS
from scoutfs_fenced.instance import folder

# The commands that the agent runs. Those that change anything use the socket `control`.
COMMANDS = ("check",)

# Set in the environment of a command that the agent runs.
RELAYED = "SCOUTFS_FENCED_RELAYED"

LONGEST = 1 << 16
FILES = 3

# Seconds that a client may take to send its request, and that a command may take.
SECONDS_TO_ASK = 10.0
LIMIT = 3600.0


def run_by_agent(arguments: Sequence[str]) -> int | None:
    """Has the agent run a command line; returns its exit status, or None if no agent can."""
    if RELAYED in os.environ:
        return None
    path = os.environ.get(PATH_VARIABLE)
    asked = json.dumps(
        {"arguments": list(arguments), "configuration": path and os.path.abspath(path)}
    )
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(_path())
            socket.send_fds(connection, [asked.encode() + b"\n"], [0, 1, 2])
            status = connection.recv(LONGEST)
        return int(status)
    except (OSError, ValueError):
        print(
            "scoutfs-fenced: no agent answers, so this has the environment and the rights of your "
            "shell; the agent's may differ",
            file=sys.stderr,
        )
        return None


def _path() -> str:
    return os.path.join(folder(), "relay")


class Relay:
    """The agent's side."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def listen(self) -> None:
        """Starts accepting connections; only root may connect. Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with suppress(FileNotFoundError):
            os.unlink(_path())
        before = os.umask(0o177)
        try:
            listener.bind(_path())
        finally:
            os.umask(before)
        listener.listen()
        listener.setblocking(False)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            task = asyncio.ensure_future(_serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Ends the running commands."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _serve(connection: socket.socket) -> None:
    """Runs the command that one client asks for."""
    with ExitStack() as opened:
        opened.callback(connection.close)
        connection.setblocking(False)
        try:
            asked, files = await asyncio.wait_for(_receive(connection, opened), SECONDS_TO_ASK)
            command = [*_program(), *_arguments(asked)]
            run = asyncio.ensure_future(
                process.run_on(files, command, environment=_environment(asked), limit=LIMIT)
            )
            gone = asyncio.ensure_future(_readable(connection))
            try:
                await asyncio.wait({run, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
                run.cancel()
                await asyncio.wait({run})
            if not run.cancelled():
                ending = run.result()
                connection.send(str(1 if ending.status is None else ending.status).encode())
        except (OSError, ValueError, asyncio.TimeoutError) as error:
            log.event(f"a command was asked for and could not be run: {error}", level=log.WARNING)


async def _receive(
    connection: socket.socket, opened: ExitStack
) -> tuple[dict[str, Any], process.Files]:
    """Receives a request and its open files; raises ValueError for anything else."""
    content, files = b"", list[int]()
    while not content.endswith(b"\n"):
        await _readable(connection)
        part, received, _flags, _address = socket.recv_fds(connection, LONGEST, FILES)
        for file in received:
            opened.callback(os.close, file)
        files += received
        content += part
        if not part or len(content) > LONGEST:
            raise ValueError("it has no end")
    asked = json.loads(content)
    if not isinstance(asked, dict) or len(files) != FILES:
        raise ValueError("it is not as it should be")
    return asked, (files[0], files[1], files[2])


async def _readable(connection: socket.socket) -> None:
    """Waits until there is something to read, or the end."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection)


def _program() -> list[str]:
    return [sys.executable, os.path.abspath(sys.argv[0])]


def _arguments(asked: Mapping[str, Any]) -> list[str]:
    arguments = asked.get("arguments")
    if not isinstance(arguments, list) or not arguments or arguments[0] not in COMMANDS:
        raise ValueError(f"not one of {', '.join(COMMANDS)}")
    return [str(word) for word in arguments]


def _environment(asked: Mapping[str, Any]) -> dict[str, str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in NOT_FOR_COMMANDS
    }
    if asked.get("configuration"):
        environment[PATH_VARIABLE] = str(asked["configuration"])
    return {**environment, RELAYED: "1"}
