"""What durability costs: every figure in one run, on this machine.

In each round all take turns, so that noise strikes all alike: the script; the workflow, twice, because its ratio to
itself is the noise of the other ratios; a workflow of four steps that do nothing, the least that the engine asks; the
workflow on a server as `temporal server start-dev --db-filename` starts it; script and workflow in a slow shop, with
services as slow as real ones. A turn is some orders alone, each from the start call to the outcome, then many with 32
in flight, from the first start call to the last outcome, with the CPU of each process meanwhile. This process plays
the starter and the script, by their own functions: no program's start is counted, and no log is written.

Then the workflow takes more and more orders, and a worker is killed in mid-payment.
The exit status tells whether all orders were completed, whatever the goals say.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from comparison.cost.figures import Figures, draw, make_json, make_text
from comparison.cost.measure import (
    NotCompleted,
    Round,
    measure_flight,
    measure_recovery,
    measure_round,
    seconds_of,
)
from comparison.cost.subjects import start_subjects
from comparison.stage.folders import in_own_folder, make_progress, new_file

SIZES, LONG_SIZES = (10, 100, 1000), (10, 100, 500, 1000, 5000)


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds of some orders alone and some in flight, and flights of some sizes."""

    rounds: int = 3
    orders: int = 64
    alone: int = 12  # the first few of a default server are fast: its poll limit allows a burst
    warm_up: int = 4
    sizes: tuple[int, ...] = SIZES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--rounds", type=int, default=Plan.rounds, metavar="N", help=f"(default: {Plan.rounds})")
    parser.add_argument("--orders", type=int, default=Plan.orders, metavar="N", help=f"a turn (default: {Plan.orders})")
    parser.add_argument("--long", action="store_true", help="500 and 5,000 orders, too")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--svg", type=new_file, metavar="FILE", help="draw rates and CPU, too")


def run(arguments: argparse.Namespace) -> int:
    """Measure; return 0 if all orders were completed, 1 if not, 2 for bad usage."""
    if not 1 <= arguments.orders <= 10_000 or not 1 <= arguments.rounds <= 100:
        print("bench: --orders must be from 1 to 10000, --rounds from 1 to 100", file=sys.stderr)
        return 2
    plan = Plan(arguments.rounds, arguments.orders, sizes=LONG_SIZES if arguments.long else SIZES)
    return in_own_folder(lambda directory: _bench(directory, plan, arguments))


async def _bench(directory: Path, plan: Plan, arguments: argparse.Namespace) -> bool:
    try:
        with make_progress() as progress:
            figures = await take_figures(directory, plan, progress)
    except NotCompleted as error:
        print(f"bench: not completed: {error}", file=sys.stderr)
        return False
    print(make_json(figures) if arguments.json else make_text(figures))
    if arguments.svg:
        draw(figures, arguments.svg)
    return True


async def take_figures(directory: Path, plan: Plan, progress: Progress) -> Figures:
    """Measure everything.

    Raises:
        NotCompleted: if an order was not, by its outcome or by the ledgers.
    """
    bar = progress.add_task("rounds", total=plan.rounds + len(plan.sizes) + 2)
    async with AsyncExitStack() as running:
        *subjects, growing, killed = await start_subjects(directory, running)
        for subject in subjects:
            await seconds_of(subject, subject.place(plan.warm_up))
        rounds: dict[str, list[Round]] = {subject.name: [] for subject in subjects}
        for number in range(plan.rounds):
            progress.advance(bar)
            # Forwards and backwards: nobody always comes first.
            for subject in reversed(subjects) if number % 2 else subjects:
                rounds[subject.name].append(await measure_round(subject, plan.alone, plan.orders))
        flights = []
        for size in plan.sizes:
            progress.update(bar, advance=1, description=f"{size} orders")
            flights.append(await measure_flight(growing, size))
        progress.update(bar, advance=1, description="a worker is killed")
        recovery_seconds = await measure_recovery(killed)
    for subject in (*subjects, growing, killed):
        if incomplete := subject.incomplete():
            raise NotCompleted(f"{subject.name}, by the ledgers: orders {', '.join(incomplete)}")
    return Figures(rounds, flights, recovery_seconds)
