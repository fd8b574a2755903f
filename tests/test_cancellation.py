"""A cancelled order is completed whole or holds nothing, whenever the cancellation comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TypeAlias

import pytest
from conftest import Stage, make_order, make_stage
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.worker import Interceptor, Worker

from activities import activities_of
from comparison.stage.processes import Program, Server, clean_environment, wait_until
from plumbing.admission import Admission
from plumbing.connection import add_search_attribute
from plumbing.starting import start_once
from run_worker import STICKY_TIMEOUT
from run_workflow import not_completed
from shop.errors import ServiceUnavailable
from shop.faults import Fault, FaultPlan, PlannedFault, parse_faults
from shop.ledger import Ledger, read_ledger
from shop.orders import Item, Order, Outcome, Status
from shop.shop import Shop
from workflows import ORDER_STATUS, TASK_QUEUE, OrderWorkflow, workflow_id_for

Handle: TypeAlias = WorkflowHandle[OrderWorkflow, Outcome]

THREADS = 32
PATIENCE_SECONDS = 30.0


@asynccontextmanager
async def serve(
    client: Client,
    shop: Shop | None = None,
    workflows: Sequence[type] = (OrderWorkflow,),
    interceptors: Sequence[Interceptor] = (),
    max_cached_workflows: int = 1000,
) -> AsyncIterator[None]:
    """Run a worker in this process, wired as `run_worker.py` does. Without a shop it serves no steps."""
    with ThreadPoolExecutor(THREADS) as threads:
        async with Worker(
            client,
            task_queue=TASK_QUEUE,
            workflows=workflows,
            activities=activities_of(shop) if shop else [],
            interceptors=[Admission(), *interceptors],
            activity_executor=threads,
            max_concurrent_activities=THREADS,
            max_cached_workflows=max_cached_workflows,
            sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
        ):
            yield


@dataclass(frozen=True)
class Hold(Fault):
    """Holds the first attempt of a step, before or after its effect, until the test lets it go."""

    step: str = ""
    is_after_effect: bool = False
    reached: Event = field(default_factory=Event)
    released: Event = field(default_factory=Event)

    def before_effect(self) -> None:
        if not self.is_after_effect:
            self._hold()

    def after_effect(self) -> None:
        if self.is_after_effect:
            self._hold()

    def plan(self, *others: PlannedFault) -> FaultPlan:
        return FaultPlan((*others, PlannedFault(self.step, self, 1)))

    def _hold(self) -> None:
        self.reached.set()
        if not self.released.wait(PATIENCE_SECONDS):
            raise ServiceUnavailable("the test never let this attempt go")


@dataclass(frozen=True)
class PlanOfEachOrder(FaultPlan):
    """Another fault plan for each order, so that many share one worker."""

    plans: Mapping[str, FaultPlan] = field(default_factory=dict)

    def fault_for(self, step: str, order_id: str, attempt: int) -> Fault:
        return self.plans.get(order_id, FaultPlan()).fault_for(step, order_id, attempt)


async def start(client: Client, order: Order) -> Handle:
    """Start an order as the starter does."""
    workflow_id = workflow_id_for(order.order_id)
    handle, _ = await start_once(client, OrderWorkflow.run, order, id=workflow_id, task_queue=TASK_QUEUE)
    return handle


async def end_of(client: Client, handle: Handle, order: Order) -> tuple[Status, WorkflowExecutionStatus | None]:
    """Wait for the end of an order; return its outcome, and how the server closed its workflow."""
    try:
        outcome = await asyncio.wait_for(handle.result(), PATIENCE_SECONDS)
    except WorkflowFailureError as error:
        outcome = not_completed(order, error.cause)
    return outcome.status, (await handle.describe()).status


async def wait_for_event(handle: Handle, event_type: EventType.ValueType, count: int = 1) -> None:
    """Wait until the workflow's history holds `count` events of a type."""

    async def watch() -> None:
        left = count
        async for event in handle.fetch_history_events(wait_new_event=True):
            left -= event.event_type == event_type
            if left == 0:
                return

    await asyncio.wait_for(watch(), PATIENCE_SECONDS)


async def cancel(handle: Handle) -> None:
    """Request a cancellation, and wait until the workflow has taken note: a query is answered after it."""
    await handle.cancel()
    await handle.query(OrderWorkflow.status)


