# SPDX-License-Identifier: GPL-2.0-only
"""A world for the agent: a folder that imitates /sys, commands, a configuration, and the log."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

AGENT = Path(__file__).resolve().parents[2] / "scripts" / "agent" / "scoutfs-fenced"

RID = "00c0ffee00000001"
MOUNT = "scoutfs/f.000001.r.000002"


def rid(number: int) -> str:
    """A made-up rid."""
    return f"00c0ffee{number:08x}"


def until(true: Callable[[], Any], what: str, seconds: float = 20) -> None:
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.01)


def alive(pid: str) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Agent:
    """A running agent and its log so far."""

    def __init__(
        self, world: World, environment: dict[str, str], output: int | None = None
    ) -> None:
        self._log = world.folder / f"log-{time.monotonic_ns()}"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-B", AGENT, "--sysfs", world.sysfs],
                env={
                    **os.environ,
                    "SCOUTFS_FENCED_CONFIG_FILE": str(world.configuration),
                    "RUNTIME_DIRECTORY": str(world.runtime),
                    "STATE_DIRECTORY": str(world.state),
                    **environment,
                },
                stdout=log if output is None else output,
                stderr=log,
            )

    def log(self) -> str:
        return self._log.read_text()

    def lines(self, pattern: str) -> list[str]:
        return [line for line in self.log().splitlines() if re.search(pattern, line)]

    def says(self, pattern: str, seconds: float = 20) -> Agent:
        """Waits until it has logged a line that matches."""
        what = f"the agent says {pattern}"
        until(lambda: self.lines(pattern) or self.process.poll() is not None, what, seconds)
        assert self.lines(pattern), f"{what}, but it said: {self.log()}"
        return self

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 20) -> int:
        return self.process.wait(seconds)

    def stop(self) -> None:
        self.signal(signal.SIGTERM)
        assert self.wait() == 0, self.log()


class World:
    """The environment of an agent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sysfs = folder / "sys"
        self.sysfs.mkdir()
        self.runtime = folder / "run"
        self.state = folder / "state"
        self.configuration = folder / "scoutfs-fenced.conf"
        self.record = folder / "record"
        self._agents: list[Agent] = []

    def request(
        self,
        rid: str = RID,
        mount: str = MOUNT,
        *,
        address: str = "10.1.2.3",
        elapsed: int = 0,
        inet: str = "",
        reason: str = "client_recovery",
        built_in: bool = False,
    ) -> Path:
        """Makes a request's directory, which appears complete.

        With built-in fencing scoutfs shows one address, the module both.
        """
        values = {
            "rid": rid,
            "ipv4_addr": address,
            "reason": reason,
            "elapsed_secs": str(elapsed),
            "fenced": "0",
            "error": "0",
        }
        if inet or not built_in:
            values["inet_addr"] = inet or address
        made = self.folder / f"made-{time.monotonic_ns()}"
        made.mkdir()
        for name, value in values.items():
            (made / name).write_text(f"{value}\n")
        directory = self.sysfs / "fs" / mount / "fence" / rid
        directory.parent.mkdir(parents=True, exist_ok=True)
        made.rename(directory)
        return directory

    def timeout(self, seconds: float) -> None:
        """Sets the kernel's timeout."""
        parameters = self.sysfs / "module" / "scoutfs_fence" / "parameters"
        parameters.mkdir(parents=True, exist_ok=True)
        (parameters / "timeout_ms").write_text(f"{seconds * 1000:.0f}\n")

    def command(self, script: str, name: str = "fence-command") -> Path:
        """Writes a shell script, which may append lines to ./record."""
        path = self.folder / name
        path.write_text(f"#!/bin/sh\ncd {self.folder}\n{script}\n")
        path.chmod(0o755)
        return path

    def configure(self, script: str, **values: object) -> None:
        """Writes the configuration; each name=value sets SCOUTFS_FENCED_NAME."""
        values = {"delay": 0.05, "run": self.command(script), **values}
        self.configuration.write_text(
            "".join(f"SCOUTFS_FENCED_{name.upper()}='{value}'\n" for name, value in values.items())
        )

    def begin(self, output: int | None = None, **environment: str) -> Agent:
        """Starts an agent, which may fail early."""
        agent = Agent(self, environment, output)
        self._agents.append(agent)
        return agent

    def agent(self, script: str = "exit 0", **values: object) -> Agent:
        """Starts an agent with this command; returns it once it serves."""
        self.configure(script, **values)
        return self.begin().says("serving fence requests")

    def remembers(self, text: str) -> bool:
        """Whether the agent has recorded this."""
        records = self.state / "records"
        return records.exists() and text in records.read_text()

    def recorded(self) -> list[str]:
        return self.record.read_text().splitlines() if self.record.exists() else []

    def status(self) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.runtime / "status"))
            with connection.makefile("rb") as file:
                answer: dict[str, Any] = json.load(file)
                return answer

    def end(self) -> None:
        for agent in self._agents:
            agent.process.kill()
            agent.process.wait()


def result(directory: Path) -> str:
    """The result reported to the kernel."""
    told = [name for name in ("fenced", "error") if (directory / name).read_text() == "1\n"]
    return ",".join(told)


def until_result(directory: Path, wanted: str, seconds: float = 20) -> None:
    until(lambda: result(directory) == wanted, f"{directory} is {wanted}", seconds)


def remove(directory: Path) -> None:
    """Removes a request's directory atomically, as the kernel does."""
    gone = directory.parents[4] / f"gone-{time.monotonic_ns()}"
    directory.rename(gone)
    shutil.rmtree(gone)
