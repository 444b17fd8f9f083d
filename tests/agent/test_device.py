# SPDX-License-Identifier: GPL-2.0-only
"""Cases for fence devices: fake agents, and fence_ipmilan with a simulated BMC."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bmc import PASSWORD, Bmc, free_port
from fake import SECRET, Fake
from scoutfs_fenced import device, process
from scoutfs_fenced.devices import Devices
from scoutfs_fenced.hosts import Device, Host, Level, Value, read_hosts
from scoutfs_fenced.levels import LevelsError, Proof, fence_host, turn


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path / "fake")


@pytest.fixture
def other(tmp_path: Path) -> Fake:
    return Fake(tmp_path / "other")


class Outcome:
    """Fences by some devices and holds the outcome; devices of a level must be off together."""

    def __init__(
        self,
        *given: Device,
        seconds: float = 30,
        due: float | None = None,
        devices: Devices | None = None,
        folder: str = "/nowhere",
    ) -> None:
        self.done: list[str] = []
        self.said: list[str] = []
        self.by = self.problem = ""
        # Seconds until proven.
        self.proven = 0.0
        numbers = sorted({each.level for each in given})
        levels = [Level(n, [each for each in given if each.level == n]) for n in numbers]
        host = Host("node1", [], levels)
        begin = time.monotonic()

        def proven(proof: Proof) -> None:
            assert not self.by
            self.by = proof.how
            self.proven = time.monotonic() - begin
            assert begin <= proof.at <= time.monotonic()

        async def fence() -> None:
            await fence_host(
                host,
                devices or Devices(folder),
                due=begin + (seconds if due is None else due),
                end=begin + seconds,
                environment=os.environ,
                proven_off=proven,
                step=self.done.append,
                say=self.said.append,
            )

        try:
            asyncio.run(fence())
        except LevelsError as error:
            self.problem = str(error)
        self.seconds = time.monotonic() - begin


def test_off_and_then_status_prove_it(fake: Fake) -> None:
    """The host is switched off, then its status is read, with all parameters both times."""
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
        ("status", "exit 0", "off succeeded, but by its status it is on"),
        ("status", "exit 1", "off succeeded, but is not proven: status failed, exit status 1"),
        ("status", "exit 3", "off succeeded, but is not proven: status failed, exit status 3"),
        ("status", "kill -2 $$; exit 130", "is not proven: status failed"),
        ("status", "sleep 100", "is not proven: status failed, killed for taking longer"),
    ],
)
def test_nothing_else_counts(fake: Fake, action: str, script: str, problem: str) -> None:
    """Only a successful `off` followed by the status off is a proof."""
    # A status that hangs needs some time before it.
    limit = 6 if "sleep" in script else 3
    outcome = Outcome(fake.does(action, script).level(limit=limit))
    assert not outcome.by
    assert problem in outcome.problem
    assert fake.actions()[:2] == ["off", "status"]
    assert set(fake.actions()) == {"off", "status"}
    assert outcome.seconds < 10


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("exit 1", "off failed, exit status 1, but by its status it is on"),
        ("exit 2", "off failed, exit status 2"),
        ("kill -9 $$", "off failed, killed by signal 9"),
        ("sleep 100", "off failed, killed for taking longer than"),
        ("yes", "off failed, killed for taking longer than"),
    ],
)
def test_off_that_fails(fake: Fake, script: str, problem: str) -> None:
    """The state decides: a failed `off` proves nothing if the host is on, but may if it is off."""
    assert Outcome(fake.does("off", script).level(limit=3)).by
    fake.does("status", "exit 0")
    outcome = Outcome(fake.level(limit=3))
    assert not outcome.by
    assert problem in outcome.problem


def test_status_is_asked_until_it_is_off(fake: Fake) -> None:
    """A status that fails once, or a host that is slow to go off, is not a failure."""
    count = "n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) >n; "
    fake.does("status", count + "[ $n != 0 ] || exit 1; [ $n != 1 ] || exit 0")
    assert Outcome(fake.level()).by
    assert fake.actions() == ["off", "status", "status", "status"]


@pytest.mark.parametrize(
    "text",
    [
        "usage: fence_it [-h]",
        "Traceback (most recent call last):",
        "cannot open key: No such file or directory at /usr/sbin/fence_it line 12.",
        "Can\\047t locate Net/Telnet.pm in @INC (you may need to install the module)",
        "Died at /usr/sbin/fence_it line 7, <STDIN> line 3.",
        "grep: /etc/plugs: No such file or directory",
        "grep: /etc/plugs: Permission denied",
        "panic: runtime error: invalid memory address or nil pointer dereference",
        "goroutine 1 [running]:",
    ],
)
def test_status_that_complains_is_no_answer(fake: Fake, text: str) -> None:
    """Exit status 2 with a usage text or stack trace is retried once, and never means "off"."""
    say = f"printf '{text}\\n'"
    fake.does("status", f"[ -e once ] || {{ touch once; {say}; exit 2; }}")
    assert Outcome(fake.level()).by
    assert fake.actions() == ["off", "status", "status"]
    fake.does("status", f"{say} >&2; exit 2")
    outcome = Outcome(fake.level(limit=4))
    assert not outcome.by
    assert "with a complaint" in outcome.problem


def test_status_with_a_warning_is_an_answer(fake: Fake) -> None:
    """Fence agents warn of much that does not matter."""
    text = "WARNING:root:Parse error: Ignoring unknown option, panic is off on line 3"
    fake.does("status", f"echo '{text}' >&2; echo Status: OFF; exit 2")
    assert Outcome(fake.level()).by
    assert fake.actions() == ["off", "status"]


def test_agent_that_cannot_be_run(fake: Fake) -> None:
    """A missing fence agent is a failure that names the line to fix."""
    level = fake.level()
    fake.agent.unlink()
    assert "hosts, line 3: there is no fence agent" in Outcome(level).problem


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('<parameter name="plug"', '<parameter name="outlet"', "line 4: .* no parameter plug"),
        ('name="snmp_version" required="0"', 'name="x" required="1"', "line 1: .* needs x"),
        ('<action name="off"/>', "", "line 3: .* no action off"),
        ('<action name="status"/>', "", "line 3: .* no action status.*prepare = yes"),
        ('<action name="reboot"/>', "", "has no action reboot, so it would let a host"),
        ('automatic="0"', 'automatic="1"', "line 3: .*unfence = yes"),
        ("</resource-agent>", "", "it does not print metadata"),
    ],
)
def test_metadata_decides(fake: Fake, old: str, new: str, problem: str) -> None:
    """Settings not allowed by the agent's metadata are refused with their line before any call."""
    outcome = Outcome(fake.says(old, new).level(action="reboot"))
    assert re.search(problem, outcome.problem), outcome.problem
    assert not fake.actions()


