# SPDX-License-Identifier: GPL-2.0-only
"""Cases for fence devices: agents made for the purpose, and fence_ipmilan with a simulated BMC."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bmc import PASSWORD, Bmc, free_port
from fake import SECRET, Fake
from scoutfs_fenced import device, process
from scoutfs_fenced.hosts import Device, read_hosts


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path / "fake")


@pytest.fixture
def other(tmp_path: Path) -> Fake:
    return Fake(tmp_path / "other")


class Outcome:
    """What came of fencing by some devices."""

    def __init__(self, *devices: Device, seconds: float = 30) -> None:
        self.done: list[str] = []
        self.said: list[str] = []
        self.by = self.problem = ""
        begin = time.monotonic()
        try:
            self.by = asyncio.run(
                device.fence(
                    devices,
                    seconds=seconds,
                    environment=os.environ,
                    doing=self.done.append,
                    say=self.said.append,
                )
            )
        except device.DeviceError as error:
            self.problem = str(error)
        self.seconds = time.monotonic() - begin


def test_off_and_then_status_prove_it(fake: Fake) -> None:
    """The host is switched off, and its status is asked for, with all parameters both times."""
    outcome = Outcome(fake.level())
    assert outcome.by == "proven off at node1 level 1 by fence_it"
    assert fake.actions() == ["off", "status"]
    said = "node1 level 1 by fence_it: "
    assert [line.split(",")[0] for line in outcome.done] == [said + "off", said + "status"]
    for action in ("off", "status"):
        given = (fake.folder / f"input.{action}").read_text().splitlines()
        assert sorted(given) == sorted(
            [f"action={action}", "ip=10.0.9.11", "plug=3", f"password={SECRET}"]
        )


@pytest.mark.parametrize(
    ("action", "script", "problem"),
    [
        ("off", "exit 1", "off failed, exit status 1"),
        ("off", "exit 2", "off failed, exit status 2"),
        ("off", "kill -9 $$", "off failed, killed by signal 9"),
        ("off", "sleep 100", "off failed, killed for taking longer than 1 s"),
        ("status", "exit 0", "off succeeded, but by its status it is on"),
        ("status", "exit 1", "off succeeded, but is not proven: status failed, exit status 1"),
        ("status", "exit 3", "off succeeded, but is not proven: status failed, exit status 3"),
        ("status", "kill -2 $$; exit 130", "is not proven: status failed"),
        ("status", "sleep 100", "is not proven: status failed, killed for taking longer"),
        ("off", "yes", "off failed, killed for taking longer than 1 s"),
    ],
)
def test_nothing_else_counts(fake: Fake, action: str, script: str, problem: str) -> None:
    """Only an `off` that succeeds, and then a status that is off, are a proof."""
    outcome = Outcome(fake.does(action, script).level(limit=1))
    assert not outcome.by
    assert problem in outcome.problem
    assert fake.actions() == (["off"] if action == "off" else ["off", "status"])
    assert outcome.seconds < 10


def test_agent_that_cannot_be_run(fake: Fake) -> None:
    """A fence agent that has gone is a failure."""
    level = fake.level()
    fake.agent.unlink()
    assert "off failed, cannot be run: No such file" in Outcome(level).problem


def test_reboot_is_off_and_then_on(fake: Fake) -> None:
    """A host that is to be rebooted is proven to be off before it is switched on."""
    assert Outcome(fake.level(action="reboot")).by
    assert fake.actions() == ["off", "status", "on"]


def test_reboot_without_proof_stays_as_it_is(fake: Fake) -> None:
    """Without a proof nothing is switched on; and fenced is fenced where `on` fails."""
    assert not Outcome(fake.does("status", "exit 0").level(action="reboot")).by
    assert fake.actions() == ["off", "status"]
    fake.does("status", "")
    outcome = Outcome(fake.does("on", "sleep 100").level(action="reboot", limit=4))
    assert outcome.by
    # Nor does whoever waits for the fencing wait for `on` for long.
    assert outcome.seconds < 3.5
    assert any("stays so: on failed, killed" in line for line in outcome.said)


def test_levels_in_order(fake: Fake, other: Fake) -> None:
    """The next level is tried where the one before failed, and only there."""
    assert Outcome(fake.level(), other.level(level=2)).by.startswith("proven off at node1 level 1")
    assert not other.actions()
    outcome = Outcome(fake.does("off", "exit 1").level(), other.level(level=2))
    assert outcome.by.startswith("proven off at node1 level 2")
    assert other.actions() == ["off", "status"]
    assert "node1 level 1 by fence_it: off failed, exit status 1" in outcome.said
    both = Outcome(fake.level(), other.does("status", "exit 0").level(level=2))
    assert "off failed" in both.problem
    assert "it is on" in both.problem


def test_last_level_has_its_turn(fake: Fake, other: Fake) -> None:
    """A level that hangs leaves the ones after it their share of the time."""
    fake.does("off", "trap '' TERM; sleep 100 & wait; sleep 100")
    outcome = Outcome(fake.level(), other.level(level=2), seconds=6)
    assert outcome.by.startswith("proven off at node1 level 2")
    assert 3 <= outcome.seconds < 6
    hanging = Outcome(fake.level(), fake.level(level=2), seconds=2)
    assert hanging.problem.count("killed for taking longer") == 2


def test_limit_of_a_level(fake: Fake, other: Fake) -> None:
    """A level's own limit ends it before its share does."""
    outcome = Outcome(fake.does("off", "sleep 100").level(limit=0.5), other.level(level=2))
    assert outcome.by.startswith("proven off at node1 level 2")
    assert outcome.seconds < 5


