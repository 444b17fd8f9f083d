# SPDX-License-Identifier: GPL-2.0-only
"""One host of the cluster: runs in a virtual machine as the only program besides the agent.

It stamps its slot of the shared disk, watches the other hosts, and leads the cluster if it is the
lowest live one. A leader calls the interface as scoutfs does: it has previous leaders fenced
before it begins, has hosts fenced that go silent, and reclaims what they held.

The lab reads events from standard output, as lines `@event key=value ...`, and writes commands to
the same serial port.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import re
import secrets
import socket
import struct
import subprocess
import tempfile
import threading
import time
import traceback
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import kernel
from disk import SLOTS, Content, Disk, Reclaim, Stamp
from fence import CLIENT_RECONNECT, CLIENT_RECOVERY, QUORUM_BLOCK_LEADER, Finished, Mount

SHARED = Path("/dev/vda")
PORT = Path("/dev/ttyS1")
AGENT = Path("/cluster/agent/scoutfs-fenced")
CONFIGURATIONS = Path("/etc/scoutfs")
HOSTS = CONFIGURATIONS / "scoutfs-fenced.hosts"
# Drivers that are modules in Debian's kernels, in the order of their dependencies.
DRIVERS = ("failover", "net_failover", "virtio_net", "virtio_blk")

SECONDS_BETWEEN_STAMPS = 0.05
# After this many stamps this host reads the others' stamps and broadcasts its rid.
STAMPS_BETWEEN_LOOKS = 4
# A host that has not been seen or heard for this long is silent.
SECONDS_OF_SILENCE = 4.0
# A host whose stamp has changed within this time is writing.
SECONDS_BETWEEN_SURE_STAMPS = 1.0
# A leader that hears no other host steps down before it considers the others silent.
SECONDS_TO_BE_ALONE = 3.0
# A host that has not looked for this long was stopped or slow itself. All times by which it judges
# the others are times awake, of which a longer gap counts as this much: they have not been silent
# just because it has not looked.
MOST_SECONDS_OF_A_GAP = 1.0
# Limit for fencing former leaders.
MILLISECONDS_OF_ELECTION = 30_000
# A leader that has stepped down gives others a chance to lead.
SECONDS_BETWEEN_TRIES = 2.0
UDP_PORT = 7000

REASONS = {
    CLIENT_RECOVERY: "client_recovery",
    CLIENT_RECONNECT: "client_reconnect",
    QUORUM_BLOCK_LEADER: "quorum_block_leader",
}


def address(slot: int) -> str:
    """A host's address in the cluster's own network."""
    return f"10.0.0.{11 + slot}"


class Reporter:
    """Writes lines for the lab without making callers wait for the serial port."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._write, daemon=True).start()

    def _write(self) -> None:
        while True:
            print(self._lines.get(), flush=True)

    def line(self, text: str) -> None:
        """Queues a line."""
        self._lines.put(text)

    def event(self, event: str, **facts: object) -> None:
        """Reports an event."""
        self.line(" ".join([f"@{event}", *(f"{name}={fact}" for name, fact in facts.items())]))


class Agent:
    """Runs the agent, restarting it when it ends, as systemd would."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._configuration = "scoutfs-fenced.conf"
        self._process: subprocess.Popen[str] | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self._process = subprocess.Popen(
                [AGENT],
                env={
                    **os.environ,
                    "SCOUTFS_FENCED_CONFIG_FILE": str(CONFIGURATIONS / self._configuration),
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert self._process.stdout
            for line in self._process.stdout:
                self._reporter.line(f"agent: {line.rstrip()}")
            self._reporter.event("agent-ended", status=self._process.wait())
            time.sleep(1)

    def kill(self) -> None:
        """Kills it with SIGKILL."""
        if self._process:
            self._process.kill()

    def configure(self, name: str) -> None:
        """Restarts it with another configuration."""
        self._configuration = f"{name}.conf"
        self.kill()


@dataclass
class Peer:
    """Another slot's last stamp, and when it last changed and was last heard, in time awake."""

    stamp: Stamp
    seen: float
    heard: float


@dataclass(frozen=True)
class Missing:
    """A mount to be fenced."""

    slot: int
    rid: int
    reason: int


class SteppedDown(Exception):
    """This host no longer leads; the message says why."""


