"""What happened when: one scenario in both versions on one time axis, as text, or drawn to scale as SVG."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from itertools import pairwise
from pathlib import Path

from comparison.stage.runner import Cell, Row
from shop.faults import FaultPlan, parse_faults
from shop.ledger import Attempt
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


def print_timeline(row: Row) -> None:
    """Print a line for each thing that happened in either version, in seconds since its order was submitted."""
    moments = [(*moment, version) for version, cell in row.versions.items() for moment in _moments(cell)]
    last = max(seconds for seconds, *_ in moments)
    moments += [(last, end_of(cell), version) for version, cell in row.versions.items()]
    print(f"{row.scenario.title}\n\n{'seconds':>8}  {'script':<44}Temporal")
    for seconds, what, version in sorted(moments, key=lambda moment: moment[0]):
        print(f"{seconds:8.1f}  {'' if version == 'script' else ' ' * 44}{what}")


def end_of(cell: Cell) -> str:
    """Return how the orders stand in the end, and whether anybody goes on with them."""
    ends = "; ".join(ending.value for ending in cell.endings)
    if cell.keeps_trying:
        return f"{ends}, and still trying"
    return f"{ends}: nobody goes on" if cell.lost_orders else ends


def _moments(cell: Cell) -> Iterator[tuple[float, str]]:
    submitted = _submitted_at(cell)
    for entry in cell.log:
        if entry.at >= submitted and not ("run_worker" in entry.what and entry.status == 0):
            # Its first start came before the order, and is not shown.
            again = " again, by its supervisor" if entry.what == "run_worker.py starts" else ""
            yield entry.at - submitted, entry.what + again
    for attempt in cell.attempts:
        again = f" (attempt {attempt.attempt})" if attempt.attempt > 1 else ""
        how = _how(attempt.outcome)
        yield _time_of(attempt) - submitted, f"{attempt.step}{again}{how and f': {how}'}"


def _submitted_at(cell: Cell) -> float:
    """Return when the order was submitted, in seconds since the epoch."""
    return min(entry.at for entry in cell.log if "run_worker" not in entry.what)


def _time_of(attempt: Attempt) -> float:
    return datetime.fromisoformat(attempt.at).timestamp()


def _how(outcome: str) -> str:
    return {"ok": "", "started": "never came back"}.get(outcome, outcome)


@dataclass
class Lane:
    """One line of the picture: the runs of a program, which may be killed, or the attempts at a step.

    A bar has a start, an end, and a tone, a class of the style. All times are seconds since the order was submitted.
    """

    label: str
    bars: list[tuple[float, float, str]] = field(default_factory=list)
    note: str = ""
    kills: list[float] = field(default_factory=list)


def draw_timeline(row: Row, path: Path) -> None:
    """Draw one scenario in both versions on one time axis: processes, kills, attempts, and the waits between them."""
    faults = parse_faults(row.scenario.faults)
    steps = {name: _steps_of(cell, faults) for name, cell in row.versions.items()}
    ends = [end for lanes in steps.values() for lane in lanes for _, end, _ in lane.bars]
    for cell in row.versions.values():  # and when the last program was killed, or ended by itself
        ended = [entry.at for entry in cell.log if entry.status is not None and "run_worker" not in entry.what]
        ends += [at - _submitted_at(cell) for at in ended]
    last = max([0.1, *ends])
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
    body = "\n".join([svg_text(20, 30, title, "head"), *elements])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {size} role="img"'
        f' aria-label="{escape(title)}">\n<style>{STYLE}</style>\n<rect class="page" {size} rx="6"/>\n{body}\n</svg>\n'
    )


def svg_text(x: float, y: int, text: str, tone: str = "") -> str:
    """Return a line of text; `tone` is one or more classes of the style."""
    return f'<text x="{x:.0f}" y="{y}"{f" class={chr(34)}{tone}{chr(34)}" if tone else ""}>{escape(text)}</text>'


def _programs_of(cell: Cell, last: float) -> list[Lane]:
    """Return a lane a program: when it ran, until it was killed or ended, or until the last thing that counts."""
    lanes, running = dict[str, Lane](), dict[str, list[float]]()
    for entry in cell.log:
        program, at = entry.what.split()[0], min(last, max(0.0, entry.at - _submitted_at(cell)))
        if entry.status is None:
            running.setdefault(program, []).append(at)
        elif begun := running.get(program):
            lane = lanes.setdefault(program, Lane(program))
            lane.bars.append((begun.pop(0), at, "process"))
            is_killed = entry.status == -signal.SIGKILL
            lane.kills += [at] * is_killed
            lane.note = "killed" if is_killed else "killed, and started again" if lane.kills else ""
    return list(lanes.values())


def _steps_of(cell: Cell, faults: FaultPlan) -> list[Lane]:
    """Return a lane a step of each order: its attempts, as long as the fault made them or as their process lived."""
    submitted, lanes = _submitted_at(cell), dict[tuple[str, str], Lane]()
    kills = [entry.at - submitted for entry in cell.log if entry.status == -signal.SIGKILL]
    several = len({attempt.order_id for attempt in cell.attempts}) > 1
    for attempt in cell.attempts:
        start, is_ok = _time_of(attempt) - submitted, attempt.outcome == "ok"
        slow = faults.fault_for(attempt.step, attempt.order_id, attempt.attempt).seconds
        # What landed late was on its way all the time; what did not was given up by its caller.
        end = start + (slow if is_ok else min(slow, CALL_TIMEOUT_SECONDS))
        if attempt.outcome == "started":
            end = min((kill for kill in kills if kill >= start), default=end)
        label = f"{attempt.step} {attempt.order_id}" if several else attempt.step
        lane = lanes.setdefault((attempt.order_id, attempt.step), Lane(label))
        lane.bars.append((start, end, "good" if is_ok else "bad"))
        times = f"{len(lane.bars)} attempts" if len(lane.bars) > 1 else ""
        lane.note = ", ".join(filter(None, (times, _how(attempt.outcome))))
    return list(lanes.values())


def _draw_axis(last: float, bottom: int) -> Iterator[str]:
    step = next((tick for tick in TICKS_SECONDS if last / tick <= MOST_TICKS), TICKS_SECONDS[-1])
    yield svg_text(20, bottom + 18, "seconds", "dim")
    for number in range(int(last / step) + 1):
        x = LEFT + number * step * PLOT_WIDTH / last
        yield f'<line class="grid" x1="{x:.0f}" y1="76" x2="{x:.0f}" y2="{bottom}"/>'
        yield svg_text(x, bottom + 18, f"{number * step:g}", "dim middle")


def _draw_lane(lane: Lane, y: int, scale: float) -> Iterator[str]:
    yield svg_text(20, y, lane.label)
    for (_, before, _), (after, _, _) in pairwise(lane.bars):
        x1, x2 = LEFT + before * scale, LEFT + after * scale
        if x2 > x1:
            yield f'<line class="wait" x1="{x1:.0f}" y1="{y - 5}" x2="{x2:.0f}" y2="{y - 5}"/>'
        if x2 > x1 + ROOM_FOR_WORDS:
            yield svg_text((x1 + x2) / 2, y - 9, f"{after - before:.0f} s", "dim small middle")
    for start, end, tone in lane.bars:
        x, width = LEFT + start * scale, max(6.0, (end - start) * scale)
        yield f'<rect class="{tone}" x="{x:.0f}" y="{y - 12}" width="{width:.0f}" height="14" rx="2"/>'
    for kill in lane.kills:
        yield f'<rect class="bad" x="{LEFT + kill * scale - 3:.0f}" y="{y - 16}" width="6" height="22"/>'
    right = LEFT + max(end for _, end, _ in lane.bars) * scale
    yield svg_text(right + 12, y, lane.note, "bad" if lane.kills else "dim")
