# SPDX-License-Identifier: GPL-2.0-only
"""The agent as a systemd service, with the unit that is installed."""

import errno
import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kernel
from case import Case, case
from fence import Mount, Stopwatch, equal, true
from manager import UNITS, Systemd, systemd

UNIT = "scoutfs-fenced.service"
FOLDER = Path("/run/scoutfs-fenced-case")
STATE = Path("/var/lib/scoutfs-fenced")
CATALOG = Path("/usr/lib/systemd/catalog/scoutfs-fenced.catalog")
COMMAND = FOLDER / "fence-it"
CONFIGURATION = FOLDER / "scoutfs-fenced.conf"

# Python starts slowly in an emulated machine. A guest that is silent for long is considered hung.
MILLISECONDS = min(100_000 * kernel.PATIENCE, 600_000)


class Service:
    """The agent's service and its configuration."""

    def __init__(self, its: Systemd) -> None:
        self.systemd = its

    def command(self, script: str) -> None:
        COMMAND.write_text(f"#!/bin/sh\n{script}\n")
        COMMAND.chmod(0o755)

    def configure(self, text: str = "") -> None:
        CONFIGURATION.write_text(f"SCOUTFS_FENCED_RUN={COMMAND}\n{text}\n")

    def pid(self) -> int:
        return int(self.systemd.property(UNIT, "MainPID"))

    def kill(self, number: signal.Signals) -> None:
        self.systemd.systemctl("kill", "--kill-whom=main", f"--signal={number.name}", UNIT)

    def until_restarted(self, times: int) -> None:
        self.systemd.until(UNIT, "NRestarts", str(times))
        self.systemd.until(UNIT, "ActiveState", "active")


@contextmanager
def service(watchdog: int = 10) -> Iterator[Service]:
    """Installs the service, with its watchdog's seconds on a fast machine, without starting it.

    Mount filesystems only afterwards: earlier mounts would be copied into its namespace and stay
    busy as long as that exists.
    """
    FOLDER.mkdir(exist_ok=True)
    # The agent remembers fenced rids across restarts.
    shutil.rmtree(STATE, ignore_errors=True)
    unit = (kernel.MODULES / UNIT).read_text()
    UNITS.mkdir(parents=True, exist_ok=True)
    (UNITS / UNIT).write_text(unit.replace("@sbindir@", str(kernel.MODULES)))
    changes = UNITS / f"{UNIT}.d"
    changes.mkdir(exist_ok=True)
    # None of the unit's dependencies run here.
    (changes / "case.conf").write_text(
        "[Unit]\nDefaultDependencies=no\n[Service]\n"
        f"Environment=SCOUTFS_FENCED_CONFIG_FILE={CONFIGURATION}\n"
        f"WatchdogSec={watchdog * kernel.PATIENCE}\n"
    )
    with systemd() as its:
        yield Service(its)


def fenced(mount: Mount, rid: int) -> None:
    """Makes a request that must be fenced."""
    mount.started(rid, "10.0.0.7")
    mount.until_fenced()


@case
def systemd_runs_the_agent_and_its_journal_knows_the_requests(case: Case) -> None:
    """systemd accepts the unit, notices readiness, and stores the agent's journal fields."""
    with service() as it:
        mount = case.mount()
        checked = it.systemd.run("systemd-analyze", "verify", "--man=no", str(UNITS / UNIT))
        equal([checked.returncode, checked.stderr], [0, ""], "systemd-analyze verify")
        it.configure()
        it.command("exit 0")
        it.systemd.systemctl("start", UNIT)
        equal(it.systemd.property(UNIT, "ActiveState"), "active")
        fenced(mount, 0xAA)
        it.systemd.until_told(UNIT, "fenced")

        about = [line for line in it.systemd.journal(UNIT) if "SCOUTFS_FENCE_RID" in line]
        true(bool(about), "lines of the journal have the rid as a field")
        for line in about:
            equal(line["SCOUTFS_FENCE_RID"], "00000000000000aa")
            equal(line["SCOUTFS_FENCE_ADDRESS"], "10.0.0.7")
            equal(line["SCOUTFS_FENCE_REASON"], "client_recovery")
            equal(line["SCOUTFS_FENCE_MOUNT"], mount.directory.name)
            true("00000000000000aa" in line["MESSAGE"], "and the line is for people, too")
        true(any("SCOUTFS_FENCE_DURATION" in line for line in about), "one tells how long it took")

        CATALOG.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kernel.MODULES / CATALOG.name, CATALOG)
        equal(it.systemd.run("journalctl", "--update-catalog").returncode, 0)
        explained = it.systemd.run("journalctl", "--catalog", f"--unit={UNIT}").stdout
        true("The mount 00000000000000aa has been fenced" in explained, f"it says: {explained}")

        it.configure("SCOUTFS_FENCED_DELAY=often")
        it.systemd.systemctl("reload", UNIT)
        it.systemd.until_told(UNIT, "SCOUTFS_FENCED_DELAY")
        fenced(mount, 0xBB)

        it.systemd.systemctl("stop", UNIT)
        equal(it.systemd.property(UNIT, "Result"), "success")


