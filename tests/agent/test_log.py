# SPDX-License-Identifier: GPL-2.0-only
"""Messages for systemd, the journal and administrators."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scoutfs_fenced import log
from scoutfs_fenced.notify import notify, watchdog_pause
from support import World, until

SUBJECT: dict[str, Any] = {"rid": "1", "address": "10.0.0.1", "reason": "unknown", "mount": "0:41"}


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket that accepts datagrams like systemd's."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as it:
        it.bind(path)
        it.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        monkeypatch.setattr(log, "JOURNAL", path)
        yield it


def test_a_line_begins_with_what_it_is_about(capfd: pytest.CaptureFixture[str]) -> None:
    log.event("nothing")
    log.event("fenced\nafter all", duration="1.000", **SUBJECT)
    assert capfd.readouterr().out == (
        "nothing\nrid 1 address 10.0.0.1 reason unknown mount 0:41: fenced after all\n"
    )


def test_the_journal_gets_fields(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = os.fstat(1)
    monkeypatch.setenv("JOURNAL_STREAM", f"{file.st_dev}:{file.st_ino}")
    log.event("fenced\nPRIORITY=0", level=log.WARNING, duration="1.000", **SUBJECT)
    assert manager.recv(4096).decode().splitlines() == [
        "MESSAGE=rid 1 address 10.0.0.1 reason unknown mount 0:41: fenced PRIORITY=0",
        "PRIORITY=4",
        "SYSLOG_IDENTIFIER=scoutfs-fenced",
        "SCOUTFS_FENCE_DURATION=1.000",
        "SCOUTFS_FENCE_RID=1",
        "SCOUTFS_FENCE_ADDRESS=10.0.0.1",
        "SCOUTFS_FENCE_REASON=unknown",
        "SCOUTFS_FENCE_MOUNT=0:41",
    ]
    assert capfd.readouterr().out == ""
    manager.close()
    log.event("without a journal")
    assert capfd.readouterr().out == "without a journal\n"


CATALOG = Path(log.__file__).resolve().parents[1] / "scoutfs-fenced.catalog"


def test_a_result_has_a_message_id_that_the_catalog_explains(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = os.fstat(1)
    monkeypatch.setenv("JOURNAL_STREAM", f"{file.st_dev}:{file.st_ino}")
    for result, number in log.MESSAGE_IDS.items():
        log.event("something", result=result, **SUBJECT)
        lines = manager.recv(4096).decode().splitlines()
        assert f"MESSAGE_ID={number}" in lines
        assert f"SCOUTFS_FENCE_RESULT={result}" in lines
    log.event("something", result="of another kind")
    assert "MESSAGE_ID" not in manager.recv(4096).decode()

    entries = re.findall(r"^-- ([0-9a-f]{32})$", CATALOG.read_text(), re.MULTILINE)
    assert sorted(entries) == sorted(log.MESSAGE_IDS.values())


def test_what_leads_elsewhere_gets_lines(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    log.event("a line")
    assert capfd.readouterr().out == "a line\n"


def test_systemd_is_told(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    notify("READY=1", "STATUS=well")
    assert manager.recv(100) == b"READY=1\nSTATUS=well"
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


def test_an_abstract_name(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"scoutfs-fenced-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_the_watchdog_is_told_twice_as_often_as_it_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert watchdog_pause() is None
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    assert watchdog_pause() == 1.5
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_pause() is None


def test_systemd_hears_of_an_agents_life(manager: socket.socket, world: World) -> None:
    heard: list[str] = []
    manager.settimeout(0.01)

    def hears(text: str) -> bool:
        try:
            while True:
                heard.append(manager.recv(4096).decode())
        except TimeoutError:
            return text in heard

    world.configure("exit 0")
    agent = world.begin(WATCHDOG_USEC="200000")
    until(lambda: hears("READY=1"), "it is ready")
    until(lambda: hears("STATUS=0 requests, 0 of them being fenced"), "how it stands")
    heard.clear()
    time.sleep(1)
    assert hears("WATCHDOG=1")
    assert 3 <= heard.count("WATCHDOG=1") <= 12, "about ten times"
    agent.signal(signal.SIGHUP)
    until(
        lambda: [it for it in heard if it.startswith("RELOADING=1\nMONOTONIC_USEC=")] or hears(""),
        "it reloads",
    )
    until(lambda: hears("READY=1"), "it is ready again")
    agent.signal(signal.SIGTERM)
    until(lambda: hears("STOPPING=1"), "it stops")
    assert agent.wait() == 0
