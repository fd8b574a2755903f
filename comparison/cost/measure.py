"""How the benchmark measures: orders alone, in flight and by the file, a kill, and what processes use meanwhile."""

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
from comparison.stage.processes import Program, wait_until
from comparison.stage.runner import write_orders
from shop.ledger import read_ledger
from shop.orders import Order, Status

# Of memory; a starter lives for a second at least.
SAMPLE_SECONDS = 0.1


class NotCompleted(Exception):
    """An order did not come to its good end: a fast failure is no result."""


@dataclass(frozen=True)
class Round:
    """What one subject did in one round; CPU is milliseconds an order, of those in flight."""

    orders_per_second: float
    p50_ms: float
    p95_ms: float
    server_cpu_ms: float
    worker_cpu_ms: float
    starter_cpu_ms: float
    cpu_ms: float


@dataclass(frozen=True)
class FileRun:
    """What a file of orders took: the program's seconds, CPU of server and worker an order, and peak memory so far."""

    orders: int
    seconds: float
    cpu_ms: float
    server_mb: float
    worker_mb: float
    starter_mb: float


class Usage(NamedTuple):
    """What a process has used since it began."""

    cpu_seconds: float
    peak_mb: float


async def measure_round(subject: Subject, alone: int, in_flight: int) -> Round:
    """Process some orders one at a time, then some with 32 in flight.

    Raises:
        NotCompleted: if one was not.
    """
    latencies = [1000 * await seconds_of(subject, subject.place(1)) for _ in range(alone)]
    before = _cpu_of(subject)
    seconds = await seconds_of(subject, subject.place(in_flight))
    spent = [1000 * (after - start) / in_flight for start, after in zip(before, _cpu_of(subject), strict=True)]
    server, worker, starter = spent
    p50, p95 = quantile(latencies, 50), quantile(latencies, 95)
    return Round(in_flight / seconds, p50, p95, server, worker, starter, sum(spent))


async def seconds_of(subject: Subject, orders: Sequence[Order]) -> float:
    """Return the time from the first start call to the last outcome.

    Raises:
        NotCompleted: if one was not.
    """
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def process(order: Order) -> None:
        async with slots:
            outcome = await subject.process(order)
        if outcome.status is not Status.COMPLETED:
            raise NotCompleted(f"{subject.name}: {outcome.as_line()}")

    started = time.perf_counter()
    await asyncio.gather(*map(process, orders))
    return time.perf_counter() - started


def quantile(values: Sequence[float], percent: int) -> float:
    """Return a percentile, between two values in proportion."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


async def measure_file(subject: Subject, starter: Program, number: int) -> FileRun:
    """Give the program a file of orders, and wait for its end.

    Raises:
        NotCompleted: if it does not end well.
    """
    assert subject.server and subject.worker, "it is a workflow"
    write_orders(Path(starter.arguments[1]), subject.place(number))
    before, started = sum(_cpu_of(subject)[:2]), time.perf_counter()
    await starter.start()
    watching = asyncio.create_task(_peaks_of(subject.server, subject.worker, starter))
    if await starter.wait() != 0:
        raise NotCompleted(f"{subject.name}: see {starter.output}")
    seconds, cpu_seconds = time.perf_counter() - started, sum(_cpu_of(subject)[:2]) - before
    server_mb, worker_mb, starter_mb = await watching
    return FileRun(number, seconds, 1000 * cpu_seconds / number, server_mb, worker_mb, starter_mb)


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


def _cpu_of(subject: Subject) -> list[float]:
    """Return the CPU seconds of server, worker, and this process, which plays the starter or the script."""
    programs = (subject.server, subject.worker)
    return [usage_of(program.pid).cpu_seconds if program else 0.0 for program in programs] + [time.process_time()]


async def _peaks_of(*programs: Program) -> list[float]:
    """Return the peak memory of each in megabytes, when the last of them has ended."""
    peaks = [0.0] * len(programs)
    while programs[-1].is_running:
        peaks = [max(peak, usage_of(program.pid).peak_mb) for peak, program in zip(peaks, programs, strict=True)]
        await asyncio.sleep(SAMPLE_SECONDS)
    return peaks


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
        return Usage(0.0, 0.0)
    ticks = int(fields[11]) + int(fields[12])
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), int(peak[1]) / 1024 if peak else 0.0)


def parse_ps(line: str) -> Usage:
    """Read `[[days-]hours:]minutes:seconds kilobytes`, or nothing."""
    if not line.strip():
        return Usage(0.0, 0.0)
    *larger, seconds, kilobytes = re.split(r"[-:\s]+", line.strip())
    whole = sum(int(number) * unit for number, unit in zip(reversed(larger), (60, 3_600, 86_400), strict=False))
    return Usage(whole + float(seconds), int(kilobytes) / 1024)
