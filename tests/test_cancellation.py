"""A cancelled order is completed whole or undone whole, whenever the cancellation comes."""

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
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.worker import Interceptor, Worker

from activities import OrderActivities
from comparison.processes import Program, Server, clean_environment, wait_until
from connection import TASK_QUEUE, OneOrderInterceptor, UnknownWorkflow
from run_worker import STICKY_TIMEOUT, register_order_status
from run_workflow import start_or_attach, wait_for_outcome
from shop.errors import ServiceUnavailable
from shop.faults import Fault, FaultPlan, PlannedFault, parse_faults
from shop.ledger import Ledger, read_ledger
from shop.orders import Item, Order, Outcome, Status
from shop.shop import Shop
from workflows import OrderWorkflow

Handle: TypeAlias = WorkflowHandle[OrderWorkflow, Outcome]

THREADS = 32
PATIENCE_SECONDS = 30.0


@asynccontextmanager
async def serve(
    client: Client,
    shop: Shop | None = None,
    workflows: Sequence[type] = (OrderWorkflow, UnknownWorkflow),
    interceptors: Sequence[Interceptor] = (),
    max_cached_workflows: int = 1000,
) -> AsyncIterator[None]:
    """Run a worker in this process, wired as `run_worker.py` does. Without a shop it serves no steps."""
    steps = OrderActivities(shop) if shop else None
    with ThreadPoolExecutor(THREADS) as threads:
        async with Worker(
            client,
            task_queue=TASK_QUEUE,
            workflows=workflows,
            activities=[
                steps.validate_inventory,
                steps.process_payment,
                steps.update_inventory,
                steps.send_confirmation,
                steps.note_unsent,
                steps.refund_payment,
                steps.restore_inventory,
            ]
            if steps
            else [],
            interceptors=[OneOrderInterceptor(), *interceptors],
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


async def end_of(handle: Handle, order: Order) -> tuple[Status, WorkflowExecutionStatus | None]:
    """Wait for the end of an order; return its outcome, and how the server closed its workflow."""
    outcome = await asyncio.wait_for(wait_for_outcome(handle, order), PATIENCE_SECONDS)
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
    """One worker and one shop for the orders of this module; each order brings its own fault plan."""

    stage: Stage
    shop: Shop
    plans: dict[str, FaultPlan]

    async def start(self, order: Order, plan: FaultPlan) -> Handle:
        self.plans[order.order_id] = plan
        return await start_or_attach(self.stage.client, order)

    async def start_held(self, order: Order, hold: Hold) -> Handle:
        """Start an order and wait until it is held."""
        handle = await self.start(order, hold.plan())
        await wait_until(hold.reached.is_set, f"{order.order_id} is held")
        return handle

    def attempts(self, order: Order, step: str) -> list[str]:
        return attempts_of(read_ledger(self.shop), order, step)

    async def wait_for_attempt(self, order: Order, step: str) -> None:
        await wait_until(lambda: bool(self.attempts(order, step)), f"{order.order_id} tries {step}")


@pytest.fixture(scope="module")
async def counter(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Counter]:
    stage = await make_stage(server, tmp_path_factory.mktemp("cancellation"))
    plans: dict[str, FaultPlan] = {}
    shop = Shop(stage.data, PlanOfEachOrder(plans=plans))
    await register_order_status(stage.client)
    async with serve(stage.client, shop):
        yield Counter(stage, shop, plans)
    shop.close()


async def test_a_cancel_before_the_first_step_leaves_no_trace(stage: Stage, shop: Shop) -> None:
    order = make_order()
    await register_order_status(stage.client)
    handle = await start_or_attach(stage.client, order)
    await handle.cancel()

    async with serve(stage.client, shop):
        end = await end_of(handle, order)

    assert end == (Status.CANCELLED, WorkflowExecutionStatus.CANCELED)
    assert read_ledger(shop).attempts == ()


@pytest.mark.parametrize("step", ["validate_inventory", "process_payment", "update_inventory"])
async def test_a_cancel_in_a_step_undoes_the_order_and_the_late_effect_is_refused(step: str, counter: Counter) -> None:
    order, hold = make_order(f"late-{step}"), Hold(step=step)
    handle = await counter.start_held(order, hold)

    await handle.cancel()
    end = await end_of(handle, order)
    hold.released.set()
    await wait_until(lambda: counter.attempts(order, step) != ["started"], "the late attempt ends")

    assert end == (Status.CANCELLED, WorkflowExecutionStatus.CANCELED)
    assert counter.attempts(order, step) == ["ok" if step == "validate_inventory" else "OrderVoided"]
    assert_nothing_held(read_ledger(counter.shop), order)


@pytest.mark.parametrize(("step", "undo"), [("process_payment", "refund"), ("update_inventory", "restore")])
async def test_a_cancel_in_a_step_that_has_had_its_effect_undoes_the_effect(
    step: str, undo: str, counter: Counter
) -> None:
    order, hold = make_order(f"{undo}-{step}"), Hold(step=step, is_after_effect=True)
    handle = await counter.start_held(order, hold)

    await handle.cancel()
    end = await end_of(handle, order)
    hold.released.set()

    ledger = read_ledger(counter.shop)
    assert end == (Status.CANCELLED, WorkflowExecutionStatus.CANCELED)
    assert [charge.refunded for charge in ledger.charges if charge.order_id == order.order_id] == [True]
    restored = [sale.restored for sale in ledger.sales if sale.order_id == order.order_id]
    assert restored == ([True, True] if step == "update_inventory" else [])
    assert_nothing_held(ledger, order)


async def test_a_cancel_between_the_attempts_of_a_step_undoes_the_order(counter: Counter) -> None:
    order = make_order("between")
    handle = await counter.start(order, parse_faults("update_inventory:unavailable*inf"))
    await wait_until(lambda: len(counter.attempts(order, "update_inventory")) > 1, "it is tried again")

    await handle.cancel()
    end = await end_of(handle, order)

    assert end == (Status.CANCELLED, WorkflowExecutionStatus.CANCELED)
    assert_nothing_held(read_ledger(counter.shop), order)


@pytest.mark.parametrize("is_after_effect", [False, True])
async def test_a_cancel_after_the_stock_is_taken_is_too_late(is_after_effect: bool, counter: Counter) -> None:
    order = make_order(f"too-late-{is_after_effect}")
    hold = Hold(step="send_confirmation", is_after_effect=is_after_effect)
    handle = await counter.start_held(order, hold)

    await cancel(handle)
    hold.released.set()
    end = await end_of(handle, order)

    assert end == (Status.COMPLETED, WorkflowExecutionStatus.COMPLETED)
    assert_done_once(read_ledger(counter.shop), order)


async def test_a_cancel_between_the_attempts_to_mail_is_too_late(counter: Counter) -> None:
    order = make_order("no-mail-yet")
    handle = await counter.start(order, parse_faults("send_confirmation:unavailable"))
    await counter.wait_for_attempt(order, "send_confirmation")

    await cancel(handle)
    end = await end_of(handle, order)

    assert end == (Status.COMPLETED, WorkflowExecutionStatus.COMPLETED)
    assert counter.attempts(order, "send_confirmation") == ["ServiceUnavailable", "ok"]
    assert_done_once(read_ledger(counter.shop), order)


@pytest.mark.parametrize("compensation", ["restore_inventory", "refund_payment"])
async def test_a_second_cancel_during_a_compensation_does_not_stop_it(compensation: str, counter: Counter) -> None:
    order, hold = make_order(f"twice-{compensation}"), Hold(step=compensation)
    # The stock is taken at the first attempt, but the order does not get to know.
    handle = await counter.start(order, hold.plan(*parse_faults("update_inventory:lost_reply*inf").planned))
    await counter.wait_for_attempt(order, "update_inventory")
    await handle.cancel()
    await wait_until(hold.reached.is_set, f"{compensation} is under way")

    await cancel(handle)
    status_when_held = (await handle.describe()).status
    hold.released.set()
    end = await end_of(handle, order)

    assert status_when_held == WorkflowExecutionStatus.RUNNING
    assert end == (Status.CANCELLED, WorkflowExecutionStatus.CANCELED)
    assert counter.attempts(order, compensation) == ["ok"]
    assert_nothing_held(read_ledger(counter.shop), order)


@pytest.mark.parametrize(
    ("token", "faults", "end"),
    [
        ("tok_chargeDeclined", "", (Status.REJECTED, WorkflowExecutionStatus.COMPLETED)),
        ("tok_visa", "process_payment:lost_reply*3", (Status.FAILED, WorkflowExecutionStatus.FAILED)),
    ],
)
async def test_a_cancel_during_a_compensation_leaves_the_reason_for_it(
    token: str, faults: str, end: tuple[Status, WorkflowExecutionStatus], counter: Counter
) -> None:
    order, hold = make_order(f"undone-{end[0].value}", payment_token=token), Hold(step="refund_payment")
    handle = await counter.start(order, hold.plan(*parse_faults(faults).planned))
    await wait_until(hold.reached.is_set, "the refund is under way")

    await cancel(handle)
    status_when_held = (await handle.describe()).status
    hold.released.set()
    ended = await end_of(handle, order)

    assert status_when_held == WorkflowExecutionStatus.RUNNING
    assert ended == end
    assert counter.attempts(order, "refund_payment") == ["ok"]
    assert_nothing_held(read_ledger(counter.shop), order)


@pytest.mark.parametrize("is_cancel_first", [False, True])
async def test_a_cancel_that_arrives_together_with_the_result_of_a_step_ends_the_order_whole(
    is_cancel_first: bool, stage: Stage
) -> None:
    steps = ("validate_inventory", "process_payment", "update_inventory", "send_confirmation")
    orders = [make_order(f"order-at-{step}") for step in steps]
    holds = [Hold(step=step) for step in steps]
    plans = {order.order_id: hold.plan() for order, hold in zip(orders, holds, strict=True)}
    shop = Shop(stage.data, PlanOfEachOrder(plans=plans))
    await register_order_status(stage.client)

    async with serve(stage.client, shop, workflows=()):
        async with serve(stage.client):
            handles = [await start_or_attach(stage.client, order) for order in orders]
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
            ends = await asyncio.gather(*(end_of(handle, order) for handle, order in zip(handles, orders, strict=True)))

    ledger = read_ledger(shop)
    shop.close()
    cancelled = (Status.CANCELLED, WorkflowExecutionStatus.CANCELED)
    completed = (Status.COMPLETED, WorkflowExecutionStatus.COMPLETED)
    assert ends[:2] == [cancelled, cancelled]
    assert ends[2] in (cancelled, completed)
    assert ends[3] == completed
    for order, end in zip(orders, ends, strict=True):
        if end == completed:
            assert_done_once(ledger, order)
        else:
            assert_nothing_held(ledger, order)


async def test_a_terminated_order_stays_charged_until_it_is_settled(counter: Counter, tmp_path: Path) -> None:
    order = make_order("terminated")
    handle = await counter.start(order, parse_faults("update_inventory:unavailable*inf"))
    await counter.wait_for_attempt(order, "update_inventory")
    settle = Program(
        tmp_path / "settle", clean_environment(), "-m", "shop", "settle", order.order_id, f"--data={counter.stage.data}"
    )

    await handle.terminate()
    end = await end_of(handle, order)
    before = read_ledger(counter.shop)
    exit_status = await settle.run()

    after = read_ledger(counter.shop)
    assert end == (Status.UNKNOWN, WorkflowExecutionStatus.TERMINATED)
    assert [charge.refunded for charge in before.charges if charge.order_id == order.order_id] == [False]
    assert exit_status == 0
    assert [charge.refunded for charge in after.charges if charge.order_id == order.order_id] == [True]
    assert_nothing_held(after, order)


async def test_a_worker_that_forgets_its_workflows_after_each_task_undoes_only_what_is_to_be_undone(
    stage: Stage,
) -> None:
    completed, unsent = make_order("completed"), make_order("unsent", customer_id="nobody")
    declined = make_order("declined", payment_token="tok_chargeDeclined")
    failed, cancelled = make_order("failed"), make_order("cancelled")
    sold_out = make_order("sold-out", items=(Item("last-one", 1, 90_00),))
    orders = (completed, unsent, declined, failed, cancelled, sold_out)
    sold_out_hold = Hold(step="process_payment")
    plans = {
        completed.order_id: parse_faults("process_payment:unavailable,update_inventory:lost_reply"),
        failed.order_id: parse_faults("process_payment:lost_reply*3"),
        cancelled.order_id: parse_faults("update_inventory:lost_reply*inf"),
        sold_out.order_id: sold_out_hold.plan(),
    }
    shop = Shop(stage.data, PlanOfEachOrder(plans=plans))
    await register_order_status(stage.client)

    async with serve(stage.client, shop, max_cached_workflows=0):
        handles = {order: await start_or_attach(stage.client, order) for order in orders}
        await wait_until(sold_out_hold.reached.is_set, "the last one is seen, and being paid for")
        shop.inventory.update_inventory(make_order("somebody-else", items=sold_out.items))
        sold_out_hold.released.set()
        await wait_until(
            lambda: bool(attempts_of(read_ledger(shop), cancelled, "update_inventory")), "the order is paid"
        )
        await handles[cancelled].cancel()
        ends = await asyncio.gather(*(end_of(handle, order) for order, handle in handles.items()))

    ledger = read_ledger(shop)
    shop.close()
    assert [status for status, _ in ends] == [
        Status.COMPLETED,
        Status.COMPLETED,
        Status.REJECTED,
        Status.FAILED,
        Status.CANCELLED,
        Status.REJECTED,
    ]
    assert sorted(
        (attempt.order_id, attempt.step)
        for attempt in ledger.attempts
        if attempt.step in ("refund_payment", "restore_inventory")
    ) == [
        ("cancelled", "refund_payment"),
        ("cancelled", "restore_inventory"),
        ("declined", "refund_payment"),
        ("failed", "refund_payment"),
        ("sold-out", "refund_payment"),
        ("sold-out", "restore_inventory"),
    ]
    assert_done_once(ledger, completed)
    assert_done_once(ledger, unsent, is_sent=False)
    for order in (declined, failed, cancelled, sold_out):
        assert_nothing_held(ledger, order)
