"""A workflow that was terminated, timed out, reset, replaced or forgotten: the next run takes the order to its end.

The first run has charged and cannot take the stock. Then it is interrupted, and the world has changed for the next one.
All stories begin at once, and a test waits for its own.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta

import pytest
from conftest import Stage, make_order, make_stage
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import WorkflowIDConflictPolicy
from test_cancellation import (
    PATIENCE_SECONDS,
    Counter,
    Handle,
    Hold,
    PlanOfEachOrder,
    assert_done_once,
    assert_nothing_held,
    serve,
    start,
    wait_for_attempt,
)

from comparison.stage.processes import POLL_SECONDS, Server, wait_until
from plumbing.connection import add_search_attribute
from run_workflow import run_order
from shop.catalogue import PRODUCTS, Product
from shop.faults import FaultPlan, parse_faults
from shop.orders import Item, Order, Outcome, Status
from shop.shop import Shop
from workflows import FEW_ATTEMPTS, ORDER_STATUS, TASK_QUEUE, OrderWorkflow, workflow_id_for

NO_STOCK_YET = "update_inventory:unavailable*inf"
# Events of type WorkflowTaskCompleted: what comes after them is done anew.
FIRST_TASK, TASK_AFTER_VALIDATION = 4, 10


async def terminate(counter: Counter, handle: Handle, order: Order) -> None:
    await handle.terminate("by the test")


async def let_time_out(counter: Counter, handle: Handle, order: Order) -> None:
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert (await handle.describe()).status == WorkflowExecutionStatus.TIMED_OUT


async def reset(counter: Counter, handle: Handle, order: Order) -> None:
    """Begin anew from the first workflow task, as `temporal workflow reset --type FirstWorkflowTask` does."""
    await reset_to(counter, handle, FIRST_TASK)


async def reset_to(counter: Counter, handle: Handle, event_id: int) -> None:
    await counter.stage.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=counter.stage.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id),
            reason="by the test",
            workflow_task_finish_event_id=event_id,
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


# What ends the first run, and whether the starter that waits for it is to follow to the next run by itself.
INTERRUPTIONS: dict[str, tuple[Callable[[Counter, Handle, Order], Awaitable[None]], bool]] = {
    "terminated": (terminate, False),
    "timed out": (let_time_out, False),
    "reset": (reset, True),
    "replaced": (replace, True),
}
WORLDS = {
    "well": Status.COMPLETED,
    "stock gone": Status.REJECTED,
    "validation down": Status.FAILED,
    "cancelled": Status.CANCELLED,
}
CELLS = tuple(itertools.product(INTERRUPTIONS, WORLDS))


def order_of(interruption: str, world: str) -> Order:
    """Return an order for a product of its own, of which there is one."""
    order_id = f"{interruption}-{world}".replace(" ", "-")
    return make_order(order_id, items=(Item(order_id, 1, 10_00),))


async def begin(counter: Counter, order: Order, interruption: str, hold: Hold) -> Handle:
    """Start an order, and wait until it is charged and tries in vain to take its stock.

    One that is to time out hangs in its first attempt: when no further attempt fits in, the server would end the step.
    """
    client, times_out = counter.stage.client, interruption == "timed out"
    in_vain = parse_faults(NO_STOCK_YET)
    counter.plans[order.order_id] = FaultPlan((*hold.plan().planned, *in_vain.planned)) if times_out else in_vain
    handle = await client.start_workflow(
        OrderWorkflow.run,
        order,
        id=workflow_id_for(order.order_id),
        task_queue=TASK_QUEUE,
        execution_timeout=timedelta(seconds=8) if times_out else None,
    )
    if times_out:
        await wait_until(hold.reached.is_set, f"{order.order_id} hangs")
    else:
        await wait_for_attempt(counter.shop, order, "update_inventory")
    return handle


def change_the_world(counter: Counter, order: Order, world: str) -> None:
    """Do what the next run meets at its first step."""
    if world == "stock gone":
        # Another shop on the same files: the plan of this order does not strike there.
        Shop(counter.stage.data).inventory.update_inventory(make_order(f"rival-{order.order_id}", items=order.items))
    if world == "validation down":
        counter.plans[order.order_id] = parse_faults(f"{NO_STOCK_YET},validate_inventory:unavailable*inf")


async def cancel_next_run(counter: Counter, order: Order, first_run_id: str | None) -> None:
    handle = counter.stage.client.get_workflow_handle_for(OrderWorkflow.run, workflow_id_for(order.order_id))
    while (await handle.describe()).run_id == first_run_id:
        await asyncio.sleep(POLL_SECONDS)
    while await handle.query(OrderWorkflow.status) != "update_inventory":
        await asyncio.sleep(POLL_SECONDS)
    await handle.cancel()


class Announcements(logging.Handler):
    """Notes which orders the starters of this process say that they wait for."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.order_ids: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg.startswith("order %s: ") and isinstance(record.args, tuple):
            self.order_ids.add(str(record.args[0]))


