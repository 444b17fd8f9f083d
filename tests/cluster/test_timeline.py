# SPDX-License-Identifier: GPL-2.0-only
"""The drawing of a fault."""

from __future__ import annotations

from xml.etree import ElementTree

from disk import SLOTS, Content, Stamp
from journal import Event
from judge import Judge
from timeline import WRITES, WRONG, draw

RID = 0xCCCC
ABOUT_IT = {"rid": f"{RID:016x}", "slot": "1", "counter": "40"}


def watched(late: bool) -> tuple[list[Event], Judge]:
    """A client that stops after 2 s and is fenced after 10; it may stamp after that."""
    judge = Judge()
    for number in range(280):
        now = 100 + number / 20
        stamps: list[Stamp | None] = [Stamp(0, 1, number, 1, True, 0, 0.0)]
        if number < 40 or (late and number > 210):
            stamps.append(Stamp(1, RID, number, 1, False, 0, 0.0))
        judge.see(Content(stamps, [None] * SLOTS), now)
        if number == 200:
            judge.hear_fenced(Event(now, 0, "fenced", ABOUT_IT))
    events = [
        Event(102.0, 1, "stopped"),
        Event(106.0, 0, "request", ABOUT_IT),
        Event(108.0, 1, "order", {"device": "bmc", "state": "0"}),
        Event(108.1, 1, "power-off"),
        Event(110.0, 0, "fenced", ABOUT_IT),
        Event(110.0, 0, "reclaimed", ABOUT_IT),
        Event(110.1, 0, "agent", {"text": "what is not drawn"}),
    ]
    if late:
        text = f"host2 has written stamp 211 as {RID:016x}"
        events.append(Event(110.6, -1, "violation", {"text": text}))
    return events, judge


def texts(picture: str) -> list[str]:
    """The text of a drawing."""
    return [element.text or "" for element in ElementTree.fromstring(picture).iter()]


def test_what_happened_is_in_it() -> None:
    picture = draw("A client stops & goes", *watched(late=False), leader=0)
    for text in (
        "A client stops & goes",
        "0.0 s stopped",
        "4.0 s request",
        "6.0 s order to the BMC: off",
        "6.1 s power off",
        "8.0 s fenced",
        "8.0 s reclaimed",
        "must not write",
    ):
        assert text in texts(picture)
    assert "not drawn" not in picture
    assert picture.count(f'stroke="{WRITES}"') > 200


def test_late_stamps_are_red() -> None:
    """Only late ones: earlier stamps keep their colour."""
    honest = draw("title", *watched(late=False), leader=0)
    lie = draw("title", *watched(late=True), leader=0)
    red = f'stroke="{WRONG}"/>'
    assert honest.count(red) == 0
    assert lie.count(red) > 20
    assert "8.6 s the judge complains" in texts(lie)
