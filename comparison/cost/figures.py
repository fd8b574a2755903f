"""The figures of the benchmark: ratios and goals, as people read them, as JSON, and as a picture."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from comparison.cost.measure import Flight, Round
from comparison.cost.subjects import AGAIN, FLOOR, IN_FLIGHT, SCRIPT, SLOW_SCRIPT, SLOW_WORKFLOW, STOCK, WORKFLOW
from comparison.timeline import svg_page, svg_text
from workflows import ATTEMPT_TIMEOUT, FEW_ATTEMPTS

Values = tuple[float, ...]

SHOWN, SHOWN_SLOW = (SCRIPT, WORKFLOW, FLOOR, STOCK), (SLOW_SCRIPT, SLOW_WORKFLOW)
RATE, P50, CPU = "orders_per_second", "p50_ms", "cpu_ms"
MEASURES = {
    f"orders/s, {IN_FLIGHT} in flight": RATE,
    "one order alone, ms: p50": P50,
    "                     p95": "p95_ms",
    "CPU ms an order: server": "server_cpu_ms",
    "                 worker": "worker_cpu_ms",
    "                 starter, or script": "starter_cpu_ms",
}
BARS = (
    (f"orders a second, {IN_FLIGHT} in flight", RATE, SHOWN),
    ("CPU milliseconds an order, all processes", CPU, SHOWN),
    ("one order alone, from services as slow as real ones: milliseconds", P50, SHOWN_SLOW),
)
# What is compared with what, and what the median should be; the workflow's ratio to itself is the noise of the others.
RATIOS = (
    ("workflow / itself: orders/s", AGAIN, WORKFLOW, RATE, "", 0.0),
    ("workflow / itself: CPU", AGAIN, WORKFLOW, CPU, "", 0.0),
    ("workflow / itself: p50", AGAIN, WORKFLOW, P50, "", 0.0),
    ("workflow / empty steps: orders/s", WORKFLOW, FLOOR, RATE, ">=", 0.85),
    ("workflow / empty steps: CPU", WORKFLOW, FLOOR, CPU, "<=", 1.2),
    ("workflow / default server: orders/s", WORKFLOW, STOCK, RATE, ">=", 2.2),
    ("workflow / default server: p50", WORKFLOW, STOCK, P50, "<=", 0.5),
    ("slow shop, workflow / script: orders/s", SLOW_WORKFLOW, SLOW_SCRIPT, RATE, ">=", 0.85),
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
    """All that was measured: `rounds` by the subject's name, and `flights` of more and more orders."""

    rounds: dict[str, list[Round]]
    flights: list[Flight]
    recovery_seconds: float

    def values(self, name: str, measure: str) -> Values:
        """Return a measure of a subject, round by round."""
        return tuple(float(getattr(row, measure)) for row in self.rounds[name])

    @property
    def marginal_ms(self) -> dict[int, float]:
        """Return what an order more takes, by the size of the flight: the rise from the size before."""
        return {
            flight.orders: 1000 * (flight.seconds - before.seconds) / (flight.orders - before.orders)
            for before, flight in pairwise(self.flights)
        }

    @property
    def goals(self) -> list[Goal]:
        """Return the ratios, round by round, and how long a kill holds up an order."""
        goals = []
        for name, one, other, measure, sense, bound in RATIOS:
            pairs = zip(self.values(one, measure), self.values(other, measure), strict=True)
            goals.append(Goal(name, tuple(value / another for value, another in pairs), sense, bound))
        goals.append(Goal("seconds from a kill to the outcome", (self.recovery_seconds,), "<=", RECOVERY_SECONDS))
        if 5000 in (b := self.marginal_ms):
            goals.append(Goal("an order more, at 5000 / at 500", (b[5000] / b[500],), "<=", 1.15))
        return goals


def make_text(figures: Figures) -> str:
    """Return the figures for people: medians, and ranges over the rounds."""
    rounds, more = figures.rounds[WORKFLOW], figures.marginal_ms
    lines = [f"median (range) of {len(rounds)} rounds of {rounds[0].orders} orders on {os.cpu_count()} cores"]
    for names in (SHOWN, SHOWN_SLOW):
        lines += ["", _line("", names)]
        for label, measure in MEASURES.items():
            lines.append(_line(label, (spread(figures.values(name, measure)) for name in names)))
    lines += ["", _line("", ("seconds", "ms more each", "CPU ms each", "server MB", "worker MB"), 13)]
    for flight in figures.flights:
        cells = [f"{cell:.0f}" for cell in (flight.cpu_ms, flight.server_mb, flight.worker_mb)]
        rise = f"{more[flight.orders]:.0f}" if flight.orders in more else ""
        lines.append(_line(f"{flight.orders} orders", (f"{flight.seconds:.1f}", rise, *cells), 13))
    lines += ["", *(f"{goal.name:<40}{spread(goal.values):<20}{goal.verdict}" for goal in figures.goals)]
    return "\n".join(lines)


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
    """Return all figures: `rounds` by subject, `flights`, `recovery_seconds`, and `goals` with their verdict."""
    goals = [{**asdict(goal), "verdict": goal.verdict} for goal in figures.goals]
    return json.dumps({**asdict(figures), "goals": goals}, indent=1)


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
