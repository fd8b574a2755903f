"""An order that waits for a person: a week in seconds, a kill of everything while it waits, and what is refused."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias

import pytest
from conftest import Stage, make_order
from counter import Hold, assert_done_once, assert_nothing_held, serve, start, wait_for_event
from temporalio import worker
from temporalio.api.enums.v1 import EventType
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from test_status import details_of
from test_workflow_time import duration, skip

from comparison.stage.processes import Program, Server, Worker, free_port, wait_until
from examples.large_order import EXPIRE_AFTER, LARGE_ORDERS, REMIND_AFTER, Decision, LargeOrderWorkflow, remind
from plumbing.admission import Admission
from plumbing.connection import add_search_attribute
from plumbing.starting import start_once
from shop.ledger import read_ledger
from shop.orders import Order, Outcome, Status
from shop.shop import Shop
from workflows import ORDER_STATUS, OrderWorkflow

ORDER = make_order()
APPROVED, DECLINED = Decision(is_approved=True, by="ada"), Decision(is_approved=False, by="ada")
NOBODY_DECIDED = Outcome("1", Status.REJECTED, "nobody decided within 7 days")
PATIENCE_SECONDS = 60

LargeOrder: TypeAlias = "WorkflowHandle[LargeOrderWorkflow, Outcome]"


@asynccontextmanager
async def deciding(client: Client) -> AsyncIterator[None]:
    """Run the example's worker in this process, wired as in its `serve`."""
    async with worker.Worker(
        client, task_queue=LARGE_ORDERS, workflows=[LargeOrderWorkflow], activities=[remind], interceptors=[Admission()]
    ):
        yield


async def place(client: Client, order: Order = ORDER) -> LargeOrder:
    workflow_id = f"large-order-{order.order_id}"
    handle, _ = await start_once(client, LargeOrderWorkflow.run, order, id=workflow_id, task_queue=LARGE_ORDERS)
    return handle


async def decide(handle: LargeOrder, decision: Decision) -> str:
    """Return how a decision is answered: `taken`, or the reason of the refusal."""
    try:
        await asyncio.wait_for(handle.execute_update(LargeOrderWorkflow.decide, decision), PATIENCE_SECONDS)
    except WorkflowUpdateFailedError as error:
        return str(error.cause)
    except RPCError as error:
        return error.message
    return "taken"


async def end_of(handle: LargeOrder) -> Outcome:
    return await asyncio.wait_for(handle.result(), PATIENCE_SECONDS)


async def times_of(handle: LargeOrder, event_type: EventType.ValueType) -> list[timedelta]:
    """Return when events of a type came, counted from the start."""
    events = (await handle.fetch_history()).events
    first = events[0].event_time.ToDatetime()
    return [event.event_time.ToDatetime() - first for event in events if event.event_type == event_type]


