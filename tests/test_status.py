"""What somebody who looks at an order is told: the query, the search attribute, and the texts in the UI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from conftest import Stage, make_order, make_stage
from temporalio.api.enums.v1 import EventType
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client
from temporalio.converter import DataConverter
from test_cancellation import (
    PATIENCE_SECONDS,
    Counter,
    Handle,
    Hold,
    PlanOfEachOrder,
    attempts_of,
    end_of,
    open_counter,
    serve,
    start,
    wait_for_attempt,
)

from comparison.stage.processes import Server, wait_until
from plumbing.connection import add_search_attribute
from shop.faults import parse_faults
from shop.ledger import read_ledger
from shop.orders import Order, Status
from shop.shop import Shop
from workflows import ORDER_STATUS, OrderWorkflow

METADATA_QUERY = "__temporal_workflow_metadata"


@dataclass(frozen=True)
class Held:
    """A step, how an order gets there, and what `OrderStatus` says meanwhile."""

    step: str
    searchable: str | None
    faults: str = ""
    changes: dict[str, object] = field(default_factory=dict)


PAYMENT_LOST = "process_payment:lost_reply*inf"
HELD = (
    Held("validate_inventory", None),
    Held("process_payment", None),
    Held("update_inventory", "update_inventory"),
    # Not written again: each write costs.
    Held("send_confirmation", "update_inventory"),
    Held("note_unsent", "update_inventory", changes={"customer_id": "nobody"}),
    Held("void_charge", "void_charge", changes={"payment_token": "tok_chargeDeclined"}),
    Held("void_sale", "void_charge", PAYMENT_LOST),
    Held("refund_payment", "void_charge", PAYMENT_LOST),
)


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


async def written_statuses_of(handle: Handle) -> list[str]:
    """Return all values that a workflow has written to `OrderStatus`, in their order."""
    written = []
    async for event in handle.fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES:
            attributes = event.upsert_workflow_search_attributes_event_attributes.search_attributes
            (value,) = await DataConverter.default.decode([attributes.indexed_fields[ORDER_STATUS.name]])
            written.append(str(value[0] if isinstance(value, list) else value))
    return written


@pytest.mark.parametrize("held", HELD, ids=[held.step for held in HELD])
async def test_an_order_that_is_held_in_a_step_says_so(held: Held, counter: Counter) -> None:
    order, hold = make_order(held.step, **held.changes), Hold(step=held.step)
    handle = await counter.start_held(order, hold, held.faults)

    status, details = await handle.query(OrderWorkflow.status), await details_of(handle)
    searchable = (await handle.describe()).typed_search_attributes.get(ORDER_STATUS)
    if held.searchable:
        await wait_until_found(counter.stage.client, held.searchable, handle.id)
    hold.released.set()
    await counter.end_of(handle, order)

    assert (status, searchable) == (held.step, held.searchable)
    assert details.startswith(f"**{held.step}**: ")


async def test_a_payment_that_is_retried_shows_its_attempts_and_the_error(stage: Stage) -> None:
    order = make_order()
    shop = Shop(stage.data, parse_faults("process_payment:unavailable*2"))
    await add_search_attribute(stage.client, ORDER_STATUS)

    async with serve(stage.client, shop):
        handle = await start(stage.client, order)
        await wait_until(
            lambda: len(attempts_of(read_ledger(shop.location), order, "process_payment")) > 1, "it is retried"
        )
        description = await handle.describe()
        (pending,) = description.raw_description.pending_activities
        status, details = await handle.query(OrderWorkflow.status), await details_of(handle)
        await end_of(stage.client, handle, order)

    shop.close()
    assert (status, details) == ("process_payment", "**process_payment**: charge 43.90 USD")
    assert pending.activity_type.name == "process_payment"
    assert pending.attempt >= 2
    assert "unavailable" in pending.last_failure.message


@pytest.fixture(scope="module")
async def counter(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Counter]:
    async with open_counter(server, tmp_path_factory.mktemp("counter")) as opened:
        yield opened


@dataclass(frozen=True)
class Ended:
    """A workflow that has ended, and what the details are expected to say."""

    handle: Handle
    order: Order
    details: str


# How it ends, and all that is written to `OrderStatus` on the way.
ENDS = {
    "completed": ["update_inventory", "completed"],
    "unsent": ["update_inventory", "completed"],
    "rejected": ["void_charge", "rejected"],
    "failed": ["void_charge", "failed"],
    "cancelled": ["update_inventory", "void_charge", "cancelled"],
    "too late": ["update_inventory", "void_charge", "completed"],
    "conflict": ["unknown"],
}


@pytest.fixture(scope="module")
async def ended(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Ended]]:
    """Run an order to each kind of end, and keep a worker for the queries."""
    stage = await make_stage(server, tmp_path_factory.mktemp("status"))
    orders = {
        "completed": (make_order("completed"), "txn_"),
        "unsent": (
            make_order("unsent", customer_id="nobody"),
            "no confirmation is known to have been sent: UnknownCustomer",
        ),
        "rejected": (make_order("rejected", payment_token="tok_chargeDeclined"), "PaymentDeclined: the bank declined"),
        "failed": (make_order("failed"), "ServiceUnavailable: the service is unavailable"),
        "cancelled": (make_order("cancelled"), "cancelled"),
        "too late": (make_order("too-late"), "txn_"),
        "conflict": (make_order("conflict"), "OrderConflict: order conflict was here before"),
    }
    plans = {
        "failed": parse_faults("process_payment:unavailable*inf"),
        "cancelled": parse_faults("update_inventory:unavailable*inf"),
        "too-late": parse_faults("update_inventory:lost_reply*inf"),
    }
    shop = Shop(stage.data, PlanOfEachOrder(plans=plans))
    shop.payments.process_payment(make_order("conflict", customer_id="grace"))
    await add_search_attribute(stage.client, ORDER_STATUS)
    async with serve(stage.client, shop):
        ends = {
            kind: Ended(await start(stage.client, order), order, details) for kind, (order, details) in orders.items()
        }
        for kind in ("cancelled", "too late"):
            await wait_for_attempt(shop, ends[kind].order, "update_inventory")
            await ends[kind].handle.cancel()
        await asyncio.gather(*(end_of(stage.client, end.handle, end.order) for end in ends.values()))
        yield ends
    shop.close()


@pytest.mark.parametrize("kind", ENDS)
async def test_an_order_that_has_ended_says_how_in_the_words_of_both_versions(
    kind: str, ended: dict[str, Ended], server: Server
) -> None:
    end, status = ended[kind], Status(ENDS[kind][-1])

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
        await wait_until_found(client, ENDS[kind][-1], ended[kind].handle.id)

    completed, failed = await found(client, "completed"), await found(client, "failed")

    assert (completed, failed) == ({"order-completed", "order-unsent", "order-too-late"}, {"order-failed"})


@pytest.mark.parametrize("kind", ENDS)
async def test_the_search_attribute_is_written_where_somebody_would_look_and_nowhere_else(
    kind: str, ended: dict[str, Ended]
) -> None:
    written = await written_statuses_of(ended[kind].handle)

    assert written == ENDS[kind]


async def test_each_step_and_the_order_carry_a_readable_summary(ended: dict[str, Ended]) -> None:
    order_summary = await (await ended["completed"].handle.describe()).static_summary()
    summaries = {kind: await summaries_of(end.handle) for kind, end in ended.items()}

    assert order_summary == "43.90 USD, customer ada"
    assert summaries["completed"] == {
        "validate_inventory": "look for 3 units",
        "process_payment": "charge 43.90 USD",
        "update_inventory": "take 3 units",
        "send_confirmation": "mail customer ada",
    }
    assert summaries["unsent"]["note_unsent"] == "note that no mail was sent"
    assert summaries["rejected"]["void_charge"] == "void: PaymentDeclined: the bank declined the card"
    assert summaries["cancelled"]["void_sale"] == "void: cancelled"
    assert summaries["cancelled"]["refund_payment"] == "refund 43.90 USD"


async def test_no_text_for_people_holds_the_payment_token(ended: dict[str, Ended]) -> None:
    for end in ended.values():
        texts = [*(await summaries_of(end.handle)).values(), await details_of(end.handle)]

        assert all(end.order.payment_token not in text for text in texts)
