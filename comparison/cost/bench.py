"""What durability costs: every figure in one run, on this machine.

In each round all take turns, so that noise strikes all alike: the script; the workflow, twice, because its ratio to
itself is the noise of the other ratios; a workflow of four steps that do nothing, the least that the engine asks; the
workflow on a server as `temporal server start-dev --db-filename` starts it; script and workflow in a slow shop, with
services as slow as real ones. A turn is some orders alone, each from the start call to the outcome, then many with 32
in flight, from the first start call to the last outcome, with the CPU of each process meanwhile. This process plays
the starter and the script, by their own functions: no program's start is counted, and no log is written.

Then the workflow takes more and more orders, and a worker is killed in mid-payment.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from comparison.cost.figures import Figures, Flight, Round, draw, make_text
from comparison.cost.subjects import IN_FLIGHT, Subject, start_subjects
from comparison.stage.folders import in_own_folder, make_progress, new_file
from comparison.stage.processes import wait_until
from shop.ledger import read_ledger
from shop.orders import Order, Status

SIZES, LONG_SIZES = (10, 100, 1000), (10, 100, 500, 1000, 5000)


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds of some orders alone and some in flight, and flights of some sizes."""

    rounds: int = 3
    orders: int = 64
    alone: int = 12  # the first few of a default server are fast: its poll limit allows a burst
    warm_up: int = 4
    sizes: tuple[int, ...] = SIZES


class NotCompleted(Exception):
    """An order did not come to its good end: a fast failure is no result."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--long", action="store_true", help="500 and 5,000 orders, too")
    parser.add_argument("--svg", type=new_file, metavar="FILE", help="draw rates and CPU, too")


def run(arguments: argparse.Namespace) -> int:
    """Measure; return 0 if all orders were completed, 1 if not."""
    plan = Plan(sizes=LONG_SIZES if arguments.long else SIZES)
    return in_own_folder(lambda directory: _bench(directory, plan, arguments.svg))


async def _bench(directory: Path, plan: Plan, picture: Path | None) -> bool:
    try:
        with make_progress() as progress:
            figures = await take_figures(directory, plan, progress)
    except NotCompleted as error:
        print(f"bench: not completed: {error}", file=sys.stderr)
        return False
    print(make_text(figures))
    if picture:
        draw(figures, picture)
    return True


async def take_figures(directory: Path, plan: Plan, progress: Progress) -> Figures:
    """Measure everything.

    Raises:
        NotCompleted: if an order was not, by its outcome or by the ledgers.
    """
    bar = progress.add_task("rounds", total=plan.rounds + len(plan.sizes) + 2)
    *subjects, growing, killed = await start_subjects(directory)
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


async def measure_round(subject: Subject, alone: int, in_flight: int) -> Round:
    """Process some orders one at a time, then some in flight. Raises as `seconds_of` does."""
    latencies = [1000 * await seconds_of(subject, subject.place(1)) for _ in range(alone)]
    flight = await measure_flight(subject, in_flight)
    percentiles = statistics.quantiles(latencies, n=100, method="inclusive")
    return Round(**vars(flight), p50_ms=percentiles[49], p95_ms=percentiles[94])


async def measure_flight(subject: Subject, number: int, in_flight: int = IN_FLIGHT) -> Flight:
    """Process orders, so many of them in flight. Raises as `seconds_of` does."""
    programs = (subject.server, subject.worker)

    def usage() -> list[tuple[float, float]]:
        return [usage_of(program.pid) if program else (0.0, 0.0) for program in programs] + [(time.process_time(), 0.0)]

    before = usage()
    seconds = await seconds_of(subject, subject.place(number), in_flight)
    after = usage()
    server, worker, starter = (1000 * (now[0] - then[0]) / number for then, now in zip(before, after, strict=True))
    return Flight(number, seconds, server, worker, starter, server_mb=after[0][1], worker_mb=after[1][1])


async def seconds_of(subject: Subject, orders: Sequence[Order], in_flight: int = IN_FLIGHT) -> float:
    """Return the time from the first start call to the last outcome.

    Raises:
        NotCompleted: if an order was not.
    """
    slots = asyncio.Semaphore(in_flight)

    async def process(order: Order) -> None:
        async with slots:
            outcome = await subject.process(order)
        if outcome.status is not Status.COMPLETED:
            raise NotCompleted(f"{subject.name}: {outcome.as_line()}")

    started = time.perf_counter()
    await asyncio.gather(*map(process, orders))
    return time.perf_counter() - started


async def measure_recovery(subject: Subject) -> float:
    """Kill the worker with SIGKILL in mid-payment, start it again, and return the seconds from the kill to the outcome.

    The first payment has to be slow.
    """
    assert subject.data and subject.worker, "it is a workflow"
    data = subject.data
    outcome = asyncio.create_task(seconds_of(subject, subject.place(1)))
    await wait_until(lambda: "process_payment" in {attempt.step for attempt in read_ledger(data).attempts}, "it pays")
    killed = time.perf_counter()
    await subject.worker.kill()
    await subject.worker.start()
    await outcome
    return time.perf_counter() - killed


def usage_of(pid: int) -> tuple[float, float]:
    """Return the CPU seconds that a process has used, and the MB of its memory: the peak, or without /proc that now."""
    if not Path("/proc/self/stat").exists():
        told = subprocess.run(["ps", "-o", "time=,rss=", f"-p{pid}"], capture_output=True, text=True, check=True).stdout
        cpu, kilobytes = told.split()
        minutes, seconds = cpu.split(":")
        return 60 * int(minutes) + float(seconds), int(kilobytes) / 1024
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    peak = Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(peak) / 1024