def test_level_of_two_devices(fake: Fake, other: Fake) -> None:
    """Both must be off, both are switched at once, and both are on again after the proof."""
    fake.does("off", "sleep 1")
    other.does("off", "sleep 1")
    pair = [
        fake.level(name="a", action="reboot"),
        other.level(name="b", action="reboot"),
    ]
    outcome = Outcome(*pair)
    assert "level 1 device a by fence_it and node1 level 1 device b" in outcome.by
    assert outcome.proven < 1.9
    assert fake.actions() == other.actions() == ["off", "status", "on"]
    other.does("status", "exit 0")
    assert not Outcome(*pair, seconds=3).by
    assert fake.actions().count("on") == 1


def test_level_that_prepares(fake: Fake, other: Fake) -> None:
    """It proves nothing, has no status, and the next level starts after it ends."""
    fake.says('<action name="status"/>', "").does("off", "sleep 1")
    other.does("off", f"cp {fake.folder}/actions .")
    outcome = Outcome(fake.level(prepare=True), other.level(level=2), seconds=12)
    assert outcome.by == "proven off at node1 level 2 by fence_it"
    assert 1 <= outcome.proven < 5
    assert fake.actions() == ["off"]


def test_device_that_lets_hosts_in(fake: Fake, tmp_path: Path) -> None:
    """Its "off" counts only for a host once seen to be let in, and `off` must succeed."""
    fake.says('automatic="0"', 'automatic="1"')
    level = fake.level(unfence=True, limit=4)
    assert "never seen to be on" in Outcome(level, folder=str(tmp_path)).problem
    assert fake.actions() == ["status"]
    # The host was let in, so that `off` is a proof, and the next agent knows that it was.
    fake.does("status", "[ -e gone ] || exit 0").does("off", "touch gone; exit 1")
    assert "nothing shows" in Outcome(level, folder=str(tmp_path)).problem
    (fake.folder / "gone").unlink()
    assert Outcome(fake.does("off", "touch gone").level(unfence=True), folder=str(tmp_path)).by
    # Later it reports "off", but it is unknown whether it keeps anyone out.
    assert "no such device for this host" in Outcome(level, folder=str(tmp_path)).problem


