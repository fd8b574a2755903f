"""The figures of the benchmark: medians and ratios, as people read them, and as a picture."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from comparison.cost.subjects import AGAIN, FLOOR, IN_FLIGHT, SCRIPT, SLOW_SCRIPT, SLOW_WORKFLOW, STOCK, WORKFLOW
from comparison.timeline import svg_page, svg_text

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
# What is compared with what; the workflow's ratio to itself is the noise of the others.
RATIOS = (
    ("workflow / itself: orders/s", AGAIN, WORKFLOW, RATE),
    ("workflow / itself: CPU", AGAIN, WORKFLOW, CPU),
    ("workflow / itself: p50", AGAIN, WORKFLOW, P50),
    ("workflow / empty steps: orders/s", WORKFLOW, FLOOR, RATE),
    ("workflow / empty steps: CPU", WORKFLOW, FLOOR, CPU),
    ("workflow / default server: orders/s", WORKFLOW, STOCK, RATE),
    ("workflow / default server: p50", WORKFLOW, STOCK, P50),
    ("slow shop, workflow / script: orders/s", SLOW_WORKFLOW, SLOW_SCRIPT, RATE),
)


@dataclass(frozen=True)
class Flight:
    """What some orders took, with some in flight; CPU is milliseconds an order, memory the peak since the start."""

    orders: int
    seconds: float
    server_cpu_ms: float
    worker_cpu_ms: float
    starter_cpu_ms: float
    server_mb: float
    worker_mb: float

    @property
    def orders_per_second(self) -> float:
        """Return the rate."""
        return self.orders / self.seconds

    @property
    def cpu_ms(self) -> float:
        """Return the CPU of all processes."""
        return self.server_cpu_ms + self.worker_cpu_ms + self.starter_cpu_ms


@dataclass(frozen=True)
class Round(Flight):
    """What one subject did in one round: orders in flight, and before them some alone."""

    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Figures:
    """All that was measured: `rounds` by the subject's name, and `flights` of more and more orders."""

    rounds: dict[str, list[Round]]
    flights: list[Flight]
    recovery_seconds: float

    def values(self, name: str, measure: str) -> Values:
        """Return a measure of a subject, round by round."""
        return tuple(float(getattr(row, measure)) for row in self.rounds[name])


def make_text(figures: Figures) -> str:
    """Return the figures for people: medians, and ranges over the rounds."""
    rounds, more = figures.rounds[WORKFLOW], _marginal_ms(figures.flights)
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
    return "\n".join([*lines, "", *(f"{name:<40}{spread(values)}" for name, values in ratios_of(figures))])


def ratios_of(figures: Figures) -> Iterator[tuple[str, Values]]:
    """Yield each ratio, round by round, and how long a kill holds up an order."""
    for name, one, other, measure in RATIOS:
        pairs = zip(figures.values(one, measure), figures.values(other, measure), strict=True)
        yield name, tuple(value / another for value, another in pairs)
    yield "seconds from a kill to the outcome", (figures.recovery_seconds,)
    if 5000 in (more := _marginal_ms(figures.flights)):
        yield "an order more, at 5000 / at 500", (more[5000] / more[500],)


def _marginal_ms(flights: list[Flight]) -> dict[int, float]:
    """Return what an order more takes, by the size of the flight: the rise from the size before."""
    return {
        flight.orders: 1000 * (flight.seconds - before.seconds) / (flight.orders - before.orders)
        for before, flight in pairwise(flights)
    }


def _line(label: str, cells: Iterable[str], width: int = 20) -> str:
    return f"{label:<36}" + "".join(f"{cell:>{width}}" for cell in cells)


def spread(values: Values) -> str:
    """Return the median, and the range if there is one, to three digits."""
    middle, low, high = (
        f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"
        for value in (statistics.median(values), min(values), max(values))
    )
    return middle if low == high else f"{middle} ({low}-{high})"


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
