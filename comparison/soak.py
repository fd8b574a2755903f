"""Orders in flight while a seeded nemesis kills processes at random moments; then the audit."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.progress import Progress

from comparison.audit import Violation, accounts_of, audit, judge_files
from comparison.planted import missed_violations
from comparison.processes import Program, Server, Worker, clean_environment
from comparison.runner import keep_running, write_orders
from shop.ledger import Attempt, Ledger, read_ledger
from shop.orders import SAMPLE_ORDER, Item, Order, Status
from shop.shop import Shop

FAULT_RATE = 0.1
BATCH = 10
BATCH_TIMEOUT_SECONDS = 900.0
# Between two kills, so that what was started again gets something done.
PAUSE_SECONDS = (0.05, 0.8)
USERS_OF_THE_SHOP = (("order_processor.py",), ("run_worker.py",))
# They are killed more often than the others, and most of their kills are aimed at an attempt that is under way.
WEIGHT = 3
AIMED = 0.75
MAX_AIMS = 200
# Four steps and two undos, each scheduled, started, closed and shown, with the workflow task around it; and the tasks
# that a kill let time out. An order with more has been going in circles.
MAX_HISTORY_EVENTS = 300


@dataclass
class Nemesis:
    """Kills one of `targets` at random moments, and notes what each kill of a user of the shop struck.

    `share` is the part of the orders that was handed out: the kills are spread over them.
    """

    targets: list[Program]
    kills: int
    random: random.Random
    shop: Shop
    directory: Path
    share: float = 0.0
    killed: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)

    async def rage(self) -> None:
        """Kill until there were enough kills, or until cancelled. A supervisor starts again what was killed."""
        while self.killed.total() < self.kills:
            await asyncio.sleep(self.random.uniform(*PAUSE_SECONDS))
            weights = [WEIGHT if target.arguments[:1] in USERS_OF_THE_SHOP else 1 for target in self.targets]
            (target,) = self.random.choices(self.targets, weights)
            if self.killed.total() < self.kills * self.share and target.is_running:
                pid = target.pid
                if target.arguments[:1] in USERS_OF_THE_SHOP and self.random.random() < AIMED:
                    await self._aim(target)
                await target.kill()
                self.killed[target.arguments[0]] += 1
                self._note_strikes(pid)

    async def _aim(self, target: Program) -> None:
        """Freeze the process, and let it go on if no attempt is under way: most kills would fall between two."""
        for _ in range(MAX_AIMS):
            target.signal(signal.SIGSTOP)
            if self._attempts_under_way(target.pid):
                return
            target.signal(signal.SIGCONT)
            await asyncio.sleep(self.random.uniform(0.001, 0.01))

    def _attempts_under_way(self, pid: int) -> int:
        """Count them without waiting for a lock: the frozen process may hold it."""
        number = 0
        for path in self.directory.glob("*.sqlite3"):
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                (found,) = connection.execute(
                    "SELECT count(*) FROM attempts WHERE pid = ? AND outcome = 'started'", (pid,)
                ).fetchone()
                number += found
        return number

    def _note_strikes(self, pid: int) -> None:
        ledger = read_ledger(self.shop)
        for attempt in ledger.attempts:
            if attempt.pid == pid and attempt.outcome == "started":
                self.struck[f"{attempt.step}, {'after' if _has_effect(attempt, ledger) else 'before'} its effect"] += 1


async def run_soak(directory: Path, number: int, kills: int, seed: int, version: str, progress: Progress) -> bool:
    """Process `number` orders under `kills` kills and random faults, and print what the audit says.

    Returns:
        Whether there was no violation, all kills were done, and the audit finds planted violations.
    """
    # More than asked for: if they end before the kills do, further orders follow.
    orders = make_orders(2 * number, random.Random(seed))
    shop = Shop(directory / "shop")
    shop.inventory.replace_stock([(f"p{index}", f"Product {index}", number // 4) for index in range(10)])
    nemesis = Nemesis([], kills, random.Random(seed), shop, directory / "shop")
    faults = f"random({FAULT_RATE},{seed})"
    print(f"seed {seed}: {number} orders, {kills} kills, faults {faults}, version {version}", flush=True)
    with progress:
        if version == "manual":
            printed = await _soak_script(directory, orders, faults, nemesis, progress)
            circles: list[Violation] = []
        else:
            printed, circles = await _soak_temporal(directory, orders, faults, nemesis, progress)
    orders = [order for order in orders if order.order_id in printed]
    ledger = read_ledger(shop)
    runs = None if version == "manual" else 1
    violations = [*audit(orders, ledger, printed, runs=runs), *judge_files(shop), *circles]
    return _report(orders, ledger, printed, nemesis, violations)


def make_orders(number: int, chance: random.Random) -> list[Order]:
    """Return orders of every kind: most are in order, some are declined, unknown, or more than there is."""
    tokens = ["tok_visa"] * 17 + ["tok_mastercard", "tok_chargeDeclined", "tok_unheardOf"]
    skus = [f"p{index}" for index in range(10)] * 5 + ["unicorn"]
    return [
        replace(
            SAMPLE_ORDER,
            order_id=f"soak-{index}",
            customer_id=chance.choice(["ada", "grace", "ada", "grace", "nobody"]),
            payment_token=chance.choice(tokens),
            items=tuple(Item(sku, chance.randint(1, 3), 1000) for sku in sorted(set(chance.choices(skus, k=2)))),
        )
        for index in range(number)
    ]


async def _soak_script(
    directory: Path, orders: list[Order], faults: str, nemesis: Nemesis, progress: Progress
) -> dict[str, Status]:
    options = (f"--data={directory / 'shop'}", f"--faults={faults}", "--concurrency=8")
    return await _run_batches(
        directory, orders, clean_environment(), ("order_processor.py", *options), nemesis, progress
    )


async def _soak_temporal(
    directory: Path, orders: list[Order], faults: str, nemesis: Nemesis, progress: Progress
) -> tuple[dict[str, Status], list[Violation]]:
    server = Server(directory / "server")
    worker = Worker(directory / "worker", server.settings(), directory / "shop", faults)
    await server.start()
    await worker.start()
    nemesis.targets += [server, worker]
    supervisors = [asyncio.create_task(keep_running(program)) for program in (server, worker)]
    try:
        printed = await _run_batches(directory, orders, server.settings(), ("run_workflow.py",), nemesis, progress)
        return printed, await _judge_histories(server)
    finally:
        for supervisor in supervisors:
            supervisor.cancel()
        await worker.stop()
        await server.stop()


async def _run_batches(
    directory: Path,
    orders: list[Order],
    environment: dict[str, str],
    arguments: tuple[str, ...],
    nemesis: Nemesis,
    progress: Progress,
) -> dict[str, Status]:
    """Give orders to a version, batch by batch, until half of them and all kills are done; return what was printed."""
    printed: dict[str, Status] = {}
    number = len(orders) // 2
    bar = progress.add_task("orders", total=number)
    nemesis.targets.append(Program(directory / "none", {}))
    rage = asyncio.create_task(nemesis.rage())
    for first in range(0, len(orders), BATCH):
        if first >= number and nemesis.killed.total() >= nemesis.kills:
            break
        batch = orders[first : first + BATCH]
        path = write_orders(directory / f"batch-{first}.jsonl", batch)
        program = Program(directory / f"batch-{first}", environment, arguments[0], str(path), *arguments[1:])
        nemesis.targets[-1] = program
        nemesis.share = (first + len(batch)) / number
        told: dict[str, Status] = {}
        # Again if it was killed, and also if it found no server: that is down for a moment, too.
        while len(told) < len(batch):
            await program.run(BATCH_TIMEOUT_SECONDS)
            told = {line.split("\t")[0]: Status(line.split("\t")[1]) for line in program.lines()}
        # An order that found no outcome in this batch counts as placed, and as a violation.
        printed |= {order.order_id: Status.UNKNOWN for order in batch} | told
        progress.update(bar, advance=len(batch), description=f"orders, {nemesis.killed.total()} kills")
    rage.cancel()
    await asyncio.wait([rage])
    return printed


async def _judge_histories(server: Server) -> list[Violation]:
    """Return a violation for each workflow that is open, or whose history is longer than its steps explain."""
    client = await server.client()
    violations = []
    async for execution in client.list_workflows():
        if execution.close_time is None:
            violations.append(Violation("I1", execution.id, "its workflow is open"))
        if execution.history_length > MAX_HISTORY_EVENTS:
            violations.append(Violation("I9", execution.id, f"its history has {execution.history_length} events"))
    return violations


def _report(
    orders: list[Order], ledger: Ledger, printed: dict[str, Status], nemesis: Nemesis, violations: list[Violation]
) -> bool:
    accounts = accounts_of(orders, ledger).values()
    print(f"kills: {nemesis.killed.total()} ({_listed(nemesis.killed)})")
    print(f"they struck {nemesis.struck.total()} attempts under way ({_listed(nemesis.struck)})")
    print(f"orders: {_listed(Counter(account.ending.value for account in accounts))}")
    print(f"printed: {_listed(Counter(status.value for status in printed.values()))}")
    print(f"violations: {len(violations)} in {len(orders)} orders", end="")
    print("" if violations else f"; with 95 % confidence fewer than {3 / len(orders):.2%} of orders (3/n)")
    for violation in violations[:20]:
        print(f"  {violation.rule} order {violation.order_id}: {violation.sentence}")
    if violations:
        return False
    missed = missed_violations(orders, ledger, printed)
    print(f"planted violations that the audit missed: {', '.join(missed) or 'none'}")
    return not missed and nemesis.killed.total() == nemesis.kills


def _has_effect(attempt: Attempt, ledger: Ledger) -> bool:
    """Tell whether a step that was killed had its effect already, in this attempt or an earlier one."""
    done = {
        "process_payment": [row.order_id for row in ledger.charges],
        "update_inventory": [row.order_id for row in ledger.sales],
        "send_confirmation": [row.order_id for row in ledger.confirmations],
        "refund_payment": [row.order_id for row in ledger.charges if row.refunded],
        "restore_inventory": [row.order_id for row in ledger.sales if row.restored],
    }
    voided = [void.order_id for void in ledger.voids if void.step == attempt.step]
    return attempt.order_id in done.get(attempt.step, []) + voided


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in counts.most_common()) or "none"
