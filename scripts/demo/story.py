# SPDX-License-Identifier: GPL-2.0-only
"""The story of `make demo`, run in the guest: three fence requests, from start to end.

Everything printed is also checked: a step that does not end as it should ends the story with a
sentence and exit status 1.
"""

import errno
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import kernel
from fence import (
    CLIENT_RECONNECT,
    CLIENT_RECOVERY,
    QUORUM_BLOCK_LEADER,
    CaseFailed,
    Finished,
    Mount,
    Request,
    Stopwatch,
    equal,
    fails_with,
    true,
)

HERE = Path(__file__).resolve().parent
MOUNTS = Path("/mnt")

REASONS = {
    CLIENT_RECOVERY: "client_recovery",
    CLIENT_RECONNECT: "client_reconnect",
    QUORUM_BLOCK_LEADER: "quorum_block_leader",
}

TIMEOUT_MS = 1500


class Story:
    """Lines with the time and their source, in the order of the events."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._changed = threading.Condition()
        self._lines: list[tuple[str, str]] = []

    def chapter(self, title: str) -> None:
        """Begins a part of the story."""
        with self._changed:
            self._lines.clear()
            print(f"\n{title}\n", flush=True)

    def tell(self, who: str, text: str, *more: str) -> None:
        """Prints what a side did, with details on further lines."""
        with self._changed:
            seconds = time.monotonic() - self._began
            print(f"{seconds:7.3f} s  {who:<7} {text}", flush=True)
            for line in more:
                print(f"{'':21}{line}", flush=True)
            self._lines.append((who, text))
            self._changed.notify_all()

    def expect(self, who: str, pattern: str) -> None:
        """Waits until a side has said something that matches, in this chapter."""

        def said() -> bool:
            return any(who == by and re.search(pattern, text) for by, text in self._lines)

        with self._changed:
            true(self._changed.wait_for(said, timeout=30), f"the {who} says within 30 s: {pattern}")


class Leader:
    """A mount whose host leads: it requests that others be fenced, as scoutfs does."""

    def __init__(self, story: Story, path: Path) -> None:
        self._story = story
        self._mount = Mount(path)
        self._pool = ThreadPoolExecutor()
        self.name = str(path)
        self.device = self._mount.device

    def _tell(self, call: str, returned: int, *, wanted: int = 0, more: str = "") -> None:
        self._story.tell(
            "leader", f"{self.name}: scoutfs_fence_{call} = {readable(returned)}{more}"
        )
        equal(returned, wanted, f"scoutfs_fence_{call}")

    def start(self, rid: int, address: str, reason: int) -> Request:
        """Requests that a mount be fenced, and checks the request in sysfs."""
        returned = self._mount.start(rid, address, reason)
        self._tell(f"start({rid:016x}, {address}, {REASONS[reason]})", returned)
        request = self._mount.request(rid)
        values = self.show(request)
        equal(values["rid"], f"{rid:016x}", "rid")
        equal(values["ipv4_addr"], address, "ipv4_addr")
        equal(values["reason"], REASONS[reason], "reason")
        equal((values["fenced"], values["error"]), ("0", "0"), "fenced and error")
        return request

    def show(self, request: Request) -> dict[str, str]:
        """Lists a request's directory."""
        equal(set(os.listdir(request.path)), set(request.FILES), "the files of a request")
        values = {name: request.read(name).strip() for name in request.FILES}
        lines = (f"{name:<13} {value}" for name, value in values.items())
        self._story.tell("sysfs", f"{request.path}/", *lines)
        return values

    def wait_fenced(self, wanted: int) -> Future[None]:
        """Waits in a thread for all requests to be fenced."""
        seconds = 20
        call = f"wait_fenced({seconds} s)"
        self._story.tell("leader", f"{self.name}: scoutfs_fence_{call} is called")

        def wait() -> None:
            began = time.monotonic()
            returned = self._mount.wait_fenced(seconds * 1000)
            took = f", after {time.monotonic() - began:.3f} s"
            self._tell(call, returned, wanted=wanted, more=took)

        return self._pool.submit(wait)

    def next(self, wanted: Finished | None) -> None:
        """Gets the oldest finished request."""
        answer = self._mount.next()
        if isinstance(answer, Finished):
            self._tell("next()", 0, more=f": {describe(answer)}")
        else:
            self._tell("next()", answer, wanted=-errno.ENOENT)
        equal(None if isinstance(answer, int) else answer, wanted, "scoutfs_fence_next()")

    def free(self, rid: int) -> None:
        """Frees a request."""
        self._tell(f"free({rid:016x})", self._mount.free(rid))
        true(not self._mount.request(rid).exists(), "the directory is gone after free")

    def unmount(self) -> None:
        """Leaves the cluster."""
        self._mount.unmount()
        self._story.tell("leader", f"{self.name}: unmounted")


class Agent:
    """scoutfs-fenced as it would run on the leader's host."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._process = subprocess.Popen(
            [HERE / "scoutfs-fenced"],
            env={**os.environ, "SCOUTFS_FENCED_CONFIG_FILE": str(HERE / "scoutfs-fenced.conf")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._story.tell("agent", line.rstrip())

    def stop(self) -> None:
        """Stops it as systemd would."""
        self._process.send_signal(signal.SIGTERM)
        equal(self._process.wait(timeout=10), 0, "the agent's exit status")
        self._listener.join(timeout=10)


@contextmanager
def kernel_log(story: Story) -> Iterator[None]:
    """Prints the module's log lines as they come; any complaint of the kernel is a failure."""
    over = threading.Event()

    def listen(log: kernel.KernelLog) -> None:
        shown = 0
        while not over.wait(0.01):
            lines = log.of_module()
            for line in lines[shown:]:
                story.tell("kernel", line.text)
            shown = len(lines)

    with kernel.KernelLog() as log:
        listener = threading.Thread(target=listen, args=[log], daemon=True)
        listener.start()
        try:
            yield
        finally:
            time.sleep(0.1)
            over.set()
            listener.join()
        equal(log.complaints(), [], "what the kernel complains of")


