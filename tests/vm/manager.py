# SPDX-License-Identifier: GPL-2.0-only
"""
A systemd with a journal, in which the guest's services run.

It is process 1 of a namespace of its own, so that the guest boots as for every other case.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import kernel
from fence import CaseFailed, Stopwatch

UNITS = Path("/etc/systemd/system")
SYSTEMD = "/usr/lib/systemd/systemd"

# Nothing of what a whole machine starts, but the journal.
TARGET = """
[Unit]
Description=What a case needs
Wants=systemd-journald.service
"""

SECONDS_TO_START = 120 * kernel.PATIENCE


class Systemd:
    """A running systemd, and how to talk to it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command where systemd runs: it refuses to talk to others."""
        return subprocess.run(self._there(command), capture_output=True, text=True, check=False)

    def begin(self, *command: str) -> subprocess.Popen[bytes]:
        """Starts a command where systemd runs."""
        return subprocess.Popen(self._there(command))

    def _there(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", f"--target={self._pid}", "--pid", "--mount", *command]

    def systemctl(self, *arguments: str) -> str:
        done = self.run("systemctl", *arguments)
        if done.returncode != 0:
            raise CaseFailed(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def property(self, unit: str, name: str) -> str:
        return self.systemctl("show", "--value", f"--property={name}", unit).strip()

    def until(self, unit: str, name: str, *wanted: str, within: float = SECONDS_TO_START) -> None:
        """Returns once a property of a unit has one of these values."""
        watch = Stopwatch()
        while (value := self.property(unit, name)) not in wanted:
            if watch.seconds() > within:
                raise CaseFailed(
                    f"{unit}: {name} is {value}, not {' or '.join(wanted)}:\n{self.told(unit)}"
                )
            time.sleep(0.05)

    def journal(self, unit: str) -> list[dict[str, str]]:
        """What the journal holds of a unit, with all fields."""
        done = self.run("journalctl", "--output=json", f"--unit={unit}", "--no-pager")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def told(self, unit: str) -> str:
        """What a person reads of a unit."""
        return "\n".join(entry["MESSAGE"] for entry in self.journal(unit))

    def until_told(self, unit: str, text: str, within: float = SECONDS_TO_START) -> None:
        watch = Stopwatch()
        while text not in (told := self.told(unit)):
            if watch.seconds() > within:
                raise CaseFailed(f"the journal does not say '{text}':\n{told}")
            time.sleep(0.05)


def _mount_control_groups() -> None:
    groups = Path("/sys/fs/cgroup")
    if not (groups / "cgroup.procs").exists():
        subprocess.run(["mount", "-t", "cgroup2", "none", groups], check=True)


@contextmanager
def systemd() -> Iterator[Systemd]:
    """Starts systemd, and takes it away again with all that runs in it."""
    _mount_control_groups()
    UNITS.mkdir(parents=True, exist_ok=True)
    (UNITS / "case.target").write_text(TARGET)
    output = Path("/tmp/systemd.log")
    with output.open("wb") as file:
        unshare = subprocess.Popen(
            [
                *("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"),
                *("--propagation=private", SYSTEMD, "--system", "--unit=case.target"),
                *("--log-target=console", "--show-status=no"),
            ],
            env={**os.environ, "container": "guest"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        watch = Stopwatch()
        while (pid := _child_of(unshare.pid)) is None:
            watch.at_most(SECONDS_TO_START)
            time.sleep(0.05)
        it = Systemd(pid)
        while it.run("systemctl", "is-active", "systemd-journald").stdout.strip() != "active":
            if unshare.poll() is not None or watch.seconds() > SECONDS_TO_START:
                raise CaseFailed(f"systemd does not start: {output.read_text()}")
            time.sleep(0.1)
        yield it
    finally:
        unshare.send_signal(signal.SIGKILL)
        unshare.wait()
        watch = Stopwatch()
        # It takes all that runs in its namespace with it before it is gone itself.
        while _pids():
            watch.at_most(SECONDS_TO_START)
            time.sleep(0.05)
        # Its /run is the guest's.
        for name in ("systemd", "log"):
            shutil.rmtree(Path("/run", name), ignore_errors=True)


def _pids() -> list[int]:
    """The guest's systemd, and what it has started that runs no other program yet."""
    done = subprocess.run(["pidof", "systemd"], stdout=subprocess.PIPE, text=True, check=False)
    return [int(pid) for pid in done.stdout.split()]


def _child_of(parent: int) -> int | None:
    """The systemd that this process has started, if it runs yet."""
    for pid in _pids():
        with suppress(FileNotFoundError):
            if f"\nPPid:\t{parent}\n" in Path(f"/proc/{pid}/status").read_text():
                return pid
    return None
