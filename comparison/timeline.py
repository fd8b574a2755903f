"""What happened when: one scenario in both versions on one time axis, as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from comparison.stage.processes import LogEntry
from comparison.stage.runner import Cell, Row


@dataclass(frozen=True)
class Moment:
    """Something that happened in one version, in seconds since its order was submitted."""

    seconds: float
    version: str
    what: str


def moments_of(row: Row) -> list[Moment]:
    """Return what happened in both versions, by time."""
    moments = [moment for version, cell in row.versions.items() for moment in _moments(cell, version)]
    last = max(moment.seconds for moment in moments)
    moments += [Moment(last, version, end_of(cell)) for version, cell in row.versions.items()]
    return sorted(moments, key=lambda moment: moment.seconds)


def print_timeline(row: Row) -> None:
    """Print a line a moment."""
    print(f"{row.scenario.title}\n\n{'seconds':>8}  {'script':<44}Temporal")
    for moment in moments_of(row):
        indent = "" if moment.version == "script" else " " * 44
        print(f"{moment.seconds:8.1f}  {indent}{moment.what}")


def submitted_at(cell: Cell) -> float:
    """Return when the order was submitted, in seconds since the epoch."""
    return min(entry.at for entry in cell.log if "run_worker" not in entry.what)


def end_of(cell: Cell) -> str:
    """Return how the orders stand in the end, and whether anybody goes on with them."""
    ends = "; ".join(ending.value for ending in cell.endings)
    if cell.keeps_trying:
        return f"{ends}, and still trying"
    return f"{ends}: nobody goes on" if cell.lost_orders else ends


def _moments(cell: Cell, version: str) -> Iterator[Moment]:
    submitted = submitted_at(cell)
    for entry in cell.log:
        if entry.at >= submitted and not ("run_worker" in entry.what and entry.status == 0):
            yield Moment(entry.at - submitted, version, _seen(entry))
    for attempt in cell.attempts:
        seconds = datetime.fromisoformat(attempt.at).timestamp() - submitted
        outcome = {"ok": "", "started": ": never came back"}.get(attempt.outcome, f": {attempt.outcome}")
        again = f" (attempt {attempt.attempt})" if attempt.attempt > 1 else ""
        yield Moment(seconds, version, f"{attempt.step}{again}{outcome}")


def _seen(entry: LogEntry) -> str:
    by_the_supervisor = entry.what == "run_worker.py starts"  # before the order was submitted, it is not shown
    return f"{entry.what} again, by its supervisor" if by_the_supervisor else entry.what
