"""Orders served from this process: one worker and one shop for many, each under a fault plan of its own, or held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TypeAlias

import pytest
from conftest import Stage, make_stage
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.worker import Interceptor, Worker, WorkerDeploymentConfig

from activities import activities_of
from comparison.stage.processes import Server, wait_until
from plumbing.admission import Admission
from plumbing.connection import add_search_attribute
from plumbing.process import STICKY_TIMEOUT
from plumbing.starting import start_once
from run_workflow import not_completed
from shop.errors import ServiceUnavailable
from shop.faults import Fault, FaultPlan, PlannedFault, parse_faults
from shop.ledger import Ledger, read_ledger
from shop.orders import Order, Outcome, Status
from shop.shop import Shop
from workflows import ORDER_STATUS, TASK_QUEUE, OrderWorkflow, workflow_id_for

Handle: TypeAlias = WorkflowHandle[OrderWorkflow, Outcome]
End: TypeAlias = "tuple[Status, WorkflowExecutionStatus | None]"
"""The outcome of an order, and how the server closed its workflow."""

CANCELLED: End = (Status.CANCELLED, WorkflowExecutionStatus.CANCELED)
COMPLETED: End = (Status.COMPLETED, WorkflowExecutionStatus.COMPLETED)

THREADS = 32
PATIENCE_SECONDS = 30.0


@asynccontextmanager
async def serve(
    client: Client,
    shop: Shop | None = None,
    workflows: Sequence[type] = (OrderWorkflow,),
    interceptors: Sequence[Interceptor] = (),
    max_cached_workflows: int = 1000,
    version: WorkerDeploymentConfig | None = None,
    more_steps: Sequence[Callable[..., object]] = (),
    steps_per_second: float | None = None,
    is_eager: bool = True,
) -> AsyncIterator[None]:
    """Run a worker in this process, wired as `run_worker.py` does. Without a shop it serves no steps."""
    with ThreadPoolExecutor(THREADS) as threads:
        async with Worker(
            client,
            task_queue=TASK_QUEUE,
            workflows=workflows,
            activities=[*(activities_of(shop) if shop else []), *more_steps],
            interceptors=[Admission(), *interceptors],
            deployment_config=version,
            activity_executor=threads,
            max_concurrent_activities=THREADS,
            max_task_queue_activities_per_second=steps_per_second,
            disable_eager_activity_execution=not is_eager,
            max_cached_workflows=max_cached_workflows,
            sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
        ):
            yield


@asynccontextmanager
async def serving(stage: Stage, faults: str = "") -> AsyncIterator[None]:
    """Run a worker in this process, where the worker is not what the test is about."""
    await add_search_attribute(stage.client, ORDER_STATUS)
    with closing(Shop(stage.data, parse_faults(faults))) as shop:
        async with serve(stage.client, shop):
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


async def start(client: Client, order: Order, **options: object) -> Handle:
    """Start an order as the starter does; `options` are further ones of `Client.start_workflow`."""
    workflow_id = workflow_id_for(order.order_id)
    handle, _ = await start_once(client, OrderWorkflow.run, order, id=workflow_id, task_queue=TASK_QUEUE, **options)
    return handle


async def end_of(client: Client, handle: Handle, order: Order) -> End:
    """Wait for the end of an order."""
    try:
        outcome = await asyncio.wait_for(handle.result(), PATIENCE_SECONDS)
    except WorkflowFailureError as error:
        outcome = await not_completed(client, order.order_id, error.cause)
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


def deliver(shop: Shop, order: Order) -> None:
    """Do all that an order needs, as an earlier run did that nobody remembers."""
    shop.payments.process_payment(order)
    shop.inventory.update_inventory(order)
    shop.notifications.send_confirmation(order)


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

    async def end_of(self, handle: Handle, order: Order) -> End:
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