def test_turns() -> None:
    """The table in levels.py."""
    infinite = float("inf")
    assert turn(12, 1) == (infinite, infinite)
    assert turn(12, 2) == (6, 6)
    assert turn(12, 3) == (infinite, 3.5)
    assert turn(8, 2) == (infinite, 3)
    assert turn(27, 3) == (9, 9)
    assert turn(-1, 2) == (infinite, 0)


def test_levels_that_do_not_fit_overlap(fake: Fake, other: Fake) -> None:
    """A hanging first level leaves the last one its five seconds."""
    fake.does("off", "sleep 100")
    outcome = Outcome(fake.level(), other.level(level=2), seconds=30, due=5.5)
    assert outcome.by == "proven off at node1 level 2 by fence_it"
    # An equal share would end after 2.75 s.
    assert 0.5 <= outcome.proven < 2.7


def test_silent_device_is_taken_last(fake: Fake, other: Fake) -> None:
    """After a device has timed out, the next fencing does not wait for it."""
    devices = Devices("/nowhere")
    fake.does("off", "sleep 100").does("status", "sleep 100")
    second = other.level(level=2)
    second = replace(second, values={**second.values, "ip": Value(4, "ip", "10.0.9.12")})
    levels = fake.level(limit=1), second
    assert Outcome(*levels, devices=devices).by
    before = fake.actions()
    assert before
    assert Outcome(*levels, devices=devices).by
    assert fake.actions() == before


def test_reboot_is_off_and_then_on(fake: Fake) -> None:
    """A host to be rebooted is proven off before it is switched on."""
    assert Outcome(fake.level(action="reboot")).by
    assert fake.actions() == ["off", "status", "on"]


def test_reboot_without_proof_stays_as_it_is(fake: Fake) -> None:
    """Nothing is switched on without proof; the proof counts before `on`, which may fail."""
    assert not Outcome(fake.does("status", "exit 0").level(action="reboot", limit=2)).by
    assert "on" not in fake.actions()
    fake.does("status", "")
    outcome = Outcome(fake.does("on", "sleep 3; exit 1").level(action="reboot"))
    assert outcome.by
    assert outcome.proven < 2.9
    assert any("stays so: on failed, exit status 1" in line for line in outcome.said)


def test_on_that_hangs_ends_in_its_time(fake: Fake) -> None:
    """An attempt exceeds its limit by at most a few seconds, and reports what is left undone."""
    outcome = Outcome(fake.does("on", "sleep 100").level(action="reboot"), seconds=3)
    assert outcome.by
    assert outcome.seconds < 3 + 5
    assert any("it is off, and stays so: on failed, killed" in line for line in outcome.said)


