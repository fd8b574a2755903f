"""Runs scenarios: real processes for both versions, real kills, and the ledger that is left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from comparison.audit import Ending, accounts_of
from comparison.processes import Program, Server, Worker, clean_environment, wait_until
from comparison.scenarios import RIVAL, Disturbance, Scenario
from connection import NoConnection
from shop.errors import ReplyLost, ServiceUnavailable
from shop.faults import PlannedFault, parse_faults
from shop.ledger import Ledger, read_ledger
from shop.orders import Order
from shop.shop import Shop
from workflows import workflow_id_for

# Longer than any scenario: four attempts that time out, and the waits between them.
TIMEOUT_SECONDS = 90.0
SIDE_BY_SIDE = 6
FAULT_OUTCOMES = {
    "unavailable": ServiceUnavailable.__name__,
    "lost_reply": ReplyLost.__name__,
    "crash_before": "started",
    "crash_after": "started",
}


@dataclass(frozen=True)
class Cell:
    """What the ledgers say at one moment of a scenario, in one version."""

    endings: tuple[Ending, ...]
    charges: int
    kept_cents: int
    owed_cents: int
    units: int
    mails: int
    attempts: int
    seconds: float
    faults_fired: bool
    goes_on: bool = False

    @property
    def lost_orders(self) -> int:
        """Return how many orders stand half-done, with nobody to go on with them."""
        if self.goes_on:
            return 0
        return sum(ending in (Ending.FORGOTTEN, Ending.UNSHIPPED, Ending.UNMAILED) for ending in self.endings)


@dataclass(frozen=True)
class Row:
    """One scenario and what became of it; `script_rerun` only where the script was killed."""

    scenario: Scenario
    script: Cell
    script_rerun: Cell | None
    temporal: Cell

    @property
    def is_as_expected(self) -> bool:
        """Tell whether every cell ends as the scenario says, and every planned fault struck."""
        rerun = self.script_rerun and self.script_rerun.endings
        expected = (self.scenario.script, self.scenario.script_rerun, self.scenario.temporal)
        fired = self.script.faults_fired and self.temporal.faults_fired
        return fired and (self.script.endings, rerun, self.temporal.endings) == expected


@asynccontextmanager
async def running_server(directory: Path) -> AsyncIterator[Server]:
    """Run a server of our own on free ports."""
    server = Server(directory)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def run_scenarios(
    scenarios: Sequence[Scenario],
    directory: Path,
    server: Server,
    *,
    show: Callable[[Row], None] = lambda row: None,
    keys: str = "on",
) -> list[Row]:
    """Run scenarios side by side; call `show` with each row as it is done. The rows keep the scenarios' order."""
    slots = asyncio.Semaphore(SIDE_BY_SIDE)

    async def run(scenario: Scenario) -> Row:
        async with slots:
            row = await run_scenario(scenario, directory / scenario.name, server, keys)
        show(row)
        return row

    # The longest first, so that none is left alone at the end.
    order = sorted(scenarios, key=lambda scenario: "slow" not in scenario.faults)
    rows = {row.scenario.name: row for row in await asyncio.gather(*map(run, order))}
    return [rows[scenario.name] for scenario in scenarios]


async def run_scenario(scenario: Scenario, directory: Path, server: Server, keys: str = "on") -> Row:
    """Run one scenario through both versions at once."""
    (script, rerun), temporal = await asyncio.gather(
        run_script(scenario, directory / "script", keys), run_temporal(scenario, directory / "temporal", server, keys)
    )
    return Row(scenario, script, rerun, temporal)


async def run_script(scenario: Scenario, directory: Path, keys: str) -> tuple[Cell, Cell | None]:
    """Run the script; if it was killed, run the same input again as an operator would."""
    stage = _Stage(scenario, directory, keys)
    programs = [stage.script(number) for number in range(2 if scenario.disturbance is Disturbance.SUBMIT_TWICE else 1)]
    for program in programs:
        await program.start()
    try:
        await stage.disturb(programs[0])
        statuses = [await program.wait(TIMEOUT_SECONDS) for program in programs]
        first = stage.cell()
        if all(status >= 0 for status in statuses):
            return first, None
        await stage.script(0).run(TIMEOUT_SECONDS)
        return first, stage.cell()
    finally:
        for program in programs:
            await program.kill()


async def run_temporal(scenario: Scenario, directory: Path, server: Server, keys: str) -> Cell:
    """Run the workflow, in a namespace of its own, under a supervisor that restarts what was killed."""
    if scenario.disturbance is Disturbance.KILL_ALL:
        async with running_server(directory / "own") as own_server:
            return await _run_temporal(scenario, directory, own_server, keys)
    return await _run_temporal(scenario, directory, server, keys)


