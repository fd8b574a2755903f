"""The figures of the benchmark: ratios and goals, as people read them, as JSON, and as a picture."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from comparison.cost.measure import FileRun, Round
from comparison.cost.subjects import AGAIN, FLOOR, IN_FLIGHT, SCRIPT, SLOW_SCRIPT, SLOW_WORKFLOW, STOCK, WORKFLOW
from comparison.timeline import svg_page, svg_text
from workflows import ATTEMPT_TIMEOUT, FEW_ATTEMPTS

Values = tuple[float, ...]

SHOWN, SHOWN_SLOW = (SCRIPT, WORKFLOW, FLOOR, STOCK), (SLOW_SCRIPT, SLOW_WORKFLOW)
MEASURES = {
    f"orders/s, {IN_FLIGHT} in flight": "orders_per_second",
    "one order alone, ms: p50": "p50_ms",
    "                     p95": "p95_ms",
    "CPU ms an order: server": "server_cpu_ms",
    "                 worker": "worker_cpu_ms",
    "                 starter, or script": "starter_cpu_ms",
}
BARS = (
    (f"orders a second, {IN_FLIGHT} in flight", "orders_per_second", SHOWN),
    ("CPU milliseconds an order, all processes", "cpu_ms", SHOWN),
    ("one order alone, from services as slow as real ones: milliseconds", "p50_ms", SHOWN_SLOW),
)
# How a dead worker is noticed, and the wait before the next attempt. Two seconds more are for a new worker to start.
RECOVERY_SECONDS = (ATTEMPT_TIMEOUT + FEW_ATTEMPTS.initial_interval).total_seconds() + 2


@dataclass(frozen=True)
class Goal:
    """A ratio, or seconds, round by round, and what the median should be; without a bound it shows the noise."""

    name: str
    values: Values
    sense: str = ""
    bound: float = 0.0

    @property
    def verdict(self) -> str:
        """Return the bound, and whether it is met."""
        if not self.sense:
            return "the noise"
        value = statistics.median(self.values)
        is_met = value >= self.bound if self.sense == ">=" else value <= self.bound
        return f"{self.sense} {self.bound}: {'met' if is_met else 'missed'}"


@dataclass(frozen=True)
class Figures:
    """All that was measured; `rounds` by the subject's name."""

    orders: int
    rounds: dict[str, list[Round]]
    files: list[FileRun]
    recovery_seconds: float

    def values(self, name: str, measure: str) -> Values:
        """Return a measure of a subject, round by round."""
        return tuple(float(getattr(row, measure)) for row in self.rounds[name])

    def ratios(self, name: str, other: str, measure: str) -> Values:
        """Return the ratio of two subjects, round by round."""
        pairs = zip(self.values(name, measure), self.values(other, measure), strict=True)
        return tuple(one / another for one, another in pairs)

    @property
    def fit(self) -> tuple[float, float]:
        """Return a and b of T = a + b n, in seconds, by least squares over the files."""
        b, a = statistics.linear_regression([run.orders for run in self.files], [run.seconds for run in self.files])
        return a, b

    @property
    def marginal_ms(self) -> dict[int, float]:
        """Return what an order more takes, by the size of the file: the rise from the size before."""
        return {
            run.orders: 1000 * (run.seconds - before.seconds) / (run.orders - before.orders)
            for before, run in pairwise(self.files)
        }

    @property
    def goals(self) -> list[Goal]:
        """Return the goals, after the noise: the workflow is measured twice in each round."""
        rate, p50, cpu = "orders_per_second", "p50_ms", "cpu_ms"
        b = self.marginal_ms
        return [
            Goal("workflow / itself: orders/s", self.ratios(AGAIN, WORKFLOW, rate)),
            Goal("workflow / itself: CPU", self.ratios(AGAIN, WORKFLOW, cpu)),
            Goal("workflow / itself: p50", self.ratios(AGAIN, WORKFLOW, p50)),
            Goal("workflow / empty steps: orders/s", self.ratios(WORKFLOW, FLOOR, rate), ">=", 0.85),
            Goal("workflow / empty steps: CPU", self.ratios(WORKFLOW, FLOOR, cpu), "<=", 1.2),
            Goal("workflow / default server: orders/s", self.ratios(WORKFLOW, STOCK, rate), ">=", 2.2),
            Goal("workflow / default server: p50", self.ratios(WORKFLOW, STOCK, p50), "<=", 0.5),
            Goal("slow shop, workflow / script: orders/s", self.ratios(SLOW_WORKFLOW, SLOW_SCRIPT, rate), ">=", 0.85),
            Goal("seconds from a kill to the outcome", (self.recovery_seconds,), "<=", RECOVERY_SECONDS),
            *[Goal("an order more, at 5000 / at 500", (b[5000] / b[500],), "<=", 1.15) for _ in {5000} & set(b)],
        ]


