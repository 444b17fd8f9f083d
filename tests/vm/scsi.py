# SPDX-License-Identifier: GPL-2.0-only
"""
A disk that several hosts share by iSCSI, with persistent reservations by the kernel's target.

Target and initiators run in this kernel and talk over loopback. Each host has its own initiator
name, and so its own nexus, registration and block device.

`tcm_loop` needs no network, but hangs once fence_scsi fences a host: it executes all commands in a
work item of the disk, where PREEMPT AND ABORT waits for this very work item to finish
(core_tmr_drain_state_list(), from Linux 6.12 to 7.3). The iSCSI target executes them in a thread of
the connection.
"""

import mmap
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import kernel
from fence import CaseFailed, Stopwatch

# A kernel configured with this has everything needed as modules.
OPTION = "CONFIG_ISCSI_TARGET=m"

# In the order of their dependencies. Some kernels have some of them built in.
MODULES = (
    *("configfs", "crc32c_generic", "crct10dif_common", "crc-t10dif"),
    *("crc64", "crc64-rocksoft", "t10-pi", "scsi_common", "scsi_mod", "sd_mod"),
    *("target_core_mod", "target_core_file", "iscsi_target_mod"),
    *("scsi_transport_iscsi", "libiscsi", "libiscsi_tcp", "iscsi_tcp"),
)
FOLDER = "modules"

CONFIGFS = Path("/sys/kernel/config")
TARGETS = CONFIGFS / "target"
# The target saves the registrations there; a registration fails if it cannot.
COPIES = Path("/etc/target/pr")
SESSIONS = Path("/sys/class/iscsi_session")
# The database of Debian's open-iscsi, and the socket on which iscsid listens.
DATABASE = Path("/var/lib/iscsi")
SOCKET = "@ISCSIADM_ABSTRACT_NAMESPACE"

# Seconds between pings of the target; 0 disables them.
PINGS = "node.conn[0].timeo.noop_out_interval"

NAMES = "iqn.2026-11.guest"
TARGET = f"{NAMES}:disk"
PORTAL = "127.0.0.1:3260"

PERSIST = ("sg_persist", "--no-inquiry")

SIZE = 16 << 20
BLOCK = 4096

SECONDS_TO_START = 20
SECONDS_TO_END = 20
# fence_scsi is a Python program that runs ten others.
SECONDS_FOR_COMMAND = 60


class SharedDisk:
    """A disk with hosts logged in to it."""

    def __init__(self, image: Path, hosts: tuple[str, ...]) -> None:
        self._image = image
        self._devices = {host: _device(host) for host in hosts}

    def device(self, host: str) -> str:
        """The disk as this host sees it."""
        return self._devices[host]

    def let_in(self, host: str, key: str) -> None:
        """Registers a host's key with fence_scsi, as the agent on that host does.

        fence_scsi stores its host's key in /var/run; a private one protects the local host's key.
        """
        _run(
            *("unshare", "--mount", "sh", "-c"),
            "mkdir -p /var/run && mount -t tmpfs none /var/run && exec fence_scsi",
            text=f"action=on\ndevices={self.device(host)}\nkey={key}\n",
        )

    def register(self, host: str, key: str) -> None:
        """Registers a key from a host behind fence_scsi's back."""
        _run("sg_turs", self.device(host))
        _run(*PERSIST, "--out", "--register-ignore", f"--param-sark={key}", self.device(host))

    def keys(self) -> set[str]:
        """The registered keys."""
        device, *_ = self._devices.values()
        said = _run(*PERSIST, "--in", "--read-keys", device)
        return set(re.findall(r"^\s+0x(\w+)$", said, re.MULTILINE))

    def write(self, host: str, letter: str) -> None:
        """Writes the first block from a host, bypassing all caches; raises OSError."""
        file = os.open(self.device(host), os.O_WRONLY | os.O_DIRECT)
        try:
            # mmap gives the alignment that O_DIRECT needs.
            with mmap.mmap(-1, BLOCK) as block:
                block.write(letter.encode() * BLOCK)
                os.pwrite(file, block, 0)
        finally:
            os.close(file)

    def content(self) -> str:
        """The letter in the target's first block."""
        block = self._image.read_bytes()[:BLOCK].decode()
        return block[0] if block == block[0] * BLOCK else "several"


