# SPDX-License-Identifier: GPL-2.0-only
"""Draws one fault as SVG, from the journal and the judge's record of the disk.

Each host has a lane, with a tick for each stamp that the judge saw. Bars behind the ticks show when
the host was silent, when its power was off, and from when its old mount must not write; a tick
there is a violation. Events are listed above, each with a line to the lane of its host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from journal import Event
from judge import Judge

WIDTH = 1100
LEFT = 90
# The last labels extend beyond the lanes.
RIGHT = 160
LANE = 46
GAP = 22
# The height of a label's line, and a guess at the width of a character.
LINE = 19
CHARACTER = 7.0
SECONDS_BEFORE = 1.5
# A longer gap between stamps means that the host has missed several.
SECONDS_OF_SILENCE = 0.5

INK, FAINT, WRITES, WRONG = "#1f2328", "#8c959f", "#1a7f37", "#cf222e"
SILENT, OFF, FENCED = "#fff1c2", "#8c959f", "#d6ecff"

# The events to draw, with label and colour.
LABELS = {
    "stopped": ("stopped", WRONG),
    "cable-out": ("cable pulled out", WRONG),
    "goes-on": ("wakes up", WRONG),
    "cannot-go-on": ("cannot wake up", FAINT),
    "power-on": ("power on", INK),
    "power-off": ("power off", INK),
    "order": ("order to the {device}", INK),
    "request": ("request", "#0969da"),
    "fenced": ("fenced", "#0969da"),
    "failed": ("error", WRONG),
    "reclaimed": ("reclaimed", "#0969da"),
    "elected": ("leads", "#8250df"),
    "steps-down": ("steps down", "#8250df"),
    "agent-ended": ("agent killed", WRONG),
    "command": ("{command}", WRONG),
    "violation": ("the judge complains", WRONG),
}


@dataclass(frozen=True)
class Span:
    """A section of a lane, in seconds of the lab's clock."""

    begin: float
    end: float


class Picture:
    """Maps seconds and hosts to coordinates, and collects the drawing's elements."""

    def __init__(self, begin: float, end: float, slots: int) -> None:
        self.begin, self.end, self.slots = begin, end, slots
        self._parts: list[str] = []
        # Set once the labels above the lanes are laid out.
        self.top = 0.0

    def x(self, time: float) -> float:
        """The coordinate of a moment."""
        time = min(max(time, self.begin), self.end)
        share = (time - self.begin) / (self.end - self.begin)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, slot: int) -> float:
        """The top of a host's lane."""
        return self.top + slot * (LANE + GAP)

    @property
    def bottom(self) -> float:
        """The bottom of the last lane."""
        return self.y(self.slots - 1) + LANE

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """Draws a line."""
        self._parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'
        )

    def text(self, x: float, y: float, text: str, style: str = "") -> None:
        """Draws text; y is its base line."""
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>')

    def box(self, x: float, y: float, width: float, height: float, style: str) -> None:
        """Draws a box."""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {style}/>'
        )

    def dot(self, x: float, y: float, colour: str) -> None:
        """Draws a dot."""
        self._parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}" stroke="white"/>'
        )

    def svg(self, title: str, height: float) -> str:
        """The whole file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}"'
            f' viewBox="0 0 {WIDTH} {height:.0f}"'
            f' font-family="sans-serif" font-size="13" fill="{INK}" role="img">'
        )
        background = f'<rect width="{WIDTH}" height="{height:.0f}" fill="white"/>'
        licence = "<!-- SPDX-License-Identifier: GPL-2.0-only -->"
        name = f"<title>{escape(title)}</title>"
        lines = [head, licence, name, background, *self._parts, "</svg>"]
        return "\n".join(lines) + "\n"


def silences(judge: Judge, slot: int, begin: float, end: float) -> Iterator[Span]:
    """The times when a host wrote nothing."""
    seen = sorted(time for life in judge.lives.values() if life.slot == slot for time in life.seen)
    times = [*(time for time in seen if begin <= time <= end), end]
    last = begin
    for time in times:
        if time - last > SECONDS_OF_SILENCE:
            yield Span(last, time)
        last = time


def powerless(events: Sequence[Event], slot: int, end: float) -> Iterator[Span]:
    """The times when a host's power was off; it was on at the beginning."""
    off = None
    for event in events:
        if event.host == slot and event.name == "power-off":
            off = event.time
        elif event.host == slot and event.name == "power-on" and off is not None:
            yield Span(off, event.time)
            off = None
    if off is not None:
        yield Span(off, end)


def draw(title: str, events: Sequence[Event], judge: Judge, leader: int) -> str:
    """Draws a fault's events; returns the SVG's text."""
    zero = events[0].time
    begin = zero - SECONDS_BEFORE
    end = max([life.last for life in judge.lives.values()] + [event.time for event in events])
    slots = 1 + max(life.slot for life in judge.lives.values())
    picture = Picture(begin, end, slots)
    labels = list(lay_out(picture, events, zero))
    rows = 1 + max(row for row, _, _, _ in labels)
    picture.top = 48 + rows * LINE + 14
    picture.text(LEFT, 26, title, 'font-size="16" font-weight="bold"')
    for slot in range(slots):
        draw_lane(picture, events, judge, slot, slot == leader)
    for row, x, text, event in labels:
        draw_label(picture, 48 + (rows - 1 - row) * LINE, x, text, event)
    draw_axis(picture, zero)
    draw_legend(picture)
    return picture.svg(title, picture.bottom + 96)