class Member:
    """This host's part in the cluster."""

    def __init__(self, slot: int, reporter: Reporter) -> None:
        self.slot = slot
        self.rid = secrets.randbits(64)
        self._reporter = reporter
        self._disk = Disk(SHARED)
        self._leaders_disk = Disk(SHARED)
        self._mount = Mount(Path("/mnt"), f"rid={self.rid:x},nosetup")
        # As scoutfs does, so that the agent knows the rid of this host's mount.
        result = self._mount.setup_under("own")
        assert result == 0, f"setup_under returned {result}"
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._socket.setblocking(False)
        self._socket.bind(("", UDP_PORT))
        self._lock = threading.Lock()
        self._peers: dict[int, Peer] = {}
        self._content = Content([None] * SLOTS, [None] * SLOTS)
        self._previous = 0
        self._term = 0
        self._leads = False
        self._not_before = 0.0
        self._awake = 0.0
        self._ticked = time.monotonic()
        # Reclaimed by this host; the content last read from the disk may be older.
        self._reclaimed: set[int] = set()
        self._elections: queue.SimpleQueue[int] = queue.SimpleQueue()

    # Membership.

    def join(self) -> None:
        """Waits until a leader has reclaimed what this host's previous life held.

        If no other host lives, joins without that, and reclaims it itself if it leads.
        """
        self._tick()
        self._look()
        last_life = self._awake
        reported = False
        while True:
            self._tick()
            self._look()
            own = self._content.stamps[self.slot]
            if own is None or self._content.is_reclaimed(self.slot, own.rid):
                break
            now = self._awake
            if any(self._lives(peer, now) and peer.seen > last_life for peer in self._others()):
                last_life = now
            if now - last_life > SECONDS_OF_SILENCE + 4 * self.slot:
                self._previous = own.rid
                break
            if not reported:
                reported = True
                self._reporter.event("waits", rid=f"{self.rid:016x}", previous=f"{own.rid:016x}")
            time.sleep(STAMPS_BETWEEN_LOOKS * SECONDS_BETWEEN_STAMPS)
        with self._lock:
            self._peers.pop(self.slot, None)
        self._reporter.event("joins", rid=f"{self.rid:016x}", previous=f"{self._previous:016x}")

    def run(self) -> None:
        """Writes stamps forever."""
        threading.Thread(target=self._serve_elections, daemon=True).start()
        self.join()
        parameters = os.sched_param(1)
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, parameters)
        counter = 0
        while True:
            counter += 1
            self._disk.write_stamp(self._stamp(counter))
            begin = time.monotonic()
            gap = self._tick()
            if gap > MOST_SECONDS_OF_A_GAP:
                self._reporter.event("woke", rid=f"{self.rid:016x}", seconds=f"{gap:.2f}")
            if counter % STAMPS_BETWEEN_LOOKS == 0:
                self._talk()
                self._look()
                self._elect()
            time.sleep(max(0.0, begin + SECONDS_BETWEEN_STAMPS - time.monotonic()))

    def _tick(self) -> float:
        """Advances the time awake; returns the seconds since the last call."""
        now = time.monotonic()
        gap = now - self._ticked
        self._ticked = now
        self._awake += min(gap, MOST_SECONDS_OF_A_GAP)
        return gap

    def _stamp(self, counter: int) -> Stamp:
        return Stamp(
            self.slot, self.rid, counter, self._term, self._leads, self._previous, time.time()
        )

    def _talk(self) -> None:
        try:
            self._socket.sendto(struct.pack("<IQ", self.slot, self.rid), ("10.0.0.255", UDP_PORT))
            while True:
                slot, rid = struct.unpack("<IQ", self._socket.recv(64))
                peer = self._peers.get(slot)
                if peer and peer.stamp.rid == rid:
                    peer.heard = self._awake
        except BlockingIOError:
            pass

    def _look(self) -> None:
        content = self._disk.read()
        now = self._awake
        with self._lock:
            self._content = content
            for stamp in content.stamps:
                if stamp is None or stamp.rid == self.rid:
                    continue
                peer = self._peers.get(stamp.slot)
                if peer is None or peer.stamp.rid != stamp.rid:
                    self._peers[stamp.slot] = Peer(stamp, now, now)
                elif peer.stamp != stamp:
                    peer.stamp, peer.seen = stamp, now
            if self._previous and content.is_reclaimed(self.slot, self._previous):
                self._previous = 0

    def _others(self) -> list[Peer]:
        return [peer for slot, peer in self._peers.items() if slot != self.slot]

    @staticmethod
    def _lives(peer: Peer, now: float) -> bool:
        return now - peer.seen <= SECONDS_OF_SILENCE

    @staticmethod
    def _writes(peer: Peer, now: float) -> bool:
        return now - peer.seen < SECONDS_BETWEEN_SURE_STAMPS

    # Elections.

    def _is_cut_off(self, now: float) -> bool:
        """Whether others write but this host hears none of them: then it must not lead.

        Hosts that neither write nor are heard are silent, which is not this host's network's fault.
        """
        writing = [peer for peer in self._others() if self._writes(peer, now)]
        return bool(writing) and all(now - peer.heard > SECONDS_TO_BE_ALONE for peer in writing)

    def _elect(self) -> None:
        now = self._awake
        others = self._others()
        newest = max([peer.stamp.term for peer in others if peer.stamp.leads], default=0)
        if self._leads:
            if newest > self._term or self._is_cut_off(now):
                self._leads = False
                self._mount.stop()
            return
        living = [peer for peer in others if self._lives(peer, now)]
        if any(peer.stamp.leads for peer in living) or now < self._not_before:
            return
        heard = [peer for peer in living if now - peer.heard <= SECONDS_OF_SILENCE]
        if not self._is_cut_off(now) and all(self.slot < peer.stamp.slot for peer in heard):
            self._term = max([self._term, *(peer.stamp.term for peer in others)]) + 1
            self._leads = True
            self._elections.put(self._term)

    def _serve_elections(self) -> None:
        while True:
            self._lead(self._elections.get())

    # Leading.

    def _lead(self, term: int) -> None:
        self._reporter.event("elected", rid=f"{self.rid:016x}", term=term)
        why = "another host leads, or it hears no other"
        try:
            self._take_over()
            while self._leads_in(term):
                self._serve()
        except SteppedDown as reason:
            # Ignore the end of a wait that this host's own step-down has caused.
            if self._leads_in(term):
                why = str(reason)
        self._mount.stop()
        if self._term == term:
            self._not_before = self._awake + SECONDS_BETWEEN_TRIES
            self._leads = False
        self._reporter.event("steps-down", rid=f"{self.rid:016x}", term=term, why=why)

    def _leads_in(self, term: int) -> bool:
        """Whether this host still leads in this term."""
        return self._leads and self._term == term

    def _missing(self) -> list[Missing]:
        """The unreclaimed mounts that are silent, unheard or replaced by the host's next life."""
        return list(self._find_missing(self._awake))

    def _find_missing(self, now: float) -> Iterator[Missing]:
        with self._lock:
            if self._previous:
                yield Missing(self.slot, self._previous, QUORUM_BLOCK_LEADER)
            for slot, peer in self._peers.items():
                stamp = peer.stamp
                if stamp.previous and not self._content.is_reclaimed(slot, stamp.previous):
                    yield Missing(slot, stamp.previous, CLIENT_RECOVERY)
                if self._content.is_reclaimed(slot, stamp.rid):
                    continue
                if not self._lives(peer, now):
                    reason = QUORUM_BLOCK_LEADER if stamp.leads else CLIENT_RECOVERY
                    yield Missing(slot, stamp.rid, reason)
                elif now - peer.heard > SECONDS_OF_SILENCE and self._writes(peer, now):
                    # It writes but is not heard.
                    yield Missing(slot, stamp.rid, CLIENT_RECONNECT)

    def _take_over(self) -> None:
        """Has former leaders fenced, as they may still believe that they lead."""
        former = [missing for missing in self._missing() if missing.reason == QUORUM_BLOCK_LEADER]
        self._asked: dict[int, Missing] = {}
        self._start(former)
        result = self._mount.wait_fenced(MILLISECONDS_OF_ELECTION)
        if result:
            raise SteppedDown(f"wait_fenced returned {result}")
        for missing in former:
            self._report_fenced(missing, "wait")

    def _start(self, missing: list[Missing]) -> None:
        for mount in missing:
            result = self._mount.start(mount.rid, address(mount.slot), mount.reason)
            if result:
                raise SteppedDown(f"start returned {result}")
            self._asked[mount.rid] = mount
            self._reporter.event(
                "request", rid=f"{mount.rid:016x}", slot=mount.slot, reason=REASONS[mount.reason]
            )

    def _serve(self) -> None:
        """Requests fencing of newly missing mounts, and reclaims one that is fenced."""
        known = self._asked.keys() | self._reclaimed
        self._start([mount for mount in self._missing() if mount.rid not in known])
        left = self._mount.returns("wait_next 200")
        if left == 0:
            return
        finished = self._mount.next() if left > 0 else left
        if not isinstance(finished, Finished):
            raise SteppedDown(f"wait_next or next returned {finished}")
        if finished.error:
            slot = self._asked[finished.rid].slot
            self._reporter.event("failed", rid=f"{finished.rid:016x}", slot=slot)
            raise SteppedDown(f"{finished.rid:016x} could not be fenced")
        self._reclaim(self._asked[finished.rid])

    def _report_fenced(self, mount: Missing, by: str) -> int:
        """Reports a mount that wait_fenced or next returned as fenced, with its slot's counter.

        The counter is -1 if another mount has written there since.
        """
        # None means that a write is in progress.
        while (stamp := self._leaders_disk.read().stamps[mount.slot]) is None:
            pass
        counter = stamp.counter if stamp.rid == mount.rid else -1
        self._reporter.event(
            "fenced", rid=f"{mount.rid:016x}", slot=mount.slot, by=by, counter=counter
        )
        return counter

    def _reclaim(self, mount: Missing) -> None:
        """Reclaims a mount: all there is to take over is the number of its last stamp."""
        counter = self._report_fenced(mount, "next")
        self._leaders_disk.write_reclaim(
            Reclaim(mount.slot, mount.rid, self.rid, self.slot, counter)
        )
        self._reporter.event(
            "reclaimed",
            rid=f"{mount.rid:016x}",
            slot=mount.slot,
            by=f"{self.rid:016x}",
            counter=counter,
        )
        self._reclaimed.add(mount.rid)
        result = self._mount.free(mount.rid)
        if result:
            raise SteppedDown(f"free returned {result}")
        del self._asked[mount.rid]


