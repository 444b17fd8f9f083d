# SPDX-License-Identifier: GPL-2.0-only
"""Virtual machines on kernels of the lab: their initramfs, QEMU's command line, and booting one.

Runs in the toolchain root.
"""

from __future__ import annotations

import os
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

LAB = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("SCOUTFS_FENCE_CACHE", "/nonexistent"))

# How long a guest may take to power off after its command has ended.
SECONDS_TO_END = 10
# A working KVM boots the guest in two or three seconds; a broken one hangs it forever.
SECONDS_TO_PROBE = 15

# An emulated boot takes five to ten seconds, one of `debug` twenty, and two minutes on a host that
# is busy with four other things.
SECONDS_TO_START = 300

# Links in Debian's root folder to folders of the same names in /usr.
MERGED_FOLDERS = ("bin", "lib", "lib64", "sbin")

# The serial console is slow, so only warnings are printed there; the ring buffer has everything. A
# panic ends the VM at once. Emulated processors need no mitigations. Their time stamp counter is
# the host's; with the clocksource watchdog on it, a boot of Linux 7.3 would hang now and then: one
# processor waits for the other in watchdog_check_skew(), and that one for the first in
# stop_machine().
KERNEL_ARGUMENTS = "console=ttyS0 loglevel=5 panic=-1 mitigations=off tsc=reliable"

# Emulated paging is slower with each level of page tables.
EMULATED = ("-accel", "tcg,thread=multi", "-cpu", "max,la57=off")
VIRTUALIZED = ("-accel", "kvm", "-cpu", "host")
# Each instruction takes a nanosecond of the guest's time, and idling takes no time of the host. The
# instructions that fill or copy a whole block are disabled: they would count once for each byte.
COUNTED = (
    *("-icount", "shift=0,sleep=off", "-accel", "tcg"),
    *("-cpu", "max,la57=off,erms=off,fsrm=off,fsrs=off,fzrm=off"),
)


class Unusable(Exception):
    """An error that the user can fix; the message says how."""


@dataclass(frozen=True)
class Machine:
    """The parts of a guest."""

    vmlinuz: Path
    initramfs: Path
    memory: int
    arguments: str
    processors: int = 2


@dataclass(frozen=True)
class Outcome:
    """How a guest ended: whether its command started, and its exit status if it ended."""

    started: bool
    status: int | None
    timed_out: bool
    complaint: str


def lab_path(name: str) -> Path:
    """Return where the lab keeps something."""
    answer = subprocess.run([LAB / "lab", "path", name], stdout=subprocess.PIPE, text=True)
    if answer.returncode != 0:
        raise SystemExit(answer.returncode)
    return Path(answer.stdout.strip())


def add_file(stage: Path, pair: str) -> None:
    """Copy one SRC:DEST to its place in the guest."""
    source, _, destination = pair.rpartition(":")
    if not source or not destination.startswith("/"):
        raise Unusable(f"--add takes SRC:DEST with an absolute DEST, and not '{pair}'.")
    target = stage / destination.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if Path(source).is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    elif Path(source).exists():
        shutil.copy(source, target)
    else:
        raise Unusable(f"there is no '{source}' to add to the guest.")


def make_overlay(stage: Path, command: list[str], additions: list[str]) -> bytes:
    """Pack the files that only this guest has."""
    # A folder instead of one of these links would hide everything behind the link.
    for name in MERGED_FOLDERS:
        (stage / "usr" / name).mkdir(parents=True, exist_ok=True)
        (stage / name).symlink_to(f"usr/{name}")
    for pair in additions:
        add_file(stage, pair)
    shutil.copy(LAB / "init", stage / "init")
    script = stage / "lab" / "command"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"#!/bin/sh\nexec {shlex.join(command)}\n")
    script.chmod(0o755)
    names = b"\0".join(os.fsencode(path.relative_to(stage)) for path in sorted(stage.rglob("*")))
    packed = subprocess.run(
        ["cpio", "--create", "--format=newc", "--null", "--owner=0:0", "--quiet"],
        cwd=stage,
        input=names,
        stdout=subprocess.PIPE,
        check=True,
    )
    return packed.stdout


