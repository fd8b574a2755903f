"""Real processes, really killed: whatever dies, and whenever, every order ends, and each effect happens once.

A killed worker is noticed when the attempt's time is over. So all stories begin at once, and a test waits for its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import Stage, make_order, make_stage
from counter import assert_done_once, attempts_of
from temporalio.service import RPCError
from wire import Wire

from comparison.stage.processes import POLL_SECONDS, Program, Server, Worker, wait_until
from shop.errors import ServiceUnavailable
from shop.faults import parse_faults
from shop.ledger import Ledger, Void
from shop.orders import Order
from shop.shop import Shop
from workflows import ATTEMPT_TIMEOUT, FEW_ATTEMPTS

# So many attempts use up a step.
TIMES = FEW_ATTEMPTS.maximum_attempts
ORDER = make_order("1")


@dataclass(frozen=True)
class Ending:
    """How a story ended: the starter's exit status, what it printed, and what happened in the shop."""

    status: int
    printed: dict[str, str]
    ledger: Ledger

    def tried(self, step: str) -> list[str]:
        """Return the outcomes of the attempts at a step."""
        return attempts_of(self.ledger, ORDER, step)


Story = Callable[[Stage], Awaitable[Ending]]
Endings = Mapping[str, Awaitable[Ending]]


def printed_by(*starters: Program) -> dict[str, str]:
    lines = [line.split("\t") for starter in starters for line in starter.lines()]
    return {order_id: status for order_id, status, _ in lines}


def assert_only_these_done(ledger: Ledger, *orders: Order) -> None:
    """Check that the orders, and no others, are charged, taken from stock and confirmed, each once."""
    for order in orders:
        assert_done_once(ledger, order)
    assert len(ledger.charges) == len(ledger.confirmations) == len(orders)
    assert {sale.order_id for sale in ledger.sales} == {order.order_id for order in orders}


@asynccontextmanager
async def supervised_worker(stage: Stage, faults: str = "") -> AsyncIterator[Worker]:
    """Run a worker, and start it again whenever it is killed; begin when it serves."""
    worker = Worker(stage.directory / "worker", stage.settings, stage.data, faults)
    stage.started.append(worker)
    serves = asyncio.Event()

    async def keep_running() -> None:
        while True:
            await worker.start()
            serves.set()
            await worker.wait()

    supervisor = asyncio.create_task(keep_running())
    try:
        await serves.wait()
        yield worker
    finally:
        supervisor.cancel()
        await asyncio.wait([supervisor])
        await worker.stop()


def payments(stage: Stage, order: Order = ORDER) -> list[str]:
    return attempts_of(stage.ledger(), order, "process_payment")


def payment_is_tried(stage: Stage) -> Callable[[], bool]:
    return lambda: payments(stage) != []


def under(faults: str) -> Story:
    """Return the story of an order under a fault plan that kills the worker."""

    async def story(stage: Stage) -> Ending:
        async with supervised_worker(stage, faults):
            status, printed = await stage.run_orders(ORDER)
        return Ending(status, printed, stage.ledger())

    return story


async def kill_starters(stage: Stage) -> Ending:
    """Kill a starter before it connects, one in the middle of its start, one after; then run all orders again."""
    before, during, after = orders = make_order("1"), make_order("2"), make_order("3")

    async def is_open(order: Order) -> bool:
        with suppress(RPCError):
            return bool(await stage.client.get_workflow_handle(f"order-{order.order_id}").describe())
        return False

    async with supervised_worker(stage, "process_payment:slow(2)"):
        killed = [stage.starter(order) for order in orders]
        await killed[0].start()
        await killed[0].kill()
        await killed[1].start()
        while not await is_open(during):
            await asyncio.sleep(POLL_SECONDS / 10)
        await killed[1].kill()
        await killed[2].start()
        await wait_until(lambda: len(payments(stage, after)) == 1, "the third order is paid")
        await killed[2].kill()
        assert printed_by(*killed) == {}
        status, printed = await stage.run_orders(before, during, after)
    return Ending(status, printed, stage.ledger())


