"""A deploy under running orders: a wrong one makes them wait, and never fails them.

The histories in `histories/` are of real runs. To record them again, after a change that is meant to break them:
`RECORD_HISTORIES=1 python -m pytest tests/test_deploys.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import Stage, make_order, make_stage
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHistory
from temporalio.worker import Replayer
from test_cancellation import (
    Handle,
    Hold,
    PlanOfEachOrder,
    assert_done_once,
    end_of,
    serve,
    start,
    wait_for_attempt,
    wait_for_event,
)

from comparison.stage.processes import ROOT, Server, wait_until
from plumbing import admission
from plumbing.admission import Admission
from plumbing.connection import add_search_attribute
from shop.faults import parse_faults
from shop.ledger import Ledger, read_ledger
from shop.orders import InvalidOrder, Item, Order, Outcome, Status
from shop.shop import Shop
from workflows import ORDER_STATUS, TASK_QUEUE, OrderWorkflow, workflow_id_for

HISTORIES = Path(__file__).parent / "histories"
NEUTRAL_IDENTITY = "recorder"
LAST_EVENTS = {
    "completed": EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
    "unsent": EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
    "rejected": EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
    "failed": EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
    "cancelled": EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
    "too_late": EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
    "conflict": EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
}
VOIDS = ("void_charge", "void_sale", "refund_payment")
STEPS_TAKEN = {
    "completed": ["validate_inventory", "process_payment", "update_inventory", "send_confirmation"],
    "unsent": ["validate_inventory", "process_payment", "update_inventory", "send_confirmation", "note_unsent"],
    "rejected": ["validate_inventory", "process_payment", "update_inventory", *VOIDS],
    "failed": ["validate_inventory", "process_payment", "void_charge"],
    "cancelled": ["validate_inventory", "process_payment", "update_inventory", *VOIDS],
    "too_late": [
        "validate_inventory",
        "process_payment",
        "update_inventory",
        "void_charge",
        "void_sale",
        "send_confirmation",
    ],
    "conflict": ["validate_inventory", "process_payment"],
}


@workflow.defn(name="OrderWorkflow", sandboxed=False)
class ChangedWorkflow(OrderWorkflow):
    """Takes a pause that no order under way has in its history."""

    @workflow.run
    async def run(self, order: Order) -> Outcome:
        await asyncio.sleep(1)
        return await super().run(order)


@workflow.defn(name="OrderWorkflow", sandboxed=False)
class BrokenWorkflow(OrderWorkflow):
    """Has a bug."""

    @workflow.run
    async def run(self, order: Order) -> Outcome:
        discounts: dict[str, int] = {}
        raise ValueError(discounts[order.customer_id])


async def record_histories(server: Server, directory: Path) -> None:
    """Run an order of each kind and keep its history, without what belongs to this machine."""
    stage = await make_stage(server, directory)
    client = await Client.connect(
        server.address,
        namespace=stage.namespace,
        data_converter=stage.client.data_converter,
        identity=NEUTRAL_IDENTITY,
    )
    orders = {
        "completed": make_order("completed"),
        "unsent": make_order("unsent", customer_id="nobody"),
        "rejected": make_order("rejected", items=(Item("last-one", 1, 90_00),)),
        "failed": make_order("failed"),
        "cancelled": make_order("cancelled"),
        "too_late": make_order("too_late"),
        "conflict": make_order("conflict"),
    }
    being_paid = Hold(step="process_payment")
    plans = {
        "rejected": being_paid.plan(),
        "failed": parse_faults("process_payment:unavailable*inf"),
        "cancelled": parse_faults("update_inventory:unavailable*inf"),
        "too_late": parse_faults("update_inventory:lost_reply*inf"),
    }
    shop = Shop(stage.data, PlanOfEachOrder(plans=plans))
    shop.payments.process_payment(make_order("conflict", customer_id="grace"))
    await add_search_attribute(client, ORDER_STATUS)
    async with serve(client, shop):
        handles = {kind: await start(client, order) for kind, order in orders.items()}
        await wait_until(being_paid.reached.is_set, "the order has seen the last one")
        shop.inventory.update_inventory(make_order("somebody-else", items=orders["rejected"].items))
        being_paid.released.set()
        for kind in ("cancelled", "too_late"):
            await wait_for_attempt(shop, orders[kind], "update_inventory")
            await handles[kind].cancel()
        ends = [(await end_of(client, handles[kind], order))[0] for kind, order in orders.items()]
    shop.close()
    assert ends == [
        Status.COMPLETED,
        Status.COMPLETED,
        Status.REJECTED,
        Status.FAILED,
        Status.CANCELLED,
        Status.COMPLETED,
        Status.UNKNOWN,
    ]
    HISTORIES.mkdir(exist_ok=True)
    for kind, handle in handles.items():
        text = (await handle.fetch_history()).to_json()
        (HISTORIES / f"{kind}.json").write_text(json.dumps(without_stack_traces(text), indent=1) + "\n")


def without_stack_traces(history: str) -> object:
    """Read a history, but for the stack traces: they name paths of the machine that recorded it."""
    return json.loads(history, object_pairs_hook=lambda pairs: dict(pair for pair in pairs if pair[0] != "stackTrace"))


@pytest.fixture(scope="module", autouse=True)
async def _recorded_on_request(server: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    if os.environ.get("RECORD_HISTORIES"):
        await record_histories(server, tmp_path_factory.mktemp("recording"))


def kept_history(kind: str) -> WorkflowHistory:
    return WorkflowHistory.from_json(workflow_id_for(kind), (HISTORIES / f"{kind}.json").read_text())


def replayer(client: Client, workflow_type: type) -> Replayer:
    return Replayer(workflows=[workflow_type], data_converter=client.data_converter, interceptors=[Admission()])


@pytest.mark.parametrize("kind", LAST_EVENTS)
async def test_the_kept_history_of_each_kind_of_outcome_replays(kind: str, stage: Stage) -> None:
    await replayer(stage.client, OrderWorkflow).replay_workflow(kept_history(kind))


@pytest.mark.parametrize("kind", LAST_EVENTS)
@pytest.mark.parametrize(
    ("workflow_type", "complaint"), [(ChangedWorkflow, workflow.NondeterminismError), (BrokenWorkflow, RuntimeError)]
)
async def test_a_change_that_orders_under_way_could_not_follow_is_found_by_the_replay(
    kind: str, workflow_type: type, complaint: type[Exception], stage: Stage
) -> None:
    with pytest.raises(complaint):
        await replayer(stage.client, workflow_type).replay_workflow(kept_history(kind))


@pytest.mark.parametrize("kind", LAST_EVENTS)
def test_a_kept_history_is_of_its_kind(kind: str) -> None:
    events = kept_history(kind).events

    assert events[-1].event_type == LAST_EVENTS[kind]
    assert [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in events
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    ] == STEPS_TAKEN[kind]


@pytest.mark.parametrize("kind", LAST_EVENTS)
def test_a_kept_history_names_no_machine_and_no_path(kind: str) -> None:
    text = (HISTORIES / f"{kind}.json").read_text()

    assert NEUTRAL_IDENTITY in text
    for private in (socket.gethostname(), str(ROOT), str(Path.home()), "site-packages", ".py", "@"):
        assert private not in text


async def start_impatient(client: Client, order: Order) -> Handle:
    """Start an order whose failed workflow tasks are repeated after 1 s; by default the SDK lets 10 s pass."""
    return await client.start_workflow(
        OrderWorkflow.run,
        order,
        id=workflow_id_for(order.order_id),
        task_queue=TASK_QUEUE,
        task_timeout=timedelta(seconds=1),
    )


@asynccontextmanager
async def order_being_paid(stage: Stage, shop: Shop, hold: Hold) -> AsyncIterator[tuple[Order, Handle]]:
    """Bring an order to its payment; then stop the worker that runs workflows, while the payment goes on."""
    order = make_order()
    await add_search_attribute(stage.client, ORDER_STATUS)
    async with serve(stage.client, shop, workflows=()):
        async with serve(stage.client):
            handle = await start_impatient(stage.client, order)
            await wait_until(hold.reached.is_set, "the payment is under way")
        yield order, handle


async def assert_waits_and_completes(
    stage: Stage, shop: Shop, hold: Hold, workflows: Sequence[type], complaint: str
) -> None:
    """Deploy `workflows` under an order, look how they fail, and roll back."""
    async with order_being_paid(stage, shop, hold) as (order, handle):
        async with serve(stage.client, workflows=workflows):
            hold.released.set()
            await wait_for_event(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED)
            complaints = await task_failures(handle)
            status = (await handle.describe()).status
        async with serve(stage.client):
            end = await end_of(stage.client, handle, order)

    assert complaint in complaints[0]
    assert status == WorkflowExecutionStatus.RUNNING
    assert end == (Status.COMPLETED, WorkflowExecutionStatus.COMPLETED)
    assert_done_once_without_a_repeat(read_ledger(shop.location), order)


async def task_failures(handle: Handle) -> list[str]:
    return [
        str(event.workflow_task_failed_event_attributes.failure)
        async for event in handle.fetch_history_events()
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED
    ]


def assert_done_once_without_a_repeat(ledger: Ledger, order: Order) -> None:
    assert_done_once(ledger, order)
    assert [attempt.step for attempt in ledger.attempts] == STEPS_TAKEN["completed"]


@pytest.fixture
def hold() -> Hold:
    return Hold(step="process_payment")


@pytest.fixture
def held_shop(stage: Stage, hold: Hold) -> Shop:
    return Shop(stage.data, hold.plan())


@pytest.mark.parametrize(
    ("workflows", "complaint"),
    [([ChangedWorkflow], "Nondeterminism"), ([BrokenWorkflow], "KeyError"), ([UnknownWorkflow], "is unknown")],
    ids=["changed", "broken", "unknown type"],
)
async def test_an_order_under_way_waits_for_the_roll_back_of_a_wrong_workflow(
    workflows: list[type], complaint: str, stage: Stage, held_shop: Shop, hold: Hold
) -> None:
    await assert_waits_and_completes(stage, held_shop, hold, workflows, complaint)


def refuse(document: object) -> Order:
    """Be stricter than the rules that the order was accepted by."""
    raise InvalidOrder("loyalty_number: is missing")


async def test_an_order_under_way_waits_for_the_roll_back_of_a_stricter_rule(
    stage: Stage, held_shop: Shop, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with order_being_paid(stage, held_shop, hold) as (order, handle):
        monkeypatch.setattr(admission, "parse_order", refuse)
        async with serve(stage.client):
            hold.released.set()
            await wait_for_event(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED)
            status = (await handle.describe()).status
        monkeypatch.undo()
        async with serve(stage.client):
            end = await end_of(stage.client, handle, order)

    assert status == WorkflowExecutionStatus.RUNNING
    assert end == (Status.COMPLETED, WorkflowExecutionStatus.COMPLETED)
    assert_done_once_without_a_repeat(read_ledger(held_shop.location), order)


async def test_an_order_whose_payment_is_retried_survives_a_stricter_rule(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, shop = make_order(), Shop(stage.data, parse_faults("process_payment:unavailable"))
    await add_search_attribute(stage.client, ORDER_STATUS)
    async with serve(stage.client, shop):
        handle = await start_impatient(stage.client, order)
        await wait_for_attempt(shop, order, "process_payment")
    monkeypatch.setattr(admission, "parse_order", refuse)
    async with serve(stage.client, shop):
        await wait_for_event(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED)
    monkeypatch.undo()

    async with serve(stage.client, shop):
        end = await end_of(stage.client, handle, order)

    assert end == (Status.COMPLETED, WorkflowExecutionStatus.COMPLETED)
    assert_done_once(read_ledger(shop.location), order)
