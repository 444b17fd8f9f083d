# SPDX-License-Identifier: GPL-2.0-only
"""The agent as a service of systemd, by the unit that is installed."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kernel
from case import Case, case
from fence import Mount, Stopwatch, equal, true
from manager import UNITS, Systemd, systemd

UNIT = "scoutfs-fenced.service"
FOLDER = Path("/run/scoutfs-fenced-case")
STATE = Path("/var/lib/scoutfs-fenced")
COMMAND = FOLDER / "fence-it"
CONFIGURATION = FOLDER / "scoutfs-fenced.conf"

MILLISECONDS = 100_000


class Service:
    """The agent's service, and how it is configured."""

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
def service(settings: str = "") -> Iterator[Service]:
    """The service, installed and not started.

    Mounts are made afterwards: those that are there before would be copied into its namespace, and
    stay in use for as long as it is there.
    """
    FOLDER.mkdir(exist_ok=True)
    # An agent remembers which rids are fenced.
    shutil.rmtree(STATE, ignore_errors=True)
    unit = (kernel.MODULES / UNIT).read_text()
    UNITS.mkdir(parents=True, exist_ok=True)
    (UNITS / UNIT).write_text(unit.replace("@sbindir@", str(kernel.MODULES)))
    changes = UNITS / f"{UNIT}.d"
    changes.mkdir(exist_ok=True)
    # Nothing that the unit waits for runs here.
    (changes / "case.conf").write_text(
        "[Unit]\nDefaultDependencies=no\n[Service]\n"
        f"Environment=SCOUTFS_FENCED_CONFIG_FILE={CONFIGURATION}\n{settings}\n"
    )
    with systemd() as its:
        yield Service(its)


def fenced(mount: Mount, rid: int) -> None:
    """Makes a request, which has to be fenced."""
    mount.started(rid, "10.0.0.7")
    equal(mount.wait_fenced(MILLISECONDS), 0, f"wait_fenced for {rid:x}")


@case
def systemd_runs_the_agent_and_its_journal_knows_the_requests(case: Case) -> None:
    """systemd finds no fault in the unit, knows when the agent is ready, and the fields it logs."""
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
            equal(line["SCOUTFS_FENCE_MOUNT"], mount.log_name)
            true("00000000000000aa" in line["MESSAGE"], "and the line is for people, too")
        true(any("SCOUTFS_FENCE_DURATION" in line for line in about), "one tells how long it took")

        it.configure("SCOUTFS_FENCED_DELAY=often")
        it.systemd.systemctl("reload", UNIT)
        it.systemd.until_told(UNIT, "SCOUTFS_FENCED_DELAY")
        fenced(mount, 0xBB)

        it.systemd.systemctl("stop", UNIT)
        equal(it.systemd.property(UNIT, "Result"), "success")


@case
def systemd_starts_an_agent_again_that_dies_or_hangs(case: Case) -> None:
    """What was pending is fenced by the next agent; one that shows signs of life is let live."""
    with service("WatchdogSec=3") as it:
        mount = case.mount()
        # Starting Python takes its time in an emulated machine.
        case.set_timeout_ms(MILLISECONDS)
        it.configure()
        it.command("exit 0")
        it.systemd.systemctl("start", UNIT)

        # Longer than the watchdog waits for a sign.
        time.sleep(5)
        equal(it.systemd.property(UNIT, "NRestarts"), "0")

        first = it.pid()
        it.kill(signal.SIGKILL)
        mount.started(0xAA)
        equal(mount.wait_fenced(MILLISECONDS), 0)
        it.until_restarted(1)
        true(it.pid() != first, "it is another agent")

        watch = Stopwatch()
        it.kill(signal.SIGSTOP)
        mount.started(0xBB)
        equal(mount.wait_fenced(MILLISECONDS), 0)
        it.until_restarted(2)
        watch.at_least(1)
        it.systemd.systemctl("stop", UNIT)


@case
def systemd_leaves_an_agent_alone_whose_configuration_is_wrong(case: Case) -> None:
    """It fails with the mistake in the journal, once, and starts when that is mended."""
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


@case
def systemd_gives_the_agent_no_more_rights_than_it_needs(case: Case) -> None:
    """A fence command cannot write to /usr or to the home of root, and can to /run and /tmp."""
    with service() as it:
        mount = case.mount()
        it.configure()
        it.command(
            "for folder in /usr /etc /root; do\n"
            'touch "$folder/written" 2>/dev/null && exit 1\n'
            "done\n"
            "unshare --user true 2>/dev/null && exit 1\n"
            f"touch {FOLDER}/written /tmp/written"
        )
        it.systemd.systemctl("start", UNIT)
        fenced(mount, 0xAA)
        true((FOLDER / "written").exists(), "the command ran")
        true(not os.path.exists("/tmp/written"), "and has a /tmp of its own")
        it.systemd.systemctl("stop", UNIT)
