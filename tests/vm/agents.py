# SPDX-License-Identifier: GPL-2.0-only
"""The agent, scoutfs-fenced, as a process, with a configuration and a command of ours."""

import itertools
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kernel
from fence import CaseFailed, Mount, Stopwatch, equal, true

AGENT = kernel.MODULES / "scoutfs-fenced"

# How soon it acts, as promised.
MOST_MILLISECONDS = 50 * kernel.PATIENCE

# The first start in a guest has Python compile its own library, which has not been done before.
SECONDS_TO_START = 60


class Agent:
    """An agent with a configuration, and what its command was called with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = folder
        self.state = folder / "state"
        self.calls = folder / "calls"
        self.started = folder / "started"
        self.configuration = folder / "scoutfs-fenced.conf"
        self.output = folder / "output"
        self._rids = itertools.count(0xF00000)
        self._process: subprocess.Popen[bytes] | None = None

    def command(self, script: str) -> Path:
        """A command that notes how it was called and then does this."""
        path = self.folder / "fence-it"
        path.write_text(
            "#!/bin/sh\n"
            f": > {self.started}\n"
            'set -- "$SCOUTFS_FENCED_REQ_RID" "$SCOUTFS_FENCED_REQ_IP" "$@"\n'
            f'(IFS=,; echo "$*") >> {self.calls}\n'
            f"cd {self.folder}\n"
            f"{script}\n"
        )
        path.chmod(0o755)
        return path

    def configure(self, script: str, arguments: str = "", delay: str = "1", **more: object) -> None:
        """Sets what the agent is to do; a name and value more is one of SCOUTFS_FENCED_NAME."""
        self.configuration.write_text(
            f"SCOUTFS_FENCED_DELAY={delay}\n"
            f"SCOUTFS_FENCED_RUN={self.command(script)}\n"
            f'SCOUTFS_FENCED_RUN_ARGS="{arguments}"\n'
            + "".join(f"SCOUTFS_FENCED_{name.upper()}={value}\n" for name, value in more.items())
        )

    def begin(self, *options: str) -> None:
        """Starts the agent; returns once it serves."""
        self.launch(*options)
        self.until_says("serving fence requests", SECONDS_TO_START)

    def launch(self, *options: str) -> None:
        environment = dict(
            os.environ,
            SCOUTFS_FENCED_CONFIG_FILE=str(self.configuration),
            RUNTIME_DIRECTORY=str(self.runtime),
            STATE_DIRECTORY=str(self.state),
        )
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                [AGENT, *options], env=environment, stdout=output, stderr=subprocess.STDOUT
            )

    def refuses(self) -> str:
        """Runs an agent that must not start; returns what it says about it."""
        self.launch()
        assert self._process
        try:
            status = self._process.wait(SECONDS_TO_START)
        except subprocess.TimeoutExpired:
            raise CaseFailed("the agent started") from None
        true(status > 0, f"its exit status {status} says that something is wrong")
        return self.output.read_text()

    def until_says(self, text: str, within: float = 20) -> None:
        watch = Stopwatch()
        while text not in self.output.read_text():
            self.check_runs()
            watch.at_most(within)
            time.sleep(0.01)

    def called_with(self) -> list[str]:
        if not self.calls.exists():
            return []
        return [line.strip() for line in self.calls.read_text().splitlines()]

    def until_called(self, times: int) -> None:
        watch = Stopwatch()
        while len(self.called_with()) < times:
            self.check_runs()
            watch.at_most(20)
            time.sleep(0.02)

    def check_runs(self) -> None:
        assert self._process
        status = self._process.poll()
        if status is not None:
            raise CaseFailed(f"the agent ended ({status}): {self.output.read_text()}")

    def terminate(self) -> None:
        """Has it stop, and does not wait for that."""
        assert self._process
        self._process.terminate()

    def kill(self) -> None:
        """Ends it without a warning."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def lags(self, mount: Mount, times: int, tries: int = 1) -> list[float]:
        """
        Milliseconds from start's return to the first thing that the command does, many times.

        More tries are for an emulated machine that was starved of processor time: they end with one
        in which the promise was kept.
        """
        for _ in range(tries):
            lags = []
            # Rids that were fenced once are answered without the command.
            for rid in itertools.islice(self._rids, times):
                # What it does about the one before is not to be measured.
                time.sleep(0.1)
                self.started.unlink(missing_ok=True)
                mount.started(rid)
                lags.append(self.until_started(time.time()) * 1000)
                equal(mount.wait_fenced(30_000), 0)
                equal(mount.free(rid), 0)
            if statistics.median(lags) < MOST_MILLISECONDS:
                break
        return lags

    def until_started(self, since: float) -> float:
        """Seconds from this time to the first thing that the command does."""
        watch = Stopwatch()
        while not self.started.exists():
            watch.at_most(20)
            time.sleep(0.002)
        # A file's time is that of the last tick.
        return max(0.0, self.started.stat().st_mtime - since)

    def end(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                raise CaseFailed("the agent did not end when told to") from None


@contextmanager
def agent() -> Iterator[Agent]:
    with tempfile.TemporaryDirectory() as folder:
        it = Agent(Path(folder))
        try:
            yield it
        finally:
            it.end()