def test_secret_is_shown_to_nobody_but_the_agent(fake: Fake) -> None:
    """Neither command line nor environment of a fence agent hold a secret."""
    assert Outcome(fake.level()).by
    seen = (fake.folder / "seen").read_text()
    assert "PATH=" in seen
    assert "fence_it" in seen
    assert SECRET not in seen
    assert SECRET in (fake.folder / "input.off").read_text()


def test_secret_is_in_no_log(fake: Fake) -> None:
    """A fence agent that tells all that it was given does not tell secrets."""
    fake.does(
        "off",
        'echo "$input"; echo "$input" >&2; printf "password: [%s]" "$input"; exit 1\n',
    )
    outcome = Outcome(fake.level())
    assert "node1 level 1 by fence_it: off says: ip=10.0.9.11" in outcome.said
    assert "node1 level 1 by fence_it: off says: password=***" in outcome.said
    told = "\n".join([*outcome.said, outcome.problem])
    assert SECRET not in told
    assert "hunter2" not in told


def test_secret_in_other_spellings() -> None:
    """A secret is hidden as programs spell it, and where a long line is cut within it."""
    hide = device.hiding(["a'b\\c d", "a'b"])
    assert hide("x a'b\\c d y a'b z") == "x *** y *** z"
    assert hide("GET /?p=a%27b%5Cc%20d") == "GET /?p=***"
    assert hide(repr({"p": "a'b\\c d"})) == """{'p': "***"}"""
    cut = ("x" * 996 + "a'b\\c d")[: process.LONGEST_LINE]
    assert hide(cut) == "x" * 996 + "***"
    cut = ("x" * 998 + "a'b\\c d")[: process.LONGEST_LINE]
    assert hide(cut) == "x" * 998 + "***"
    assert hide("y a") == "y a"
    # A character of several bytes, cut in two.
    cut = ("x" * 998 + "aé").encode()[: process.LONGEST_LINE].decode(errors="replace")
    assert device.hiding(["aéb"])(cut) == "x" * 998 + "***"


def test_secret_in_quotation_marks(fake: Fake) -> None:
    """Fence agents take quotation marks around a value away, so a secret's own get others."""
    fake.secret.write_text('"quoted"\n')
    assert Outcome(fake.level()).by
    assert 'password=""quoted""' in (fake.folder / "input.off").read_text().splitlines()


def test_secret_is_read_anew(fake: Fake) -> None:
    """A password that has been changed counts at once, and one that has been opened does not."""
    assert Outcome(fake.level()).by
    fake.secret.write_text("another\n")
    assert Outcome(fake.level()).by
    assert "password=another" in (fake.folder / "input.off").read_text().splitlines()
    fake.secret.chmod(0o644)
    assert "open to other users" in Outcome(fake.level()).problem
    assert fake.actions() == ["off", "status"] * 2


def test_status_alone(fake: Fake) -> None:
    """Asking for the status switches nothing."""

    def ask() -> str:
        ask = device.status(fake.level(), seconds=5, environment=os.environ, say=lambda _line: None)
        return asyncio.run(ask)

    assert ask() == "off"
    fake.does("status", "exit 0")
    assert ask() == "on"
    fake.does("status", "exit 1")
    with pytest.raises(device.DeviceError, match="status failed, exit status 1"):
        ask()
    assert fake.actions() == ["status"] * 3


