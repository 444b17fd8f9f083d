# SPDX-License-Identifier: GPL-2.0-only
"""Builds a cluster of three hosts, narrates its events, and takes it down."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bmc import PASSWORD
from disk import SIZE
from hosts import Host, PowerRoom, Switch, folder_for_the_disk
from journal import Event, FaultFailed, Journal
from judge import Life, Watch
from machine import (
    KERNEL_ARGUMENTS,
    Machine,
    choose_accelerator,
    lab_path,
    make_initramfs,
    quoted,
)

TESTS = Path(__file__).resolve().parents[1]
TOP = TESTS.parent
PASSWORD_FILE = Path("/etc/scoutfs/bmc.password")

HOSTS = 3
MEGABYTES = 1024
# Three machines booting at once on two cores take half a minute, and much longer if other
# programs use these cores.
SECONDS_TO_BOOT = 300

# Time for hosts to log their threads' stacks.
SECONDS_TO_REPORT = 3

# Prefix of the agent's lines about a request.
ABOUT = re.compile(r"^rid \S+ address \S+ reason \S+ mount \S+ ")

# Files copied to a guest, with their paths there.
FILES = {
    TOP / "scoutfs_fence.ko": "/tests/scoutfs_fence.ko",
    TESTS / "fs/fence_test_fs.ko": "/tests/fence_test_fs.ko",
    TESTS / "vm/fence.py": "/cluster/fence.py",
    TESTS / "vm/kernel.py": "/cluster/kernel.py",
    TESTS / "cluster/disk.py": "/cluster/disk.py",
    TESTS / "cluster/member.py": "/cluster/member.py",
    TOP / "scripts/agent/scoutfs-fenced": "/cluster/agent/scoutfs-fenced",
    TOP / "scripts/agent/scoutfs_fenced": "/cluster/agent/scoutfs_fenced",
}


def address(slot: int) -> str:
    """A host's address, as in member.py."""
    return f"10.0.0.{11 + slot}"


class Narrator:
    """Prints one line per event: the time, the speaker, and the event in words."""

    def __init__(self, journal: Journal) -> None:
        self._zero = time.monotonic()
        self._lock = threading.Lock()
        journal.listeners.append(self._hear)
        self.quiet = False

    def chapter(self, title: str) -> None:
        """Starts a case and resets the clock."""
        self._zero = time.monotonic()
        print(f"\n{title}\n", flush=True)

    def say(self, speaker: str, text: str, at: float | None = None) -> None:
        """Prints one line."""
        seconds = (at or time.monotonic()) - self._zero
        with self._lock:
            print(f"{seconds:7.2f} s  {speaker:<9} {text}", flush=True)

    def _hear(self, event: Event) -> None:
        text = in_words(event)
        if text and not (self.quiet and event.name not in ("violation", "died")):
            speaker, sentence = text
            self.say(speaker, sentence, event.time)


def in_words(event: Event) -> tuple[str, str] | None:
    """The speaker and sentence for an event, or None if the reader need not see it."""
    host, facts = f"host{event.host + 1}", event.facts
    other = f"host{event.slot + 1} ({event.rid:016x})"
    match event.name:
        case "power-on":
            return host, "its power is on"
        case "power-off":
            return host, "its power is off: its QEMU has ended"
        case "stopped":
            return host, "it stops between two instructions (SIGSTOP)"
        case "cable-out":
            return host, "its network cable is pulled out"
        case "goes-on":
            return host, "it goes on as if nothing had happened (SIGCONT)"
        case "cannot-go-on":
            return host, "it cannot go on: its power is off"
        case "order":
            state = "on" if facts["state"] == "1" else "off"
            return f"{facts['device']}{event.host + 1}", f"gets the order: switch {host} {state}"
        case "command":
            return host, f"gets the command: {facts['command']}"
        case "agent-ended":
            return host, f"its agent has ended, status {facts['status']}"
        case "agent":
            # The leader reports the request in a line of its own.
            return f"{host} ag.", ABOUT.sub("", facts["text"])
        case "waits":
            return host, f"is up, and waits: no leader has reclaimed {facts['previous']} yet"
        case "joins":
            return host, f"joins as {facts['rid']}"
        case "woke":
            return host, f"notices that it slept for {facts['seconds']} s, and writes"
        case "elected":
            return host, f"leads, term {facts['term']}"
        case "steps-down":
            return host, f"steps down: {facts['why']}"
        case "request":
            return host, f"scoutfs_fence_start: {other}, {facts['reason']}"
        case "fenced":
            how = "wait_fenced returned 0" if facts["by"] == "wait" else "next returns it, fenced"
            return host, f"{how}: {other}"
        case "failed":
            return host, f"next returns it, failed: {other}"
        case "reclaimed":
            last = "its next mount has overwritten its last stamp"
            if facts["counter"] != "-1":
                last = f"its last stamp was {facts['counter']}"
            return host, f"has reclaimed {other}; {last}"
        case "died":
            return host, f"its program has ended: {facts['why']}"
        case "violation":
            return "JUDGE", facts["text"]
    return None


