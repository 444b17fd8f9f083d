# SPDX-License-Identifier: GPL-2.0-only
"""The cluster's hardware: virtual machines as hosts, a switch, BMCs and outlets."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bmc import Bmc
from journal import Journal
from machine import Machine, qemu_command, quoted

# The lab's loopback, in a host's user-mode network.
LOOPBACK = "10.0.2.2"

# ipmi_sim calls this as `chassis 0x20 get power` or `chassis 0x20 set power 0`.
CHASSIS = """#!/usr/bin/python3 -SE
# SPDX-License-Identifier: GPL-2.0-only
import socket
import sys

with socket.socket(socket.AF_UNIX) as lab:
    lab.connect("{path}")
    lab.sendall("{name} {{}}\\n".format(" ".join(sys.argv[2:])).encode())
    sys.stdout.write(lab.makefile().read())
"""


class Switch:
    """An Ethernet switch on UNIX sockets; each host's cable can be pulled out."""

    def __init__(self, folder: Path, ports: int) -> None:
        self._folder = folder
        self._pulled: set[int] = set()
        self._sockets = []
        for port in range(ports):
            it = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            it.bind(str(self._path(port, "switch")))
            self._sockets.append(it)
            threading.Thread(target=self._forward, args=[port], daemon=True).start()

    def _path(self, port: int, end: str) -> Path:
        return self._folder / f"port{port}-{end}"

    def _forward(self, source: int) -> None:
        while frame := self._sockets[source].recv(1 << 16):
            for port in range(len(self._sockets)):
                if port != source and not {port, source} & self._pulled:
                    # The host may be off, or its queue may be full.
                    with contextlib.suppress(OSError):
                        self._sockets[source].sendto(
                            frame, socket.MSG_DONTWAIT, str(self._path(port, "host"))
                        )

    def options(self, port: int) -> list[str]:
        """QEMU's options for a host's end of the cable."""
        host, switch = self._path(port, "host"), self._path(port, "switch")
        host.unlink(missing_ok=True)
        return [
            "-netdev",
            f"dgram,id=cluster,local.type=unix,local.path={quoted(host)}"
            f",remote.type=unix,remote.path={quoted(switch)}",
        ]

    def pull(self, port: int) -> None:
        """Pulls a host's cable out."""
        self._pulled.add(port)

    def plug(self, port: int) -> None:
        """Plugs it in again."""
        self._pulled.discard(port)


class Host:
    """A host that can be switched on and off, stopped, and given commands."""

    def __init__(
        self,
        slot: int,
        machine: Machine,
        accelerator: tuple[str, ...],
        devices: Callable[[], list[str]],
        logs: Path,
        journal: Journal,
    ) -> None:
        self.slot = slot
        self.name = f"host{slot + 1}"
        self._machine = replace(machine, arguments=f"{machine.arguments} cluster.slot={slot}")
        self._accelerator = accelerator
        self._devices = devices
        self._logs = logs
        self._journal = journal
        # When its power was last switched on.
        self.on_since = 0.0
        self._boots = 0
        self._lock = threading.RLock()
        self._qemu: subprocess.Popen[bytes] | None = None

    @property
    def is_on(self) -> bool:
        """Whether there is a process that could write."""
        with self._lock:
            return self._qemu is not None and self._qemu.poll() is None

    def power_on(self) -> None:
        """Switches it on and boots it, unless it is already on."""
        with self._lock:
            if self.is_on:
                return
            self._boots += 1
            self.on_since = time.monotonic()
            log = self._logs / f"{self.name}-{self._boots}"
            command = qemu_command(
                self._machine,
                self._accelerator,
                log.with_suffix(".console"),
                log.with_suffix(".status"),
            )
            with log.with_suffix(".qemu").open("wb") as complaints:
                self._qemu = subprocess.Popen(
                    [*command, *self._devices()],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=complaints,
                )
            self._journal.add(self.slot, "power-on")
            threading.Thread(
                target=self._listen, args=[self._qemu, log.with_suffix(".output")], daemon=True
            ).start()

    def power_off(self) -> None:
        """Switches it off. When this returns, nothing is left that could write."""
        with self._lock:
            if self._qemu is None:
                return
            was_on = self.is_on
            self._qemu.kill()
            self._qemu.wait()
            if was_on:
                self._journal.add(self.slot, "power-off")

    def _signal(self, number: signal.Signals) -> None:
        with self._lock:
            if self.is_on:
                assert self._qemu
                self._qemu.send_signal(number)

    def stop(self) -> None:
        """Stops it wherever it is."""
        self._signal(signal.SIGSTOP)
        self._journal.add(self.slot, "stopped")

    def go_on(self) -> None:
        """Continues it where it stopped; does nothing if its power is off."""
        on = self.is_on
        self._signal(signal.SIGCONT)
        self._journal.add(self.slot, "goes-on" if on else "cannot-go-on")

    def continue_if_stopped(self) -> None:
        """Continues it without a journal entry."""
        self._signal(signal.SIGCONT)

    def command(self, text: str) -> None:
        """Sends a command to the host's own program."""
        self._journal.add(self.slot, "command", command=text)
        with self._lock:
            assert self._qemu and self._qemu.stdin
            self._qemu.stdin.write(f"{text}\n".encode())
            self._qemu.stdin.flush()

    def _listen(self, qemu: subprocess.Popen[bytes], output: Path) -> None:
        """Records the host's output until it is off."""
        assert qemu.stdout
        with output.open("wb") as kept:
            for data in qemu.stdout:
                kept.write(data)
                kept.flush()
                line = data.decode(errors="replace").strip()
                if found := re.fullmatch(r"@(\S+) ?(.*)", line):
                    facts = re.findall(r"(\w+)=(.*?)(?= \w+=|$)", found[2])
                    self._journal.add(self.slot, found[1], **dict(facts))
                elif line.startswith("agent: "):
                    self._journal.add(self.slot, "agent", text=line.removeprefix("agent: "))