def make_text(figures: Figures) -> str:
    """Return the figures for people: medians, and ranges over the rounds."""
    rounds, (a, b) = len(figures.rounds[WORKFLOW]), figures.fit
    headings = ("seconds", "ms more each", "CPU ms each", "server MB", "worker MB", "starter MB")
    return "\n".join(
        [
            f"median (range) of {rounds} rounds of {figures.orders} orders on {os.cpu_count()} cores",
            *_table(figures, SHOWN),
            *_table(figures, SHOWN_SLOW),
            "",
            _line("", headings, 13),
            *(_line(f"a file of {run.orders} orders", _file_cells(figures, run), 13) for run in figures.files),
            f"seconds for n orders: {a:.2f} + {b:.4f} n",
            "",
            *(f"{goal.name:<40}{spread(goal.values):<20}{goal.verdict}" for goal in figures.goals),
        ]
    )


def _table(figures: Figures, names: Iterable[str]) -> list[str]:
    rows = [
        _line(label, (spread(figures.values(name, measure)) for name in names)) for label, measure in MEASURES.items()
    ]
    return ["", _line("", names), *rows]


def _file_cells(figures: Figures, run: FileRun) -> list[str]:
    cells = (figures.marginal_ms.get(run.orders), run.cpu_ms, run.server_mb, run.worker_mb, run.starter_mb)
    return [f"{run.seconds:.1f}", *("" if cell is None else f"{cell:.0f}" for cell in cells)]


def _line(label: str, cells: Iterable[str], width: int = 20) -> str:
    return f"{label:<36}" + "".join(f"{cell:>{width}}" for cell in cells)


def spread(values: Values) -> str:
    """Return the median, and the range if there is one, to three digits."""
    middle, low, high = (
        f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"
        for value in (statistics.median(values), min(values), max(values))
    )
    return middle if low == high else f"{middle} ({low}-{high})"


def make_json(figures: Figures) -> str:
    """Return all figures: `rounds` by subject, `files`, `fit`, `recovery_seconds`, and `goals` with their verdict."""
    a, b = figures.fit
    goals = [{**asdict(goal), "verdict": goal.verdict} for goal in figures.goals]
    return json.dumps({**asdict(figures), "fit": {"a_seconds": a, "b_seconds": b}, "goals": goals}, indent=1)


def draw(figures: Figures, path: Path) -> None:
    """Write bars of rate, CPU and time as SVG."""
    elements, y = list[str](), 34
    for heading, measure, names in BARS:
        y += 32
        elements.append(svg_text(20, y, heading, "dim"))
        longest = max(statistics.median(figures.values(name, measure)) for name in names)
        for name in names:
            y += 28
            values = figures.values(name, measure)
            width = round(480 * statistics.median(values) / longest)
            elements.append(f'<rect class="bar" x="170" y="{y - 14}" width="{width}" height="18" rx="2"/>')
            elements += [svg_text(20, y, name), svg_text(180 + width, y, spread(values))]
    path.write_text(svg_page(f"What durability costs, on {os.cpu_count()} cores: median (range)", y + 24, elements))