@case
def systemd_starts_an_agent_again_that_dies_or_hangs(case: Case) -> None:
    """The next agent fences pending requests; an agent that pings the watchdog is left alone."""
    watchdog = 3
    with service(watchdog) as it:
        mount = case.mount()
        case.set_timeout_ms(MILLISECONDS)
        it.configure()
        it.command("exit 0")
        it.systemd.systemctl("start", UNIT)

        time.sleep(watchdog * kernel.PATIENCE + 2)
        equal(it.systemd.property(UNIT, "NRestarts"), "0")

        first = it.pid()
        it.kill(signal.SIGKILL)
        mount.started(0xAA)
        mount.until_fenced()
        it.until_restarted(1)
        true(it.pid() != first, "it is another agent")

        watch = Stopwatch()
        it.kill(signal.SIGSTOP)
        mount.started(0xBB)
        mount.until_fenced()
        it.until_restarted(2)
        watch.at_least(1)
        it.systemd.systemctl("stop", UNIT)


@case
def systemd_restarts_an_agent_and_no_request_waits_for_an_old_command(case: Case) -> None:
    """A request made during a restart is fenced at once; old commands finish, and run only once."""
    with service() as it:
        mount = case.mount()
        case.set_timeout_ms(MILLISECONDS)
        it.configure("SCOUTFS_FENCED_STOP_TIMEOUT=60")
        go, runs = FOLDER / "go", FOLDER / "runs"
        for path in (go, runs):
            path.unlink(missing_ok=True)
        it.command(
            f"echo $SCOUTFS_FENCED_REQ_IP >>{runs}\n"
            f"[ $SCOUTFS_FENCED_REQ_IP = 10.0.0.2 ] || while [ ! -e {go} ]; do sleep 0.1; done"
        )
        it.systemd.systemctl("start", UNIT)
        first = it.pid()
        slow = mount.started(0xAA, "10.0.0.1")
        watch = Stopwatch()
        while not runs.exists():
            watch.at_most(20)
            time.sleep(0.05)
        it.systemd.systemctl("restart", "--no-block", UNIT)
        it.systemd.until(UNIT, "ActiveState", "deactivating")
        quick = mount.started(0xBB, "10.0.0.2")
        watch = Stopwatch()
        while not quick.fenced():
            watch.at_most(10)
            time.sleep(0.05)
        true(not slow.fenced(), "the old command still runs")
        go.touch()
        mount.until_fenced()
        it.systemd.until(UNIT, "ActiveState", "active")
        true(it.pid() != first, "it is another agent")
        equal(runs.read_text().split(), ["10.0.0.1", "10.0.0.2"], "each command ran once")
        it.systemd.systemctl("stop", UNIT)


@case
def systemd_leaves_an_agent_alone_whose_configuration_is_wrong(case: Case) -> None:
    """It fails once, with the mistake in the journal, and starts after the mistake is fixed."""
    with service() as it:
        mount = case.mount()
        it.configure("SCOUTFS_FENCED_DELAY=often")
        it.command("exit 0")
        it.systemd.run("systemctl", "start", UNIT)
        it.systemd.until(UNIT, "ActiveState", "failed")
        it.systemd.until_told(UNIT, f"{CONFIGURATION}")
        equal(it.systemd.property(UNIT, "NRestarts"), "0")
        it.configure()
        it.systemd.systemctl("start", UNIT)
        fenced(mount, 0xAA)
        it.systemd.systemctl("stop", UNIT)


