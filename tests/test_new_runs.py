"""A workflow that was terminated, timed out, reset, replaced or forgotten: the next run takes the order to its end.

The first run has charged and cannot take the stock. Then it is interrupted, and the world has changed for the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from conftest import Stage, make_order
from counter import (
    PATIENCE_SECONDS,
    Counter,
    Handle,
    assert_done_once,
    assert_nothing_held,
    deliver,
    serve,
)
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import WorkflowIDConflictPolicy

from comparison.stage.processes import POLL_SECONDS, wait_until
from plumbing.connection import add_search_attribute
from run_workflow import run_order
from shop.faults import FaultPlan, parse_faults
from shop.orders import Item, Order, Status
from workflows import ORDER_STATUS, TASK_QUEUE, OrderWorkflow, workflow_id_for

NO_STOCK_YET = "update_inventory:unavailable*inf"


async def terminate(counter: Counter, handle: Handle, order: Order) -> None:
    await handle.terminate("by the test")


async def reset(counter: Counter, handle: Handle, order: Order, task: int = 1) -> None:
    """Do anew what came after a workflow task: as `temporal workflow reset --type FirstWorkflowTask` does."""
    tasks = [
        event.event_id
        async for event in handle.fetch_history_events()
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    ]
    await counter.stage.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=counter.stage.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id),
            reason="by the test",
            workflow_task_finish_event_id=tasks[task - 1],
            request_id=handle.id,
        )
    )


async def replace(counter: Counter, handle: Handle, order: Order) -> None:
    """Start the same order from another client, which terminates what runs under the id."""
    await counter.stage.client.start_workflow(
        OrderWorkflow.run,
        order,
        id=handle.id,
        task_queue=TASK_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING,
    )


def change_the_world(counter: Counter, order: Order, world: str) -> None:
    """Do what the next run meets at its first step."""
    if world == "stock gone":
        counter.shop.inventory.update_inventory(make_order("rival", items=order.items))
    if world == "validation down":
        counter.plans[order.order_id] = parse_faults(f"{NO_STOCK_YET},validate_inventory:unavailable*inf")


async def cancel_next_run(counter: Counter, order: Order, first_run_id: str | None) -> None:
    handle = counter.stage.client.get_workflow_handle_for(OrderWorkflow.run, workflow_id_for(order.order_id))
    while (await handle.describe()).run_id == first_run_id:
        await asyncio.sleep(POLL_SECONDS)
    while await handle.query(OrderWorkflow.status) != "update_inventory":
        await asyncio.sleep(POLL_SECONDS)
    await handle.cancel()


@pytest.mark.parametrize(
    ("interrupt", "world", "end"),
    [
        (terminate, "well", Status.COMPLETED),
        (terminate, "stock gone", Status.REJECTED),
        (terminate, "validation down", Status.FAILED),
        (terminate, "cancelled", Status.CANCELLED),
        (reset, "well", Status.COMPLETED),
        (replace, "well", Status.COMPLETED),
    ],
)
async def test_an_order_that_was_charged_is_taken_to_its_end_by_the_next_run(
    interrupt: Callable[[Counter, Handle, Order], Awaitable[None]],
    world: str,
    end: Status,
    counter: Counter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    order = make_order(f"{interrupt.__name__}-{end.value}")
    if world == "stock gone":
        order = make_order(order.order_id, items=(Item("last-one", 1, 90_00),))
    handle = await counter.start(order, parse_faults(NO_STOCK_YET))
    await counter.wait_for_attempt(order, "update_inventory")
    waiting = asyncio.create_task(run_order(counter.stage.client, order, wait=True))
    await wait_until(lambda: "attached to" in caplog.text, "the first starter waits")

    change_the_world(counter, order, world)
    await interrupt(counter, handle, order)
    if interrupt is terminate:  # Who waits for a run that is terminated, and sees no other, is told so.
        told = await asyncio.wait_for(waiting, PATIENCE_SECONDS)
        assert told.status == Status.UNKNOWN
        assert "start it again to take it to its end" in told.detail
        waiting = asyncio.create_task(run_order(counter.stage.client, order, wait=True))
    if world == "well":
        counter.plans[order.order_id] = FaultPlan()
    if world == "cancelled":
        await cancel_next_run(counter, order, handle.result_run_id)
    outcome = await asyncio.wait_for(waiting, PATIENCE_SECONDS)

    ledger = counter.ledger()
    assert outcome.status == end
    if world == "well":
        assert_done_once(ledger, order)
    else:
        assert [charge.refunded for charge in ledger.charges if charge.order_id == order.order_id] == [True]
        assert_nothing_held(ledger, order)


async def test_an_order_whose_workflow_timed_out_is_taken_to_its_end_by_the_next_run(
    counter: Counter, stage: Stage
) -> None:
    order = make_order("timed-out")
    counter.plans[order.order_id] = parse_faults(NO_STOCK_YET)
    await add_search_attribute(stage.client, ORDER_STATUS)
    async with serve(stage.client, counter.shop):
        handle = await stage.client.start_workflow(
            OrderWorkflow.run,
            order,
            id=workflow_id_for(order.order_id),
            task_queue=TASK_QUEUE,
            execution_timeout=timedelta(seconds=8),
        )
        await counter.wait_for_attempt(order, "update_inventory")
    # With a worker, the server would end the step when no further attempt fits in.
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    first_end = (await handle.describe()).status
    counter.plans[order.order_id] = FaultPlan()

    async with serve(stage.client, counter.shop):
        outcome = await run_order(stage.client, order, wait=True)

    assert (first_end, outcome.status) == (WorkflowExecutionStatus.TIMED_OUT, Status.COMPLETED)
    assert_done_once(counter.ledger(), order)


@pytest.mark.parametrize(("task", "down"), [(1, "validate_inventory"), (2, "process_payment")])
async def test_a_completed_order_that_is_reset_completes_again_whatever_is_down(
    task: int, down: str, counter: Counter
) -> None:
    order = make_order(f"again-{task}")
    handle = await counter.start(order, FaultPlan())
    first = await handle.result()
    counter.plans[order.order_id] = parse_faults(f"{down}:unavailable*inf")

    await reset(counter, handle, order, task)
    again = await run_order(counter.stage.client, order, wait=True)

    assert (first.status, again) == (Status.COMPLETED, first)
    assert "ServiceUnavailable" in counter.attempts(order, down)
    assert_done_once(counter.ledger(), order)


async def test_a_delivered_order_that_was_forgotten_waits_while_nobody_can_say_whether_it_was_charged(
    counter: Counter,
) -> None:
    order = make_order("waits")
    deliver(counter.shop, order)

    handle = await counter.start(order, parse_faults("process_payment:unavailable*inf,void_charge:unavailable*inf"))
    await wait_until(lambda: len(counter.attempts(order, "void_charge")) > 1, "it is asked again and again")
    status = (await handle.describe()).status
    counter.plans[order.order_id] = FaultPlan()
    outcome = await asyncio.wait_for(handle.result(), PATIENCE_SECONDS)

    assert (status, outcome.status) == (WorkflowExecutionStatus.RUNNING, Status.COMPLETED)
    assert_done_once(counter.ledger(), order)
