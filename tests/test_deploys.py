"""A deploy under running orders: a wrong one makes them wait, and never fails them.

The histories in `histories/` are of real runs. To record them again, after a change that is meant to break them:
`RECORD_HISTORIES=1 python -m pytest tests/test_deploys.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Stage, make_order, make_stage
from counter import (
    COMPLETED,
    Hold,
    PlanOfEachOrder,
    assert_done_once,
    end_of,
    serve,
    start,
    wait_for_attempt,
    wait_for_event,
)
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHistory
from temporalio.exceptions import ApplicationError
from temporalio.worker import Replayer

from comparison.stage.processes import ROOT, Server, wait_until
from plumbing.admission import Admission
from plumbing.connection import add_search_attribute
from plumbing.converters import StrictPayloadConverter
from shop.faults import parse_faults
from shop.ledger import read_ledger
from shop.orders import InvalidOrder, Item, Order, Outcome
from shop.shop import Shop
from workflows import ORDER_STATUS, TASK_QUEUE, OrderWorkflow, workflow_id_for

HISTORIES = Path(__file__).parent / "histories"
NEUTRAL_IDENTITY = "recorder"
FORWARD = ["validate_inventory", "process_payment", "update_inventory"]
VOIDS = ["void_charge", "void_sale"]
ENDED_WELL = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED
FAILED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED
# The last event of each kept history, and the steps in it.
KEPT = {
    "completed": (ENDED_WELL, [*FORWARD, "send_confirmation"]),
    "unsent": (ENDED_WELL, [*FORWARD, "send_confirmation", "note_unsent"]),
    "rejected": (ENDED_WELL, [*FORWARD, *VOIDS, "refund_payment"]),
    "failed": (FAILED, [*FORWARD[:2], "void_charge"]),
    "cancelled": (EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED, [*FORWARD, *VOIDS, "refund_payment"]),
    "too_late": (ENDED_WELL, [*FORWARD, *VOIDS, "send_confirmation"]),
    "conflict": (FAILED, FORWARD[:2]),
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


class AnotherFormat(StrictPayloadConverter):
    """Cannot read what the payment has returned."""

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        if type_hints == [str]:
            raise ValueError("not a transaction id")
        return super().from_payloads(payloads, type_hints)


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
        for kind, order in orders.items():
            await end_of(client, handles[kind], order)
    shop.close()
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


async def replay(kind: str, client: Client, workflow_type: type) -> None:
    history = WorkflowHistory.from_json(workflow_id_for(kind), (HISTORIES / f"{kind}.json").read_text())
    replayer = Replayer(workflows=[workflow_type], data_converter=client.data_converter, interceptors=[Admission()])
    await replayer.replay_workflow(history)


@pytest.mark.parametrize("kind", KEPT)
async def test_the_kept_history_of_each_kind_of_outcome_replays(kind: str, server: Server) -> None:
    await replay(kind, await server.client(), OrderWorkflow)


@pytest.mark.parametrize(
    ("workflow_type", "complaint"), [(ChangedWorkflow, workflow.NondeterminismError), (BrokenWorkflow, RuntimeError)]
)
async def test_a_change_that_orders_under_way_could_not_follow_is_found_by_the_replay(
    workflow_type: type, complaint: type[Exception], server: Server
) -> None:
    with pytest.raises(complaint):
        await replay("completed", await server.client(), workflow_type)


@pytest.mark.parametrize("kind", KEPT)
def test_a_kept_history_is_of_its_kind_and_names_no_machine_and_no_path(kind: str) -> None:
    text = (HISTORIES / f"{kind}.json").read_text()
    events = WorkflowHistory.from_json(kind, text).events

    steps = [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in events
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    ]
    assert (events[-1].event_type, steps) == KEPT[kind]
    assert NEUTRAL_IDENTITY in text
    for private in (socket.gethostname(), str(ROOT), str(Path.home()), "site-packages", ".py", "@"):
        assert private not in text


@pytest.mark.parametrize(
    ("workflow_type", "converter", "complaint"),
    [
        (ChangedWorkflow, StrictPayloadConverter, "Nondeterminism"),
        (BrokenWorkflow, StrictPayloadConverter, "KeyError"),
        (OrderWorkflow, AnotherFormat, "not a transaction id"),
    ],
)
async def test_an_order_under_way_waits_for_the_roll_back_of_a_wrong_deploy(
    workflow_type: type, converter: type[StrictPayloadConverter], complaint: str, stage: Stage
) -> None:
    order, hold = make_order(), Hold(step="process_payment")
    data_converter = replace(stage.client.data_converter, payload_converter_class=converter)
    wrong = Client(stage.client.service_client, namespace=stage.namespace, data_converter=data_converter)
    await add_search_attribute(stage.client, ORDER_STATUS)
    with closing(Shop(stage.data, hold.plan())) as shop:
        async with serve(stage.client, shop, workflows=()):
            async with serve(stage.client):
                # A workflow task that failed is repeated after this time; by default after 10 s.
                handle = await stage.client.start_workflow(
                    OrderWorkflow.run,
                    order,
                    id=workflow_id_for(order.order_id),
                    task_queue=TASK_QUEUE,
                    task_timeout=timedelta(seconds=1),
                )
                await wait_until(hold.reached.is_set, "the payment is under way")
            async with serve(wrong, workflows=[workflow_type]):
                hold.released.set()
                await wait_for_event(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED)
                status = (await handle.describe()).status
            async with serve(stage.client):
                end = await end_of(stage.client, handle, order)

    failures = [
        str(event.workflow_task_failed_event_attributes.failure)
        async for event in handle.fetch_history_events()
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED
    ]
    assert complaint in failures[0]
    assert (status, end) == (WorkflowExecutionStatus.RUNNING, COMPLETED)
    assert_done_once(read_ledger(stage.data), order)


def refuse(order: Order) -> None:
    """Be stricter than the rules that the order was accepted by."""
    raise InvalidOrder("loyalty_number: is missing")


async def test_an_order_under_way_ends_under_a_stricter_rule_that_refuses_the_next_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, later, hold = make_order(), make_order("later"), Hold(step="process_payment")
    await add_search_attribute(stage.client, ORDER_STATUS)
    with closing(Shop(stage.data, hold.plan())) as shop:
        async with serve(stage.client, shop, workflows=()):
            async with serve(stage.client):
                handle = await start(stage.client, order)
                await wait_until(hold.reached.is_set, "the payment is under way")
            monkeypatch.setattr(Order, "check", refuse, raising=False)
            async with serve(stage.client):
                hold.released.set()
                end = await end_of(stage.client, handle, order)
                with pytest.raises(WorkflowFailureError) as refused:
                    await (await start(stage.client, later)).result()

    assert end == COMPLETED
    assert_done_once(read_ledger(stage.data), order)
    assert isinstance(refused.value.cause, ApplicationError)
    assert (refused.value.cause.type, refused.value.cause.message) == ("InvalidOrder", "loyalty_number: is missing")
