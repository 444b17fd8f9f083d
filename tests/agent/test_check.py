# SPDX-License-Identifier: GPL-2.0-only
"""Cases for checking a configuration and its devices."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from pathlib import Path

import pytest
from bmc import Bmc, free_port
from fake import SECRET, Fake
from scoutfs_fenced import check, configuration, devices
from scoutfs_fenced.check import run_checks

# Gives each host a device of its own.
NUMBERS = itertools.count(1)


def checked(folder: Path, *levels: str, more: str = "", only: str | None = None) -> int:
    """Checks hosts with one level each; returns the number of bad devices."""
    sections = [
        f"[node{number}]\naddress = 10.0.0.{number}, fd00::{number}\n{text}"
        for number, text in enumerate(levels, 1)
    ]
    (folder / "hosts").write_text("\n".join(sections))
    path = folder / "conf"
    path.write_text(f"SCOUTFS_FENCED_HOSTS={folder}/hosts\n{more}")

    async def read_and_check() -> int:
        return await run_checks(await configuration.read(str(path), print), only)

    return asyncio.run(read_and_check())


def lines_of(fake: Fake, *more: str) -> str:
    own = f"ip = 10.0.9.{next(NUMBERS)}"
    return "\n".join([f"agent = {fake.agent}", f"password_file = {fake.secret}", own, *more, ""])


@pytest.fixture(autouse=True)
def up(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The addresses of hosts that count as up, regardless of the real network."""
    addresses: set[str] = set()

    async def answers(address: object) -> bool:
        return str(address) in addresses

    monkeypatch.setattr(check, "_answers", answers)
    monkeypatch.setattr(devices, "own_addresses", set)
    return addresses


def test_off_of_a_host_that_is_up(
    tmp_path: Path, up: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A device that reports off for a live host is another's, and counted; --host checks one."""
    off, on = Fake(tmp_path / "off"), Fake(tmp_path / "on").does("status", "exit 0")
    up |= {"fd00::1", "10.0.0.2"}
    levels = [lines_of(off), lines_of(on)]
    assert checked(tmp_path, *levels) == 1
    assert "answers at fd00::1" in capsys.readouterr().out
    assert checked(tmp_path, *levels, only="node2") == 0
    assert checked(tmp_path, *levels, only="10.0.0.1") == 1
    assert checked(tmp_path, *levels, only="node3") == 1
    assert on.actions() == ["status"] * 2


def test_every_device_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each device is asked for its status and gets a line; failing ones are counted."""
    on = Fake(tmp_path / "on").does("status", "exit 0")
    off = Fake(tmp_path / "off")
    fails = Fake(tmp_path / "fails").does("status", 'echo "password is $input"; exit 1')
    slow = Fake(tmp_path / "slow").does("status", "sleep 100")
    levels = [lines_of(on), lines_of(off), lines_of(fails), lines_of(slow, "limit = 3")]
    assert checked(tmp_path, *levels) == 2
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("ok      only hosts that have a device")
    assert out[1] == "ok      node1 level 1 by fence_it (10.0.0.1, fd00::1): it is on"
    assert out[2] == "ok      node2 level 1 by fence_it (10.0.0.2, fd00::2): it is off"
    assert "FAILED  node3 level 1 by fence_it (10.0.0.3, fd00::3): status failed, exit" in out[3]
    assert any("status says: password=***" in line for line in out[4:-1])
    assert "FAILED  node4" in out[-1]
    assert "killed for taking longer" in out[-1]
    assert SECRET not in "\n".join(out)
    assert {a for fake in (on, off, fails, slow) for a in fake.actions()} == {"status"}


def test_devices_are_asked_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Devices are asked in parallel, as many as allowed."""
    slow = Fake(tmp_path / "slow").does("status", "sleep 1; exit 0")
    levels = [lines_of(slow) for _ in range(8)]
    begin = time.monotonic()
    assert checked(tmp_path, *levels) == 0
    assert time.monotonic() - begin < 4
    begin = time.monotonic()
    assert checked(tmp_path, *levels[:2], more="SCOUTFS_FENCED_PARALLEL=1\n") == 0
    assert time.monotonic() - begin >= 2
    assert capsys.readouterr().out.count("it is on") == 10


def test_devices_of_one_address_are_asked_one_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Outlets share a device's single login here too; waiting for it is not a failure."""
    outlets = Fake(tmp_path / "outlets")
    outlets.does("status", "echo begin >>calls; sleep 0.5; echo end >>calls; exit 0")
    common = f"agent = {outlets.agent}\nip = 10.0.9.200\nlimit = 4\n"
    assert checked(tmp_path, *(f"{common}plug = {number}\n" for number in range(10))) == 0
    assert (outlets.folder / "calls").read_text().split() == ["begin", "end"] * 10
    assert capsys.readouterr().out.count("it is on") == 10


def test_the_command_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The fence command is inspected but not run."""
    command = tmp_path / "command"
    command.write_text(f"#!/bin/sh\ntouch {tmp_path}/was-run\n")
    command.chmod(0o755)
    assert checked(tmp_path, more=f"SCOUTFS_FENCED_RUN={command}\n") == 0
    assert capsys.readouterr().out == f"ok      {command} can be run, and was not\n"
    assert not (tmp_path / "was-run").exists()


def test_real_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With fence_ipmilan: a good BMC, a wrong word, a wrong port and a wrong password."""
    bmc = Bmc(tmp_path)
    wrong = tmp_path / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("wrong\n")
    bmc.begin()
    try:
        well = bmc.parameters()
        failed = checked(
            tmp_path,
            well,
            well + "lanplsu = 1\n",
            well.replace(str(bmc.port), str(free_port())) + "limit = 3\n",
            # Its default, so that this counts as another device.
            well.replace(str(bmc.password_file), str(wrong)) + "privlvl = administrator\n",
        )
    finally:
        bmc.end()
    out = capsys.readouterr().out
    assert failed == 3, out
    assert "ok      node1 level 1 by fence_ipmilan (10.0.0.1, fd00::1): it is on" in out
    assert re.search(
        r"FAILED  node2 .*hosts, line \d+: fence_ipmilan has no parameter lanplsu", out
    )
    assert "FAILED  node3" in out
    assert "FAILED  node4" in out
    assert bmc.is_on()
    assert not any("set" in call for call in bmc.calls())
