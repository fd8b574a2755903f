"""What an order costs in this project's workflow, in DBOS and in Restate, in turns on one machine.

    python cost.py [ROUNDS]

One worker works off the orders; they are started while it works. The rate goes from the first attempt to the last
mail; CPU is that of the worker and the server, without the starter.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import time
from datetime import datetime
from pathlib import Path

from counter import as_json, order_for
from trials import PEERS, READY_SECONDS, ROOT, Stage, staged, wait_until

ORDERS = 96
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a turn of orders took."""

    orders_a_second: float
    cpu_ms_an_order: float


def work_off(stage: Stage, needs: str, first: int) -> Cost:
    """Have the orders worked off, and measure it."""
    order_ids = [str(number) for number in range(first, first + ORDERS)]
    before, confirmed = cpu_seconds(stage), len(stage.ledger.confirmations)
    if needs == "temporal":
        orders = stage.folder / "orders.jsonl"
        orders.write_text("".join(json.dumps(as_json(order_for(order_id))) + "\n" for order_id in order_ids))
        starter = stage.run(sys.executable, ROOT / "run_workflow.py", "--no-wait", orders, name="starter")
        stage.processes.remove(starter)
        starter.wait()
    else:
        stage.ask(PEERS / f"{needs}_order.py", "start", *order_ids)
    if wait_until(lambda: len(stage.ledger.confirmations) == confirmed + ORDERS, 3 * READY_SECONDS) is None:
        sys.exit(f"{needs}: not all orders are mailed")
    time.sleep(1)  # until the engine has noted the end, too
    times = [datetime.fromisoformat(attempt.at) for attempt in stage.ledger.attempts if attempt.order_id in order_ids]
    seconds = (max(times) - min(times)).total_seconds()
    return Cost(ORDERS / seconds, (cpu_seconds(stage) - before) / ORDERS * 1000)


def cpu_seconds(stage: Stage) -> float:
    """Return what the trial's processes and their children, living or waited for, have used."""
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(stat.parent.name)
        parents[pid], used[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    ours = {process.pid for process in stage.processes}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(used.get(pid, 0) for pid in ours) / TICKS_A_SECOND


def stock_up(stage: Stage) -> None:
    """Give the shop more than its built-in stock."""
    (stage.folder / "stock.csv").write_text("sku,name,quantity\nmug,Mug,9999\ncoffee-1kg,Coffee,9999\n")
    (stage.folder / "customers.csv").write_text("customer_id,name,email\nada,Ada,ada@example.com\n")
    if stage.run(sys.executable, "-m", "shop", "load", stage.folder).wait():
        sys.exit((stage.folder / "server.log").read_text())


def measure(needs: str) -> Cost:
    """Measure one engine, after a turn that warms it up."""
    with staged("", {"dbos": "postgres"}.get(needs, needs), []) as stage:
        stock_up(stage)
        if needs == "temporal":
            worker = stage.run(sys.executable, ROOT / "run_worker.py", name="worker")
            log = stage.folder / "worker.log"
            if wait_until(lambda: worker.poll() is not None or "serving" in log.read_text(), READY_SECONDS) is None:
                sys.exit("the worker does not serve")
        else:
            stage.worker(PEERS / f"{needs}_order.py")
        work_off(stage, needs, 1000)
        return work_off(stage, needs, 2000)


def shown(values: list[float]) -> str:
    """Return the median, and the range."""
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def main() -> None:
    """Measure in turns, and print a line an engine."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    costs: dict[str, list[Cost]] = {"temporal": [], "dbos": [], "restate": []}
    for turn in range(rounds):
        for needs in sorted(costs, reverse=turn % 2 == 1):
            costs[needs].append(measure(needs))
    print(f"median (range) of {rounds} rounds of {ORDERS} orders")
    ours = costs["temporal"]
    for needs, theirs in costs.items():
        ratio = [their.orders_a_second / our.orders_a_second for their, our in zip(theirs, ours, strict=True)]
        rates = shown([cost.orders_a_second for cost in theirs])
        cpu = shown([cost.cpu_ms_an_order for cost in theirs])
        print(f"{needs:8}  orders/s {rates}; CPU ms an order {cpu}; orders/s, ours = 1: {shown(ratio)}")


if __name__ == "__main__":
    main()
