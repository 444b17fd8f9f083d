# SPDX-License-Identifier: GPL-2.0-only
"""Runs the agent, scoutfs-fenced, as a process with a test configuration and command."""

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

# The promised upper bound on its reaction time.
MOST_MILLISECONDS = round(50 * kernel.SLOWNESS)

# On the first start in a guest Python compiles its standard library.
SECONDS_TO_START = 60


class Agent:
    """An agent with its configuration and a record of its command's calls."""

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
        """Writes a command that records how it was called and then runs `script`."""
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
        """Writes the configuration; each further name=value sets SCOUTFS_FENCED_NAME."""
        self.configuration.write_text(
            f"SCOUTFS_FENCED_DELAY={delay}\n"
            f"SCOUTFS_FENCED_RUN={self.command(script)}\n"
            f'SCOUTFS_FENCED_RUN_ARGS="{arguments}"\n'
            + "".join(f"SCOUTFS_FENCED_{name.upper()}={value}\n" for name, value in more.items())
        )

    def begin(self, *options: str) -> None:
        """Starts the agent; returns once it serves requests."""
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
        """Runs an agent that must refuse to start; returns its output."""
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
        while text not in (said := self.output.read_text()):
            self.check_runs()
            if watch.seconds() > within * kernel.PATIENCE:
                raise CaseFailed(f"the agent does not say '{text}', but: {said}")
            time.sleep(0.01)

    def called_with(self) -> list[str]:
        if not self.calls.exists():
            return []
        return [line.strip() for line in self.calls.read_text().splitlines()]

    def until_called(self, times: int) -> None:
        watch = Stopwatch()
        while len(self.called_with()) < times:
            self.check_runs()
            watch.at_most(30)
            time.sleep(0.02)

    def check_runs(self) -> None:
        assert self._process
        status = self._process.poll()
        if status is not None:
            raise CaseFailed(f"the agent ended ({status}): {self.output.read_text()}")

    def terminate(self) -> None:
        """Asks it to stop, without waiting."""
        assert self._process
        self._process.terminate()

    def kill(self) -> None:
        """Kills it with SIGKILL."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def lags(self, mount: Mount, times: int, tries: int = 1) -> list[float]:
        """
        Measures the milliseconds from start's return to the command's first action, `times` times.

        An emulated machine may be starved of CPU time; it gets more tries, up to the first whose
        median keeps the promise.
        """
        for _ in range(tries):
            lags = []
            # The agent answers for rids that it has fenced before without running the command.
            for rid in itertools.islice(self._rids, times):
                # Keeps its work on the previous request out of the measurement.
                time.sleep(0.1)
                self.started.unlink(missing_ok=True)
                mount.started(rid)
                lags.append(self.until_started(time.time()) * 1000)
                mount.until_fenced()
                equal(mount.free(rid), 0)
            if statistics.median(lags) < MOST_MILLISECONDS:
                break
        return lags

    def until_started(self, since: float) -> float:
        """Seconds from `since` to the command's first action."""
        watch = Stopwatch()
        while not self.started.exists():
            watch.at_most(20)
            time.sleep(0.002)
        # File timestamps have the granularity of a tick.
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