def test_levels_in_order(fake: Fake, other: Fake) -> None:
    """The next level is tried only if the one before failed."""
    assert Outcome(fake.level(), other.level(level=2)).by.startswith("proven off at node1 level 1")
    assert not other.actions()
    fake.does("off", "exit 1").does("status", "exit 0")
    outcome = Outcome(fake.level(), other.level(level=2))
    assert outcome.by.startswith("proven off at node1 level 2")
    assert other.actions() == ["off", "status"]
    assert any("level 1 by fence_it: off failed, exit status 1" in line for line in outcome.said)
    both = Outcome(fake.level(), other.does("status", "exit 0").level(level=2, limit=1))
    assert "off failed" in both.problem
    assert "it is on" in both.problem


def test_last_level_has_its_turn(fake: Fake, other: Fake) -> None:
    """A hanging level leaves later ones their share of the time."""
    hang = "trap '' TERM; sleep 100 & wait; sleep 100"
    fake.does("off", hang).does("status", hang)
    outcome = Outcome(fake.level(), other.level(level=2), seconds=12)
    assert outcome.by.startswith("proven off at node1 level 2")
    assert 6 <= outcome.seconds < 11
    hanging = Outcome(fake.level(), fake.level(level=2), seconds=2)
    assert hanging.problem.count("off failed, killed for taking longer") == 2


def test_limit_of_a_level(fake: Fake, other: Fake) -> None:
    """A level's own limit can end it before its share is used up."""
    fake.does("off", "sleep 100").does("status", "exit 0")
    outcome = Outcome(fake.level(limit=0.5), other.level(level=2))
    assert outcome.by.startswith("proven off at node1 level 2")
    assert outcome.seconds < 5


def test_secret_is_shown_to_nobody_but_the_agent(fake: Fake) -> None:
    """Neither the command line nor the environment of a fence agent contains a secret."""
    assert Outcome(fake.level()).by
    seen = (fake.folder / "seen").read_text()
    assert "PATH=" in seen
    assert "fence_it" in seen
    assert SECRET not in seen
    assert SECRET in (fake.folder / "input.off").read_text()


def test_secret_is_in_no_log(fake: Fake) -> None:
    """Even if a fence agent prints all its input, no secret is logged."""
    fake.does(
        "off",
        'echo "$input"; echo "$input" >&2; printf "password: [%s]" "$input"; exit 1\n',
    ).does("status", "exit 0")
    outcome = Outcome(fake.level())
    assert "node1 level 1 by fence_it: off says: ip=10.0.9.11" in outcome.said
    assert "node1 level 1 by fence_it: off says: password=***" in outcome.said
    told = "\n".join([*outcome.said, outcome.problem])
    assert SECRET not in told
    assert "hunter2" not in told


def test_secret_in_other_spellings() -> None:
    """A secret is hidden in the spellings of programs, and where a long line is cut within it."""
    hide = device.hiding(["a'b\\c d", "a'b"])
    assert hide("x a'b\\c d y a'b z") == "x *** y *** z"
    assert hide("GET /?p=a%27b%5Cc%20d") == "GET /?p=***"
    assert hide(repr({"p": "a'b\\c d"})) == """{'p': "***"}"""
    cut = ("x" * 996 + "a'b\\c d")[: process.LONGEST_LINE]
    assert hide(cut) == "x" * 996 + "***"
    cut = ("x" * 998 + "a'b\\c d")[: process.LONGEST_LINE]
    assert hide(cut) == "x" * 998 + "***"
    assert hide("y a") == "y a"
    # A multi-byte character, cut in two.
    cut = ("x" * 998 + "aé").encode()[: process.LONGEST_LINE].decode(errors="replace")
    assert device.hiding(["aéb"])(cut) == "x" * 998 + "***"


def test_secret_in_quotation_marks(fake: Fake) -> None:
    """Fence agents strip quotation marks from a value, so a quoted secret gets another pair."""
    fake.secret.write_text('"quoted"\n')
    assert Outcome(fake.level()).by
    assert 'password=""quoted""' in (fake.folder / "input.off").read_text().splitlines()


