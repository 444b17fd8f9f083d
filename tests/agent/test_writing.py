# SPDX-License-Identifier: GPL-2.0-only
"""Writing the state and the metrics: on a full disk, and several at a time."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from fake import Fake
from scoutfs_fenced import events, history, metrics, records, registrations
from scoutfs_fenced.events import Event
from scoutfs_fenced.history import History
from scoutfs_fenced.metrics import Metrics
from scoutfs_fenced.records import Records
from scoutfs_fenced.registrations import Registrations
from support import RID, World

Writer = Records | History | Metrics


def make(module: ModuleType, folder: Path) -> Writer:
    if module is records:
        return Records(str(folder))
    if module is history:
        return History(str(folder))
    return Metrics(0, lambda: str(folder / "metrics"), lambda: [], lambda: [])


def change(writer: Writer, number: int) -> None:
    if isinstance(writer, Records):
        writer.add_fenced(f"{number:016x}", "10.0.0.1", "", "so")
    else:
        writer.add(Event(events.REQUEST_BEGUN, {"rid": f"{number:016x}"}))


def instead_of_writing(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, write: Callable[..., None]
) -> None:
    monkeypatch.setattr(module, "_replace" if module is metrics else "write_state", write)


@pytest.mark.parametrize("module", [records, history])
@pytest.mark.parametrize("stopped", [False, True])
def test_what_found_no_room_is_written_later(
    module: ModuleType, stopped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_state = module.write_state
    monkeypatch.setattr(module, "FAILURE_PAUSE", 60 if stopped else 0.2, raising=False)
    tries = []

    def full(*_arguments: object) -> None:
        tries.append(1)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def fill() -> None:
        writer = make(module, tmp_path)
        writing = asyncio.ensure_future(writer.keep_writing())
        instead_of_writing(module, monkeypatch, full)
        change(writer, int(RID, 16))
        await asyncio.sleep(0.5)
        instead_of_writing(module, monkeypatch, write_state)
        if stopped:
            await writer.write()
        else:
            await asyncio.sleep(0.5)
        writing.cancel()

    asyncio.run(fill())
    assert 1 <= len(tries) <= 4
    [file] = tmp_path.iterdir()
    assert RID in file.read_text()


def test_a_registration_that_found_no_room_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    device, said = Fake(tmp_path / "fake").level(), list[str]()
    seen = Registrations(str(tmp_path), said.append)
    with monkeypatch.context() as disk:
        disk.setattr(registrations, "write_state", full)
        seen.add(device)
        seen.add(device)
    assert len(said) == 1
    assert "No space left" in said[0]
    seen.add(device)
    assert device in Registrations(str(tmp_path), said.append)
    assert len(said) == 1


@pytest.mark.parametrize("module", [records, history, metrics])
def test_one_thread_writes_at_a_time(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a stopping agent writes while a slow disk still takes the last change."""
    writing = threading.Lock()
    overlaps, written = [], []

    def slow(*arguments: object) -> None:
        if not writing.acquire(blocking=False):
            overlaps.append(1)
            return
        time.sleep(0.2)
        written.append(str(arguments))
        writing.release()

    async def write_twice() -> None:
        writer = make(module, tmp_path)
        instead_of_writing(module, monkeypatch, slow)
        change(writer, 1)
        first = asyncio.ensure_future(writer.write())
        await asyncio.sleep(0.1)
        change(writer, int(RID, 16))
        await writer.write()
        await first

    asyncio.run(write_twice())
    assert not overlaps
    assert len(written) == 2


def test_a_write_that_hangs_does_not_keep_the_agent(world: World) -> None:
    file = world.folder / "metrics.prom"
    # Nothing reads from it.
    os.mkfifo(f"{file}.new")
    agent = world.agent(metrics=file)
    agent.stop()
    assert agent.log().endswith("stopped\n")


def test_no_thread_is_like_a_disk_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    async def write() -> None:
        writer = make(records, tmp_path)
        change(writer, 1)
        await writer.write()
        monkeypatch.undo()
        await writer.write()

    asyncio.run(write())
    assert (tmp_path / "records").exists()


def test_a_disk_that_takes_a_part_of_the_metrics_gets_none(tmp_path: Path) -> None:
    file = tmp_path / "it.prom"
    metrics._replace(str(file), "before\n# EOF\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            metrics._replace(str(file), "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.read_text() == "before\n# EOF\n"
