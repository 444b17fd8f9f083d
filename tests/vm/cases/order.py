# SPDX-License-Identifier: GPL-2.0-only
"""The order in which requests are returned, and answers about all requests together."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from errno import EIO, ENOENT, ESTALE, ETIMEDOUT

import kernel
from case import Case, case
from fence import (
    CLIENT_RECONNECT,
    CLIENT_RECOVERY,
    QUORUM_BLOCK_LEADER,
    Finished,
    Mount,
    Stopwatch,
    equal,
    fails_with,
    name,
)
from uevents import listening

STEPS = 500
RIDS = range(24)
# Including unnamed ones.
REASONS = (CLIENT_RECOVERY, CLIENT_RECONNECT, QUORUM_BLOCK_LEADER, -1, 77)


@case
def next_is_the_oldest_when_requests_finish_in_reverse(case: Case) -> None:
    """If requests finish in reverse order, next always returns the oldest finished one."""
    mount = case.mount()
    rids = list(range(50))
    random.Random(2).shuffle(rids)
    requests = {rid: mount.started(rid) for rid in rids}
    for rid in reversed(rids):
        requests[rid].set_fenced()
        equal(mount.next(), Finished(rid))
    for rid in rids:
        equal(mount.next(), Finished(rid))
        equal(mount.free(rid), 0)
    equal(mount.next(), -ENOENT)


@case
def next_keeps_its_order_when_a_fenced_request_fails(case: Case) -> None:
    """A request that fails after being fenced is returned as failed, in its old position."""
    mount = case.mount()
    for rid in (2, 3):
        case.expect_error_line(mount, rid)
    requests = [mount.started(rid) for rid in range(5)]
    for rid in (1, 3, 2):
        requests[rid].set_fenced()
    requests[3].set_error()
    equal(mount.next(), Finished(1))
    requests[2].set_error()
    equal(mount.next(), Finished(1))
    for rid in (1, 2, 3):
        equal(mount.next(), Finished(rid, error=rid > 1))
        equal(mount.drained(), (False, True))
        equal(mount.free(rid), 0)
    equal(mount.next(), -ENOENT)
    equal(mount.drained(), (False, False))
    equal(mount.wait_fenced(0), -ETIMEDOUT)


@case
def next_keeps_its_order_when_others_are_freed(case: Case) -> None:
    """Freeing the first, last or any other request keeps the rest in order."""
    mount = case.mount()
    requests = [mount.started(rid) for rid in range(9)]
    for rid in (7, 1, 4, 5, 8):
        requests[rid].set_fenced()
    for freed, first in ((4, 1), (0, 1), (1, 5), (6, 5), (8, 5), (5, 7)):
        equal(mount.free(freed), 0)
        equal(mount.next(), Finished(first), f"{freed} was freed")
    mount.started(0).set_fenced()
    equal(mount.next(), Finished(7), "0 was started again")
    requests[3].set_fenced()
    equal(mount.next(), Finished(3))


@case
def requests_of_different_spans_fail_when_each_is_due(case: Case) -> None:
    """Requests made with different values of timeout_ms fail in the order of their deadlines."""
    mount = case.mount()
    # Apart by more than a slow kernel takes to start them all.
    spans = [kernel.PATIENCE * span for span in (2400, 1500, 3000, 1800, 1500, 3000, 2100)]
    freed, fenced = 0, 3
    with listening() as listener:
        for rid, span in enumerate(spans):
            case.set_timeout_ms(span)
            mount.started(rid)
        equal(mount.free(freed), 0)
        mount.request(fenced).set_fenced()
        due = sorted(set(range(len(spans))) - {freed, fenced}, key=lambda rid: spans[rid])
        for rid in due:
            case.expect_timeout_line(mount, rid, spans[rid])
        failed: list[str] = []
        others = 0
        watch = Stopwatch()
        while len(failed) < len(due):
            watch.at_most(10)
            for told in listener.events(1):
                if (told.action, told.state) == ("change", "failed"):
                    failed.append(told.rid)
                else:
                    others += 1
        equal(failed, [name(rid) for rid in due])
        equal(others, len(spans) + 2, "an add for each, one remove and one change")
    equal(mount.next(), Finished(1, error=True))
    equal(mount.drained(), (False, True))


@case
def a_reason_is_pending_as_long_as_any_request_carries_it(case: Case) -> None:
    """A reason shared by several requests is pending until the last of them is freed."""
    mount = case.mount()
    for rid in range(4):
        mount.started(rid, reason=CLIENT_RECONNECT)
    for rid in (0, 2):
        for reason in (77, -1, CLIENT_RECOVERY, 77):
            equal(mount.start(rid, reason=reason), 0)
    mount.request(2).set_fenced()
    pending = {rid: {CLIENT_RECONNECT} for rid in range(4)}
    for rid in (0, 2):
        pending[rid] |= {77, -1, CLIENT_RECOVERY}
    for rid in (1, 2, 0, 3):
        for reason in REASONS:
            wanted = reason in alike(*pending.values())
            equal(mount.reason_pending(reason), int(wanted), f"reason {reason}")
        del pending[rid]
        equal(mount.free(rid), 0)
    equal([mount.reason_pending(reason) for reason in REASONS], [0] * len(REASONS))
    for drop in (Mount.stop, Mount.destroy):
        mount.started(0, reason=77)
        equal(mount.start(0, reason=-1), 0)
        drop(mount)
        if drop == Mount.destroy:
            equal(mount.setup(), 0)
        equal([mount.reason_pending(reason) for reason in REASONS], [0] * len(REASONS))
        mount.started(1, reason=-1)
        equal([mount.reason_pending(reason) for reason in (-1, 77, CLIENT_RECONNECT)], [1, 1, 0])
        equal(mount.free(1), 0)
        equal(mount.reason_pending(-1), 0)


def alike(*lists: Iterable[int]) -> set[int]:
    """The reasons that these make pending; all unnamed reasons count as one."""
    reasons = {reason for each in lists for reason in each}
    unnamed = set(REASONS) - set(range(3))
    return reasons | (unnamed if reasons & unnamed else set())


@dataclass
class Model:
    """A mount's expected answers: its requests in start order."""

    states: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, list[int]] = field(default_factory=dict)

    def compare(self, mount: Mount) -> None:
        finished = [rid for rid, state in self.states.items() if state != "pending"]
        failed = "failed" in self.states.values()
        oldest: int | Finished = -ENOENT
        if finished:
            rid = finished[0]
            oldest = Finished(rid, self.reasons[rid][0], self.states[rid] == "failed")
        fenced = -EIO if failed else -ETIMEDOUT if "pending" in self.states.values() else 0
        equal(mount.next(), oldest)
        equal(mount.wait_next(0), int(bool(finished)))
        equal(mount.drained(), (not self.states, failed))
        equal(mount.wait_fenced(0), fenced)
        pending = {reason for reason in REASONS if mount.reason_pending(reason)}
        equal(pending, alike(*self.reasons.values()), "the pending reasons")
        equal(mount.listed(), set(map(name, self.states)))

    def start(self, mount: Mount, rid: int, reason: int) -> None:
        equal(mount.start(rid, reason=reason), 0)
        self.states.setdefault(rid, "pending")
        reasons = self.reasons.setdefault(rid, [])
        if reason not in reasons:
            reasons.append(reason)

    def fence(self, mount: Mount, rid: int) -> None:
        if self.states[rid] == "failed":
            fails_with(ESTALE, mount.request(rid).set_fenced)
        else:
            mount.request(rid).set_fenced()
            self.states[rid] = "fenced"

    def fail(self, mount: Mount, rid: int) -> None:
        mount.request(rid).set_error()
        self.states[rid] = "failed"

    def free(self, mount: Mount, rid: int) -> None:
        equal(mount.free(rid), 0)
        del self.states[rid], self.reasons[rid]

    def drop(self, mount: Mount, how: str) -> None:
        if how == "stop":
            mount.stop()
        else:
            mount.destroy()
            equal(mount.setup(), 0)
        self.states.clear()
        self.reasons.clear()


@case
def answers_are_right_after_any_steps(case: Case) -> None:
    """After each of many random steps all functions answer like a simple model."""
    mount = case.mount()
    case.expect_line(f"{mount.log_name} error: error indicated by fence action for rid .*", None)
    model = Model()
    chance = random.Random(3)
    for _ in range(STEPS):
        step = chance.choices(
            ("start", "fence", "fail", "free", "stop", "destroy"), (40, 25, 6, 25, 1, 1)
        )[0]
        listed = list(model.states)
        if step == "start":
            model.start(mount, chance.choice(RIDS), chance.choice(REASONS))
        elif step in ("stop", "destroy"):
            model.drop(mount, step)
        elif listed:
            getattr(model, step)(mount, chance.choice(listed))
        model.compare(mount)
