# SPDX-License-Identifier: GPL-2.0-only
"""The administrator's hook for events."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from scoutfs_fenced import events, hook
from scoutfs_fenced.configuration import Configuration
from scoutfs_fenced.events import Event
from scoutfs_fenced.hook import Hook
from support import RID, World, rid, until, until_result

NOTES = 'env | grep ^SCOUTFS_FENCED_EVENT | sort >"$1.$SCOUTFS_FENCED_EVENT_RID"'


def heard(world: World, name: str) -> dict[str, str]:
    """What the hook was told about an event."""
    path = world.folder / name
    until(lambda: path.exists() and path.read_text(), f"it hears {name}")
    time.sleep(0.1)
    lines = path.read_text().splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_it_hears_of_requests_begun_fenced_and_failed(world: World) -> None:
    program = world.command(NOTES, "hook")
    world.agent('[ "$SCOUTFS_FENCED_REQ_IP" = 10.1.2.3 ]', hook=program, retries=0)
    until_result(world.request(), "fenced")
    told = heard(world, f"request-begun.{RID}")
    assert told["SCOUTFS_FENCED_EVENT"] == "request-begun"
    assert told["SCOUTFS_FENCED_EVENT_ADDRESS"] == "10.1.2.3"
    assert told["SCOUTFS_FENCED_EVENT_REASON"] == "client_recovery"
    assert told["SCOUTFS_FENCED_EVENT_MOUNT"]
    assert abs(float(told["SCOUTFS_FENCED_EVENT_TIME"]) - time.time()) < 60
    told = heard(world, f"request-fenced.{RID}")
    assert float(told["SCOUTFS_FENCED_EVENT_DURATION"]) < 20
    assert "exit status 0" in told["SCOUTFS_FENCED_EVENT_HOW"]
    until_result(world.request(rid(2), address="10.1.2.4"), "error")
    assert "exit status 1" in heard(world, f"request-failed.{rid(2)}")["SCOUTFS_FENCED_EVENT_HOW"]


def test_fencing_does_not_wait_for_it(world: World) -> None:
    program = world.command("exec sleep 60", "hook")
    agent = world.agent(hook=program, parallel=1)
    began = time.monotonic()
    for number in range(10):
        until_result(world.request(rid(number), address=f"10.0.0.{number}"), "fenced")
    assert time.monotonic() - began < 10
    began = time.monotonic()
    agent.stop()
    assert time.monotonic() - began < 8, "nor does the end"


def test_its_failure_and_its_words_are_logged(world: World) -> None:
    agent = world.agent(hook=world.command("echo no mail today; exit 3", "hook"))
    until_result(world.request(), "fenced")
    agent.says("the hook says about request-fenced: no mail today")
    agent.says("the hook failed for request-fenced: exit status 3")


def test_one_that_is_not_there_is_a_mistake(world: World) -> None:
    world.configure("exit 0", hook="/nowhere")
    assert world.begin().wait() == 78


def run(script: Path, number: int, seconds: float) -> tuple[Hook, float]:
    """Runs a hook for many events."""
    settings = Configuration(path="", hook=str(script), environment={"PATH": "/usr/bin:/bin"})

    async def work() -> tuple[Hook, float]:
        it = Hook(lambda: settings)
        began = time.monotonic()
        for index in range(number):
            it.add(Event(events.REQUEST_BEGUN, {"rid": str(index)}))
        added = time.monotonic() - began
        await it.stop(seconds)
        return it, added

    return asyncio.run(work())


def test_few_run_at_a_time_and_few_wait(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hook, "MOST", 10)
    program = world.command(
        "mkdir -p now; : >now/$$; ls now | wc -l >>counts; sleep 0.2; rm now/$$", "hook"
    )
    run(program, 30, 20)
    counts = [int(line) for line in (world.folder / "counts").read_text().split()]
    assert len(counts) == hook.AT_ONCE + 10
    assert max(counts) <= hook.AT_ONCE
    said = capfd.readouterr().out
    assert "the hook is not run for every event" in said
    assert "the hook was not run for 16 events" in said


def test_one_that_takes_too_long_is_killed(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hook, "SECONDS", 0.3)
    began = time.monotonic()
    run(world.command("exec sleep 60", "hook"), 1, 20)
    assert time.monotonic() - began < 3
    assert "the hook failed for request-begun: killed for taking longer" in capfd.readouterr().out
