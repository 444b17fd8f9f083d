# SPDX-License-Identifier: GPL-2.0-only
"""
Runs systemd with a journal in the guest, for cases that need services.

It is process 1 of its own PID namespace, so the guest boots as it does for all other cases.
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

# With an id this is not the first boot, on which systemd enables every unit that Debian enables.
# systemd-networkd is one, and fails in a loop without its user.
MACHINE_ID = Path("/etc/machine-id")

# The journal, and nothing else of a full boot.
TARGET = """
[Unit]
Description=What a case needs
Wants=systemd-journald.service
"""

SECONDS_TO_START = 120 * kernel.PATIENCE


class Systemd:
    """A running systemd."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in systemd's namespaces; systemd refuses clients outside them."""
        return subprocess.run(self._there(command), capture_output=True, text=True, check=False)

    def begin(self, *command: str) -> subprocess.Popen[bytes]:
        """Starts a command in systemd's namespaces."""
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
        """Waits until a unit's property has one of these values."""
        watch = Stopwatch()
        while (value := self.property(unit, name)) not in wanted:
            if watch.seconds() > within:
                raise CaseFailed(
                    f"{unit}: {name} is {value}, not {' or '.join(wanted)}:\n{self.told(unit)}"
                )
            time.sleep(0.05)

    def journal(self, unit: str) -> list[dict[str, str]]:
        """A unit's journal entries with all fields."""
        done = self.run("journalctl", "--output=json", f"--unit={unit}", "--no-pager")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def told(self, unit: str) -> str:
        """A unit's messages in the journal."""
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
    """Starts systemd; kills it afterwards, together with all its processes."""
    _mount_control_groups()
    UNITS.mkdir(parents=True, exist_ok=True)
    (UNITS / "case.target").write_text(TARGET)
    MACHINE_ID.write_text("5c0075fe5c0075fe5c0075fe5c0075fe\n")
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
        # The kernel kills all processes in its namespace before it is reaped.
        while _pids():
            watch.at_most(SECONDS_TO_START)
            time.sleep(0.05)
        # It shares /run with the guest.
        for name in ("systemd", "log"):
            shutil.rmtree(Path("/run", name), ignore_errors=True)


def _pids() -> list[int]:
    """The guest's systemd, and its children that have not called execve() yet."""
    done = subprocess.run(["pidof", "systemd"], stdout=subprocess.PIPE, text=True, check=False)
    return [int(pid) for pid in done.stdout.split()]


def _child_of(parent: int) -> int | None:
    """The systemd that this process has started, or None if it does not run yet."""
    for pid in _pids():
        with suppress(FileNotFoundError):
            if f"\nPPid:\t{parent}\n" in Path(f"/proc/{pid}/status").read_text():
                return pid
    return None
