# SPDX-License-Identifier: GPL-2.0-only
"""The judge: reads the shared disk from outside and compares it with the leaders' reports.

A verdict never depends on comparing clocks. After wait_fenced has returned 0 or next has returned
the request, the leader reads the mount's slot and reports the counter of the stamp there; the judge
reads the slot again as soon as it gets the report. Both reads happen after the function has
returned, so a stamp with a higher counter was written after that: everything that the judge
complains about has happened. It misses stamps written between that return and the leader's read,
and stamps that the host's next mount overwrites within one interval of the judge.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from disk import Content, Disk, Reclaim, Stamp
from journal import Event, Journal

SECONDS_BETWEEN_READS = 0.005
SECONDS_BETWEEN_CHECKS = 0.2
# The silence before the leader misses a host, the module's timeout for a request, and the time
# an emulated machine may need to notice either.
SECONDS_OF_SILENCE = 4.0
SECONDS_OF_A_REQUEST = 30.0
SECONDS_TO_NOTICE = 6.0
BOUND = SECONDS_OF_SILENCE + SECONDS_OF_A_REQUEST + SECONDS_TO_NOTICE


@dataclass
class Life:
    """A mount's stamps: those with its rid."""

    slot: int
    rid: int
    first: float
    last: float
    counter: int
    leads: bool = False
    # When the judge saw new stamps. Stamps between two of its reads count as one.
    seen: list[float] = field(default_factory=list)


@dataclass
class Fenced:
    """The limit set for a mount by a leader's report that it is fenced."""

    time: float
    # The highest counter allowed in the mount's stamps from then on.
    counter: int
    # Counters of the stamps beyond that, as far as the judge saw them.
    late: list[int] = field(default_factory=list)