async def story(counter: Counter, waiting: Announcements, interruption: str, world: str) -> list[Outcome]:
    """Interrupt an order; return what the starters say: the one that waited for the first run, if any, and the next."""
    order, (interrupt, follows) = order_of(interruption, world), INTERRUPTIONS[interruption]
    hold = Hold(step="update_inventory")
    starters: list[asyncio.Task[Outcome]] = []
    handle = await begin(counter, order, interruption, hold)

    def begin_starter() -> None:
        starters.append(asyncio.create_task(run_order(counter.stage.client, order, wait=True)))

    if interruption != "timed out":
        begin_starter()
        await wait_until(lambda: order.order_id in waiting.order_ids, f"{order.order_id} is waited for")
    change_the_world(counter, order, world)
    await interrupt(counter, handle, order)
    if not follows:
        begin_starter()
    if world == "well":
        counter.plans[order.order_id] = FaultPlan()
    if world == "cancelled":
        await cancel_next_run(counter, order, handle.result_run_id)
    outcomes = await asyncio.wait_for(asyncio.gather(*starters), PATIENCE_SECONDS)
    hold.released.set()
    await wait_until(lambda: "started" not in counter.attempts(order, "update_inventory"), "the late attempt ends")
    return outcomes


@pytest.fixture(scope="module")
async def counter(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Counter]:
    """Serve a shop that has one piece of a product of its own for each order."""
    stage = await make_stage(server, tmp_path_factory.mktemp("new-runs"))
    plans: dict[str, FaultPlan] = {}
    shop = Shop(stage.data, PlanOfEachOrder(plans=plans))
    skus = [order_of(*cell).order_id for cell in CELLS]
    shop.inventory.replace_products([*PRODUCTS, *(Product(sku, sku, 1) for sku in skus)])
    await add_search_attribute(stage.client, ORDER_STATUS)
    async with serve(stage.client, shop):
        yield Counter(stage, shop, plans)
    shop.close()


@pytest.fixture(scope="module")
async def stories(counter: Counter) -> AsyncIterator[Mapping[tuple[str, str], Awaitable[list[Outcome]]]]:
    """Begin all stories; give each one's outcomes to whoever awaits it."""
    waiting, logger = Announcements(), logging.getLogger("run_workflow")
    level = logger.level
    logger.addHandler(waiting)
    logger.setLevel(logging.INFO)
    tasks = {cell: asyncio.ensure_future(story(counter, waiting, *cell)) for cell in CELLS}
    yield tasks
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    logger.removeHandler(waiting)
    logger.setLevel(level)


@pytest.mark.parametrize(("interruption", "world"), CELLS)
async def test_an_order_that_was_charged_is_taken_to_its_end_by_the_next_run(
    interruption: str,
    world: str,
    counter: Counter,
    stories: Mapping[tuple[str, str], Awaitable[list[Outcome]]],
) -> None:
    order, follows = order_of(interruption, world), INTERRUPTIONS[interruption][1]

    *earlier, outcome = await stories[interruption, world]

    ledger = counter.ledger()
    assert outcome.status == WORLDS[world]
    if world == "well":
        assert_done_once(ledger, order)
    else:
        assert [charge.refunded for charge in ledger.charges if charge.order_id == order.order_id] == [True]
        assert_nothing_held(ledger, order)
    # Who waited for a run that was terminated is told so; who waited for one that was replaced, follows.
    assert [earlier_outcome.status for earlier_outcome in earlier] == (
        [Status.UNKNOWN] if interruption == "terminated" else []
    )
    assert all("start it again to take it to its end" in earlier_outcome.detail for earlier_outcome in earlier)
    assert not follows or "settle" not in outcome.detail


