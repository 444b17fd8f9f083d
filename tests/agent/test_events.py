# SPDX-License-Identifier: GPL-2.0-only
"""Events between the agent's own parts."""

from __future__ import annotations

import pytest
from scoutfs_fenced import events
from scoutfs_fenced.events import Event, Events


def test_every_subscriber_gets_every_event(capfd: pytest.CaptureFixture[str]) -> None:
    """A subscriber that raises is logged, and the others still get the event."""
    got: list[Event] = []

    def refuse(_event: Event) -> None:
        raise ValueError("no")

    it = Events()
    it.publish(events.DEVICE_LOST, device="before anyone listens")
    it.subscribe(refuse)
    it.subscribe(got.append)
    it.publish(events.REQUEST_FENCED, rid="1", how="somehow")
    it.publish(events.DEVICE_BACK, device="one")
    assert [(each.kind, dict(each.fields)) for each in got] == [
        (events.REQUEST_FENCED, {"rid": "1", "how": "somehow"}),
        (events.DEVICE_BACK, {"device": "one"}),
    ]
    assert capfd.readouterr().out.count("unexpected, on ") == 2