def lay_out(
    picture: Picture, events: Sequence[Event], zero: float
) -> Iterator[tuple[int, float, str, Event]]:
    """Assigns rows to labels, counted up from the lanes; no label covers another or its line.

    Works from right to left, because a label's line goes down at its left end: it passes all labels
    below, so a label only has to avoid those in its own row and above.
    """
    drawn = [event for event in events if event.name in LABELS]
    # The left end of the leftmost label in each row.
    taken: list[float] = []
    for event in reversed(drawn):
        text = LABELS[event.name][0].format(**event.facts)
        if event.name == "order":
            text = text.replace("bmc", "BMC")
            text += ": on" if event.facts["state"] == "1" else ": off"
        text = f"{event.time - zero:.1f} s {text}"
        width = len(text) * CHARACTER + 14
        x = picture.x(event.time)
        right = x + width
        row = len(taken)
        while row > 0 and right < taken[row - 1]:
            row -= 1
        taken[row : row + 1] = [x]
        yield row, x, text, event


def draw_label(picture: Picture, y: float, x: float, text: str, event: Event) -> None:
    """Draws a label, and the line down to the lane of its host."""
    colour = LABELS[event.name][1]
    # A violation's host is named in its text.
    slot = event.slot
    if event.name == "violation":
        slot = int(event.facts["text"].removeprefix("host").split()[0]) - 1
    down = picture.y(slot) + LANE / 2
    picture.line(x, y - 9, x, down, f'stroke="{colour}" stroke-dasharray="2 3"')
    picture.text(x + 5, y, text, f'fill="{colour}"')
    picture.dot(x, down, colour)


def draw_lane(
    picture: Picture, events: Sequence[Event], judge: Judge, slot: int, leads: bool
) -> None:
    """Draws a host's name, bars and stamps."""
    y = picture.y(slot)
    picture.text(16, y + LANE / 2, f"host{slot + 1}", 'font-weight="bold"')
    if leads:
        picture.text(16, y + LANE / 2 + 16, "leader", f'fill="{FAINT}"')
    picture.box(LEFT, y, WIDTH - LEFT - RIGHT, LANE, f'fill="none" stroke="{FAINT}"')

    def bar(span: Span, colour: str, top: float, height: float, text: str = "") -> None:
        x, width = picture.x(span.begin), picture.x(span.end) - picture.x(span.begin)
        picture.box(x, y + top, width, height, f'fill="{colour}"')
        if width > len(text) * CHARACTER:
            picture.text(x + 5, y + top + height - 4, text, 'font-size="11"')

    for span in silences(judge, slot, picture.begin, picture.end):
        bar(span, SILENT, 1, LANE - 2)
    off = list(powerless(events, slot, picture.end))
    for span in off:
        bar(span, OFF, 1, LANE - 2)
    for life in judge.lives.values():
        fenced = judge.fenced.get(life.rid)
        if life.slot != slot or life.last < picture.begin - 60:
            continue
        if fenced and fenced.time >= picture.begin:
            bar(Span(fenced.time, picture.end), FENCED, LANE - 17, 16, "must not write")
        for time in life.seen:
            if picture.begin <= time <= picture.end:
                late = fenced is not None and bool(fenced.late) and time > fenced.time
                colour = WRONG if late else WRITES
                x = picture.x(time)
                picture.line(x, y + 6, x, y + LANE - 18, f'stroke="{colour}"')


def draw_axis(picture: Picture, zero: float) -> None:
    """Draws the axis below the lanes, in seconds since the fault."""
    y = picture.bottom + 14
    span = picture.end - picture.begin
    step = next(step for step in (1, 2, 5, 10, 20, 60) if span / step <= 20 or step == 60)
    picture.line(LEFT, y, WIDTH - RIGHT, y, f'stroke="{INK}"')
    second = 0
    while zero + second <= picture.end:
        x = picture.x(zero + second)
        picture.line(x, y, x, y + 5, f'stroke="{INK}"')
        picture.text(x, y + 19, str(second), 'text-anchor="middle" font-size="12"')
        second += step
    picture.text(16, y + 19, "seconds", 'font-size="12"')


def draw_legend(picture: Picture) -> None:
    """Explains ticks and bars."""
    y = picture.bottom + 66
    x = float(LEFT)
    for colour, width, text in (
        (WRITES, 2, "a stamp on the shared disk"),
        (SILENT, 24, "no stamp"),
        (OFF, 24, "power off"),
        (FENCED, 24, "fenced: must not write"),
        (WRONG, 2, "a stamp after that: a violation"),
    ):
        picture.box(x, y - 12, width, 16, f'fill="{colour}"')
        picture.text(x + width + 6, y, text, 'font-size="12"')
        x += width + 6 + len(text) * 6.2 + 16