def test_secret_is_read_anew(fake: Fake) -> None:
    """A changed password is used at once; one that others may read is refused."""
    assert Outcome(fake.level()).by
    fake.secret.write_text("another\n")
    assert Outcome(fake.level()).by
    assert "password=another" in (fake.folder / "input.off").read_text().splitlines()
    fake.secret.chmod(0o644)
    assert "open to other users" in Outcome(fake.level()).problem
    assert fake.actions() == ["off", "status"] * 2


def test_status_alone(fake: Fake) -> None:
    """Reading the status switches nothing."""

    def ask() -> str:
        async def status() -> str:
            calls = Devices("/nowhere").calls(os.environ)
            return await calls.status(fake.level(), 5, lambda _line: None)

        return asyncio.run(status())

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
    """The devices of a host with these parameters for its levels."""
    path = tmp_path / "hosts"
    headers = ["[node1]\naddress = 10.0.0.11", "[node1 level 2]"]
    path.write_text("\n".join(f"{h}\n{p}" for h, p in zip(headers, parameters, strict=False)))
    return [device for host in read_hosts(str(path)) for device in host.devices]


def test_bmc_switches_the_host_off(tmp_path: Path, bmc: Bmc) -> None:
    """With fence_ipmilan and a BMC, the power goes off and is proven off."""
    outcome = Outcome(*levels(tmp_path, bmc.parameters()))
    assert (outcome.by, outcome.problem) == (
        "proven off at node1 level 1 by fence_ipmilan",
        "",
    )
    assert not bmc.is_on()
    asked = bmc.calls()
    assert asked.count("set power 0") == 1
    # One read to see that it went off, and one for the proof.
    assert asked[asked.index("set power 0") + 1 :] == ["get power"] * 2


def test_bmc_reboots_the_host(tmp_path: Path, bmc: Bmc) -> None:
    """With the action reboot the host goes off, is proven off, and goes on again."""
    assert Outcome(*levels(tmp_path, bmc.parameters() + "action = reboot\n")).by
    assert bmc.is_on()
    asked = bmc.calls()
    between = asked[asked.index("set power 0") : asked.index("set power 1")]
    assert between.count("get power") >= 2


def test_bmc_with_another_password(tmp_path: Path, bmc: Bmc) -> None:
    """A wrong password is a failure, and the host stays on."""
    bmc.password_file.write_text("another\n")
    outcome = Outcome(*levels(tmp_path, bmc.parameters()))
    assert "off failed, exit status 1" in outcome.problem
    assert bmc.is_on()
    assert not bmc.calls()


def test_bmc_that_cannot_be_reached(tmp_path: Path, bmc: Bmc) -> None:
    """If no BMC answers, the level fails in time, and the next level is tried if there is one."""
    silent = bmc.parameters().replace(str(bmc.port), str(free_port()))
    outcome = Outcome(*levels(tmp_path, silent), seconds=8)
    # Most of the time: reading the agent's metadata comes first, and status gets the rest.
    assert re.search(r"off failed, killed for taking longer than [3-6](\.\d|\b)", outcome.problem)
    assert bmc.is_on()
    outcome = Outcome(*levels(tmp_path, silent, bmc.parameters()), seconds=10)
    assert outcome.by == "proven off at node1 level 2 by fence_ipmilan"
    assert not bmc.is_on()


def test_bmc_that_lies(tmp_path: Path, bmc: Bmc) -> None:
    """A BMC that claims to switch off a host that stays on is not believed."""
    bmc.stays_on()
    outcome = Outcome(*levels(tmp_path, bmc.parameters() + "power_timeout = 2\n"))
    assert "off failed, exit status 1" in outcome.problem
    assert "set power 0" in bmc.calls()
    assert any("Timed out waiting to power OFF" in line for line in outcome.said)


def test_bmc_password_is_seen_nowhere(tmp_path: Path, bmc: Bmc) -> None:
    """While fence_ipmilan works, no command line or environment contains the password."""
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
