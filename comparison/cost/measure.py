"""How the benchmark measures: orders alone and in flight, a kill, and what processes use meanwhile."""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from comparison.cost.subjects import IN_FLIGHT, Subject
from comparison.stage.processes import wait_until
from shop.ledger import read_ledger
from shop.orders import Order, Status


class NotCompleted(Exception):
    """An order did not come to its good end: a fast failure is no result."""


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


class Usage(NamedTuple):
    """What a process has used since it began."""

    cpu_seconds: float = 0.0
    peak_mb: float = 0.0


async def measure_round(subject: Subject, alone: int, in_flight: int) -> Round:
    """Process some orders one at a time, then some in flight.

    Raises:
        NotCompleted: if one was not.
    """
    latencies = [1000 * await seconds_of(subject, subject.place(1)) for _ in range(alone)]
    flight = await measure_flight(subject, in_flight)
    percentiles = statistics.quantiles(latencies, n=100, method="inclusive")
    return Round(**vars(flight), p50_ms=percentiles[49], p95_ms=percentiles[94])


async def measure_flight(subject: Subject, number: int, in_flight: int = IN_FLIGHT) -> Flight:
    """Process orders, so many of them in flight.

    Raises:
        NotCompleted: if one was not.
    """
    before = _usage_of(subject)
    seconds = await seconds_of(subject, subject.place(number), in_flight)
    after = _usage_of(subject)
    server, worker, starter = (
        1000 * (now.cpu_seconds - then.cpu_seconds) / number for then, now in zip(before, after, strict=True)
    )
    return Flight(number, seconds, server, worker, starter, after[0].peak_mb, after[1].peak_mb)


async def seconds_of(subject: Subject, orders: Sequence[Order], in_flight: int = IN_FLIGHT) -> float:
    """Return the time from the first start call to the last outcome.

    Raises:
        NotCompleted: if one was not.
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


def _usage_of(subject: Subject) -> list[Usage]:
    """Return what server and worker have used, and this process, which plays the starter or the script."""
    programs = (subject.server, subject.worker)
    return [usage_of(program.pid) if program else Usage() for program in programs] + [Usage(time.process_time())]


def usage_of(pid: int) -> Usage:
    """Return what a process has used; nothing, if it has ended.

    Linux tells by /proc. Elsewhere `ps` does, and knows no peak: it tells the memory of the moment.
    """
    if not Path("/proc/self/stat").exists():
        return parse_ps(subprocess.run(["ps", "-o", "time=,rss=", f"-p{pid}"], capture_output=True, text=True).stdout)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return Usage()
    ticks = int(fields[11]) + int(fields[12])
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), int(peak[1]) / 1024 if peak else 0.0)


def parse_ps(line: str) -> Usage:
    """Read `[[days-]hours:]minutes:seconds kilobytes`, or nothing."""
    if not line.strip():
        return Usage()
    *larger, seconds, kilobytes = re.split(r"[-:\s]+", line.strip())
    whole = sum(int(number) * unit for number, unit in zip(reversed(larger), (60, 3_600, 86_400), strict=False))
    return Usage(whole + float(seconds), int(kilobytes) / 1024)
