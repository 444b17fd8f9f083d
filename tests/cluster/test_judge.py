# SPDX-License-Identifier: GPL-2.0-only
"""The judge's verdicts on made-up disks and reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from disk import SIZE, SLOTS, Content, Disk, Reclaim, Stamp
from journal import Event
from judge import BOUND, Judge

LEADER, CLIENT, OTHER = 0xAAAA, 0xCCCC, 0xBBBB


class Scene:
    """A leader in slot 0 and a client in slot 1 that stamp on request."""

    def __init__(self) -> None:
        self.judge = Judge()
        self.content = Content([None] * SLOTS, [None] * SLOTS)
        self.stamp(0.0, Stamp(0, LEADER, 1, 1, True, 0, 0.0))
        self.stamp(0.0, Stamp(1, CLIENT, 1, 1, False, 0, 0.0))

    def stamp(self, now: float, stamp: Stamp) -> None:
        """Lets a mount write a stamp and the judge read it."""
        self.content.stamps[stamp.slot] = stamp
        self.judge.see(self.content, now)

    def again(self, now: float, slot: int) -> None:
        """Lets the mount in a slot write its next stamp."""
        stamp = self.content.stamps[slot]
        assert stamp
        self.stamp(now, replace(stamp, counter=stamp.counter + 1))

    def fenced(self, now: float, rid: int = CLIENT, counter: int = 1) -> None:
        """The leader reports that a mount is fenced."""
        facts = {"rid": f"{rid:016x}", "slot": "1", "counter": str(counter)}
        self.judge.hear_fenced(Event(now, 0, "fenced", facts))

    def reclaim(self, now: float, by: int = LEADER, rid: int = CLIENT) -> None:
        """A leader writes that it has reclaimed a mount."""
        self.content.reclaims[1] = Reclaim(1, rid, by, 0, 1)
        self.judge.see(self.content, now)


def only(judge: Judge) -> str:
    """The only violation."""
    assert len(judge.violations) == 1, judge.violations
    return judge.violations[0]


def test_a_proper_fencing_is_no_violation() -> None:
    scene = Scene()
    for tenth in range(1, 1000):
        scene.again(tenth / 10, 0)
        if tenth == 50:
            scene.fenced(5.0)
            scene.reclaim(5.0)
        scene.judge.check_bound(tenth / 10)
    assert scene.judge.violations == []
    assert scene.judge.reclaimed_unfenced() == []


def test_a_stamp_after_fenced_is_found_once() -> None:
    scene = Scene()
    scene.fenced(5.0)
    scene.again(6.0, 1)
    scene.again(6.1, 1)
    assert f"stamp 2 as {CLIENT:016x}, 1.00 s after" in only(scene.judge)
    assert scene.judge.fenced[CLIENT].late == [2, 3]


def test_a_stamp_between_the_leaders_read_and_the_judges_is_found() -> None:
    """The judge saw stamp 3 before the report came; the leader had seen 2."""
    scene = Scene()
    scene.again(4.0, 1)
    scene.again(4.1, 1)
    scene.fenced(4.2, counter=2)
    assert f"stamp 3 as {CLIENT:016x}" in only(scene.judge)


def test_stamps_up_to_the_leaders_read_are_allowed() -> None:
    """The judge must not accuse a mount because a report arrives late."""
    scene = Scene()
    scene.again(4.0, 1)
    scene.fenced(4.2, counter=2)
    assert scene.judge.violations == []


def test_the_lower_of_two_leaders_counters_holds() -> None:
    scene = Scene()
    scene.again(4.0, 1)
    scene.again(4.1, 1)
    scene.fenced(5.0, counter=3)
    scene.fenced(6.0, counter=7)
    assert scene.judge.violations == []
    scene.fenced(7.0, counter=2)
    assert "stamp 3" in only(scene.judge)


def test_a_slot_that_the_next_mount_overwrote_says_nothing_of_the_first() -> None:
    """The leader then reports -1, and the judge uses what it saw itself."""
    scene = Scene()
    scene.stamp(5.0, Stamp(1, OTHER, 1, 1, False, CLIENT, 0.0))
    scene.fenced(5.1, counter=-1)
    assert scene.judge.violations == []
    scene.stamp(5.2, Stamp(1, CLIENT, 2, 1, False, 0, 0.0))
    assert "stamp 2" in only(scene.judge)


def test_a_mount_that_was_fenced_before_its_first_stamp_may_never_write() -> None:
    scene = Scene()
    scene.fenced(5.0, rid=OTHER, counter=-1)
    scene.stamp(6.0, Stamp(2, OTHER, 1, 1, False, 0, 0.0))
    assert f"stamp 1 as {OTHER:016x}" in only(scene.judge)


def test_two_leaders_that_reclaim_one_mount_are_found() -> None:
    scene = Scene()
    scene.fenced(5.0)
    scene.reclaim(5.1)
    scene.reclaim(5.2, by=OTHER)
    assert "was reclaimed twice" in only(scene.judge)


def test_a_second_reclaim_that_only_the_report_tells_of_is_found() -> None:
    """The judge may miss a sector that is overwritten immediately."""
    scene = Scene()
    scene.fenced(5.0)
    scene.reclaim(5.1)
    facts = {"rid": f"{CLIENT:016x}", "slot": "1", "by": f"{OTHER:016x}", "counter": "1"}
    scene.judge.hear_reclaimed(Event(5.2, 2, "reclaimed", facts))
    assert "was reclaimed twice" in only(scene.judge)


def test_a_reclaim_that_is_seen_and_reported_is_one() -> None:
    scene = Scene()
    scene.fenced(5.0)
    scene.reclaim(5.1)
    facts = {"rid": f"{CLIENT:016x}", "slot": "1", "by": f"{LEADER:016x}", "counter": "1"}
    scene.judge.hear_reclaimed(Event(5.2, 0, "reclaimed", facts))
    assert scene.judge.violations == []


def test_a_reclaim_by_a_fenced_leader_is_found() -> None:
    scene = Scene()
    scene.fenced(4.0, rid=LEADER)
    scene.fenced(5.0)
    scene.reclaim(5.1)
    assert "is fenced itself" in only(scene.judge)


def test_a_reclaim_without_fencing_is_found() -> None:
    scene = Scene()
    scene.reclaim(5.0)
    assert scene.judge.reclaimed_unfenced() == [
        f"{CLIENT:016x} was reclaimed, and no leader got it as fenced"
    ]


def test_a_silent_mount_that_is_not_fenced_in_time_is_found_once() -> None:
    scene = Scene()
    now = 0.0
    while now <= BOUND - 1:
        now += 1
        scene.again(now, 0)
        scene.judge.check_bound(now)
    assert scene.judge.violations == []
    for _ in range(3):
        now += 1
        scene.again(now, 0)
        scene.judge.check_bound(now)
    assert "leads on" in only(scene.judge)


def test_a_leader_that_has_stepped_down_is_not_blamed() -> None:
    scene = Scene()
    for now in range(1, int(BOUND) * 2):
        stamp = scene.content.stamps[0]
        assert stamp
        scene.stamp(float(now), replace(stamp, counter=stamp.counter + 1, leads=now < 10))
        scene.judge.check_bound(float(now))
    assert scene.judge.violations == []


def test_a_new_leader_has_its_own_time() -> None:
    scene = Scene()
    for now in range(1, int(BOUND) + 20):
        stamp = scene.content.stamps[0]
        assert stamp
        term = 1 if now < BOUND - 5 else 2
        scene.stamp(float(now), replace(stamp, counter=stamp.counter + 1, term=term))
        scene.judge.check_bound(float(now))
    assert scene.judge.violations == []


def test_the_only_leader_leads() -> None:
    scene = Scene()
    assert scene.judge.leader(1.0) == 0
    assert scene.judge.leader(60.0) is None
    scene.stamp(1.0, Stamp(2, OTHER, 1, 2, True, 0, 0.0))
    assert scene.judge.leader(1.0) is None


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(bytes(SIZE))
    try:
        disk = Disk(file)
    except OSError:
        pytest.skip("this folder's files cannot be opened with O_DIRECT")
    stamp, reclaim = Stamp(1, CLIENT, 7, 3, True, OTHER, 1.5), Reclaim(1, CLIENT, LEADER, 0, 7)
    assert disk.read() == Content([None] * SLOTS, [None] * SLOTS)
    disk.write_stamp(stamp)
    disk.write_reclaim(reclaim)
    content = disk.read()
    assert (content.stamps[1], content.reclaims[1]) == (stamp, reclaim)
    assert content.is_reclaimed(1, CLIENT)
    assert not content.is_reclaimed(1, OTHER)


def test_a_torn_sector_is_none(tmp_path: Path) -> None:
    sector = bytearray(Stamp(0, CLIENT, 7, 3, True, OTHER, 1.5).pack())
    sector[20] ^= 1
    file = tmp_path / "disk"
    file.write_bytes(bytes(sector).ljust(SIZE, b"\0"))
    try:
        disk = Disk(file)
    except OSError:
        pytest.skip("this folder's files cannot be opened with O_DIRECT")
    assert disk.read().stamps[0] is None