def attempts_of(ledger: Ledger, order: Order, step: str) -> list[str]:
    return [
        attempt.outcome for attempt in ledger.attempts if (attempt.order_id, attempt.step) == (order.order_id, step)
    ]


async def wait_for_attempt(shop: Shop, order: Order, step: str) -> None:
    """Wait until an attempt at a step has come back."""

    def is_tried() -> bool:
        return any(outcome != "started" for outcome in attempts_of(read_ledger(shop.location), order, step))

    await wait_until(is_tried, f"{order.order_id} tries {step}")


def voids_of(ledger: Ledger, order: Order) -> list[str]:
    return [void.step for void in ledger.voids if void.order_id == order.order_id]


def assert_stock_agrees(ledger: Ledger) -> None:
    for sku, stock in ledger.stock.items():
        sold = sum(sale.quantity for sale in ledger.sales if sale.sku == sku and not sale.restored)
        assert stock.now == stock.initial - sold


def assert_nothing_held(ledger: Ledger, order: Order) -> None:
    assert [charge for charge in ledger.charges if charge.order_id == order.order_id and not charge.refunded] == []
    assert [sale for sale in ledger.sales if sale.order_id == order.order_id and not sale.restored] == []
    assert [mail for mail in ledger.confirmations if mail.order_id == order.order_id] == []
    assert_stock_agrees(ledger)


def assert_done_once(ledger: Ledger, order: Order, *, is_sent: bool = True) -> None:
    charges = [(charge.amount_cents, charge.refunded) for charge in ledger.charges if charge.order_id == order.order_id]
    assert charges == [(order.total_cents, False)]
    assert {(sale.sku, sale.quantity, sale.restored) for sale in ledger.sales if sale.order_id == order.order_id} == {
        (item.sku, item.quantity, False) for item in order.items
    }
    assert [mail.sent for mail in ledger.confirmations if mail.order_id == order.order_id] == [is_sent]
    assert_stock_agrees(ledger)


@dataclass(frozen=True)
class Counter:
    """One worker and one shop for many orders; each order brings its own fault plan."""

    stage: Stage
    shop: Shop
    plans: dict[str, FaultPlan]

    async def start(self, order: Order, plan: FaultPlan) -> Handle:
        self.plans[order.order_id] = plan
        return await start(self.stage.client, order)

    async def start_held(self, order: Order, hold: Hold, faults: str = "") -> Handle:
        """Start an order and wait until it is held."""
        handle = await self.start(order, hold.plan(*parse_faults(faults).planned))
        await wait_until(hold.reached.is_set, f"{order.order_id} is held")
        return handle

    async def end_of(self, handle: Handle, order: Order) -> tuple[Status, WorkflowExecutionStatus | None]:
        return await end_of(self.stage.client, handle, order)

    def ledger(self) -> Ledger:
        return read_ledger(self.shop.location)

    def attempts(self, order: Order, step: str) -> list[str]:
        return attempts_of(self.ledger(), order, step)

    async def wait_for_attempt(self, order: Order, step: str) -> None:
        await wait_for_attempt(self.shop, order, step)


@asynccontextmanager
async def open_counter(server: Server, directory: Path) -> AsyncIterator[Counter]:
    """Open a shop, and serve it from this process."""
    stage = await make_stage(server, directory)
    plans: dict[str, FaultPlan] = {}
    shop = Shop(stage.data, PlanOfEachOrder(plans=plans))
    await add_search_attribute(stage.client, ORDER_STATUS)
    async with serve(stage.client, shop):
        yield Counter(stage, shop, plans)
    shop.close()


@pytest.fixture(scope="module")
async def counter(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Counter]:
    async with open_counter(server, tmp_path_factory.mktemp("counter")) as opened:
        yield opened


async def test_a_cancel_before_the_first_step_leaves_the_tombstone_of_the_payment(stage: Stage, shop: Shop) -> None:
    order = make_order()
    await add_search_attribute(stage.client, ORDER_STATUS)
    handle = await start(stage.client, order)
    await handle.cancel()

    async with serve(stage.client, shop):
        end = await end_of(stage.client, handle, order)

    ledger = read_ledger(shop.location)
    assert end == (Status.CANCELLED, WorkflowExecutionStatus.CANCELED)
    assert attempts_of(ledger, order, "process_payment") == []
    assert voids_of(ledger, order) == ["void_charge"]
    assert_nothing_held(ledger, order)