class Judge:
    """Derives the verdict from the disk's contents and the journal's events.

    Uses neither threads nor clocks; Watch feeds it.
    """

    def __init__(self) -> None:
        self.lives: dict[int, Life] = {}
        self.fenced: dict[int, Fenced] = {}
        self.reclaims: dict[int, Reclaim] = {}
        self.violations: list[str] = []
        # The rid and term of the newest leader, and the time of its first stamp.
        self._leader: tuple[int, int] | None = None
        self._leader_since = 0.0
        self._overdue: set[int] = set()

    def see(self, content: Content, now: float) -> None:
        """Evaluates the disk's content at this time."""
        for stamp in content.stamps:
            if stamp:
                self._see_stamp(stamp, now)
        for reclaim in content.reclaims:
            if reclaim:
                self._see_reclaim(reclaim)

    def _see_stamp(self, stamp: Stamp, now: float) -> None:
        life = self.lives.setdefault(stamp.rid, Life(stamp.slot, stamp.rid, now, now, 0))
        if stamp.counter == life.counter:
            return
        life.counter, life.last, life.leads = stamp.counter, now, stamp.leads
        life.seen.append(now)
        if stamp.leads and self._leader != (stamp.rid, stamp.term):
            self._leader, self._leader_since = (stamp.rid, stamp.term), now
        self._check_stamps(life)

    def hear_fenced(self, event: Event) -> None:
        """Evaluates a leader's report that a mount is fenced.

        The caller must have read the disk after the report arrived and passed the content to see().
        """
        life = self.lives.get(event.rid)
        counter = life.counter if life else 0
        # -1: the host's next life had overwritten the slot before the leader read it.
        if (reported := int(event.facts.get("counter", "-1"))) >= 0:
            counter = min(counter, reported)
        fenced = self.fenced.setdefault(event.rid, Fenced(event.time, counter))
        fenced.counter = min(fenced.counter, counter)
        if life:
            self._check_stamps(life)

    def hear_reclaimed(self, event: Event) -> None:
        """Evaluates a leader's report that it has reclaimed a mount."""
        by = int(event.facts["by"], 16)
        self._see_reclaim(
            Reclaim(event.slot, event.rid, by, event.host, int(event.facts["counter"]))
        )

    def _check_stamps(self, life: Life) -> None:
        """Checks that no stamp follows "fenced"."""
        fenced = self.fenced.get(life.rid)
        if fenced is None or life.counter <= fenced.counter:
            return
        if not fenced.late:
            self.violations.append(
                f"host{life.slot + 1} has written stamp {life.counter} as {life.rid:016x},"
                f" {life.last - fenced.time:.2f} s after a leader got it as fenced,"
                f" with stamp {fenced.counter} as its last"
            )
        if life.counter not in fenced.late:
            fenced.late.append(life.counter)

    def _see_reclaim(self, reclaim: Reclaim) -> None:
        """Checks that no mount is reclaimed by two leaders or by a fenced leader."""
        known = self.reclaims.setdefault(reclaim.rid, reclaim)
        if known.by != reclaim.by:
            self.reclaims[reclaim.rid] = reclaim
            self.violations.append(
                f"{reclaim.rid:016x} was reclaimed twice, by {known.by:016x} and {reclaim.by:016x}"
            )
        elif known is not reclaim:
            return
        if reclaim.by in self.fenced:
            self.violations.append(
                f"{reclaim.by:016x} has reclaimed {reclaim.rid:016x}, and is fenced itself"
            )

    def reclaimed_unfenced(self) -> list[str]:
        """Mounts that were reclaimed although no leader reported them as fenced.

        A leader's report may arrive a moment after its write, so call this only at rest.
        """
        return [
            f"{rid:016x} was reclaimed, and no leader got it as fenced"
            for rid in self.reclaims
            if rid in self.lives and rid not in self.fenced
        ]

    def check_bound(self, now: float) -> None:
        """Checks that silent mounts are fenced within the bound, or the leader has stepped down."""
        leader = self._leader and self.lives[self._leader[0]]
        if not (leader and leader.leads and now - leader.last < SECONDS_OF_SILENCE):
            return
        for life in self.lives.values():
            if life.rid in self.fenced or life.rid in self._overdue:
                continue
            if now - max(life.last, self._leader_since) > BOUND:
                self._overdue.add(life.rid)
                self.violations.append(
                    f"host{life.slot + 1}, as {life.rid:016x}, has been silent for"
                    f" {now - life.last:.1f} s; the leader has not had it fenced, and leads on"
                )

    def life_of(self, slot: int) -> Life | None:
        """The newest life of a host."""
        lives = [life for life in self.lives.values() if life.slot == slot]
        return max(lives, key=lambda life: life.first) if lives else None

    def lives_now(self, slot: int, now: float) -> bool:
        """Whether a host writes with a rid that is not fenced."""
        life = self.life_of(slot)
        return life is not None and life.rid not in self.fenced and now - life.last < 1

    def leader(self, now: float) -> int | None:
        """The slot of the host that leads, if exactly one does."""
        slots = {
            life.slot
            for life in self.lives.values()
            if life.leads and now - life.last < SECONDS_OF_SILENCE
        }
        return slots.pop() if len(slots) == 1 else None


class Watch:
    """Feeds a judge until closed: reads the disk and listens to the journal."""

    def __init__(self, path: Path, journal: Journal) -> None:
        self.judge = Judge()
        self.lock = threading.RLock()
        self._disk = Disk(path)
        self._journal = journal
        self._over = threading.Event()
        self._reported = 0
        journal.listeners.append(self._hear)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops reading."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        next_check = 0.0
        while not self._over.wait(SECONDS_BETWEEN_READS):
            with self.lock:
                self._look()
                if (now := time.monotonic()) >= next_check:
                    self.judge.check_bound(now)
                    next_check = now + SECONDS_BETWEEN_CHECKS
                news = self.judge.violations[self._reported :]
            # Not under the lock, because the journal's listeners take it.
            for text in news:
                self._journal.add(-1, "violation", text=text)
            self._reported += len(news)

    def _look(self) -> None:
        content = self._disk.read()
        self.judge.see(content, time.monotonic())

    def _hear(self, event: Event) -> None:
        """Called with the journal's lock held."""
        if event.name not in ("fenced", "reclaimed"):
            return
        with self.lock:
            self._look()
            if event.name == "fenced":
                self.judge.hear_fenced(event)
            else:
                self.judge.hear_reclaimed(event)
