"""Pictures of what was measured, as SVG: a time line to scale, and what the other drawings are made of."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from html import escape
from itertools import pairwise
from pathlib import Path

from comparison.stage.runner import Cell, Row
from comparison.timeline import end_of, submitted_at
from shop.faults import FaultPlan, parse_faults
from shop.stores.storage import CALL_TIMEOUT_SECONDS

WIDTH, LANE_HEIGHT, LEFT, PLOT_WIDTH = 830, 24, 165, 430
TICKS_SECONDS, MOST_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20), 10
ROOM_FOR_WORDS = 40
# Legible on a light and on a dark page; a viewer that knows no media query gets the light one.
STYLE = """
text{font:14px ui-sans-serif,system-ui,sans-serif;fill:#1f2328}.head{font-weight:600;font-size:16px}.dim{fill:#59636e}
text.bad{fill:#c4161c;font-weight:600}text.good{fill:#116329;font-weight:600}.middle{text-anchor:middle}
.small{font-size:12px}line{stroke:#8c959f}.grid{opacity:.35}.wait{stroke-dasharray:3 3;stroke-width:2}
.bar{fill:#218bff}.process{fill:#8c959f}rect.good{fill:#1a7f37}rect.bad{fill:#c4161c}
rect.good,rect.bad{stroke:#ffffff}.page{fill:#ffffff}
@media (prefers-color-scheme:dark){text{fill:#f0f6fc}text.dim{fill:#9198a1}text.bad,rect.bad{fill:#ff7b72}
text.good,rect.good{fill:#7ee787}rect.good,rect.bad{stroke:#0d1117}.page{fill:#0d1117}}
"""


@dataclass(frozen=True)
class Bar:
    """Something that lasted, in seconds since the order was submitted; `tone` is a class of the style."""

    start: float
    end: float
    tone: str


@dataclass(frozen=True)
class Lane:
    """One line of the picture: the runs of a program, which may be killed, or the attempts at a step."""

    label: str
    bars: list[Bar]
    note: str
    kills: tuple[float, ...] = ()


def draw_timeline(row: Row, path: Path) -> None:
    """Draw one scenario in both versions on one time axis: processes, kills, attempts, and the waits between them."""
    faults = parse_faults(row.scenario.faults)
    steps = {name: _steps_of(cell, faults) for name, cell in row.versions.items()}
    ends = [bar.end for lanes in steps.values() for lane in lanes for bar in lane.bars]
    last = max([*ends, *(_last_seen(cell) for cell in row.versions.values())])
    elements, y = list[str](), 44
    for name, cell in row.versions.items():
        y += LANE_HEIGHT
        elements.append(svg_text(20, y, name, "head"))
        elements.append(svg_text(LEFT, y, end_of(cell), "bad" if cell.lost_orders else "good"))
        for lane in _programs_of(cell, last) + steps[name]:
            y += LANE_HEIGHT
            elements += _draw_lane(lane, y, PLOT_WIDTH / last)
        y += LANE_HEIGHT // 2
    path.write_text(svg_page(row.scenario.title, y + 34, [*_draw_axis(last, y), *elements]))


def svg_page(title: str, height: int, elements: Iterable[str]) -> str:
    """Return a picture with a title, legible on light and dark pages: no script, no web font."""
    size = f'width="{WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {size}',
        f' role="img" aria-label="{escape(title)}">\n<style>{STYLE}</style>\n<rect class="page" {size} rx="6"/>\n',
        "\n".join([svg_text(20, 30, title, "head"), *elements]),
        "\n</svg>\n",
    ]
    return "".join(parts)


def svg_text(x: float, y: int, text: str, tone: str = "") -> str:
    """Return a line of text; `tone` is one or more classes of the style."""
    return f'<text x="{x:.0f}" y="{y}"{f" class={chr(34)}{tone}{chr(34)}" if tone else ""}>{escape(text)}</text>'


def _programs_of(cell: Cell, last: float) -> list[Lane]:
    """Return a lane a program: when it ran, until it was killed or ended, or until the last thing that counts."""
    submitted, lanes = submitted_at(cell), dict[str, Lane]()
    running: dict[str, list[float]] = {}
    for entry in cell.log:
        program, at = entry.what.split()[0], min(last, max(0.0, entry.at - submitted))
        if entry.status is None:
            running.setdefault(program, []).append(at)
        elif begun := running.get(program):
            before = lanes.get(program, Lane(program, [], ""))
            is_killed = entry.status == -signal.SIGKILL
            kills = (*before.kills, at) if is_killed else before.kills
            bars = [*before.bars, Bar(begun.pop(0), at, "process")]
            note = "killed" if is_killed else "killed, and started again" if kills else ""
            lanes[program] = Lane(program, bars, note, kills)
    return list(lanes.values())


def _steps_of(cell: Cell, faults: FaultPlan) -> list[Lane]:
    """Return a lane a step of each order: its attempts, as long as the fault made them or as their process lived."""
    submitted, bars, outcomes = submitted_at(cell), dict[tuple[str, str], list[Bar]](), dict[tuple[str, str], str]()
    kills = [entry.at - submitted for entry in cell.log if entry.status == -signal.SIGKILL]
    for attempt in cell.attempts:
        step, start = (attempt.order_id, attempt.step), datetime.fromisoformat(attempt.at).timestamp() - submitted
        slow = faults.fault_for(attempt.step, attempt.order_id, attempt.attempt).seconds
        # What landed late was on its way all the time; what did not was given up by its caller.
        end = start + (slow if attempt.outcome == "ok" else min(slow, CALL_TIMEOUT_SECONDS))
        if attempt.outcome == "started":
            end = min((kill for kill in kills if kill >= start), default=end)
        bars.setdefault(step, []).append(Bar(start, end, "good" if attempt.outcome == "ok" else "bad"))
        outcomes[step] = attempt.outcome
    several = len({order_id for order_id, _ in bars}) > 1
    return [
        Lane(f"{step[1]} {step[0]}" if several else step[1], found, _note(len(found), outcomes[step]))
        for step, found in bars.items()
    ]


def _note(attempts: int, outcome: str) -> str:
    how = {"ok": "", "started": "never came back"}.get(outcome, outcome)
    return ", ".join(filter(None, (f"{attempts} attempts" if attempts > 1 else "", how)))


def _last_seen(cell: Cell) -> float:
    """Return when the last program was killed, or ended by itself."""
    ends = [entry.at for entry in cell.log if entry.status is not None and "run_worker" not in entry.what]
    return max([0.1, *(at - submitted_at(cell) for at in ends)])


def _draw_axis(last: float, bottom: int) -> Iterator[str]:
    step = next((tick for tick in TICKS_SECONDS if last / tick <= MOST_TICKS), TICKS_SECONDS[-1])
    yield svg_text(20, bottom + 18, "seconds", "dim")
    for number in range(int(last / step) + 1):
        x = LEFT + number * step * PLOT_WIDTH / last
        yield f'<line class="grid" x1="{x:.0f}" y1="76" x2="{x:.0f}" y2="{bottom}"/>'
        yield svg_text(x, bottom + 18, f"{number * step:g}", "dim middle")


def _draw_lane(lane: Lane, y: int, scale: float) -> Iterator[str]:
    yield svg_text(20, y, lane.label)
    for before, after in pairwise(lane.bars):
        x1, x2 = LEFT + before.end * scale, LEFT + after.start * scale
        if x2 > x1:
            yield f'<line class="wait" x1="{x1:.0f}" y1="{y - 5}" x2="{x2:.0f}" y2="{y - 5}"/>'
        if x2 > x1 + ROOM_FOR_WORDS:
            yield svg_text((x1 + x2) / 2, y - 9, f"{after.start - before.end:.0f} s", "dim small middle")
    for bar in lane.bars:
        x, width = LEFT + bar.start * scale, max(6.0, (bar.end - bar.start) * scale)
        yield f'<rect class="{bar.tone}" x="{x:.0f}" y="{y - 12}" width="{width:.0f}" height="14" rx="2"/>'
    for kill in lane.kills:
        yield f'<rect class="bad" x="{LEFT + kill * scale - 3:.0f}" y="{y - 16}" width="6" height="22"/>'
    end = LEFT + max(bar.end for bar in lane.bars) * scale
    yield svg_text(end + 12, y, lane.note, "bad" if lane.kills else "dim")