@pytest.mark.parametrize(
    ("step", "late", "voids"),
    [
        ("validate_inventory", "ok", ["void_charge"]),
        ("process_payment", "OrderVoided", ["void_charge"]),
        ("update_inventory", "OrderVoided", ["void_sale"]),
    ],
)
async def test_a_cancel_in_a_step_ends_the_order_and_its_late_effect_is_refused(
    step: str, late: str, voids: list[str], counter: Counter
) -> None:
    order, hold = make_order(f"late-{step}"), Hold(step=step)
    handle = await counter.start_held(order, hold)

    await handle.cancel()
    end = await counter.end_of(handle, order)
    hold.released.set()
    await wait_until(lambda: counter.attempts(order, step) != ["started"], "the late attempt ends")

    assert end == (Status.CANCELLED, WorkflowExecutionStatus.CANCELED)
    assert counter.attempts(order, step) == [late]
    assert voids_of(counter.ledger(), order) == voids
    assert_nothing_held(counter.ledger(), order)


async def test_a_cancel_in_a_payment_that_has_had_its_effect_refunds_it(counter: Counter) -> None:
    order, hold = make_order("paid"), Hold(step="process_payment", is_after_effect=True)
    handle = await counter.start_held(order, hold)

    await handle.cancel()
    end = await counter.end_of(handle, order)
    hold.released.set()

    ledger = counter.ledger()
    assert end == (Status.CANCELLED, WorkflowExecutionStatus.CANCELED)
    assert [charge.refunded for charge in ledger.charges if charge.order_id == order.order_id] == [True]
    assert voids_of(ledger, order) == ["void_sale"]
    assert_nothing_held(ledger, order)


async def test_a_cancel_after_the_stock_was_taken_is_too_late_although_the_workflow_does_not_know(
    counter: Counter,
) -> None:
    order, hold = make_order("taken"), Hold(step="update_inventory", is_after_effect=True)
    handle = await counter.start_held(order, hold)

    await handle.cancel()
    end = await counter.end_of(handle, order)
    hold.released.set()

    assert end == (Status.COMPLETED, WorkflowExecutionStatus.COMPLETED)
    assert (counter.attempts(order, "void_charge"), counter.attempts(order, "void_sale")) == (["ok"], ["ok"])
    assert_done_once(counter.ledger(), order)


@pytest.mark.parametrize(
    ("step", "voids"),
    [
        ("validate_inventory", ["void_charge"]),
        ("process_payment", ["void_charge"]),
        ("update_inventory", ["void_sale"]),
    ],
)
async def test_a_cancel_between_the_attempts_of_a_step_ends_the_order(
    step: str, voids: list[str], counter: Counter
) -> None:
    order = make_order(f"between-{step}")
    handle = await counter.start(order, parse_faults(f"{step}:unavailable*inf"))
    await wait_until(lambda: counter.attempts(order, step) == ["ServiceUnavailable"] * 2, "it is tried again")

    await handle.cancel()
    end = await counter.end_of(handle, order)

    assert end == (Status.CANCELLED, WorkflowExecutionStatus.CANCELED)
    assert voids_of(counter.ledger(), order) == voids
    assert_nothing_held(counter.ledger(), order)


@pytest.mark.parametrize("is_after_effect", [False, True])
async def test_a_cancel_in_the_mail_is_too_late(is_after_effect: bool, counter: Counter) -> None:
    order = make_order(f"too-late-{is_after_effect}")
    hold = Hold(step="send_confirmation", is_after_effect=is_after_effect)
    handle = await counter.start_held(order, hold)

    await cancel(handle)
    hold.released.set()
    end = await counter.end_of(handle, order)

    assert end == (Status.COMPLETED, WorkflowExecutionStatus.COMPLETED)
    assert_done_once(counter.ledger(), order)


async def test_a_cancel_between_the_attempts_to_mail_is_too_late(counter: Counter) -> None:
    order = make_order("no-mail-yet")
    handle = await counter.start(order, parse_faults("send_confirmation:unavailable"))
    await counter.wait_for_attempt(order, "send_confirmation")

    await cancel(handle)
    end = await counter.end_of(handle, order)

    assert end == (Status.COMPLETED, WorkflowExecutionStatus.COMPLETED)
    assert counter.attempts(order, "send_confirmation") == ["ServiceUnavailable", "ok"]
    assert_done_once(counter.ledger(), order)


