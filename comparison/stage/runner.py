"""Runs scenarios: real processes for each version, real kills, and the ledger that is left."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from comparison.judge.accounts import Ending, accounts_of
from comparison.scenarios import LEFT_ALONE, RIVAL, Disturbance, Scenario
from comparison.stage.processes import (
    LogEntry,
    NotInTime,
    Program,
    Server,
    Worker,
    clean_environment,
    kill_all,
    wait_until,
)
from order_processor import MAXIMUM_ATTEMPTS
from plumbing.connection import NoConnection
from shop.errors import ReplyLost, ServiceUnavailable
from shop.faults import PlannedFault, Step, parse_faults
from shop.ledger import Attempt, Ledger, read_ledger
from shop.orders import Order
from shop.shop import Shop
from workflows import workflow_id_for

# Longer than any scenario: attempts that time out, and the waits between them.
TIMEOUT_SECONDS = 90.0
# So many begin at a time: to start takes the processors, and the rest is mostly waiting.
STARTING = 4
FAULT_OUTCOMES = {
    "unavailable": ServiceUnavailable.__name__,
    "lost_reply": ReplyLost.__name__,
    "crash_before": "started",
    "crash_after": "started",
}
Action = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Cell:
    """What became of a scenario in one version: by the ledgers, and by the supervisor's log."""

    endings: tuple[Ending, ...]
    charges: int
    kept_cents: int
    seconds: float
    faults_fired: bool
    attempts: tuple[Attempt, ...]
    log: tuple[LogEntry, ...]
    keeps_trying: Step | None = None

    @property
    def lost_orders(self) -> int:
        """Return how many orders stand half-done, with nobody to go on with them."""
        return 0 if self.keeps_trying else sum(ending in LEFT_ALONE for ending in self.endings)


@dataclass(frozen=True)
class Row:
    """One scenario and what became of it; `rerun` is `script` where the script was not killed."""

    scenario: Scenario
    script: Cell
    rerun: Cell
    loop: Cell
    temporal: Cell

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Return a cell a column."""
        return self.script, self.rerun, self.loop, self.temporal

    @property
    def versions(self) -> dict[str, Cell]:
        """Return the cells of the two versions, by name: what a time line shows."""
        return {"script": self.script, "Temporal": self.temporal}

    @property
    def is_as_expected(self) -> bool:
        """Tell whether every cell ends as the scenario says, and every planned fault struck."""
        endings = tuple(cell.endings for cell in self.cells)
        return endings == self.scenario.endings and all(cell.faults_fired for cell in self.cells)


async def run_scenarios(
    scenarios: Sequence[Scenario],
    directory: Path,
    server: Server,
    *,
    begun: Callable[[Scenario], object] = lambda scenario: None,
    done: Callable[[Row], object] = lambda row: None,
) -> list[Row]:
    """Run scenarios side by side, and tell when one begins and what came of it. The rows keep the scenarios' order."""
    slots = asyncio.Semaphore(STARTING)

    async def run(scenario: Scenario) -> Row:
        await slots.acquire()
        begun(scenario)
        (script, rerun), loop, temporal = await asyncio.gather(
            run_script(Stage(scenario, directory / scenario.name / "script")),
            run_loop(Stage(scenario, directory / scenario.name / "loop")),
            run_temporal(Stage(scenario, directory / scenario.name / "temporal"), server, serving=slots.release),
        )
        row = Row(scenario, script, rerun, loop, temporal)
        done(row)
        return row

    def is_short(scenario: Scenario) -> tuple[bool, bool, bool]:
        faults = parse_faults(scenario.faults).planned
        is_killed = any(part.fault.kind.startswith("crash") for part in faults)
        return scenario is not scenarios[0], all(part.times <= MAXIMUM_ATTEMPTS for part in faults), not is_killed

    # The longest first: none is left alone at the end. But before them one that soon shows something.
    rows = await asyncio.gather(*map(run, sorted(scenarios, key=is_short)))
    return sorted(rows, key=lambda row: scenarios.index(row.scenario))


async def run_script(stage: Stage) -> tuple[Cell, Cell]:
    """Run the script; if it was killed, run the same input again as an operator would, if it is still there."""
    concurrency = f"--concurrency={len(stage.scenario.orders)}"
    programs = stage.programs("order_processor.py", *stage.options, concurrency)
    await programs[0].start()
    await stage.disturb(*programs)
    statuses = [await program.wait(TIMEOUT_SECONDS) for program in programs if program.process]
    first = stage.cell(programs)
    if max(statuses) >= 0:
        return first, first
    if not stage.scenario.from_stdin:
        await programs[0].run(TIMEOUT_SECONDS)
    return first, stage.cell(programs)


async def run_loop(stage: Stage) -> Cell:
    """Have the orders accepted by the durable loop, and start a worker an order; one that was killed is restarted."""
    loop = ("-m", "examples.durable_loop")
    accepting, again = stage.programs(*loop, "accept", stage.options[0])
    workers = [
        Program(stage.directory / f"worker-{number}", stage.environment, *loop, "work", *stage.options)
        for number in range(len(stage.scenario.orders))
    ]

    async def supervise(worker: Program) -> None:
        while await worker.wait(TIMEOUT_SECONDS) == -signal.SIGKILL:
            await worker.start()

    await accepting.run(TIMEOUT_SECONDS)
    for worker in workers:
        await worker.start()
    working = asyncio.gather(*map(supervise, workers))
    await stage.disturb(workers[0], again)
    await working
    return stage.cell([accepting, again, *workers])