async def kill_server(stage: Stage) -> Ending:
    server = Server(stage.directory / "server")
    stage.started.append(server)
    await server.start()
    stage = replace(stage, server=server, namespace="default", client=await server.client())
    worker = await stage.start_worker("process_payment:slow(2)")
    starter = stage.starter(ORDER)
    await starter.start()
    await wait_until(payment_is_tried(stage), "payment under way")
    await stage.server.kill()
    await wait_until(lambda: stage.ledger().charges != (), "the charge, while the server is away")
    await stage.server.start()
    status = await starter.wait(60)
    assert worker.is_running
    return Ending(status, printed_by(starter), stage.ledger())


async def outlived_by_a_slow_call(stage: Stage) -> Ending:
    await stage.start_worker(f"process_payment:unavailable*{TIMES - 1},process_payment:{SLOW}")
    status, printed = await stage.run_orders(ORDER)
    assert payments(stage)[-1] == "started", "under way when the order has ended"
    await wait_until(lambda: "started" not in payments(stage), "the call has landed")
    return Ending(status, printed, stage.ledger())


async def one_order_kills_every_worker(stage: Stage) -> Ending:
    others = [make_order("2"), make_order("3")]
    # The plan counts by the shop's attempts: orders that have had so many are past the fault.
    shop = Shop(stage.data, parse_faults(f"process_payment:unavailable*{TIMES}"))
    for order in others * TIMES:
        with suppress(ServiceUnavailable):
            shop.payments.process_payment(order)
    shop.close()
    async with supervised_worker(stage, f"process_payment:crash_before*{TIMES}") as worker:
        starter = stage.starter(ORDER)
        await starter.start()
        await wait_until(payment_is_tried(stage), "payment under way")
        (killed,) = {attempt.pid for attempt in stage.ledger().attempts if attempt.outcome == "started"}
        await wait_until(lambda: worker.pid != killed, "the first worker is dead, and a second one in its place")
        status_of_others, printed = await stage.run_orders(*others)
        assert (status_of_others, starter.is_running) == (0, True)
        status = await starter.wait(90)
    return Ending(status, {**printed, **printed_by(starter)}, stage.ledger())


async def cut_network(stage: Stage) -> Ending:
    wire = Wire(stage.server)
    await wire.mend()
    settings = {**stage.settings, "TEMPORAL_ADDRESS": wire.address}
    worker = Worker(stage.directory / "worker", settings, stage.data, "process_payment:slow(2)")
    stage.started.append(worker)
    await worker.start()
    starter = stage.starter(ORDER)
    await starter.start()
    await wait_until(payment_is_tried(stage), "payment under way")
    await wire.cut()
    handle = stage.client.get_workflow_handle("order-1")
    # Until the server has given up on the first attempt: its report, when it comes, is late.
    while (await handle.describe()).raw_description.pending_activities[0].attempt < 2:
        await asyncio.sleep(POLL_SECONDS)
    charges_before = stage.ledger().charges
    await wire.mend()
    status = await starter.wait(60)
    assert worker.is_running
    await worker.stop()
    await wire.cut()
    assert len(charges_before) == 1
    return Ending(status, printed_by(starter), stage.ledger())


CRASHES = ("crash_before", "crash_after")
STEPS = ("validate_inventory", "process_payment", "update_inventory", "send_confirmation")
VOIDS = ("void_charge", "void_sale", "refund_payment")
KILLS_IN_EACH_STEP = [",".join(f"{step}:{crash}" for step in STEPS) for crash in CRASHES]
KILLS_IN_EACH_VOID = [
    ",".join(["process_payment:lost_reply*inf", *(f"{call}:{crash}" for call in VOIDS)]) for crash in CRASHES
]
SLOW = f"slow({ATTEMPT_TIMEOUT.total_seconds() + 1:g})"  # lands after its time-out
SIDE_BY_SIDE = 5
STORIES: dict[str, Story] = {
    **{faults: under(faults) for faults in [*KILLS_IN_EACH_STEP, *KILLS_IN_EACH_VOID]},
    "poison": one_order_kills_every_worker,
    "slow call": outlived_by_a_slow_call,
    "starters": kill_starters,
    "server": kill_server,
    "network": cut_network,
}