async def test_a_cancel_in_the_note_is_too_late(counter: Counter) -> None:
    order, hold = make_order("noted", customer_id="nobody"), Hold(step="note_unsent")
    handle = await counter.start_held(order, hold)

    await cancel(handle)
    hold.released.set()
    end = await counter.end_of(handle, order)

    assert end == (Status.COMPLETED, WorkflowExecutionStatus.COMPLETED)
    assert_done_once(counter.ledger(), order, is_sent=False)


@pytest.mark.parametrize("call", ["void_charge", "void_sale", "refund_payment"])
async def test_a_second_cancel_does_not_stop_the_calls_that_end_an_order(call: str, counter: Counter) -> None:
    order, hold = make_order(f"twice-{call}"), Hold(step=call)
    handle = await counter.start(order, hold.plan(*parse_faults("update_inventory:unavailable*inf").planned))
    await counter.wait_for_attempt(order, "update_inventory")
    await handle.cancel()
    await wait_until(hold.reached.is_set, f"{call} is under way")

    await cancel(handle)
    status_when_held = (await handle.describe()).status
    hold.released.set()
    end = await counter.end_of(handle, order)

    assert status_when_held == WorkflowExecutionStatus.RUNNING
    assert end == (Status.CANCELLED, WorkflowExecutionStatus.CANCELED)
    assert counter.attempts(order, call) == ["ok"]
    assert_nothing_held(counter.ledger(), order)


@pytest.mark.parametrize(
    ("call", "token", "faults", "end"),
    [
        ("void_charge", "tok_chargeDeclined", "", (Status.REJECTED, WorkflowExecutionStatus.COMPLETED)),
        (
            "refund_payment",
            "tok_visa",
            "process_payment:lost_reply*inf",
            (Status.FAILED, WorkflowExecutionStatus.FAILED),
        ),
    ],
)
async def test_a_cancel_of_an_order_that_is_being_ended_leaves_the_reason_for_it(
    call: str, token: str, faults: str, end: tuple[Status, WorkflowExecutionStatus], counter: Counter
) -> None:
    order, hold = make_order(f"ended-{end[0].value}", payment_token=token), Hold(step=call)
    handle = await counter.start_held(order, hold, faults)

    await cancel(handle)
    status_when_held = (await handle.describe()).status
    hold.released.set()
    ended = await counter.end_of(handle, order)

    assert status_when_held == WorkflowExecutionStatus.RUNNING
    assert ended == end
    assert counter.attempts(order, call) == ["ok"]
    assert_nothing_held(counter.ledger(), order)


@pytest.mark.parametrize("is_cancel_first", [False, True])
async def test_a_cancel_that_arrives_together_with_the_result_of_a_step_ends_the_order_whole(
    is_cancel_first: bool, stage: Stage
) -> None:
    steps = ("validate_inventory", "process_payment", "update_inventory", "send_confirmation")
    orders = [make_order(f"order-at-{step}") for step in steps]
    holds = [Hold(step=step) for step in steps]
    plans = {order.order_id: hold.plan() for order, hold in zip(orders, holds, strict=True)}
    shop = Shop(stage.data, PlanOfEachOrder(plans=plans))
    await add_search_attribute(stage.client, ORDER_STATUS)

    async with serve(stage.client, shop, workflows=()):
        async with serve(stage.client):
            handles = [await start(stage.client, order) for order in orders]
            await wait_until(lambda: all(hold.reached.is_set() for hold in holds), "all orders are held")
        # Nobody runs workflows here: what happens waits, to arrive in one task.
        for number, (handle, hold) in enumerate(zip(handles, holds, strict=True), start=1):
            if is_cancel_first:
                await handle.cancel()
            hold.released.set()
            await wait_for_event(handle, EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED, number)
            if not is_cancel_first:
                await handle.cancel()
        async with serve(stage.client):
            pairs = zip(handles, orders, strict=True)
            ends = await asyncio.gather(*(end_of(stage.client, handle, order) for handle, order in pairs))

    ledger = read_ledger(shop.location)
    shop.close()
    cancelled = (Status.CANCELLED, WorkflowExecutionStatus.CANCELED)
    completed = (Status.COMPLETED, WorkflowExecutionStatus.COMPLETED)
    assert ends == [cancelled, cancelled, completed, completed]
    assert_nothing_held(ledger, orders[0])
    assert_nothing_held(ledger, orders[1])
    assert_done_once(ledger, orders[2])
    assert_done_once(ledger, orders[3])