@pytest.fixture
def bmc(tmp_path: Path) -> Iterator[Bmc]:
    folder = tmp_path / "bmc"
    folder.mkdir()
    it = Bmc(folder)
    it.begin()
    yield it
    it.end()


def levels(tmp_path: Path, *parameters: str) -> list[Device]:
    """The devices of a host whose levels have these parameters."""
    path = tmp_path / "hosts"
    headers = ["[node1]\naddress = 10.0.0.11", "[node1 level 2]"]
    path.write_text("\n".join(f"{h}\n{p}" for h, p in zip(headers, parameters, strict=False)))
    return list(read_hosts(str(path)).devices("10.0.0.11"))


def test_bmc_switches_the_host_off(tmp_path: Path, bmc: Bmc) -> None:
    """With fence_ipmilan and a BMC, the power goes off, and is proven to."""
    outcome = Outcome(*levels(tmp_path, bmc.parameters()))
    assert (outcome.by, outcome.problem) == (
        "proven off at node1 level 1 by fence_ipmilan",
        "",
    )
    assert not bmc.is_on()
    asked = bmc.calls()
    assert asked.count("set power 0") == 1
    # Whether it is on; whether it went off; and once more, for the proof.
    assert asked[asked.index("set power 0") + 1 :] == ["get power"] * 2


def test_bmc_reboots_the_host(tmp_path: Path, bmc: Bmc) -> None:
    """With the action reboot the host is off, proven to be off, and then on."""
    assert Outcome(*levels(tmp_path, bmc.parameters() + "action = reboot\n")).by
    assert bmc.is_on()
    asked = bmc.calls()
    between = asked[asked.index("set power 0") : asked.index("set power 1")]
    assert between.count("get power") >= 2


def test_bmc_with_another_password(tmp_path: Path, bmc: Bmc) -> None:
    """A wrong password ends in a failure, and the host stays on."""
    bmc.password_file.write_text("another\n")
    outcome = Outcome(*levels(tmp_path, bmc.parameters()))
    assert "off failed, exit status 1" in outcome.problem
    assert bmc.is_on()
    assert not bmc.calls()


def test_bmc_that_cannot_be_reached(tmp_path: Path, bmc: Bmc) -> None:
    """Where no BMC answers there is a failure within the time, or the next level has its turn."""
    nobody = bmc.parameters().replace(str(bmc.port), str(free_port()))
    outcome = Outcome(*levels(tmp_path, nobody), seconds=4)
    assert "off failed, killed for taking longer than 4 s" in outcome.problem
    assert bmc.is_on()
    outcome = Outcome(*levels(tmp_path, nobody, bmc.parameters()), seconds=10)
    assert outcome.by == "proven off at node1 level 2 by fence_ipmilan"
    assert not bmc.is_on()


def test_bmc_that_lies(tmp_path: Path, bmc: Bmc) -> None:
    """A BMC that says that it switches the host off, which stays on, is not believed."""
    bmc.stays_on()
    outcome = Outcome(*levels(tmp_path, bmc.parameters() + "power_timeout = 2\n"))
    assert "off failed, exit status 1" in outcome.problem
    assert "set power 0" in bmc.calls()
    assert any("Timed out waiting to power OFF" in line for line in outcome.said)


def test_bmc_password_is_seen_nowhere(tmp_path: Path, bmc: Bmc) -> None:
    """While fence_ipmilan works, no command line and no environment hold the password."""
    found: set[str] = set()
    looks = 0
    over = threading.Event()
    mine = os.getpid()

    def look() -> None:
        nonlocal looks
        while not over.is_set():
            looks += 1
            for pid in os.listdir("/proc"):
                if not pid.isdigit() or int(pid) <= mine:
                    continue
                for name in ("cmdline", "environ"):
                    try:
                        content = Path(f"/proc/{pid}/{name}").read_bytes()
                    except OSError:
                        continue
                    if b"ipmitool" in content:
                        seen.add(name)
                    if PASSWORD.encode() in content:
                        found.add(f"{name} {content!r}")

    seen: set[str] = set()
    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        outcome = Outcome(*levels(tmp_path, bmc.parameters()))
    finally:
        over.set()
        watcher.join()
    assert outcome.by
    assert not bmc.is_on()
    assert not found
    assert "cmdline" in seen, f"it was not seen at work in {looks} looks"
    assert PASSWORD not in "\n".join([*outcome.said, outcome.by])