@dataclass(frozen=True)
class Figures:
    """The times of a fencing, in seconds since the host went silent."""

    name: str
    requested: float
    # NaN if the power was off before the request.
    powered_off: float
    fenced: float
    reclaimed: float


class Cluster:
    """Hosts, switch, BMCs, shared disk and judge."""

    def __init__(self, kernel: str, logs: Path) -> None:
        logs.mkdir()
        self.journal = Journal()
        self.narrator = Narrator(self.journal)
        self._folder = Path(tempfile.mkdtemp(prefix="cluster-"))
        self._disk = folder_for_the_disk([self._folder, logs]) / "disk"
        with self._disk.open("wb") as disk:
            disk.truncate(SIZE)
        self.switch = Switch(self._folder, HOSTS)
        self.hosts: list[Host] = []
        self.power = self._equip(kernel, logs)
        self.watch = Watch(self._disk, self.journal)
        self.judge = self.watch.judge

    def _equip(self, kernel: str, logs: Path) -> PowerRoom:
        """Makes hosts and BMCs, which need each other's ports."""
        path = lab_path(kernel)
        boot = self._folder / "boot"
        boot.mkdir()
        machine = Machine(
            path / "vmlinuz",
            boot / "initramfs",
            MEGABYTES,
            # A panicked host stays on, like a hanging one. While three hosts boot on two cores,
            # timer interrupts may be so late that the kernel would consider the timer broken.
            f"{KERNEL_ARGUMENTS} panic=0 no_timer_check",
            processors=1,
        )
        accelerator = choose_accelerator(machine.vmlinuz, self._folder)
        for slot in range(HOSTS):
            devices = self._devices_of(slot)
            self.hosts.append(Host(slot, machine, accelerator, devices, logs, self.journal))
        power = PowerRoom(self.hosts, self._folder, self.journal)
        self._write_memory_disk(path, boot, power)
        power.begin()
        return power

    def _write_memory_disk(self, kernel: Path, boot: Path, power: PowerRoom) -> None:
        settings = boot / "scoutfs"
        settings.mkdir()
        (settings / "scoutfs-fenced.hosts").write_text(power.hosts_file(address, PASSWORD_FILE))
        (settings / "scoutfs-fenced.conf").write_text(
            "SCOUTFS_FENCED_HOSTS=/etc/scoutfs/scoutfs-fenced.hosts\n"
            # Device monitoring would take CPU time from a fencing for seconds on an emulated CPU.
            "SCOUTFS_FENCED_MONITOR=0\n"
        )
        # The planted lie.
        (settings / "lie.conf").write_text("SCOUTFS_FENCED_RUN=/bin/true\nSCOUTFS_FENCED_HOSTS=\n")
        secret = settings / PASSWORD_FILE.name
        secret.touch(mode=0o600)
        secret.write_text(f"{PASSWORD}\n")
        modules = sorted((kernel / "modules").glob("*.ko"))
        additions = [f"{source}:{target}" for source, target in FILES.items()]
        additions += [f"{module}:/tests/{module.name}" for module in modules]
        additions.append(f"{settings}:{PASSWORD_FILE.parent}")
        make_initramfs(boot, ["python3", "/cluster/member.py"], additions)

    def _devices_of(self, slot: int) -> Callable[[], list[str]]:
        def devices() -> list[str]:
            nic = f"mac=52:54:00:00:00:{slot:02x},romfile="
            other = f"mac=52:54:00:00:01:{slot:02x},romfile="
            return [
                *self.switch.options(slot),
                *("-device", f"virtio-net-pci,netdev=cluster,{nic}"),
                *("-netdev", "user,id=management"),
                *("-device", f"virtio-net-pci,netdev=management,{other}"),
                "-drive",
                f"if=none,id=shared,file={quoted(self._disk)},format=raw,cache=none,aio=threads,"
                "file.locking=off",
                *("-device", "virtio-blk-pci,drive=shared,share-rw=on"),
            ]

        return devices

    def close(self) -> None:
        """Switches everything off."""
        self.narrator.quiet = True
        self.watch.close()
        for host in self.hosts:
            host.power_off()
        self.power.end()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._disk.unlink(missing_ok=True)

    def ask_where_threads_are(self) -> None:
        """Asks running hosts to log the stack of each thread of their program."""
        self.narrator.quiet = True
        for host in self.hosts:
            host.continue_if_stopped()
            with suppress(OSError):
                host.command("where")
        time.sleep(SECONDS_TO_REPORT)

    # Used by faults.

    def make_ready(self) -> None:
        """Repairs everything; returns once all hosts live, their agents serve, and one leads."""
        for switch in (*self.power.bmcs, *self.power.outlets):
            switch.is_stuck = switch.lies = False
            switch.at_order = None
            switch.bmc.be_silent(False)
        for host in self.hosts:
            self.switch.plug(host.slot)
            host.continue_if_stopped()
            life = self.life_of(host)
            # A host that is still booting only has stamps of its previous life: leave it on.
            if life and life.first > host.on_since and life.rid in self.judge.fenced:
                host.power_off()
        for host in self.hosts:
            host.power_on()
        end = time.monotonic() + SECONDS_TO_BOOT
        well = 0
        while well < 5:
            if time.monotonic() > end:
                raise FaultFailed(f"not all hosts lived after {SECONDS_TO_BOOT} s")
            well = well + 1 if self._is_well() else 0
            time.sleep(0.2)

    def _is_well(self) -> bool:
        now = time.monotonic()
        with self.watch.lock:
            return (
                all(self.judge.lives_now(host.slot, now) for host in self.hosts)
                and self.judge.leader(now) is not None
                and not self._unreclaimed()
                and all(self._agent_serves(host) for host in self.hosts)
            )

    def _unreclaimed(self) -> set[int]:
        """Rids of past lives that are not reclaimed yet."""
        lives = [self.judge.life_of(host.slot) for host in self.hosts]
        now = {life.rid for life in lives if life}
        return self.judge.lives.keys() - now - self.judge.reclaims.keys()

    def _agent_serves(self, host: Host) -> bool:
        for event in reversed(self.journal.events):
            if event.host == host.slot:
                if event.name in ("power-on", "agent-ended"):
                    return False
                if event.name == "agent" and event.facts["text"].startswith("serving"):
                    return True
        return False

    def roles(self) -> tuple[Host, Host, Host]:
        """The leader and the two other hosts."""
        with self.watch.lock:
            leader = self.judge.leader(time.monotonic())
        if leader is None:
            raise FaultFailed("no host leads")
        others = [host for host in self.hosts if host.slot != leader]
        return self.hosts[leader], others[0], others[1]

    def pull_cable(self, host: Host) -> None:
        """Cuts a host off from the others."""
        self.switch.pull(host.slot)
        self.journal.add(host.slot, "cable-out")

    def life_of(self, host: Host) -> Life | None:
        """The stamps of a host's newest mount."""
        with self.watch.lock:
            return self.judge.life_of(host.slot)

    def rid(self, host: Host) -> int:
        """The rid of a host's newest mount."""
        life = self.life_of(host)
        assert life
        return life.rid

    def figures(self, rid: int, name: str, begin: float | None = None) -> Figures | None:
        """The times of a mount's fencing, or None unless it was fenced and reclaimed.

        Silence begins with the last stamp before the request, unless `begin` is given.
        """
        slot = self.judge.lives[rid].slot
        times: dict[str, float] = {}
        for event in self.journal.events:
            about_it = event.rid == rid and event.name in ("request", "fenced", "reclaimed")
            went_off = event.name == "power-off" and event.host == slot and "request" in times
            if about_it or went_off:
                times.setdefault(event.name, event.time)
        if not {"request", "fenced", "reclaimed"} <= times.keys():
            return None
        if begin is None:
            seen = self.judge.lives[rid].seen
            begin = max(time for time in seen if time < times["request"])
        return Figures(
            name,
            times["request"] - begin,
            times.get("power-off", float("nan")) - begin,
            times["fenced"] - begin,
            times["reclaimed"] - begin,
        )


def build_filesystem(kernel: str) -> None:
    """Builds the test filesystem, whose mounts start fence requests."""
    kdir = lab_path(kernel) / "build"
    symbols = f"KBUILD_EXTRA_SYMBOLS={TOP / 'Module.symvers'}"
    environment = {name: os.environ[name] for name in os.environ if "MAKE" not in name}
    subprocess.run(
        ["make", "-s", "-C", kdir, f"M={TESTS / 'fs'}", symbols, "modules"],
        check=True,
        env=environment,
    )
