"""What durability costs: both versions on the same orders, one after the other in one run."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

from comparison.audit import WHOLE, accounts_of
from comparison.folders import in_own_folder
from comparison.processes import Program, Worker, clean_environment
from comparison.runner import running_server, write_orders
from shop.catalogue import Product
from shop.ledger import read_ledger
from shop.orders import SAMPLE_ORDER, Item, Order
from shop.shop import Shop

SINGLE_ORDERS = 20
CONCURRENCY = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--orders", type=int, default=100, metavar="N", help="for the throughput (default: 100)")


def run(arguments: argparse.Namespace) -> int:
    """Measure; return 0 if all orders were completed."""
    if not 1 <= arguments.orders <= 10_000:
        print("bench: --orders must be from 1 to 10000", file=sys.stderr)
        return 2
    return in_own_folder(lambda directory: run_bench(directory, arguments.orders))


async def run_bench(directory: Path, number: int) -> bool:
    """Measure latency and throughput of both versions, and print them with their ratio.

    Both process the same orders, first one at a time, then eight at a time. An order's time is that from the beginning
    of its first step to that of its last, by the shop's ledger; a file's is that of the whole process that was given
    it. All processes share this machine, the server too.

    Returns:
        Whether all orders were completed: a fast failure is no result.
    """
    singles = [_order(f"single-{index}") for index in range(SINGLE_ORDERS)]
    many = [_order(f"many-{index}") for index in range(number)]
    script = await _measure(directory / "script", None, singles, many)
    async with running_server(directory / "server") as server:
        temporal = await _measure(directory / "temporal", server.settings(), singles, many)
    print(f"{'':<44}{'script':>12}{'Temporal':>12}{'ratio':>8}")
    latency, rate = f"first step to last, median of {SINGLE_ORDERS}", f"{number} orders, {CONCURRENCY} at a time"
    print(f"{latency:<44}{script[0] * 1000:>9.1f} ms{temporal[0] * 1000:>9.1f} ms{temporal[0] / script[0]:>8.0f}")
    print(f"{rate:<44}{script[1]:>10.0f}/s{temporal[1]:>10.0f}/s{script[1] / temporal[1]:>8.0f}")
    return script[2] and temporal[2]


async def _measure(
    directory: Path, settings: dict[str, str] | None, singles: list[Order], many: list[Order]
) -> tuple[float, float, bool]:
    """Return seconds an order, orders a second, and whether all were completed."""
    directory.mkdir()
    data = directory / "shop"
    shop = Shop(data)
    shop.inventory.replace_products([Product("mug", "Mug", 10**6)])
    worker = Worker(directory / "worker", settings, data) if settings else None
    if worker:
        await worker.start()

    async def process(name: str, orders: list[Order], concurrency: int) -> float:
        path = write_orders(directory / f"{name}.jsonl", orders)
        environment = settings or clean_environment()
        program = ["run_workflow.py", str(path)] if settings else ["order_processor.py", str(path), f"--data={data}"]
        started = time.perf_counter()
        await Program(directory / name, environment, *program, f"--concurrency={concurrency}").run(600)
        return time.perf_counter() - started

    try:
        await process("singles", singles, 1)
        seconds = await process("many", many, CONCURRENCY)
    finally:
        if worker:
            await worker.stop()
    accounts = accounts_of([*singles, *many], read_ledger(data))
    latencies = [accounts[order.order_id].seconds for order in singles]
    return (
        statistics.median(latencies),
        len(many) / seconds,
        all(account.ending in WHOLE for account in accounts.values()),
    )


def _order(order_id: str) -> Order:
    return replace(SAMPLE_ORDER, order_id=order_id, items=(Item("mug", 1, 1250),))