# Tries actions that fence commands need, and some that none does; prints each one's error or 0.
RIGHTS = """
import ctypes, errno, json, mmap, os, socket, subprocess, sys, time

FOLDER = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

def in_child(function):
    def run():
        pid = os.fork()
        if pid == 0:
            number = 0
            try:
                function()
            except OSError as error:
                number = error.errno
            os._exit(number)
        number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if number:
            raise OSError(number, "in a child")
    return run

def writes(folder):
    def run():
        path = os.path.join(folder, "written-by-a-case")
        with open(path, "w"):
            pass
        os.unlink(path)
    return run

def makes_a_group():
    os.mkdir("/sys/fs/cgroup/of-a-case")
    os.rmdir("/sys/fs/cgroup/of-a-case")

def mounts():
    call("mount", b"none", FOLDER.encode(), b"tmpfs", 0, b"")
    call("umount2", FOLDER.encode(), 1)

def gives_roots_rights():
    with open(f"{FOLDER}/setuid", "w"):
        pass
    os.chmod(f"{FOLDER}/setuid", 0o4755)

def loads_a_module():
    call("init_module", b"nothing", ctypes.c_ulong(7), b"")

NEEDED = {
    "unmount": lambda: call("umount2", b"/tmp/forced", 1),
    "mount": mounts,
    "change the root": in_child(lambda: os.chroot("/")),
    "a device": lambda: os.close(os.open("/dev/ttyS0", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)),
    "/dev/kmsg": lambda: os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)),
    "namespaces": in_child(lambda: call("unshare", 0x04000000)),
    "networks": in_child(lambda: call("unshare", 0x40000000)),
    "packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "32 bit": in_child(lambda: call("personality", ctypes.c_ulong(8))),
    "just-in-time compilers": lambda: mmap.mmap(-1, 4096, prot=7).close(),
    "groups": makes_a_group,
    "/root": writes("/root"),
    "/etc": writes("/etc"),
    "/usr": writes("/usr"),
    "/var": writes("/var"),
}

FORBIDDEN = {
    "set the clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    "wake the host": lambda: call("timerfd_create", 9, 0),
    "load modules": loads_a_module,
    "swap": lambda: call("swapon", b"/nowhere", 0),
    "account": lambda: call("acct", b"/nowhere"),
    "give root's rights": gives_roots_rights,
}

def tried(functions):
    told = {}
    for name, function in functions.items():
        try:
            function()
        except OSError as error:
            told[name] = errno.errorcode[error.errno]
        else:
            told[name] = "0"
    return told

status = dict(line.split(":", 1) for line in open("/proc/self/status"))
report = {
    "needed": tried(NEEDED),
    "forbidden": tried(FORBIDDEN),
    "namespaces": sorted(os.readlink(it.path) for it in os.scandir("/proc/self/ns")),
    "no new privileges": int(status["NoNewPrivs"]),
    "capabilities": int(status["CapBnd"], 16),
}
with open(f"{FOLDER}/{sys.argv[2]}.tmp", "w") as file:
    json.dump(report, file)
os.rename(f"{FOLDER}/{sys.argv[2]}.tmp", f"{FOLDER}/{sys.argv[2]}")
"""

# Capabilities over security policy: CAP_MAC_OVERRIDE and CAP_MAC_ADMIN.
POLICY = 1 << 32 | 1 << 33


def rights(case: Case, it: Service) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rights of a process outside the service, and those of a fence command."""
    script = FOLDER / "rights.py"
    script.write_text(RIGHTS)
    report = []
    forced = Path("/tmp/forced")
    forced.mkdir(exist_ok=True)
    mount = case.mount()
    it.configure()
    it.command(f"exec python3 {script} {FOLDER} inside")
    it.systemd.systemctl("start", UNIT)
    for name in ("outside", "inside"):
        # In systemd's own namespace, like a host's mounts.
        done = it.systemd.run("mount", "-t", Mount.FILESYSTEM, "none", str(forced))
        equal([done.returncode, done.stderr], [0, ""], "mount")
        if name == "outside":
            done = it.systemd.run("python3", str(script), str(FOLDER), name)
            equal([done.returncode, done.stderr], [0, ""], "without a unit")
        else:
            fenced(mount, 0xAA)
        true(
            it.systemd.run("mountpoint", "-q", str(forced)).returncode != 0,
            f"{name}: it is unmounted on the host",
        )
        report.append(json.loads((FOLDER / name).read_text()))
    it.systemd.systemctl("stop", UNIT)
    return report[0], report[1]


@case
def systemd_lets_fence_commands_do_what_fencing_needs(case: Case) -> None:
    """Fence commands run in the host's namespaces and can do there whatever root can."""
    with service() as it:
        outside, inside = rights(case, it)
        equal(inside["needed"], outside["needed"])
        for name in ("unmount", "mount", "a device", "/root", "/usr", "just-in-time compilers"):
            equal(inside["needed"][name], "0", name)
        equal(inside["namespaces"], outside["namespaces"])
        equal(inside["no new privileges"], 0, "they may become another user and back")


@case
def systemd_forbids_what_no_fence_command_does(case: Case) -> None:
    """Each restriction in the unit removes a right that a process outside it has."""
    with service() as it:
        outside, inside = rights(case, it)
        for name, error in outside["forbidden"].items():
            if error == "ENOSYS":
                # The kernel lacks this feature.
                continue
            true(error != "EPERM", f"without the unit it is allowed: {name} ({error})")
            equal(inside["forbidden"][name], "EPERM", name)
        equal(outside["capabilities"] & POLICY, POLICY)
        equal(inside["capabilities"] & POLICY, 0)