def readable(returned: int) -> str:
    """A returned value as a C programmer writes it."""
    return f"-{errno.errorcode[-returned]}" if -returned in errno.errorcode else str(returned)


def describe(finished: Finished) -> str:
    """What fence_next returns for a request."""
    ending = "it could not be fenced" if finished.error else "it is fenced"
    return f"rid {finished.rid:016x}, {REASONS[finished.reason]}, {ending}"


def fenced(story: Story, leader: Leader, other: Leader) -> None:
    """A request that is fenced."""
    rid = 0x00C0FFEE00000001
    story.chapter("A host has lost its connection. The agent fences it.")
    request = leader.start(rid, "10.0.0.11", CLIENT_RECOVERY)
    waiting = leader.wait_fenced(0)
    story.expect("agent", f"{rid:016x} .*: running")
    story.expect("agent", f"{rid:016x} .*: fenced, exit status 0")
    waiting.result()
    equal(leader.show(request)["fenced"], "1", "fenced")
    leader.next(Finished(rid, CLIENT_RECOVERY, error=False))
    other.next(None)
    leader.free(rid)
    leader.next(None)


def failing(story: Story, leader: Leader) -> None:
    """A request whose command fails."""
    rid = 0x00C0FFEE00000002
    story.chapter(
        "The leader before this one may still be writing. The agent cannot fence its host."
    )
    request = leader.start(rid, "10.0.0.12", QUORUM_BLOCK_LEADER)
    waiting = leader.wait_fenced(-errno.EIO)
    story.expect("agent", f"{rid:016x} .*: not fenced yet, exit status 1")
    story.expect("agent", f"{rid:016x} .*: could not be fenced, exit status 1")
    story.expect("kernel", f"{leader.device} error: error indicated by .* rid {rid:016x}$")
    waiting.result()
    values = leader.show(request)
    equal((values["fenced"], values["error"]), ("0", "1"), "fenced and error")
    leader.next(Finished(rid, QUORUM_BLOCK_LEADER, error=True))
    leader.free(rid)


def unserved(story: Story, leader: Leader, agent: Agent) -> None:
    """A request that no agent serves."""
    rid = 0x00C0FFEE00000003
    story.chapter("The agent is stopped. No agent serves the next request, and its time runs out.")
    agent.stop()
    kernel.TIMEOUT_MS.write_text(f"{TIMEOUT_MS}\n")
    story.tell("sysfs", f"{kernel.TIMEOUT_MS} is set to {TIMEOUT_MS}")
    watch = Stopwatch()
    request = leader.start(rid, "10.0.0.13", CLIENT_RECONNECT)
    leader.wait_fenced(-errno.EIO).result()
    watch.at_least(TIMEOUT_MS / 1000)
    story.expect(
        "kernel",
        f"{leader.device} error: fence request for rid {rid:016x}"
        f" was not serviced in {TIMEOUT_MS}ms, raising error$",
    )
    equal(leader.show(request)["error"], "1", "error")
    fails_with(errno.ESTALE, request.set_fenced)
    story.tell("sysfs", "writing 1 to fenced now is too late: ESTALE")
    leader.next(Finished(rid, CLIENT_RECONNECT, error=True))
    leader.free(rid)


def tell(story: Story) -> None:
    """The whole story."""
    story.chapter("The module is loaded, and two filesystems that use it are mounted.")
    kernel.load(kernel.FENCE)
    kernel.load(kernel.FILESYSTEM)
    story.tell("sysfs", f"{kernel.TIMEOUT_MS} is {kernel.TIMEOUT_MS.read_text().strip()}")
    MOUNTS.mkdir(exist_ok=True)
    leaders = [Leader(story, MOUNTS / name) for name in ("a", "b")]
    for leader in leaders:
        story.tell("leader", f"{leader.name}: mounted, as device {leader.device}")
    agent = Agent(story)
    story.expect("agent", "serving fence requests, as /demo/scoutfs-fenced.conf says")

    fenced(story, *leaders)
    failing(story, leaders[1])
    unserved(story, leaders[0], agent)

    story.chapter("Everything is taken down again.")
    for leader in leaders:
        leader.unmount()
    equal(os.listdir(kernel.FENCE_SYSFS), [], f"what is left in {kernel.FENCE_SYSFS}")
    kernel.unload_both()
    true(not kernel.FENCE_SYSFS.exists(), f"{kernel.FENCE_SYSFS} is gone")
    story.tell("kernel", f"{kernel.FENCE} is unloaded")


def main() -> None:
    """Runs the story; the exit status is 0 if each step ended as it should."""
    story = Story()
    try:
        with kernel_log(story):
            tell(story)
    except (CaseFailed, OSError, subprocess.TimeoutExpired) as reason:
        # Threads waiting in the kernel would keep the process from exiting.
        print(f"\nThis should not have happened: {reason}", flush=True)
        os._exit(1)
    print("\nEvery step went as it should.", flush=True)


if __name__ == "__main__":
    main()