@pytest.mark.parametrize(
    ("first_event", "faults"),
    [
        (FIRST_TASK, ""),
        (FIRST_TASK, "validate_inventory:unavailable*inf"),
        (TASK_AFTER_VALIDATION, "process_payment:unavailable*inf"),
    ],
)
async def test_a_completed_order_that_is_reset_completes_again_whatever_is_down(
    first_event: int, faults: str, counter: Counter
) -> None:
    order = make_order(f"again-{first_event}-{len(faults)}")
    handle = await counter.start(order, FaultPlan())
    first = await handle.result()
    counter.plans[order.order_id] = parse_faults(faults)

    await reset_to(counter, handle, first_event)
    again = await run_order(counter.stage.client, order, wait=True)

    assert again == first
    assert first.status == Status.COMPLETED
    assert_done_once(counter.ledger(), order)


@pytest.fixture(scope="module")
async def forgetful(counter: Counter, server: Server) -> AsyncIterator[Stage]:
    """Serve the same shop on a namespace that knows none of its orders."""
    stage = await make_stage(server, counter.stage.directory)
    await add_search_attribute(stage.client, ORDER_STATUS)
    async with serve(stage.client, counter.shop):
        yield stage


@pytest.mark.parametrize("down", ["", "validate_inventory", "process_payment", "update_inventory", "send_confirmation"])
async def test_a_delivered_order_that_the_server_forgot_is_completed_again_whatever_is_down(
    down: str, counter: Counter, forgetful: Stage
) -> None:
    order = make_order(f"forgotten-{down}")
    counter.plans[order.order_id] = FaultPlan()
    first = await run_order(counter.stage.client, order, wait=True)
    counter.plans[order.order_id] = parse_faults(f"{down}:unavailable*4" if down else "")

    again = await run_order(forgetful.client, order, wait=True)

    assert (first.status, again) == (Status.COMPLETED, first)
    assert down == "" or "ServiceUnavailable" in counter.attempts(order, down)
    assert_done_once(counter.ledger(), order)


@pytest.mark.parametrize("down", ["validate_inventory", "process_payment"])
async def test_a_delivered_order_that_was_forgotten_waits_while_nobody_can_say_whether_it_was_charged(
    down: str, counter: Counter, forgetful: Stage
) -> None:
    order = make_order(f"waits-{down}")
    counter.plans[order.order_id] = FaultPlan()
    await run_order(counter.stage.client, order, wait=True)
    counter.plans[order.order_id] = parse_faults(f"{down}:unavailable*inf,void_charge:unavailable*inf")

    handle = await start(forgetful.client, order)
    await wait_until(lambda: len(counter.attempts(order, "void_charge")) > 1, "it is asked again and again")
    status, description = await handle.query(OrderWorkflow.status), await handle.describe()
    counter.plans[order.order_id] = FaultPlan()
    outcome = await asyncio.wait_for(handle.result(), PATIENCE_SECONDS)

    assert (status, description.status) == ("void_charge", WorkflowExecutionStatus.RUNNING)
    assert description.typed_search_attributes[ORDER_STATUS] == "void_charge"
    assert outcome.status == Status.COMPLETED
    assert_done_once(counter.ledger(), order)


async def test_an_order_that_was_ended_and_forgotten_is_rejected_when_it_comes_again(
    counter: Counter, forgetful: Stage
) -> None:
    order = make_order("ended-and-forgotten")
    counter.plans[order.order_id] = parse_faults(f"process_payment:unavailable*{FEW_ATTEMPTS.maximum_attempts}")
    first = await run_order(counter.stage.client, order, wait=True)

    again = await run_order(forgetful.client, order, wait=True)

    assert (first.status, again.status) == (Status.FAILED, Status.REJECTED)
    assert "OrderVoided" in again.detail
    assert_nothing_held(counter.ledger(), order)