class PowerSwitch:
    """A device that switches a host's power: its BMC or its outlet."""

    def __init__(self, kind: str, host: Host, folder: Path, socket_path: Path) -> None:
        self.kind = kind
        self.host = host
        self.name = f"{kind}{host.slot}"
        folder.mkdir()
        self.bmc = Bmc(folder, CHASSIS.format(path=socket_path, name=self.name))
        # Accepts every order but carries none out.
        self.is_stuck = False
        # Does nothing, but reports that the host is off.
        self.lies = False
        # Called once on the next order, before it is carried out.
        self.at_order: Callable[[], None] | None = None

    def ask(self, words: list[str], journal: Journal) -> str:
        """Answers ipmi_sim's request to get or set the power state."""
        match words:
            case ["get", "power"]:
                return f"power:{int(self.host.is_on and not self.lies)}\n"
            case ["set", "power", state]:
                journal.add(self.host.slot, "order", device=self.kind, state=state)
                self._carry_out(state)
        return ""

    def _carry_out(self, state: str) -> None:
        before, self.at_order = self.at_order, None
        if before:
            before()
        if self.is_stuck or self.lies:
            return
        if state == "1":
            self.host.power_on()
        else:
            self.host.power_off()


class PowerRoom:
    """All BMCs and outlets, each an ipmi_sim on loopback."""

    def __init__(self, hosts: list[Host], folder: Path, journal: Journal) -> None:
        path = folder / "power"
        self._journal = journal
        self._lab = socket.socket(socket.AF_UNIX)
        self._lab.bind(str(path))
        self._lab.listen(16)
        self.bmcs = [PowerSwitch("bmc", host, folder / f"bmc{host.slot}", path) for host in hosts]
        self.outlets = [
            PowerSwitch("outlet", host, folder / f"outlet{host.slot}", path) for host in hosts
        ]
        self._switches = {switch.name: switch for switch in (*self.bmcs, *self.outlets)}
        threading.Thread(target=self._serve, daemon=True).start()

    def begin(self) -> None:
        """Starts all simulators; returns once they answer."""
        for switch in self._switches.values():
            switch.bmc.begin()

    def end(self) -> None:
        """Stops the simulators."""
        for switch in self._switches.values():
            switch.bmc.end()

    def _serve(self) -> None:
        while True:
            connection, _ = self._lab.accept()
            threading.Thread(target=self._answer, args=[connection], daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            name, *words = connection.makefile().readline().split()
            connection.sendall(self._switches[name].ask(words, self._journal).encode())

    def hosts_file(self, address: Callable[[int], str], password_file: Path) -> str:
        """The agent's hosts file: for each host a BMC, with an outlet as the second level."""
        sections = []
        for bmc, outlet in zip(self.bmcs, self.outlets, strict=True):
            name, slot = bmc.host.name, bmc.host.slot
            sections += [
                f"[{name}]\naddress = {address(slot)}",
                bmc.bmc.parameters(LOOPBACK, password_file),
                f"[{name} level 2]",
                outlet.bmc.parameters(LOOPBACK, password_file),
            ]
        return "\n".join(sections)


def folder_for_the_disk(candidates: list[Path]) -> Path:
    """The first folder whose files can be opened with O_DIRECT; raises OSError."""
    for folder in candidates:
        probe = folder / "probe"
        try:
            os.close(os.open(probe, os.O_RDWR | os.O_CREAT | os.O_DIRECT))
        except OSError:
            continue
        finally:
            probe.unlink(missing_ok=True)
        return folder
    raise OSError("no folder has files that can be opened with O_DIRECT")