async def _run_temporal(scenario: Scenario, directory: Path, server: Server, keys: str) -> Cell:
    stage = _Stage(scenario, directory, keys)
    namespace = scenario.name if keys == "on" else f"{scenario.name}-keys-{keys}"
    await server.add_namespace(namespace)
    settings = {**server.settings(namespace), "SHOP_IDEMPOTENCY": keys}
    worker = Worker(directory / "worker", settings, stage.data, scenario.faults)
    starters = [
        Program(directory / f"starter-{number}", settings, "run_workflow.py", str(stage.orders_file))
        for number in range(2 if scenario.disturbance is Disturbance.SUBMIT_TWICE else 1)
    ]
    await worker.start()
    supervisor = asyncio.create_task(keep_running(worker))
    try:
        for starter in starters:
            await starter.start()
        if scenario.disturbance is Disturbance.CANCEL:
            await stage.wait_for_step()
            client = await server.client(namespace)
            await client.get_workflow_handle(workflow_id_for(scenario.orders[0].order_id)).cancel()
        elif scenario.disturbance is Disturbance.KILL_ALL:
            await stage.wait_for_step()
            supervisor.cancel()
            await asyncio.gather(server.kill(), worker.kill(), starters[0].kill())
            await server.start()
            await worker.start()
            await starters[0].start()
        else:
            await stage.disturb(starters[0])
        if scenario.temporal_goes_on:
            await wait_until(lambda: stage.times_tried("send_confirmation") > 3, "the step is tried on and on")
        else:
            for starter in starters:
                await starter.wait(TIMEOUT_SECONDS)
    finally:
        supervisor.cancel()
        # Asked to stop, the worker lets late calls land first: what the ledger says then is final.
        await asyncio.gather(worker.stop(), *(starter.kill() for starter in starters))
    # Not taken on trust: it was seen above that the attempts go on.
    return replace(stage.cell(), goes_on=scenario.temporal_goes_on)


async def keep_running(program: Program) -> None:
    """Restart a program whenever it dies, until cancelled."""
    while True:
        await program.wait()
        # Killed again before it was ready: the next round starts it again.
        with suppress(NoConnection, TimeoutError):
            await program.start()


class _Stage:
    """One scenario in one version: its shop, its input, and its disturbance."""

    def __init__(self, scenario: Scenario, directory: Path, keys: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.scenario = scenario
        self.directory = directory
        self.data = directory / "shop"
        self.orders_file = write_orders(directory / "orders.jsonl", scenario.orders)
        self.environment = clean_environment(SHOP_IDEMPOTENCY=keys)
        self.shop = Shop(self.data)

    def script(self, number: int) -> Program:
        return Program(
            self.directory / f"script-{number}",
            self.environment,
            "order_processor.py",
            str(self.orders_file),
            f"--data={self.data}",
            f"--faults={self.scenario.faults}",
            f"--concurrency={len(self.scenario.orders)}",
        )

    async def disturb(self, program: Program) -> None:
        """Do to the script what the scenario says; for a workflow, what goes for both versions alike."""
        if self.scenario.disturbance in (Disturbance.NONE, Disturbance.SUBMIT_TWICE):
            return
        await self.wait_for_step()
        if self.scenario.disturbance is Disturbance.RIVAL:
            self.shop.inventory.update_inventory(RIVAL)
        elif self.scenario.disturbance is Disturbance.CANCEL:
            program.signal(15)
        else:
            await program.kill()

    async def wait_for_step(self) -> None:
        step = self.scenario.disturbed_step
        await wait_until(lambda: self.times_tried(step) > 0, f"{self.scenario.name}: {step} is tried")

    def times_tried(self, step: str) -> int:
        return sum(attempt.step == step for attempt in read_ledger(self.shop).attempts)

    def cell(self) -> Cell:
        return make_cell(self.scenario, read_ledger(self.shop))


def make_cell(scenario: Scenario, ledger: Ledger) -> Cell:
    """Sum up what the ledger says of the orders."""
    accounts = list(accounts_of(scenario.orders, ledger).values())
    return Cell(
        endings=tuple(sorted(account.ending for account in accounts)),
        charges=sum(len(account.charges) for account in accounts),
        kept_cents=sum(account.kept_cents for account in accounts),
        owed_cents=sum(account.owed_cents for account in accounts),
        units=sum(sum(account.kept_units.values()) for account in accounts),
        mails=sum(confirmation.sent for account in accounts for confirmation in account.confirmations),
        attempts=sum(len(account.attempts) for account in accounts),
        seconds=max(account.seconds for account in accounts),
        faults_fired=all(_has_fired(part, ledger) for part in parse_faults(scenario.faults).planned),
    )


def _has_fired(part: PlannedFault, ledger: Ledger) -> bool:
    """Tell whether the fault left its mark on an attempt. A slow attempt looks like any other: it must be there."""
    outcome = FAULT_OUTCOMES.get(part.fault.kind)
    return any(attempt.step == part.step and outcome in (None, attempt.outcome) for attempt in ledger.attempts)


def write_orders(path: Path, orders: Sequence[Order]) -> Path:
    """Write a JSON Lines file."""
    path.write_text("".join(json.dumps(asdict(order)) + "\n" for order in orders))
    return path
