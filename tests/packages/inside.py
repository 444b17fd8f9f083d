# SPDX-License-Identifier: GPL-2.0-only
"""Steps to run on the booted system, as root and with Debian's own systemd: see run.

The arguments are the names of steps. All output goes to the host.
"""

import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

OUTPUT = "/dev/ttyS1"
HERE = Path(__file__).resolve().parent
UNIT = "scoutfs-fence.service"
FILESYSTEM = "fence_test_fs"
COMMAND = HERE / "fence-it"
GO = Path("/run/fence-it-may-go")
TIMEOUT = Path("/sys/module/scoutfs_fence/parameters/timeout_ms")
MILLISECONDS = 100_000

STEPS: dict[str, Callable[[], None]] = {}


class Failed(Exception):
    """A promise was not kept."""


def true(condition: bool, what: str) -> None:
    if not condition:
        raise Failed(f"not so: {what}")


def step(function: Callable[[], None]) -> Callable[[], None]:
    STEPS[function.__name__.replace("_", "-")] = function
    return function


def run(*command: str | Path, check: bool = True) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"),
        check=False,
    )
    if check and done.returncode != 0:
        words = " ".join(map(str, command))
        raise Failed(f"{words} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return done.stdout


def shown(name: str) -> str:
    return run("systemctl", "show", "--property", name, "--value", UNIT).strip()


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        true(time.monotonic() < end, f"within {seconds} s: {what}")
        time.sleep(0.2)


def runs(name: str) -> bool:
    """Whether any process has this in its command line."""
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        # The process may have ended.
        with suppress(OSError):
            if name in line.read_text():
                return True
    return False


def journal() -> str:
    return run("journalctl", "--boot", "--output=cat", f"--unit={UNIT}")


@step
def module_from_source_loads() -> None:
    """The module built from the source archive can be loaded and unloaded."""
    [module] = (HERE / "from-source" / os.uname().release).iterdir()
    run("insmod", module)
    true(Path("/sys/module/scoutfs_fence").exists(), "scoutfs_fence is loaded")
    run("rmmod", "scoutfs_fence")


@step
def module_is_loaded_with_the_filesystem() -> None:
    """modprobe of a filesystem loads our module, as installed by DKMS."""
    run("modprobe", FILESYSTEM)
    true(Path("/sys/module/scoutfs_fence").exists(), "scoutfs_fence is loaded")
    version = Path("/sys/module/scoutfs_fence/version").read_text().strip()
    installed = run("modinfo", "-F", "version", "scoutfs_fence").strip()
    true(version == installed, f"{version} is loaded, {installed} is installed")


def commands_of_readme() -> list[str]:
    """README's commands for after the installation, without the editing."""
    [block] = re.findall(
        r"^apt install \./dist/\*\.deb .*\n((?:.+\n)*)```$", (HERE / "README.md").read_text(), re.M
    )
    commands = [line.partition(" #")[0].rstrip() for line in block.splitlines()]
    true("scoutfs-fenced check" in commands, f"README ends with a check: {commands}")
    return [command for command in commands if not command.startswith("editor ")]


@step
def unit_is_active() -> None:
    """Following README, the agent starts; its unit takes over the name of scoutfs-utils's unit."""
    true(shown("ActiveState") == "inactive", "it does not start before it is told to")
    COMMAND.write_text(f"#!/bin/sh\nuntil [ -e {GO} ]; do sleep 0.1; done\n")
    COMMAND.chmod(0o755)
    GO.touch()
    for command in commands_of_readme():
        print(f"$ {command}\n{run('sh', '-c', command).strip()}", flush=True)
    true(shown("ActiveState") == "active", f"{UNIT} is active: {run('systemctl', 'status', UNIT)}")
    name = run("systemctl", "show", "--property=Id", "--value", "scoutfs-fenced.service").strip()
    true(name == UNIT, f"scoutfs-fenced.service is {name}")


def fenced(rid: int) -> None:
    """Makes a request and waits until it is fenced and the agent has logged it."""
    # Imported here because importing it reads the kernel's log and needs the module.
    from fence import Mount

    mount = Mount(Path("/mnt"))
    try:
        started = mount.start(rid, "10.0.0.7")
        true(started == 0, f"start returned {started}")
        waited = mount.returns(f"wait_fenced {MILLISECONDS}")
        true(waited == 0, f"wait_fenced returned {waited}: {journal()[-1500:]}")
        until(lambda: f"{rid:016x}" in journal(), "the journal has the request")
    finally:
        mount.unmount()


@step
def request_is_served() -> None:
    """The agent's command fences a request, and journalctl shows it."""
    fenced(0x2F1A90C37BE5D468)


@step
def upgrade_loses_nothing() -> None:
    """An upgrade restarts the agent but keeps its configuration and a pending request."""
    from fence import Mount

    configuration = Path("/etc/scoutfs/scoutfs-fenced.conf").read_text()
    hosts = Path("/etc/scoutfs/scoutfs-fenced.hosts")
    hosts.write_text(hosts.read_text() + "# An administrator was here.\n")
    before, pid = run("scoutfs-fenced", "--version"), shown("MainPID")
    GO.unlink()
    # Before the new agent starts, the old one gives its command half a minute.
    TIMEOUT.write_text(f"{10 * MILLISECONDS}\n")
    rid = 0x5EED0FFE2D000001
    mount = Mount(Path("/mnt"))
    try:
        true(mount.start(rid, "10.0.0.8") == 0, "the request is made")
        until(lambda: runs(str(COMMAND)), "its command runs")
        run("apt", "--yes", "install", *map(str, Path("/packages").glob("scoutfs-fenced_*.deb")))
        GO.touch()
        waited = mount.returns(f"wait_fenced {MILLISECONDS}")
        true(waited == 0, f"wait_fenced returned {waited}: {journal()[-1500:]}")
    finally:
        mount.unmount()
    after = run("scoutfs-fenced", "--version")
    true("before" in before and "before" not in after, f"from {before} to {after}")
    true(shown("ActiveState") == "active" and shown("MainPID") != pid, "the agent is a new one")
    kept = Path("/etc/scoutfs/scoutfs-fenced.conf").read_text()
    true(kept == configuration, f"the configuration is as it was: {kept}")
    true(hosts.read_text().endswith("# An administrator was here.\n"), "so is the file of hosts")


@step
def other_agent_can_take_over() -> None:
    """The unit name can be handed to scoutfs-utils's agent and back; the two never both run."""
    theirs = "scoutfs-fenced.service"

    def active() -> list[str]:
        options = ("--plain", "--no-legend", "--state=active")
        units = run("systemctl", "list-units", *options, "scoutfs*")
        return [line.split()[0] for line in units.splitlines()]

    run("systemctl", "disable", "--now", "scoutfs-fence")
    run("systemctl", "enable", "--now", "scoutfs-fenced")
    true(active() == [theirs], f"theirs runs, and ours does not: {active()}")
    path = run("systemctl", "show", "--property=FragmentPath", "--value", theirs).strip()
    true(path == f"/usr/lib/systemd/system/{theirs}", f"it is theirs: {path}")
    run("systemctl", "disable", "--now", "scoutfs-fenced")
    run("systemctl", "enable", "--now", "scoutfs-fence")
    true(active() == [UNIT], f"ours runs, and theirs does not: {active()}")
    fenced(0x2F1A90C37BE5D469)


@step
def purge_leaves_nothing() -> None:
    """After a purge none of our units, processes or modules are left."""
    run("systemctl", "stop", UNIT)
    run("modprobe", "--remove", FILESYSTEM, "scoutfs_fence")
    names = ("scoutfs-fence-dkms", "scoutfs-fenced", "scoutfs-fence-dev", "scoutfs-utils")
    told = run("apt", "--yes", "purge", *names)
    true("not empty" not in told, f"dpkg leaves no folder: {told}")
    true(shown("LoadState") == "not-found", f"there is no unit: {shown('LoadState')}")
    true(run("modinfo", "scoutfs_fence", check=False).startswith("modinfo: ERROR"), "no module")
    true(not Path("/lib/modules", os.uname().release, "scoutfs-fence").exists(), "no symbols")
    users = [Path("/etc", name).read_text() for name in ("passwd", "group")]
    true("scoutfs" not in "".join(users), "no user and no group")
    true(not runs("scoutfs-fenced"), "no process")
    # Made by the administrator or this test.
    excluded = ("/tests", "/packages", "/proc", "/sys", "/run/systemd", "/dev")
    words = [word for path in excluded for word in ("-path", path, "-prune", "-o")]
    left = run("find", "/", *words, "-name", "*scoutfs*", "-print").split()
    left = [name for name in left if "/apt/" not in name and "/dpkg/info/" not in name]
    true(not left, f"nothing is left: {left}")
    listed = run("systemctl", "list-unit-files", "--no-legend", "scoutfs*", check=False)
    true(not listed.strip(), f"no unit file: {listed}")


def main() -> None:
    """Runs the steps; the host reads the outcome from the last line."""
    os.dup2(os.open(OUTPUT, os.O_WRONLY), 1)
    os.dup2(1, 2)
    print(f"inside: Linux {os.uname().release}", flush=True)
    try:
        for name in sys.argv[1:]:
            print(f"inside: {name}", flush=True)
            STEPS[name]()
    except Exception:
        traceback.print_exc()
        print(run("journalctl", "--boot", "--output=cat", "--lines=40", check=False))
        print(run("systemctl", "--failed", check=False), flush=True)
    else:
        print("inside: all steps passed", flush=True)


if __name__ == "__main__":
    main()