async def test_a_terminated_order_stays_charged_until_it_is_settled(counter: Counter, tmp_path: Path) -> None:
    order = make_order("terminated")
    handle = await counter.start(order, parse_faults("update_inventory:unavailable*inf"))
    await counter.wait_for_attempt(order, "update_inventory")
    settle = Program(
        tmp_path / "settle",
        clean_environment(),
        *("-m", "shop", "settle", order.order_id, "--yes", f"--data={counter.stage.data}"),
    )

    await handle.terminate()
    end = await counter.end_of(handle, order)
    before = counter.ledger()
    exit_status = await settle.run()

    after = counter.ledger()
    assert end == (Status.UNKNOWN, WorkflowExecutionStatus.TERMINATED)
    assert [charge.refunded for charge in before.charges if charge.order_id == order.order_id] == [False]
    assert exit_status == 0
    assert [charge.refunded for charge in after.charges if charge.order_id == order.order_id] == [True]
    assert_nothing_held(after, order)


async def test_a_worker_that_forgets_its_workflows_after_each_task_ends_each_order_as_any_other_does(
    stage: Stage,
) -> None:
    completed, unsent = make_order("completed"), make_order("unsent", customer_id="nobody")
    declined = make_order("declined", payment_token="tok_chargeDeclined")
    failed, cancelled, too_late = make_order("failed"), make_order("cancelled"), make_order("too-late")
    sold_out = make_order("sold-out", items=(Item("last-one", 1, 90_00),))
    orders = (completed, unsent, declined, failed, cancelled, too_late, sold_out)
    sold_out_hold = Hold(step="process_payment")
    plans = {
        completed.order_id: parse_faults("process_payment:unavailable,update_inventory:lost_reply"),
        failed.order_id: parse_faults("process_payment:lost_reply*inf"),
        cancelled.order_id: parse_faults("update_inventory:unavailable*inf"),
        too_late.order_id: parse_faults("update_inventory:lost_reply*inf"),
        sold_out.order_id: sold_out_hold.plan(),
    }
    shop = Shop(stage.data, PlanOfEachOrder(plans=plans))
    await add_search_attribute(stage.client, ORDER_STATUS)

    async with serve(stage.client, shop, max_cached_workflows=0):
        handles = {order: await start(stage.client, order) for order in orders}
        await wait_until(sold_out_hold.reached.is_set, "the last one is seen, and being paid for")
        shop.inventory.update_inventory(make_order("somebody-else", items=sold_out.items))
        sold_out_hold.released.set()
        for order in (cancelled, too_late):
            await wait_for_attempt(shop, order, "update_inventory")
            await handles[order].cancel()
        ends = await asyncio.gather(*(end_of(stage.client, handle, order) for order, handle in handles.items()))

    ledger = read_ledger(shop.location)
    shop.close()
    assert {order.order_id: status.value for order, (status, _) in zip(orders, ends, strict=True)} == {
        "completed": "completed",
        "unsent": "completed",
        "declined": "rejected",
        "failed": "failed",
        "cancelled": "cancelled",
        "too-late": "completed",
        "sold-out": "rejected",
    }
    assert sorted(
        (attempt.order_id, attempt.step)
        for attempt in ledger.attempts
        if attempt.step in ("void_charge", "void_sale", "refund_payment")
    ) == [
        ("cancelled", "refund_payment"),
        ("cancelled", "void_charge"),
        ("cancelled", "void_sale"),
        ("declined", "void_charge"),
        ("failed", "refund_payment"),
        ("failed", "void_charge"),
        ("failed", "void_sale"),
        ("sold-out", "refund_payment"),
        ("sold-out", "void_charge"),
        ("sold-out", "void_sale"),
        ("too-late", "void_charge"),
        ("too-late", "void_sale"),
    ]
    assert_done_once(ledger, completed)
    assert_done_once(ledger, unsent, is_sent=False)
    assert_done_once(ledger, too_late)
    for order in (declined, failed, cancelled, sold_out):
        assert_nothing_held(ledger, order)
