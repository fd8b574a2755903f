"""Orders in flight while processes die, at moments that the plan draws and by kills from outside; then the audit."""

from __future__ import annotations

import argparse
import asyncio
import functools
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError

from comparison.judge.accounts import accounts_of
from comparison.judge.audit import Violation, audit, judge_files
from comparison.judge.command import parse_outcome
from comparison.stage.folders import in_own_folder, make_progress
from comparison.stage.processes import Program, Server, Worker, clean_environment
from comparison.stage.runner import keep_running, write_orders
from plumbing.connection import NoConnection
from plumbing.process import run_and_exit
from shop.catalogue import Product
from shop.faults import FaultPlan, parse_faults
from shop.ledger import Ledger, read_ledger
from shop.orders import SAMPLE_ORDER, Item, Order, Outcome
from shop.shop import ORDERS, Shop
from shop.stores.location import Location
from shop.stores.storage import read_only
from shop.terminal.streams import run_program

from .planted import missed_violations

FAULT_RATE = 0.1
BATCH = 40
BATCH_TIMEOUT_SECONDS = 900.0
# Each lane runs one batch after the other; several keep the processes busy while one lane waits for its last order.
LANES = 3
SCRIPT_CONCURRENCY = 4
WORKERS = 2
# Customers that want the same scarce product at once, and the pieces that there are of it: the others are refunded.
GROUP, PIECES = 4, 2
MEAN_SECONDS_TO_CANCEL = 2.0
# How long a process lives on average before it is killed from outside, once it is up.
DURABLE_LOOP = "examples.durable_loop"
MEAN_LIFE_SECONDS = {
    "run_server.py": 30.0,
    "run_worker.py": 8.0,
    "run_workflow.py": 8.0,
    "order_processor.py": 2.0,
    DURABLE_LOOP: 4.0,
}
LOOP_WORKERS = 4
ASK_AGAIN_SECONDS = 2.0
# The four steps, three calls and a note, each scheduled, started and closed with a workflow task around it, and the
# tasks that a kill lets time out. An order with more has been going in circles.
MAX_HISTORY_EVENTS = 300
CRASHES = ("crash_before", "crash_after")
KILLED_MEANWHILE = "its process killed meanwhile"
MAX_NUMBER = 100_000


@dataclass
class Soak:
    """One run: what is killed, what is ordered, and what was printed."""

    directory: Path
    location: Location
    number: int
    kills: int
    seed: int
    progress: Progress
    killed: Counter[str] = field(default_factory=Counter)
    printed: list[Outcome] = field(default_factory=list)
    runs: Counter[str] = field(default_factory=Counter)
    orders: list[Order] = field(default_factory=list)
    closings: dict[str, WorkflowExecutionStatus] = field(default_factory=dict)

    @property
    def data(self) -> str:
        """Return what to write for `--data`."""
        return str(self.location) if isinstance(self.location, Path) else self.location.secret

    @property
    def faults(self) -> str:
        """Return the fault plan: any attempt of any step may fail, lose its reply, or kill its process."""
        return f"random({FAULT_RATE},{self.seed})"

    async def harass(self, target: Program) -> None:
        """Kill a process from outside again and again, until there were enough kills or this is cancelled."""
        name = target.name
        chance = random.Random(f"{self.seed}/{target.output.name}")
        while self.killed.total() < self.kills:
            await asyncio.sleep(chance.expovariate(1 / MEAN_LIFE_SECONDS[name]))
            if target.is_running and self.killed.total() < self.kills:
                self.killed[name] += 1  # First: another lane may count while this one waits.
                await target.kill()

    def batches(self) -> Iterator[list[Order]]:
        """Yield orders until there are enough of them and of the kills."""
        chance = random.Random(self.seed)
        size = min(BATCH, self.number)
        while len(self.orders) < self.number or self.killed.total() < self.kills:
            batch = [make_order(len(self.orders) + index, chance) for index in range(size)]
            self.orders += batch
            yield batch