@pytest.fixture(scope="module")
async def endings(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Endings]:
    """Begin all stories; give each one's ending to whoever awaits it; stop whatever they have started."""
    folder: Path = tmp_path_factory.mktemp("crashes")
    stages = [await make_stage(server, folder / str(number)) for number in range(len(STORIES))]
    for stage in stages:
        stage.directory.mkdir()
    slots = asyncio.Semaphore(SIDE_BY_SIDE)

    async def in_a_slot(story: Story, stage: Stage) -> Ending:
        async with slots:
            return await story(stage)

    tasks = {
        name: asyncio.ensure_future(in_a_slot(story, stage))
        for (name, story), stage in zip(STORIES.items(), stages, strict=True)
    }
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    for program in [program for stage in stages for program in stage.started if program.is_running]:
        await program.kill()


@pytest.mark.parametrize("faults", KILLS_IN_EACH_STEP, ids=CRASHES)
async def test_a_step_whose_worker_is_killed_runs_again_and_has_one_effect(endings: Endings, faults: str) -> None:
    ending = await endings[faults]

    assert (ending.status, ending.printed) == (0, {"1": "completed"})
    assert {step: ending.tried(step) for step in STEPS} == dict.fromkeys(STEPS, ["started", "ok"])
    assert_only_these_done(ending.ledger, ORDER)


@pytest.mark.parametrize("faults", KILLS_IN_EACH_VOID, ids=CRASHES)
async def test_a_call_that_ends_an_order_and_whose_worker_is_killed_comes_to_its_end(
    endings: Endings, faults: str
) -> None:
    ending = await endings[faults]

    assert (ending.status, ending.printed) == (1, {"1": "failed"})
    assert {call: ending.tried(call) for call in VOIDS} == dict.fromkeys(VOIDS, ["started", "ok"])
    assert [charge.refunded for charge in ending.ledger.charges] == [True]
    assert ending.ledger.voids == (Void("1", "void_sale", ORDER.digest),)
    assert (ending.ledger.sales, ending.ledger.confirmations) == ((), ())


async def test_a_starter_killed_before_in_or_after_the_start_and_run_again_is_one_order(endings: Endings) -> None:
    ending = await endings["starters"]

    assert (ending.status, ending.printed) == (0, {"1": "completed", "2": "completed", "3": "completed"})
    assert [attempt.outcome for attempt in ending.ledger.attempts] == ["ok"] * 3 * 4
    assert_only_these_done(ending.ledger, make_order("1"), make_order("2"), make_order("3"))


async def test_a_server_killed_and_started_on_its_file_loses_no_order(endings: Endings) -> None:
    ending = await endings["server"]

    assert (ending.status, ending.printed) == (0, {"1": "completed"})
    assert set(ending.tried("process_payment")) == {"ok"}
    assert_only_these_done(ending.ledger, ORDER)


async def test_a_report_that_a_cut_network_delays_is_refused_and_the_effect_is_one(endings: Endings) -> None:
    ending = await endings["network"]

    assert (ending.status, ending.printed) == (0, {"1": "completed"})
    assert ending.tried("process_payment") == ["ok", "ok"]
    assert_only_these_done(ending.ledger, ORDER)


async def test_an_order_that_kills_every_worker_ends_after_its_attempts_and_the_others_complete(
    endings: Endings,
) -> None:
    ending = await endings["poison"]

    assert (ending.status, ending.printed) == (1, {"1": "failed", "2": "completed", "3": "completed"})
    assert ending.tried("process_payment") == ["started"] * TIMES
    assert ending.ledger.voids == (Void("1", "void_charge", ORDER.digest),)
    assert_only_these_done(ending.ledger, make_order("2"), make_order("3"))


async def test_a_slow_call_that_lands_when_the_order_is_voided_has_no_effect(endings: Endings) -> None:
    ending = await endings["slow call"]

    assert (ending.status, ending.printed) == (1, {"1": "failed"})
    assert ending.tried("process_payment") == ["ServiceUnavailable"] * (TIMES - 1) + ["OrderVoided"]
    assert (ending.ledger.charges, ending.ledger.sales, ending.ledger.confirmations) == ((), (), ())