def make_initramfs(work: Path, command: list[str], additions: list[str]) -> Path:
    """Put the common files and this guest's own into one archive; later entries win."""
    stage = work / "stage"
    stage.mkdir()
    initramfs = work / "initramfs"
    with initramfs.open("wb") as archive:
        with (lab_path("guest") / "guest.cpio").open("rb") as guest:
            shutil.copyfileobj(guest, archive, 1 << 20)
        archive.write(make_overlay(stage, command, additions))
    shutil.rmtree(stage)
    return initramfs


def quoted(path: Path) -> str:
    """Escape a path for QEMU's options."""
    return str(path).replace(",", ",,")


def qemu_command(
    machine: Machine, accelerator: tuple[str, ...], log: Path, status: Path
) -> list[str]:
    """Return QEMU's command line; the serial ports are those that the guest's init expects."""
    return [
        "qemu-system-x86_64",
        *accelerator,
        *("-smp", str(machine.processors)),
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none", "-monitor", "none"),
        *("-m", str(machine.memory)),
        *("-kernel", str(machine.vmlinuz), "-initrd", str(machine.initramfs)),
        *("-append", machine.arguments),
        *("-chardev", f"file,id=console,path={quoted(log)}", "-serial", "chardev:console"),
        *("-chardev", "stdio,id=output,signal=off", "-serial", "chardev:output"),
        *("-chardev", f"file,id=status,path={quoted(status)}", "-serial", "chardev:status"),
    ]


def read_status(file: Path) -> tuple[bool, int | None]:
    """Read what the guest reported: whether its command started, and its exit status."""
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    status = int(lines[1]) if len(lines) > 1 and lines[1].isdigit() else None
    return lines[:1] == [b"started"], status


def pass_output(source: int, seconds: float, sink: int | None) -> bool:
    """Pass on output that the guest writes within that time; False at its end."""
    ready, _, _ = select.select([source], [], [], seconds)
    if not ready:
        return True
    data = os.read(source, 1 << 16)
    more = bool(data)
    while data and sink is not None:
        data = data[os.write(sink, data) :]
    return more


def boot(
    machine: Machine, accelerator: tuple[str, ...], seconds: float, log: Path, sink: int | None
) -> Outcome:
    """Boot a guest and wait for its end."""
    status_file = machine.initramfs.with_name("status")
    status_file.unlink(missing_ok=True)
    with tempfile.TemporaryFile() as complaints:
        qemu = subprocess.Popen(
            qemu_command(machine, accelerator, log, status_file),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
        )
        try:
            assert qemu.stdout is not None
            timed_out = not see_through(qemu.stdout.fileno(), status_file, seconds, sink)
        finally:
            qemu.kill()
            qemu.wait()
        complaints.seek(0)
        complaint = complaints.read().decode(errors="replace").strip()
    return Outcome(*read_status(status_file), timed_out, complaint)


def see_through(output: int, status_file: Path, seconds: float, sink: int | None) -> bool:
    """Pass on a guest's output until the guest ends; False if its time was over."""
    now = time.monotonic()
    end, end_of_boot = now + seconds, now + SECONDS_TO_START
    reported = False
    while pass_output(output, 0.2, sink):
        now = time.monotonic()
        started, status = read_status(status_file)
        if not reported and status is not None:
            reported = True
            end = now + SECONDS_TO_END
        if now > end or (not started and now > end_of_boot):
            return reported
    return True


def probe_kvm(vmlinuz: Path, work: Path) -> bool:
    """Boot a guest with KVM, which may not work even if /dev/kvm can be opened."""
    print("vm: trying whether KVM works here", file=sys.stderr)
    work.mkdir()
    machine = Machine(vmlinuz, make_initramfs(work, ["true"], []), 512, KERNEL_ARGUMENTS)
    return boot(machine, VIRTUALIZED, SECONDS_TO_PROBE, work / "console", None).status == 0


def choose_accelerator(vmlinuz: Path, work: Path) -> tuple[str, ...]:
    """Prefer KVM if it works, which is tried once for each boot of the host."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return EMULATED
    host_boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    verdict_file = CACHE / "kvm"
    verdict = verdict_file.read_text().split() if verdict_file.exists() else []
    if verdict[:1] != [host_boot]:
        verdict = [host_boot, "works" if probe_kvm(vmlinuz, work / "probe") else "fails"]
        verdict_file.write_text(" ".join(verdict) + "\n")
    return VIRTUALIZED if verdict[1:] == ["works"] else EMULATED
