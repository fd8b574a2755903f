"""What happened when: one scenario in both versions on one time axis, as text and as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path

from comparison.stage.processes import LogEntry
from comparison.stage.runner import Cell, Row

WIDTH, LINE_HEIGHT, TOP, COLUMN = 830, 24, 76, {"script": 90, "Temporal": 470}
# Legible on a light and on a dark page; a viewer that knows no media query gets the light one.
STYLE = """
text{font:14px ui-sans-serif,system-ui,sans-serif;fill:#1f2328}.head{font-weight:600;font-size:16px}.dim{fill:#59636e}
.bad{fill:#c4161c;font-weight:600}.good{fill:#116329;font-weight:600}line{stroke:#8c959f}.bar{fill:#218bff}
.page{fill:#ffffff}
@media (prefers-color-scheme:dark){text{fill:#f0f6fc}.dim{fill:#9198a1}.bad{fill:#ff7b72}.good{fill:#7ee787}
.page{fill:#0d1117}}
"""


@dataclass(frozen=True)
class Moment:
    """Something that happened in one version, in seconds since its order was submitted; `tone` is bad, good or dim."""

    seconds: float
    version: str
    what: str
    tone: str = ""


def moments_of(row: Row) -> list[Moment]:
    """Return what happened in both versions, by time."""
    script, temporal = list(_moments(row.script, "script")), list(_moments(row.temporal, "Temporal"))
    last = max(moment.seconds for moment in script + temporal)
    for cell, version, moments in ((row.script, "script", script), (row.temporal, "Temporal", temporal)):
        moments.append(Moment(last, version, _end_of(cell), "bad" if cell.lost_orders else "good"))
    return sorted(script + temporal, key=lambda moment: moment.seconds)


def print_timeline(row: Row) -> None:
    """Print a line a moment."""
    print(f"{row.scenario.title}\n\n{'seconds':>8}  {'script':<44}Temporal")
    for moment in moments_of(row):
        indent = "" if moment.version == "script" else " " * 44
        print(f"{moment.seconds:8.1f}  {indent}{moment.what}")


def draw_timeline(row: Row, path: Path) -> None:
    """Write the same as SVG."""
    moments = moments_of(row)
    height = TOP + LINE_HEIGHT * len(moments) + 12
    texts = [svg_text(20, 58, "seconds", "dim")] + [svg_text(x, 58, version, "head") for version, x in COLUMN.items()]
    for number, moment in enumerate(moments):
        y = TOP + LINE_HEIGHT * number + 14
        texts += [
            svg_text(20, y, f"{moment.seconds:.1f}", "dim"),
            svg_text(COLUMN[moment.version], y, moment.what, moment.tone),
        ]
    rule = f'<line x1="20" y1="66" x2="{WIDTH - 20}" y2="66"/>'
    path.write_text(svg_page(row.scenario.title, height, [rule, *texts]))


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


def svg_text(x: int, y: int, text: str, tone: str = "") -> str:
    """Return a line of text; `tone` is a class of the style."""
    return f'<text x="{x}" y="{y}"{f" class={chr(34)}{tone}{chr(34)}" if tone else ""}>{escape(text)}</text>'


def _end_of(cell: Cell) -> str:
    ends = "; ".join(ending.value for ending in cell.endings)
    if cell.keeps_trying:
        return f"{ends}, and still trying"
    return f"{ends}: nobody goes on" if cell.lost_orders else ends


def _moments(cell: Cell, version: str) -> Iterator[Moment]:
    submitted = min(entry.at for entry in cell.log if "run_worker" not in entry.what)
    for entry in cell.log:
        if entry.at >= submitted and not ("run_worker" in entry.what and entry.status == 0):
            yield Moment(entry.at - submitted, version, _seen(entry), "bad" if entry.status == -9 else "dim")
    for attempt in cell.attempts:
        seconds = datetime.fromisoformat(attempt.at).timestamp() - submitted
        outcome = {"ok": "", "started": ": never came back"}.get(attempt.outcome, f": {attempt.outcome}")
        again = f" (attempt {attempt.attempt})" if attempt.attempt > 1 else ""
        yield Moment(seconds, version, f"{attempt.step}{again}{outcome}", "" if outcome else "good")


def _seen(entry: LogEntry) -> str:
    by_the_supervisor = entry.what == "run_worker.py starts"  # before the order was submitted, it is not shown
    return f"{entry.what} again, by its supervisor" if by_the_supervisor else entry.what