async def run_soak(soak: Soak, version: str) -> bool:
    """Process orders under kills and random faults, and print what the audit says.

    Returns:
        Whether there was no violation, all kills were done, and the audit finds planted violations.
    """
    shop = Shop(soak.location)
    groups = range(10 * (soak.number + BATCH) // GROUP)
    shop.inventory.replace_products(Product(f"scarce-{group}", "Scarce", PIECES) for group in groups)
    shop.close()
    print(f"seed {soak.seed}: {soak.number} orders, {soak.kills} kills, faults {soak.faults}, {version}", end="")
    print("" if isinstance(soak.location, Path) else ", in PostgreSQL", flush=True)
    with soak.progress:
        bar = soak.progress.add_task("orders", total=soak.number)
        circles = await VERSIONS[version](soak, bar)
    return _report(soak, circles, version)


def make_order(number: int, chance: random.Random) -> Order:
    """Return one of several orders for the same scarce product; some cannot be paid, some cannot be confirmed."""
    tokens = ["tok_visa"] * 18 + ["tok_chargeDeclined", "tok_unheardOf"]
    return replace(
        SAMPLE_ORDER,
        order_id=f"soak-{number}",
        customer_id=chance.choice(["ada", "nobody"]),
        payment_token=chance.choice(tokens),
        items=(Item(f"scarce-{number // GROUP}", 1, 1000),),
    )


async def _soak_script(soak: Soak, bar: TaskID) -> list[Violation]:
    options = (f"--data={soak.data}", f"--faults={soak.faults}", f"--concurrency={SCRIPT_CONCURRENCY}")
    await _run_lanes(soak, bar, clean_environment(), "order_processor.py", options=options)
    return []


async def _soak_durable(soak: Soak, bar: TaskID) -> list[Violation]:
    """Let workers take from the table, and each lane ask for its orders until all have ended."""
    data = f"--data={soak.data}"
    working = ("-m", DURABLE_LOOP, "work", data, f"--faults={soak.faults}")
    workers = [
        Program(soak.directory / f"worker-{number}", clean_environment(), *working) for number in range(LOOP_WORKERS)
    ]
    async with _harassed(soak, workers):
        await _run_lanes(
            soak, bar, clean_environment(), "-m", DURABLE_LOOP, "accept", options=(data,), unsettled="accepted"
        )
    said = [parse_outcome(line.encode()) for program in workers for line in program.lines()]
    soak.printed = list(dict.fromkeys([*soak.printed, *said]))  # The table and the worker say it: is it the same?
    with read_only(soak.location, ORDERS) as connection:
        rows = connection.execute("SELECT * FROM orders").fetchall()
        soak.runs = Counter({row["order_id"]: row["claims"] for row in rows})
    return []


async def _soak_temporal(soak: Soak, bar: TaskID) -> list[Violation]:
    server = Server(soak.directory / "server")
    settings = server.settings()
    workers = [
        Worker(soak.directory / f"worker-{number}", settings, soak.data, soak.faults) for number in range(WORKERS)
    ]
    async with _harassed(soak, [server, *workers], _cancel_some(soak, server)):
        await _run_lanes(soak, bar, settings, "run_workflow.py")
        return await _judge_histories(soak, server)


VERSIONS = {"script": _soak_script, "durable": _soak_durable, "temporal": _soak_temporal}


@asynccontextmanager
async def _harassed(soak: Soak, programs: Sequence[Program], *others: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Start programs; kill each now and then, and start it again; run `others` beside them. End all afterwards."""
    async with AsyncExitStack() as started:
        for program in programs:
            await program.start()
            started.push_async_callback(program.stop)
        background = [*map(keep_running, programs), *map(soak.harass, programs), *others]
        started.push_async_callback(_end, [asyncio.create_task(work) for work in background])
        yield


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _run_lanes(
    soak: Soak,
    bar: TaskID,
    environment: dict[str, str],
    *command: str,
    options: tuple[str, ...] = (),
    unsettled: str = "unknown",
) -> None:
    """Give batches of orders to a program, several at a time. It is killed, too.

    What was not answered, because it was killed, or is still `unsettled`, is given again.
    """
    batches = soak.batches()

    async def run_lane(name: str) -> None:
        path = soak.directory / f"{name}.jsonl"
        program = Program(soak.directory / name, environment, *command, str(path), *options)
        nemesis = asyncio.create_task(soak.harass(program))
        for batch in batches:
            left = {order.order_id: order for order in batch}
            while left:
                write_orders(path, list(left.values()))
                soak.runs.update(left.keys())
                program.output.unlink(missing_ok=True)
                await program.run(BATCH_TIMEOUT_SECONDS)
                for line in program.lines():
                    order_id, status = line.split("\t")[:2]
                    if status != "accepted":  # by the loop, which answers later
                        soak.printed.append(parse_outcome(line.encode()))
                    if status != unsettled:
                        del left[order_id]
                if unsettled == "accepted":
                    await asyncio.sleep(ASK_AGAIN_SECONDS)
            soak.progress.update(bar, advance=len(batch), description=f"orders, {soak.killed.total()} kills")
        await _end([nemesis])

    await asyncio.gather(*(run_lane(f"lane-{lane}") for lane in range(LANES)))


async def _cancel_some(soak: Soak, server: Server) -> None:
    """Cancel orders that are under way, now and then one, wherever it stands."""
    chance = random.Random(soak.seed)
    while True:
        await asyncio.sleep(chance.uniform(0.0, MEAN_SECONDS_TO_CANCEL))
        with suppress(RPCError, NoConnection):  # The server is down for a moment.
            client = await server.client()
            running = [execution.id async for execution in client.list_workflows("ExecutionStatus = 'Running'")]
            if running:
                handle: WorkflowHandle[object, object] = client.get_workflow_handle(chance.choice(running))
                await handle.cancel()


async def _judge_histories(soak: Soak, server: Server) -> list[Violation]:
    """Return a violation for each workflow that is open, or whose history is longer than its steps explain."""
    client = await server.client()
    violations = []
    async for execution in client.list_workflows():
        if execution.status is None or execution.close_time is None:
            violations.append(Violation("I1", execution.id, "its workflow is open"))
        else:
            soak.closings[execution.id.removeprefix("order-")] = execution.status
        if execution.history_length > MAX_HISTORY_EVENTS:
            violations.append(Violation("I9", execution.id, f"its history has {execution.history_length} events"))
    return violations


def _report(soak: Soak, circles: list[Violation], version: str) -> bool:
    ledger, number = read_ledger(soak.location), len(soak.orders)
    runs = 1 if version == "temporal" else soak.runs  # A workflow that is started again is attached to.
    violations = [
        *audit(soak.orders, ledger, soak.printed, runs=runs, closings=soak.closings or None),
        *judge_files(soak.location),
        *circles,
    ]
    struck = strikes(ledger, parse_faults(soak.faults))
    drawn = sum(count for what, count in struck.items() if "crash" in what)
    print(f"processes killed: {drawn} at a drawn moment, {soak.killed.total()} from outside ({_listed(soak.killed)})")
    print("attempts struck:")
    for what, count in sorted(struck.items()):
        print(f"  {what}: {count}")
    endings = Counter(account.ending.value for account in accounts_of(soak.orders, ledger).values())
    print(f"orders: {_listed(endings)}")
    print(f"printed: {_listed(Counter(outcome.status.value for outcome in soak.printed))}")
    print(f"violations: {len(violations)} in {number} orders", end="")
    print("" if violations else f"; with 95 % confidence fewer than {300 / number:.2g}% of orders (3/n)")
    for violation in violations[:20]:
        print(f"  {violation.rule} order {violation.order_id}: {violation.sentence}")
    if violations:
        return False
    missed = missed_violations(soak.orders, ledger, soak.printed)
    print(f"planted violations that the audit missed: {', '.join(missed) or 'none'}")
    return not missed


def strikes(ledger: Ledger, plan: FaultPlan) -> Counter[str]:
    """Count the attempts that never came back, by step, and by what struck them: the plan, or a kill from outside."""
    struck: Counter[str] = Counter()
    for attempt in ledger.attempts:
        if attempt.outcome == "started":
            kind = plan.fault_for(attempt.step, attempt.order_id, attempt.attempt).kind
            struck[f"{attempt.step}, {kind if kind in CRASHES else KILLED_MEANWHILE}"] += 1
    return struck


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in counts.most_common()) or "none"


def main() -> int:
    """Run the soak; return 0 if the audit finds nothing, 1 if it does, 2 for bad usage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=100, metavar="N", help="at least (default: 100)")
    parser.add_argument("--kills", type=int, default=30, metavar="K", help="from outside (default: 30)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of orders, faults and kills (default: 1)")
    parser.add_argument("--version", choices=tuple(VERSIONS), default="temporal", help="(default: temporal)")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite", help="(default: sqlite)")
    arguments = parser.parse_args()
    orders, kills, seed = arguments.orders, arguments.kills, arguments.seed
    if not 1 <= orders <= MAX_NUMBER or not 0 <= kills <= MAX_NUMBER or seed < 0:
        parser.error(f"--orders from 1, --kills from 0, to {MAX_NUMBER}; --seed not negative")

    if arguments.store == "postgres":
        sys.path.append(str(Path(__file__).parent.parent))  # as pytest does
        from postgres_server import FOLDERS

        if not FOLDERS:
            parser.error("--store: PostgreSQL is not installed (Debian's package: postgresql)")

    async def run(directory: Path) -> bool:
        with _place(arguments.store, directory) as location:
            soak = Soak(directory, location, orders, kills, seed, make_progress())
            return await run_soak(soak, arguments.version)

    return in_own_folder(run)


@contextmanager
def _place(store: str, directory: Path) -> Iterator[Location]:
    """Give a place for a shop: a folder, or a database on a server of its own."""
    if store == "sqlite":
        yield directory / "shop"
        return
    from postgres_server import PostgresServer

    server = PostgresServer()
    try:
        server.start()
        yield server.url()
    finally:
        server.stop()


if __name__ == "__main__":
    run_and_exit(functools.partial(run_program, "soak", main))
