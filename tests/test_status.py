"""What somebody who looks at an order is told: the query, the search attribute, and the texts in the UI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from conftest import Stage, make_order, make_stage
from temporalio.api.enums.v1 import EventType
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client
from temporalio.converter import DataConverter
from test_cancellation import (
    PATIENCE_SECONDS,
    Handle,
    Hold,
    PlanOfEachOrder,
    attempts_of,
    end_of,
    serve,
)

from comparison.processes import Server, wait_until
from run_worker import register_order_status
from run_workflow import start_or_attach
from shop.faults import parse_faults
from shop.ledger import read_ledger
from shop.orders import Order, Status
from shop.shop import Shop
from workflows import ORDER_STATUS, OrderWorkflow

METADATA_QUERY = "__temporal_workflow_metadata"
STEPS = ("validate_inventory", "process_payment", "update_inventory", "send_confirmation")


async def details_of(handle: Handle) -> str:
    """Return the text that the UI shows as the current details."""
    metadata: WorkflowMetadata = await handle.query(METADATA_QUERY, result_type=WorkflowMetadata)
    return metadata.current_details


async def found(client: Client, status: str) -> set[str]:
    """Return the ids of the workflows that a search by `OrderStatus` finds."""
    return {execution.id async for execution in client.list_workflows(f"{ORDER_STATUS.name} = '{status}'")}


async def wait_until_found(client: Client, status: str, workflow_id: str) -> None:
    """Wait until a search finds a workflow: the index follows the workflow, a little later."""

    async def search() -> None:
        while workflow_id not in await found(client, status):
            await asyncio.sleep(0.05)

    await asyncio.wait_for(search(), PATIENCE_SECONDS)


async def summaries_of(handle: Handle) -> dict[str, str]:
    """Return the text that the UI shows beside each step."""
    return {
        event.activity_task_scheduled_event_attributes.activity_type.name: str(
            (await DataConverter.default.decode([event.user_metadata.summary]))[0]
        )
        async for event in handle.fetch_history_events()
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    }


@pytest.mark.parametrize("step", STEPS)
async def test_an_order_that_is_held_in_a_step_says_so(step: str, stage: Stage) -> None:
    order, hold = make_order(), Hold(step=step)
    shop = Shop(stage.data, hold.plan())
    await register_order_status(stage.client)

    async with serve(stage.client, shop):
        handle = await start_or_attach(stage.client, order)
        await wait_until(hold.reached.is_set, f"the order is held in {step}")
        status, details = await handle.query(OrderWorkflow.status), await details_of(handle)
        searchable = (await handle.describe()).typed_search_attributes[ORDER_STATUS]
        await wait_until_found(stage.client, step, handle.id)
        hold.released.set()
        await end_of(handle, order)

    shop.close()
    assert (status, searchable) == (step, step)
    assert details.startswith(f"**{step}**: ")


async def test_a_payment_that_is_retried_shows_its_attempts_and_the_error(stage: Stage) -> None:
    order = make_order()
    shop = Shop(stage.data, parse_faults("process_payment:unavailable*2"))
    await register_order_status(stage.client)

    async with serve(stage.client, shop):
        handle = await start_or_attach(stage.client, order)
        await wait_until(lambda: len(attempts_of(read_ledger(shop), order, "process_payment")) > 1, "it is retried")
        description = await handle.describe()
        (pending,) = description.raw_description.pending_activities
        status, details = await handle.query(OrderWorkflow.status), await details_of(handle)
        await end_of(handle, order)

    shop.close()
    assert (status, description.typed_search_attributes[ORDER_STATUS]) == ("process_payment", "process_payment")
    assert (
        details
        == "**process_payment**: charge 43.90 USD. Attempts and their errors are listed under Pending Activities."
    )
    assert pending.activity_type.name == "process_payment"
    assert pending.attempt >= 2
    assert "unavailable" in pending.last_failure.message


@dataclass(frozen=True)
class Ended:
    """A workflow that has ended, and what the details are expected to say."""

    handle: Handle
    order: Order
    details: str


ENDS = ("completed", "unsent", "rejected", "failed", "cancelled", "conflict")


@pytest.fixture(scope="module")
async def ended(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Ended]]:
    """Run an order to each kind of end, and keep a worker for the queries."""
    stage = await make_stage(server, tmp_path_factory.mktemp("status"))
    orders = {
        "completed": (make_order("completed"), "txn_"),
        "unsent": (make_order("unsent", customer_id="nobody"), "no confirmation was sent: UnknownCustomer"),
        "rejected": (make_order("rejected", payment_token="tok_chargeDeclined"), "PaymentDeclined: the bank declined"),
        "failed": (make_order("failed"), "ServiceUnavailable: the service is unavailable"),
        "cancelled": (make_order("cancelled"), "cancelled"),
        "conflict": (make_order("conflict"), "OrderConflict: order conflict was here before"),
    }
    plans = {
        "failed": parse_faults("process_payment:unavailable*inf"),
        "cancelled": parse_faults("update_inventory:unavailable*inf"),
    }
    shop = Shop(stage.data, PlanOfEachOrder(plans=plans))
    shop.payments.process_payment(make_order("conflict", customer_id="grace"))
    await register_order_status(stage.client)
    async with serve(stage.client, shop):
        ends = {
            kind: Ended(await start_or_attach(stage.client, order), order, details)
            for kind, (order, details) in orders.items()
        }
        cancelled = ends["cancelled"]
        await wait_until(
            lambda: bool(attempts_of(read_ledger(shop), cancelled.order, "update_inventory")), "the order is paid"
        )
        await cancelled.handle.cancel()
        await asyncio.gather(*(end_of(end.handle, end.order) for end in ends.values()))
        yield ends
    shop.close()


STATUS_OF = {kind: kind for kind in ENDS} | {"unsent": "completed", "conflict": "unknown"}


@pytest.mark.parametrize("kind", ENDS)
async def test_an_order_that_has_ended_says_how_in_the_words_of_both_versions(
    kind: str, ended: dict[str, Ended], server: Server
) -> None:
    end, status = ended[kind], Status(STATUS_OF[kind])

    description = await end.handle.describe()
    answer, details = await end.handle.query(OrderWorkflow.status), await details_of(end.handle)
    await wait_until_found(await server.client(description.namespace), status.value, end.handle.id)

    assert answer == status.value
    assert description.typed_search_attributes[ORDER_STATUS] == status.value
    assert details.startswith(f"**{status.value}**: ")
    assert end.details in details


async def test_a_search_by_status_finds_no_other_orders(ended: dict[str, Ended], server: Server) -> None:
    client = await server.client((await ended["completed"].handle.describe()).namespace)
    for kind in ENDS:
        await wait_until_found(client, STATUS_OF[kind], ended[kind].handle.id)

    completed, failed = await found(client, "completed"), await found(client, "failed")

    assert (completed, failed) == ({"order-completed", "order-unsent"}, {"order-failed"})


async def test_each_step_and_the_order_carry_a_readable_summary(ended: dict[str, Ended]) -> None:
    order_summary = await (await ended["completed"].handle.describe()).static_summary()
    summaries = {kind: await summaries_of(end.handle) for kind, end in ended.items()}

    assert order_summary == "43.90 USD, customer ada"
    assert summaries["completed"] == {
        "validate_inventory": "are 3 units of 2 products there?",
        "process_payment": "charge 43.90 USD",
        "update_inventory": "take 3 units of 2 products",
        "send_confirmation": "mail customer ada",
    }
    assert summaries["unsent"]["note_unsent"] == "note that no mail was sent"
    assert summaries["rejected"]["refund_payment"] == "undo: PaymentDeclined: the bank declined the card"
    assert summaries["cancelled"]["restore_inventory"] == "undo: cancelled"


async def test_no_text_for_people_holds_the_payment_token(ended: dict[str, Ended]) -> None:
    for end in ended.values():
        texts = [*(await summaries_of(end.handle)).values(), await details_of(end.handle)]

        assert all(end.order.payment_token not in text for text in texts)