async def run_temporal(stage: Stage, server: Server, *, serving: Callable[[], object]) -> Cell:
    """Run the workflow, in a namespace of its own, under a supervisor that restarts what was killed.

    Calls `serving` when the worker has started.
    """
    if stage.scenario.disturbance is Disturbance.KILL_ALL:
        server = Server(stage.directory / "own")
        await server.start()
    namespace = stage.scenario.name
    await server.add_namespace(namespace)
    stage.environment |= server.settings(namespace)
    worker = Worker(stage.directory / "worker", stage.environment, stage.data, stage.scenario.faults)
    first, second = stage.programs("run_workflow.py")
    await worker.start()
    serving()
    supervisor = asyncio.create_task(keep_running(worker))

    async def restart_all() -> None:
        await end(supervisor)
        await asyncio.gather(server.kill(), worker.kill(), first.kill())
        for program in (server, worker, first):
            await program.start()

    async def cancel() -> None:
        client = await server.client(namespace)
        await client.get_workflow_handle(workflow_id_for(stage.scenario.orders[0].order_id)).cancel()

    await first.start()
    await stage.disturb(first, second, cancel=cancel, kill_all=restart_all)
    if step := stage.scenario.keeps_trying:
        await wait_until(lambda: stage.times_tried(step) > 2, "the step is tried on and on")
    else:
        await asyncio.gather(*(starter.wait(TIMEOUT_SECONDS) for starter in (first, second) if starter.process))
    await end(supervisor)
    # Asked to stop, the worker lets late calls land first: what the ledger says then is final.
    await worker.stop()
    await kill_all(stage.directory)
    # Not taken on trust: it was seen above that the attempts go on.
    return replace(stage.cell([worker, first, second]), keeps_trying=step)


async def keep_running(program: Program) -> None:
    """Restart a program whenever it dies, until cancelled."""
    while True:
        await program.wait()
        # Killed again before it was ready: the next round starts it again.
        with suppress(NoConnection, NotInTime):
            await program.start()


async def end(supervisor: asyncio.Task[None]) -> None:
    """Have nothing started again, also not what was just about to start."""
    supervisor.cancel()
    await asyncio.wait([supervisor])


class Stage:
    """One scenario in one version: its shop, its input, and its disturbance."""

    def __init__(self, scenario: Scenario, directory: Path) -> None:
        """Stock the shop and write the input."""
        directory.mkdir(parents=True, exist_ok=True)
        self.scenario, self.directory = scenario, directory
        self.data = directory / "shop"
        self.options = (f"--data={self.data}", f"--faults={scenario.faults}")
        self.orders_file = write_orders(directory / "orders.jsonl", scenario.orders)
        self.environment = clean_environment(SHOP_IDEMPOTENCY=scenario.keys)
        self.shop = Shop(self.data)

    def programs(self, *command: str) -> list[Program]:
        """Return two processes that can be given the input, not yet started."""
        source = "-" if self.scenario.from_stdin else str(self.orders_file)
        programs = [
            Program(self.directory / f"submitter-{number}", self.environment, *command, source) for number in (1, 2)
        ]
        if self.scenario.from_stdin:
            programs[0].standard_input = self.orders_file
        return programs

    async def disturb(
        self, at_work: Program, another: Program, *, cancel: Action | None = None, kill_all: Action | None = None
    ) -> None:
        """Do what the scenario says to the program at work, or beside it; by default SIGTERM cancels it."""
        disturbance, step = self.scenario.disturbance, self.scenario.faults.partition(":")[0]
        if disturbance is Disturbance.NONE:
            return
        if disturbance in (Disturbance.SUBMIT_TWICE, Disturbance.KILL_ONE_OF_TWO):
            await another.start()
        await wait_until(lambda: self.times_tried(step) > 0, f"{self.scenario.name}: the step is tried")
        if disturbance is Disturbance.RIVAL:
            self.shop.inventory.update_inventory(RIVAL)
        elif disturbance is Disturbance.SUBMIT_AGAIN:
            await another.start()
        elif disturbance is Disturbance.CANCEL:
            await cancel() if cancel else at_work.signal(signal.SIGTERM)
        elif disturbance is Disturbance.KILL_ALL:
            await (kill_all or at_work.kill)()
        elif disturbance is Disturbance.KILL_ONE_OF_TWO:
            await at_work.kill()

    def times_tried(self, step: str) -> int:
        """Return how many attempts at a step there were so far."""
        return sum(attempt.step == step for attempt in read_ledger(self.data).attempts)

    def cell(self, programs: Sequence[Program]) -> Cell:
        """Sum up what the ledger and the supervisor's log say so far."""
        ledger = read_ledger(self.data)
        accounts = list(accounts_of(self.scenario.orders, ledger).values())
        return Cell(
            endings=tuple(sorted(account.ending for account in accounts)),
            charges=sum(len(account.charges) for account in accounts),
            kept_cents=sum(account.kept_cents for account in accounts),
            seconds=max(account.seconds for account in accounts),
            faults_fired=all(_has_fired(part, ledger) for part in parse_faults(self.scenario.faults).planned),
            attempts=tuple(attempt for account in accounts for attempt in account.attempts),
            log=tuple(sorted((entry for program in programs for entry in program.log), key=lambda entry: entry.at)),
        )


def _has_fired(part: PlannedFault, ledger: Ledger) -> bool:
    """Tell whether the fault left its mark on an attempt. A slow attempt looks like any other: it must be there."""
    outcome = FAULT_OUTCOMES.get(part.fault.kind)
    return any(attempt.step == part.step and outcome in (None, attempt.outcome) for attempt in ledger.attempts)


def write_orders(path: Path, orders: Sequence[Order]) -> Path:
    """Write a JSON Lines file."""
    path.write_text("".join(json.dumps(asdict(order)) + "\n" for order in orders))
    return path