def set_up_network(slot: int) -> None:
    """Sets up a network for the cluster and one for the BMCs."""
    for command in (
        f"ip addr add {address(slot)}/24 broadcast 10.0.0.255 dev eth0",
        "ip link set eth0 up",
        "ip addr add 10.0.2.15/24 dev eth1",
        "ip link set eth1 up",
    ):
        subprocess.run(["busybox", *command.split()], check=True)


def tell_which_host_this_is(slot: int) -> None:
    """Adds the loopback address to this host's section of the agent's hosts file.

    A host that boots and leads has its own former mount fenced. The agent replies that the boot has
    done so if it is sure that the mount was this host's: from its records, which a host without a
    root disk loses, or because the file says which host this is.
    """
    own = f"address = {address(slot)}\n"
    text = HOSTS.read_text()
    assert own in text
    HOSTS.write_text(text.replace(own, f"address = {address(slot)}, 127.0.0.1\n"))


def report_threads(reporter: Reporter) -> None:
    """Reports each thread's stack in this program and in the kernel."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        for line in file:
            reporter.line(line.rstrip())
    for task in sorted(Path("/proc/self/task").iterdir()):
        reporter.line(f"thread {task.name} in the kernel:")
        for line in (task / "stack").read_text().splitlines():
            reporter.line(f"  {line}")


def obey(agent: Agent, reporter: Reporter) -> None:
    """Executes the lab's commands."""
    with PORT.open() as port:
        # Otherwise the port would echo each command into this host's output.
        tty.setraw(port)
        for line in port:
            command = line.strip()
            if command == "panic":
                Path("/proc/sysrq-trigger").write_text("c")
            elif command == "kill-agent":
                agent.kill()
            elif command == "lie":
                agent.configure("lie")
            elif command == "be-honest":
                agent.configure("scoutfs-fenced")
            elif command == "where":
                report_threads(reporter)


def die(reporter: Reporter, error: BaseException | None) -> NoReturn:
    """Reports an unexpected error in any thread and exits."""
    for line in traceback.format_exception(error):
        reporter.line(line.rstrip())
    reporter.event("died", why=repr(error).replace(" ", "_"))
    time.sleep(1)
    os._exit(1)


def main() -> None:
    """Boots the host into the cluster."""
    found = re.search(r"\bcluster\.slot=(\d+)", Path("/proc/cmdline").read_text())
    assert found, "the kernel's command line has the host's slot"
    slot = int(found[1])
    reporter = Reporter()
    for driver in DRIVERS:
        if Path("/tests", f"{driver}.ko").exists():
            kernel.load(driver)
    set_up_network(slot)
    tell_which_host_this_is(slot)
    kernel.load_both()
    threading.excepthook = lambda failure: die(reporter, failure.exc_value)
    agent = Agent(reporter)
    threading.Thread(target=obey, args=[agent, reporter], daemon=True).start()
    reporter.event("up", slot=slot)
    try:
        Member(slot, reporter).run()
    except BaseException as error:
        die(reporter, error)


if __name__ == "__main__":
    main()