async def test_those_who_decide_are_reminded_once_and_after_a_week_the_order_is_rejected_without_a_charge(
    environment: WorkflowEnvironment, shop: Shop
) -> None:
    async with deciding(environment.client), serve(environment.client, shop):
        handle = await place(environment.client)
        outcome = await end_of(handle)

    (reminded,) = await times_of(handle, EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
    assert outcome == NOBODY_DECIDED
    assert REMIND_AFTER <= reminded < REMIND_AFTER + timedelta(hours=1)
    assert EXPIRE_AFTER <= await duration(handle) < EXPIRE_AFTER + timedelta(hours=1)
    assert read_ledger(shop.location).attempts == ()


async def test_an_order_that_is_approved_on_the_sixth_day_runs_as_its_own_workflow(
    environment: WorkflowEnvironment, shop: Shop
) -> None:
    async with deciding(environment.client), serve(environment.client, shop):
        handle = await place(environment.client)
        await environment.sleep(timedelta(days=6))
        answer = await decide(handle, APPROVED)
        outcome = await end_of(handle)
        own = await environment.client.get_workflow_handle_for(OrderWorkflow.run, "order-1").result()

    assert answer == "taken"
    assert outcome.status is Status.COMPLETED
    assert own == outcome
    assert_done_once(read_ledger(shop.location), ORDER)


async def test_an_order_that_is_approved_reminds_nobody_also_if_it_takes_longer_than_a_week(
    environment: WorkflowEnvironment, shop: Shop
) -> None:
    async with deciding(environment.client):
        handle = await place(environment.client)
        await decide(handle, APPROVED)
        await skip(environment, EXPIRE_AFTER + timedelta(days=1))
        async with serve(environment.client, shop):
            outcome = await end_of(handle)

    assert outcome.status is Status.COMPLETED
    assert await duration(handle) > EXPIRE_AFTER
    assert await times_of(handle, EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED) == []


async def test_a_decision_that_comes_after_the_week_is_refused_also_if_no_worker_was_there_to_end_it(
    environment: WorkflowEnvironment, shop: Shop
) -> None:
    async with serve(environment.client, shop):
        handle = await place(environment.client)
        await skip(environment, EXPIRE_AFTER + timedelta(hours=1))
        deciding_late = asyncio.create_task(decide(handle, APPROVED))
        await asyncio.sleep(0)
        async with deciding(environment.client):
            answer, outcome = await deciding_late, await end_of(handle)

    assert answer.startswith("it expired on ")
    assert outcome == NOBODY_DECIDED
    assert read_ledger(shop.location).attempts == ()


async def test_a_declined_order_is_rejected_and_never_charged(stage: Stage, shop: Shop) -> None:
    async with deciding(stage.client), serve(stage.client, shop):
        handle = await place(stage.client)
        answer = await decide(handle, DECLINED)
        outcome = await end_of(handle)
        late = await decide(handle, APPROVED)

    assert (answer, outcome) == ("taken", Outcome("1", Status.REJECTED, "declined by ada"))
    assert late.startswith("workflow execution already completed")
    assert read_ledger(shop.location).attempts == ()


async def test_whoever_looks_sees_that_it_waits_or_who_has_approved(stage: Stage) -> None:
    async with deciding(stage.client):
        handle = await place(stage.client)
        before = await details_of(handle)
        await decide(handle, APPROVED)
        after = await details_of(handle)

    assert (before, after) == ("waits for a decision", "approved by ada")


async def test_a_second_decision_and_one_of_nobody_are_refused_and_leave_no_trace(stage: Stage, shop: Shop) -> None:
    await add_search_attribute(stage.client, ORDER_STATUS)
    async with deciding(stage.client):
        handle = await place(stage.client)
        nobody = await decide(handle, replace(APPROVED, by=" "))
        first = await decide(handle, APPROVED)
        second = await decide(handle, replace(DECLINED, by="grace"))
        async with serve(stage.client, shop):
            outcome = await end_of(handle)

    assert (nobody, first, second) == ("by: must name who decides", "taken", "it was decided by ada")
    assert outcome.status is Status.COMPLETED
    assert len(await times_of(handle, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED)) == 1
    assert_done_once(read_ledger(shop.location), ORDER)


async def test_what_is_no_decision_is_refused_and_the_order_goes_on_waiting(stage: Stage) -> None:
    malformed: list[list[object]] = [[], [1], [{"by": "ada"}], [{"is_approved": 1, "by": "ada"}], [APPROVED, APPROVED]]
    async with deciding(stage.client):
        handle = await place(stage.client)
        for sent in malformed:
            with pytest.raises(WorkflowUpdateFailedError):
                await asyncio.wait_for(handle.execute_update("decide", args=sent), PATIENCE_SECONDS)

        answer = await decide(handle, DECLINED)

    assert answer == "taken"


async def test_an_order_waits_under_one_id_only(stage: Stage) -> None:
    async with deciding(stage.client):
        handle = await stage.client.start_workflow(
            LargeOrderWorkflow.run, ORDER, id="large-order-2", task_queue=LARGE_ORDERS
        )
        with pytest.raises(WorkflowFailureError) as failed:
            await end_of(handle)

    assert str(failed.value.cause) == "order_id: it must wait as workflow large-order-1"


async def test_approving_an_order_that_was_started_undecided_fails_and_lets_it_run(stage: Stage, shop: Shop) -> None:
    await add_search_attribute(stage.client, ORDER_STATUS)
    undecided = await start(stage.client, ORDER)
    async with deciding(stage.client):
        handle = await place(stage.client)
        await decide(handle, APPROVED)
        with pytest.raises(WorkflowFailureError) as failed:
            await end_of(handle)
    async with serve(stage.client, shop):
        outcome = await undecided.result()

    assert "already started" in str(failed.value.cause)
    assert outcome.status is Status.COMPLETED
    assert_done_once(read_ledger(shop.location), ORDER)


async def test_an_order_that_is_cancelled_while_it_waits_is_never_charged(stage: Stage, shop: Shop) -> None:
    async with deciding(stage.client), serve(stage.client, shop):
        handle = await place(stage.client)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await end_of(handle)

    assert (await handle.describe()).status is WorkflowExecutionStatus.CANCELED
    assert read_ledger(shop.location).attempts == ()


@pytest.mark.parametrize("ends", ["terminate", "cancel"])
async def test_an_order_under_way_outlives_the_approval_that_is_terminated_and_is_refunded_if_it_is_cancelled(
    stage: Stage, ends: str
) -> None:
    await add_search_attribute(stage.client, ORDER_STATUS)
    hold = Hold(step="process_payment", is_after_effect=True)
    shop = Shop(stage.data, hold.plan())
    async with deciding(stage.client), serve(stage.client, shop):
        handle = await place(stage.client)
        await decide(handle, APPROVED)
        await wait_until(hold.reached.is_set, "it is charged")
        order = stage.client.get_workflow_handle_for(OrderWorkflow.run, "order-1")
        await getattr(handle, ends)()
        if ends == "cancel":
            await wait_for_event(order, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED)
        hold.released.set()
        with pytest.raises(WorkflowFailureError):
            await end_of(handle)
        while (await order.describe()).status is WorkflowExecutionStatus.RUNNING:
            await asyncio.sleep(0.1)
        status = (await order.describe()).status
    shop.close()

    if ends == "terminate":
        assert status is WorkflowExecutionStatus.COMPLETED
        assert_done_once(stage.ledger(), ORDER)
    else:
        assert status is WorkflowExecutionStatus.CANCELED
        assert_nothing_held(stage.ledger(), ORDER)


class LargeOrderWorker(Program):
    """The example's worker as a process."""

    ready = "serving"

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage.directory / "waiting", stage.settings, "-m", "examples.large_order")


