# SPDX-License-Identifier: GPL-2.0-only
"""Requests for a former leader's host: scoutfs gives up on these after 15 s and asks again."""

from __future__ import annotations

import time

import pytest
from support import World, remove, result, rid, until, until_result

LEADER = "quorum_block_leader"


def test_error_is_written_before_the_leader_gives_up(world: World) -> None:
    leader = world.request(reason=LEADER)
    other = world.request(rid(2), address="10.0.0.2")
    world.agent("exec sleep 60", leader_timeout=3)
    began = time.monotonic()
    until_result(leader, "error")
    assert time.monotonic() - began < 3
    assert result(other) == ""


@pytest.mark.parametrize("script", ["exec sleep 60", "exit 1"])
def test_a_leader_that_takes_error_for_success_is_not_told(world: World, script: str) -> None:
    """Without an answer it gives up; with `error` it would serve alongside the previous leader."""
    leader = world.request(reason=LEADER, built_in=True)
    other = world.request(rid(2), address="10.0.0.2", built_in=True)
    agent = world.agent(script, leader_timeout=3, retries=0)
    agent.says("could not be fenced, .*; its leader, which would take error for success, gets no")
    time.sleep(1)
    assert result(leader) == ""
    if script == "exit 1":
        until_result(other, "error")


def test_a_leader_that_takes_error_for_success_is_told_of_success(world: World) -> None:
    leader = world.request(reason=LEADER, built_in=True)
    world.agent("exit 0")
    until_result(leader, "fenced")


def test_a_slow_command_ends_for_the_next_leader(world: World) -> None:
    """It takes longer than one leader waits, but not longer than two."""
    directory = world.request(reason=LEADER)
    agent = world.agent("echo x >>record; sleep 2.5; exit 0", leader_timeout=3)
    began = time.monotonic()
    until_result(directory, "error")
    agent.says("no time is left; this goes on: running")
    remove(directory)
    again = world.request(mount="scoutfs/another", reason=LEADER)
    until_result(again, "fenced")
    assert 2.4 < time.monotonic() - began < 5
    assert world.recorded() == ["x"]


def test_the_timeout_of_a_leader_is_15_s(world: World) -> None:
    world.request(reason=LEADER)
    world.request(rid(2), address="10.0.0.2")
    world.agent("exec sleep 60")
    until(lambda: len(world.status()["requests"]) == 2, "both are known")
    leader, other = world.status()["requests"]
    assert 12 < leader["left"] < 15 < other["left"]


def test_the_kernels_own_timeout_may_be_shorter(world: World) -> None:
    world.timeout(4)
    directory = world.request(reason=LEADER)
    world.agent("exec sleep 60", leader_timeout=60)
    until_result(directory, "error", 4)


def test_the_modules_timeout_is_not_that_of_built_in_fencing(world: World) -> None:
    world.timeout(600)
    world.request(address="10.0.0.1", built_in=True)
    world.request(rid(2), address="10.0.0.2")
    world.agent("exec sleep 60")
    until(lambda: len(world.status()["requests"]) == 2, "both are known")
    built_in, other = world.status()["requests"]
    assert 25 < built_in["left"] < 30
    assert 590 < other["left"] < 600