@case
def systemd_has_a_control_group_for_each_command(case: Case) -> None:
    """When a command is killed, so are all its descendants, even daemonized ones."""
    with service() as it:
        mount = case.mount()
        case.expect_error_line(mount, 0xAA)
        it.configure("SCOUTFS_FENCED_LIMIT=3\nSCOUTFS_FENCED_RETRIES=0")
        child, group = FOLDER / "child", FOLDER / "group"
        it.command(
            f"grep ^0: /proc/self/cgroup >{group}\n"
            f"stay='trap \"\" TERM; echo $$ >{child}; while :; do sleep 1; done'\n"
            '(env -i setsid sh -c "$stay" &)\n'
            "sleep 100"
        )
        it.systemd.systemctl("start", UNIT)
        mount.started(0xAA, "10.0.0.7")
        equal(mount.wait_fenced(MILLISECONDS), -errno.EIO, "it takes too long")
        true(f"/{UNIT}/command-" in group.read_text(), f"its group is {group.read_text()}")
        watch = Stopwatch()
        while it.systemd.run("kill", "-0", child.read_text().strip()).returncode == 0:
            watch.at_most(20)
            time.sleep(0.1)
        groups = it.systemd.run("sh", "-c", f"ls -d /sys/fs/cgroup/system.slice/{UNIT}/command-*")
        equal(groups.stdout, "", "the groups of commands that have ended")
        it.systemd.systemctl("stop", UNIT)


# Imitates boot and shutdown: mounts a remote filesystem, then stops everything at once.
REMOTE = f"""
[Mount]
What=none
Where=/tmp/remote
Type={Mount.FILESYSTEM}
Options=_netdev
"""
START = f"""
[Unit]
Requires=tmp-remote.mount {UNIT}
"""
END = f"""
[Unit]
DefaultDependencies=no
Conflicts=tmp-remote.mount {UNIT} remote-fs-pre.target
"""


@case
def systemd_runs_the_agent_for_as_long_as_there_are_mounts(case: Case) -> None:
    """It is ready before a remote filesystem is mounted, and stops after it is unmounted."""
    with service() as it:
        Path("/tmp/remote").mkdir(exist_ok=True)
        for name, text in (
            ("tmp-remote.mount", REMOTE),
            ("case-start.target", START),
            ("case-end.target", END),
        ):
            (UNITS / name).write_text(text)
        it.systemd.systemctl("daemon-reload")
        it.configure()
        it.command("exit 0")

        def when(unit: str, change: str) -> int:
            return int(it.systemd.property(unit, f"{change}TimestampMonotonic"))

        it.systemd.systemctl("start", "case-start.target")
        equal(it.systemd.property("tmp-remote.mount", "ActiveState"), "active")
        true(
            when(UNIT, "ActiveEnter") <= when("tmp-remote.mount", "InactiveExit"),
            "the agent is ready before anything is mounted",
        )
        it.systemd.systemctl("start", "case-end.target")
        it.systemd.until(UNIT, "ActiveState", "inactive")
        equal(it.systemd.property("tmp-remote.mount", "ActiveState"), "inactive")
        true(
            when("tmp-remote.mount", "InactiveEnter") <= when(UNIT, "ActiveExit"),
            "the agent is stopped after all is unmounted",
        )
        after = it.systemd.property(UNIT, "After").split()
        for earlier in ("network-online.target", "open-iscsi.service", "multipathd.service"):
            true(earlier in after, f"and it waits for {earlier}")


@case
def systemd_lets_a_second_agent_take_nothing_from_the_first(case: Case) -> None:
    """A running agent keeps its lock and sockets when a second one fails to start."""
    with service() as it:
        mount = case.mount()
        it.configure()
        it.command("exit 0")
        first = it.systemd.begin(
            "env",
            f"SCOUTFS_FENCED_CONFIG_FILE={CONFIGURATION}",
            str(kernel.MODULES / "scoutfs-fenced"),
        )
        try:
            watch = Stopwatch()
            while it.systemd.run(str(kernel.MODULES / "scoutfs-fenced"), "status").returncode:
                watch.at_most(60)
            for _ in range(2):
                it.systemd.run("systemctl", "start", UNIT)
                it.systemd.until_told(UNIT, "another agent is running")
                it.systemd.systemctl("stop", UNIT)
                # systemd may have forgotten the stopped unit.
                it.systemd.run("systemctl", "reset-failed", UNIT)
                status = it.systemd.run(str(kernel.MODULES / "scoutfs-fenced"), "status")
                equal([status.returncode, status.stderr], [0, ""], "the first one answers")
            fenced(mount, 0xAA)
            equal(first.poll(), None, "it runs")
        finally:
            first.terminate()
            first.wait()
