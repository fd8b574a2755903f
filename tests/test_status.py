"""What somebody who looks at an order is told: the query, the search attribute, and the texts in the UI."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import make_order
from counter import PATIENCE_SECONDS, Counter, Handle, Hold
from temporalio.api.enums.v1 import EventType
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowHandle
from temporalio.converter import DataConverter

from run_workflow import run_order
from shop.faults import FaultPlan, parse_faults
from shop.orders import Order
from workflows import ORDER_STATUS, OrderWorkflow

METADATA_QUERY = "__temporal_workflow_metadata"


async def told(handle: Handle) -> tuple[str, object, str]:
    """Return the status as the query, the search attribute and the first words of the UI's details tell it."""
    answer, details = await handle.query(OrderWorkflow.status), await details_of(handle)
    return answer, (await handle.describe()).typed_search_attributes.get(ORDER_STATUS), details.partition(":")[0]


async def details_of(handle: WorkflowHandle[Any, Any]) -> str:  # Any: of whatever workflow
    """Return the text that the UI shows as the current details."""
    metadata: WorkflowMetadata = await handle.query(METADATA_QUERY, result_type=WorkflowMetadata)
    return metadata.current_details


async def wait_until_found(client: Client, status: str, workflow_ids: set[str]) -> None:
    """Wait until a search by `OrderStatus` finds these workflows and no others: the index follows a little later."""

    async def search() -> None:
        query = f"{ORDER_STATUS.name} = '{status}'"
        while {execution.id async for execution in client.list_workflows(query)} != workflow_ids:
            await asyncio.sleep(0.1)

    await asyncio.wait_for(search(), PATIENCE_SECONDS)


async def written_statuses_of(handle: Handle) -> list[str]:
    """Return all values that a workflow has written to `OrderStatus`, in their order."""
    written = []
    async for event in handle.fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES:
            attributes = event.upsert_workflow_search_attributes_event_attributes.search_attributes
            (value,) = await DataConverter.default.decode([attributes.indexed_fields[ORDER_STATUS.name]])
            written.append(str(value[0] if isinstance(value, list) else value))
    return written


@pytest.mark.parametrize(
    ("step", "searchable"),
    [
        ("validate_inventory", None),
        ("process_payment", None),
        ("update_inventory", "update_inventory"),
        ("send_confirmation", "update_inventory"),
        ("void_charge", "void_charge"),
    ],
)
async def test_query_and_details_name_the_step_that_an_order_is_in_and_the_search_attribute_the_last_that_it_tells(
    step: str, searchable: str | None, counter: Counter
) -> None:
    token = "tok_chargeDeclined" if step == "void_charge" else "tok_visa"
    order, hold = make_order(f"in-{step}", payment_token=token), Hold(step=step)
    handle = await counter.start_held(order, hold)

    seen = await told(handle)
    hold.released.set()
    await counter.end_of(handle, order)

    assert seen == (step, searchable, f"**{step}**")


async def test_a_payment_that_is_retried_shows_the_number_of_its_attempt_and_the_error(counter: Counter) -> None:
    order, hold = make_order("retried"), Hold(step="process_payment")
    handle = await counter.start_held(order, hold, "process_payment:unavailable")

    (pending,) = (await handle.describe()).raw_description.pending_activities
    seen, details = await told(handle), await details_of(handle)
    hold.released.set()
    await counter.end_of(handle, order)

    assert seen == ("process_payment", None, "**process_payment**")
    assert details == "**process_payment**"
    assert (pending.attempt, pending.last_failure.message) == (2, "the service is unavailable (payments)")
    assert pending.last_failure.stack_trace == ""  # of no use to whoever looks, and it names folders of the worker


# What an order that ends in this way writes to the search attribute, and what its details say in the end.
ENDS = {
    "completed": (["update_inventory", "completed"], "txn_"),
    "unsent": (["update_inventory", "completed"], "no confirmation is known to have been sent: UnknownCustomer"),
    "rejected": (["void_charge", "rejected"], "PaymentDeclined: the bank declined"),
    "failed": (["void_charge", "failed"], "ServiceUnavailable: the service is unavailable"),
    "cancelled": (["update_inventory", "void_charge", "cancelled"], "43.90 USD refunded"),
    "too-late": (["update_inventory", "void_charge", "completed"], "txn_"),
    "conflict": (["unknown"], "OrderConflict: order conflict was here before"),
}
PLANS = {
    "failed": parse_faults("process_payment:unavailable*inf"),
    "cancelled": parse_faults("update_inventory:unavailable*inf"),
    "too-late": parse_faults("update_inventory:lost_reply*inf"),
}


@pytest.fixture(scope="module")
async def ended(counter: Counter) -> dict[str, tuple[Order, Handle]]:
    """Run an order to each kind of end."""
    changes = {"unsent": {"customer_id": "nobody"}, "rejected": {"payment_token": "tok_chargeDeclined"}}
    orders = {kind: make_order(kind, **changes.get(kind, {})) for kind in ENDS}
    counter.shop.payments.process_payment(make_order("conflict", customer_id="grace"))
    handles = {kind: await counter.start(order, PLANS.get(kind, FaultPlan())) for kind, order in orders.items()}
    for kind in ("cancelled", "too-late"):
        await counter.wait_for_attempt(orders[kind], "update_inventory")
        await handles[kind].cancel()
    await asyncio.gather(*(counter.end_of(handles[kind], order) for kind, order in orders.items()))
    return {kind: (orders[kind], handles[kind]) for kind in ENDS}


@pytest.mark.parametrize("kind", ENDS)
async def test_an_order_writes_its_status_where_it_pays_and_says_in_the_end_how_it_ended(
    kind: str, ended: dict[str, tuple[Order, Handle]]
) -> None:
    (statuses, reason), (_, handle) = ENDS[kind], ended[kind]

    written, seen, details = await written_statuses_of(handle), await told(handle), await details_of(handle)

    assert written == statuses
    assert seen == (statuses[-1], statuses[-1], f"**{statuses[-1]}**")
    assert reason in details


async def test_a_search_by_status_finds_the_orders_that_ended_so(
    counter: Counter, ended: dict[str, tuple[Order, Handle]]
) -> None:
    for kind in ("failed", "cancelled", "conflict"):
        await wait_until_found(counter.stage.client, ENDS[kind][0][-1], {ended[kind][1].id})


async def test_no_text_that_the_ui_shows_holds_the_payment_token(ended: dict[str, tuple[Order, Handle]]) -> None:
    for order, handle in ended.values():
        assert order.payment_token not in await details_of(handle)


async def test_an_order_carries_its_total_and_its_customer_from_the_starter(counter: Counter) -> None:
    outcome = await run_order(counter.stage.client, make_order("summary"), wait=False)

    handle = counter.stage.client.get_workflow_handle(outcome.detail)
    assert await (await handle.describe()).static_summary() == "43.90 USD, customer ada"