async def test_an_order_that_waits_and_a_decision_that_is_answered_outlive_the_kill_of_everything(
    own_server: Server, tmp_path: Path
) -> None:
    stage = Stage(own_server, "default", await own_server.client(), tmp_path)
    orders, waiting = Worker(tmp_path / "orders", stage.settings, stage.data), LargeOrderWorker(stage)
    programs: tuple[Program, ...] = (own_server, waiting, orders)
    decided = make_order("decided")
    try:
        await waiting.start()
        handles = [await place(stage.client, order) for order in (ORDER, decided)]
        await wait_for_event(handles[0], EventType.EVENT_TYPE_TIMER_STARTED)  # type: ignore[arg-type]  # of any workflow
        answer = await decide(handles[1], APPROVED)
        await orders.start()
        for program in programs:
            await program.kill()

        for program in programs:
            await program.start()
        late_answer, again = await decide(handles[0], APPROVED), await decide(handles[1], DECLINED)
        outcomes = [await end_of(handle) for handle in handles]
    finally:
        for program in programs:
            await program.kill()

    assert (answer, late_answer) == ("taken", "taken")
    assert again.startswith(("it was decided by ada", "workflow execution already completed"))
    assert [outcome.status for outcome in outcomes] == [Status.COMPLETED] * 2
    for order in (ORDER, decided):
        assert_done_once(stage.ledger(), order)


async def test_the_worker_refuses_malformed_orders_stops_on_request_and_says_if_no_server_is_there(
    stage: Stage,
) -> None:
    worker, alone = LargeOrderWorker(stage), LargeOrderWorker(stage)
    alone.environment["TEMPORAL_ADDRESS"] = f"127.0.0.1:{free_port()}"

    await worker.start()
    handle = await place(stage.client, replace(ORDER, items=()))
    with pytest.raises(WorkflowFailureError) as failed:
        await end_of(handle)
    worker.signal(signal.SIGTERM)
    statuses = await worker.wait(20), await alone.run(20)

    assert str(failed.value.cause).startswith("InvalidOrder: items: must be a list of 1 to ")
    assert statuses == (0, 1)
    assert "ERROR the Temporal server at 127.0.0.1" in worker.errors.read_text()
    assert "Traceback" not in worker.errors.read_text()
