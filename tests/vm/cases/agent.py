# SPDX-License-Identifier: GPL-2.0-only
"""The agent, scoutfs-fenced, with the kernel at one end and a command of ours at the other."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EIO, ENOENT
from pathlib import Path

import kernel
from case import Case, case
from fence import CLIENT_RECONNECT, CaseFailed, Finished, Stopwatch, equal, true

AGENT = kernel.MODULES / "scoutfs-fenced"

# The first start in a guest has Python compile its own library, which nobody has done before.
SECONDS_TO_START = 60


class Agent:
    """An agent with a configuration, and what its command was called with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        self.configuration = folder / "scoutfs-fenced.conf"
        self.output = folder / "output"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self, script: str) -> Path:
        """A command that notes how it was called and then does this."""
        path = self.folder / "fence-it"
        path.write_text(
            "#!/bin/sh\n"
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

    def begin(self) -> None:
        """Starts the agent; returns once it serves."""
        self.launch()
        self.until_says("serving fence requests", SECONDS_TO_START)

    def launch(self) -> None:
        environment = dict(
            os.environ,
            SCOUTFS_FENCED_CONFIG_FILE=str(self.configuration),
            RUNTIME_DIRECTORY=str(self.folder),
        )
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                [AGENT], env=environment, stdout=output, stderr=subprocess.STDOUT
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


@case
def agent_reports_fenced_where_the_command_succeeds(case: Case) -> None:
    """The command's exit status 0 is passed on as fenced, and the leader goes on."""
    mount = case.mount()
    request = mount.started(0xAA, reason=CLIENT_RECONNECT)
    waiter = mount.waiter()
    with agent() as it:
        it.configure("exit 0")
        it.begin()
        equal(waiter.answer(20), 0)
        equal([request.read("fenced"), request.read("error")], ["1\n", "0\n"])
        equal(mount.next(), Finished(0xAA, CLIENT_RECONNECT))
        equal(len(it.called_with()), 1)
        it.check_runs()


@case
def agent_reports_error_where_the_command_fails(case: Case) -> None:
    """Any other exit status is passed on as error, also where a signal ended the command."""
    mount = case.mount()
    with agent() as it:
        it.configure(
            "case $SCOUTFS_FENCED_REQ_RID in *1) exit 1;; *2) exit 255;; esac; kill -9 $$",
            retries=0,
        )
        for rid in (1, 2, 3):
            case.expect_error_line(mount, rid)
            mount.started(rid)
        it.begin()
        for rid in (1, 2, 3):
            mount.request(rid).until_failed(20)
            equal(mount.request(rid).read("fenced"), "0\n")
        equal(mount.wait_fenced(0), -EIO)
        equal(mount.next(), Finished(1, error=True))
        it.check_runs()


@case
def agent_gives_the_command_environment_and_arguments(case: Case) -> None:
    """The command sees rid and address of the request, and the configured arguments."""
    mount = case.mount()
    with agent() as it:
        it.configure("exit 0", arguments="--power off -v")
        mount.started(0xFEDCBA9876543210, "192.168.1.20")
        waiter = mount.waiter()
        it.begin()
        equal(waiter.answer(20), 0)
        equal(it.called_with(), ["fedcba9876543210,192.168.1.20,--power,off,-v"])


@case
def agent_serves_every_mount_and_new_requests(case: Case) -> None:
    """One agent serves all mounts, and requests that are made while it runs."""
    one, other = case.mount(), case.mount()
    with agent() as it:
        it.configure("exit 0", delay="0.1")
        one.started(0xAA, "10.0.0.1")
        other.started(0xAA, "10.0.0.2")
        waiters = [one.waiter(), other.waiter()]
        it.begin()
        equal([waiter.answer(20) for waiter in waiters], [0, 0])
        one.started(0xBB, "10.0.0.3")
        equal(one.wait_fenced(20_000), 0)
        equal(one.free(0xBB), 0)
        # The same rid again is another request.
        one.started(0xBB, "10.0.0.4")
        equal(one.wait_fenced(20_000), 0)
        calls = it.called_with()
        addresses = [call.split(",")[1] for call in calls]
        equal(sorted(addresses), ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"])


@case
def agent_leaves_finished_requests_alone(case: Case) -> None:
    """The command is not run for requests that are fenced or failed already."""
    mount = case.mount()
    case.expect_error_line(mount, 2)
    mount.started(1).set_fenced()
    mount.started(2).set_error()
    request = mount.started(3, "10.0.0.3")
    with agent() as it:
        it.configure("exit 0", delay="0.1")
        it.begin()
        it.until_called(1)
        time.sleep(0.5)
        true(request.fenced(), "the unfinished one was served")
        equal(it.called_with(), ["0000000000000003,10.0.0.3"])
    equal([mount.request(2).read("fenced"), mount.request(1).read("error")], ["0\n", "0\n"])


@case
def agent_goes_on_where_a_request_vanishes(case: Case) -> None:
    """A request dropped while its command runs does the agent no harm, nor the rid's next one."""
    mount = case.mount()
    with agent() as it:
        it.configure("test -e go || touch running; while ! test -e go; do sleep 0.05; done")
        mount.started(0xAA)
        it.begin()
        it.until_called(1)
        equal(mount.free(0xAA), 0)
        again = mount.started(0xAA, "10.0.0.9")
        (it.folder / "go").touch()
        it.until_called(2)
        equal(mount.wait_fenced(20_000), 0)
        true(again.fenced(), "the new request was served")
        equal(it.called_with()[1], "00000000000000aa,10.0.0.9", "by a command of its own")
        it.check_runs()
        equal(mount.free(0xAA), 0)
        equal(mount.next(), -ENOENT)


@case
def agent_says_what_is_wrong_with_its_configuration(case: Case) -> None:
    """Without a good configuration the agent ends with a sentence that names the file."""
    with agent() as it:
        said = it.refuses()
        true(str(it.configuration) in said, f"no such file: {said!r}")
        for text in (
            "SCOUTFS_FENCED_DELAY=1\n",
            f"SCOUTFS_FENCED_RUN={it.folder}/missing\n",
            f"SCOUTFS_FENCED_RUN={it.command('exit 0')}\nSCOUTFS_FENCED_DELAY=often\n",
            f"SCOUTFS_FENCED_RUN='{it.command('exit 0')}\n",
        ):
            it.configuration.write_text(text)
            said = it.refuses()
            true(str(it.configuration) in said, f"{text!r}: {said!r}")
            true("Traceback" not in said, f"{text!r} is answered with a sentence: {said!r}")
        equal(it.called_with(), [])