@contextmanager
def shared_disk(*hosts: str) -> Iterator[SharedDisk]:
    """Makes a disk and logs each of these hosts in to it."""
    COPIES.mkdir(parents=True, exist_ok=True)
    for name in MODULES:
        module = name.replace("-", "_")
        if (kernel.MODULES / FOLDER / f"{name}.ko").exists() and not kernel.is_loaded(module):
            kernel.load(name, build=FOLDER)
    with ExitStack() as stack:
        image = Path(stack.enter_context(tempfile.TemporaryDirectory()), "disk")
        kernel.mount("configfs", CONFIGFS, "")
        stack.callback(kernel.unmount, CONFIGFS)
        _make_target(stack, image, hosts)
        _begin_iscsid(stack)
        for host in hosts:
            _log_in(stack, host)
        yield SharedDisk(image, hosts)


def _make_target(stack: ExitStack, image: Path, hosts: tuple[str, ...]) -> None:
    """Offers the file to these hosts as a disk; the stack undoes everything."""

    def make(path: Path) -> Path:
        path.mkdir()
        stack.callback(path.rmdir)
        return path

    def link(path: Path, to: Path) -> None:
        path.symlink_to(to)
        stack.callback(path.unlink)

    store = make(make(TARGETS / "core" / "fileio_0") / "disk")
    (store / "control").write_text(f"fd_dev_name={image},fd_dev_size={SIZE}\n")
    (store / "wwn" / "vpd_unit_serial").write_text("shared\n")
    (store / "enable").write_text("1\n")

    group = make(make(make(TARGETS / "iscsi") / TARGET) / "tpgt_1")
    (group / "attrib" / "authentication").write_text("0\n")
    unit = make(group / "lun" / "lun_0")
    link(unit / "disk", store)
    for host in hosts:
        mapped = make(make(group / "acls" / _name(host)) / "lun_0")
        link(mapped / "disk", unit)
    make(group / "np" / PORTAL)
    (group / "enable").write_text("1\n")
    stack.callback((group / "enable").write_text, "0\n")


def _begin_iscsid(stack: ExitStack) -> None:
    # The database's lock file is there.
    Path("/run/lock").mkdir(exist_ok=True)
    stack.callback(shutil.rmtree, DATABASE, ignore_errors=True)
    Path("/etc/iscsi/initiatorname.iscsi").write_text(f"InitiatorName={_name('guest')}\n")
    iscsid = subprocess.Popen(
        ["iscsid", "--foreground"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # iscsid kills its whole process group when it ends.
        start_new_session=True,
    )
    stack.callback(iscsid.wait, SECONDS_TO_END)
    stack.callback(iscsid.terminate)
    watch = Stopwatch()
    while SOCKET not in Path("/proc/net/unix").read_text():
        watch.at_most(SECONDS_TO_START)
        time.sleep(0.05)


def _log_in(stack: ExitStack, host: str) -> None:
    interfaces = DATABASE / "ifaces"
    interfaces.mkdir(parents=True, exist_ok=True)
    (interfaces / host).write_text(
        f"iface.iscsi_ifacename = {host}\n"
        "iface.transport_name = tcp\n"
        f"iface.initiatorname = {_name(host)}\n"
    )
    node = ("iscsiadm", "--mode=node", f"--targetname={TARGET}", f"--interface={host}")
    _run(*node, f"--portal={PORTAL},1", "--op=new")
    # An emulated guest may be slow to answer; that must not cause a new login.
    _run(*node, f"--portal={PORTAL}", "--op=update", f"--name={PINGS}", "--value=0")
    _run(*node, f"--portal={PORTAL}", "--login")
    stack.callback(_run, *node, f"--portal={PORTAL}", "--logout")


def _name(host: str) -> str:
    """A host's initiator name."""
    return f"{NAMES}:{host}"


def _device(host: str) -> str:
    """Waits for the block device of a host's session."""
    watch = Stopwatch()
    while True:
        for session in SESSIONS.iterdir():
            if (session / "initiatorname").read_text().strip() == _name(host):
                for block in session.glob("device/target*/*/block/*"):
                    if (device := Path("/dev", block.name)).exists():
                        return str(device)
        watch.at_most(SECONDS_TO_START)
        time.sleep(0.05)


def _run(*command: str, text: str = "") -> str:
    """Runs a command that must succeed; returns its output."""
    done = subprocess.run(
        command,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=SECONDS_FOR_COMMAND,
    )
    if done.returncode != 0:
        raise CaseFailed(f"{' '.join(command)}: exit status {done.returncode}: {done.stdout}")
    return done.stdout
