"""A cancelled order is completed whole or holds nothing, whenever the cancellation comes."""

from __future__ import annotations

import asyncio

import pytest
from conftest import Stage, make_order
from counter import (
    CANCELLED,
    COMPLETED,
    Counter,
    End,
    Hold,
    PlanOfEachOrder,
    assert_done_once,
    assert_nothing_held,
    attempts_of,
    cancel,
    end_of,
    serve,
    start,
    voids_of,
    wait_for_attempt,
    wait_for_event,
)
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from comparison.stage.processes import wait_until
from plumbing.connection import add_search_attribute
from run_workflow import run_order
from shop.faults import parse_faults
from shop.ledger import read_ledger
from shop.orders import Status
from shop.shop import Shop
from workflows import ORDER_STATUS


async def test_a_cancel_before_the_first_step_leaves_the_tombstone_of_the_payment(stage: Stage, shop: Shop) -> None:
    order = make_order()
    await add_search_attribute(stage.client, ORDER_STATUS)
    handle = await start(stage.client, order)
    await handle.cancel()

    async with serve(stage.client, shop):
        end = await end_of(stage.client, handle, order)

    ledger = read_ledger(shop.location)
    assert end == CANCELLED
    assert attempts_of(ledger, order, "process_payment") == []
    assert voids_of(ledger, order) == ["void_charge"]
    assert_nothing_held(ledger, order)


@pytest.mark.parametrize(
    ("step", "is_after_effect", "late", "voids"),
    [
        ("validate_inventory", False, "ok", ["void_charge"]),
        ("process_payment", False, "OrderVoided", ["void_charge"]),
        ("process_payment", True, "ok", ["void_sale"]),
        ("update_inventory", False, "OrderVoided", ["void_sale"]),
    ],
)
async def test_a_cancel_in_a_step_ends_the_order_and_its_late_effect_is_refused_or_undone(
    step: str, is_after_effect: bool, late: str, voids: list[str], counter: Counter
) -> None:
    order, hold = make_order(f"late-{step}-{is_after_effect}"), Hold(step=step, is_after_effect=is_after_effect)
    handle = await counter.start_held(order, hold)

    await handle.cancel()
    end = await counter.end_of(handle, order)
    hold.released.set()
    await wait_until(lambda: counter.attempts(order, step) != ["started"], "the late attempt ends")

    ledger = counter.ledger()
    assert end == CANCELLED
    assert attempts_of(ledger, order, step) == [late]
    assert voids_of(ledger, order) == voids
    assert_nothing_held(ledger, order)


async def test_a_server_that_refuses_to_say_what_a_cancelled_order_was_given_back_ends_its_line(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, hold = make_order("untold"), Hold(step="process_payment")
    handle = await counter.start_held(order, hold)
    await handle.cancel()
    await counter.end_of(handle, order)
    hold.released.set()

    async def refuse(*arguments: object, **options: object) -> None:
        raise RPCError("busy", RPCStatusCode.RESOURCE_EXHAUSTED, b"")

    monkeypatch.setattr(WorkflowHandle, "describe", refuse)
    outcome = await run_order(counter.stage.client, order, wait=True)

    assert (outcome.status, outcome.detail) == (Status.UNKNOWN, "the server refuses: busy")


async def test_a_cancel_after_the_stock_was_taken_is_too_late_although_the_workflow_does_not_know(
    counter: Counter,
) -> None:
    order, hold = make_order("taken"), Hold(step="update_inventory", is_after_effect=True)
    handle = await counter.start_held(order, hold)

    await handle.cancel()
    end = await counter.end_of(handle, order)
    hold.released.set()

    assert end == COMPLETED
    assert (counter.attempts(order, "void_charge"), counter.attempts(order, "void_sale")) == (["ok"], ["ok"])
    assert_done_once(counter.ledger(), order)


@pytest.mark.parametrize(
    ("step", "voids"),
    [("validate_inventory", ["void_charge"]), ("update_inventory", ["void_sale"]), ("send_confirmation", [])],
)
async def test_a_cancel_between_the_attempts_of_a_step_ends_the_order_unless_its_stock_is_taken(
    step: str, voids: list[str], counter: Counter
) -> None:
    order = make_order(f"between-{step}")
    handle = await counter.start(order, parse_faults(f"{step}:unavailable*2"))
    await counter.wait_for_attempt(order, step)

    await handle.cancel()
    end = await counter.end_of(handle, order)

    assert voids_of(counter.ledger(), order) == voids
    if voids:
        assert end == CANCELLED
        assert_nothing_held(counter.ledger(), order)
    else:
        assert end == COMPLETED
        assert_done_once(counter.ledger(), order)


@pytest.mark.parametrize("step", ["send_confirmation", "note_unsent"])
async def test_a_cancel_in_the_mail_or_its_note_is_too_late(step: str, counter: Counter) -> None:
    is_sent = step == "send_confirmation"
    order, hold = make_order(f"too-late-{step}", customer_id="ada" if is_sent else "nobody"), Hold(step=step)
    handle = await counter.start_held(order, hold)

    await cancel(handle)
    hold.released.set()
    end = await counter.end_of(handle, order)

    assert end == COMPLETED
    assert_done_once(counter.ledger(), order, is_sent=is_sent)


@pytest.mark.parametrize(
    ("call", "token", "faults", "end"),
    [
        ("void_charge", "tok_chargeDeclined", "", (Status.REJECTED, WorkflowExecutionStatus.COMPLETED)),
        ("void_sale", "tok_visa", "process_payment:lost_reply*inf", (Status.FAILED, WorkflowExecutionStatus.FAILED)),
        ("refund_payment", "tok_visa", "update_inventory:unavailable*inf", CANCELLED),
    ],
)
async def test_a_cancel_of_an_order_that_is_being_ended_stops_no_call_and_leaves_the_reason_for_its_end(
    call: str, token: str, faults: str, end: End, counter: Counter
) -> None:
    order, hold = make_order(f"twice-{call}", payment_token=token), Hold(step=call)
    handle = await counter.start(order, hold.plan(*parse_faults(faults).planned))
    if end == CANCELLED:
        await counter.wait_for_attempt(order, "update_inventory")
        await handle.cancel()
    await wait_until(hold.reached.is_set, f"{call} is under way")

    await cancel(handle)
    status_when_held = (await handle.describe()).status
    hold.released.set()
    ended = await counter.end_of(handle, order)

    assert (status_when_held, ended) == (WorkflowExecutionStatus.RUNNING, end)
    assert counter.attempts(order, call) == ["ok"]
    assert_nothing_held(counter.ledger(), order)


async def test_a_cancel_that_arrives_together_with_the_result_of_a_step_ends_the_order_whole(stage: Stage) -> None:
    steps = ("validate_inventory", "process_payment", "update_inventory", "send_confirmation")
    cells = [(number, step, is_first) for number, step in enumerate(steps, start=1) for is_first in (False, True)]
    orders = [make_order(f"{step}-{is_first}") for _, step, is_first in cells]
    holds = [Hold(step=step) for _, step, _ in cells]
    plans = {order.order_id: hold.plan() for order, hold in zip(orders, holds, strict=True)}
    shop = Shop(stage.data, PlanOfEachOrder(plans=plans))
    await add_search_attribute(stage.client, ORDER_STATUS)

    async with serve(stage.client, shop, workflows=()):
        async with serve(stage.client):
            handles = [await start(stage.client, order) for order in orders]
            await wait_until(lambda: all(hold.reached.is_set() for hold in holds), "all orders are held")
        # Nobody runs workflows here: what happens waits, to arrive in one task.
        for (number, _, is_cancel_first), handle, hold in zip(cells, handles, holds, strict=True):
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
    assert ends == [CANCELLED] * 4 + [COMPLETED] * 4
    for order in orders[:4]:
        assert_nothing_held(ledger, order)
    for order in orders[4:]:
        assert_done_once(ledger, order)


async def test_a_worker_that_forgets_its_workflows_after_each_task_ends_each_order_as_any_other_does(
    stage: Stage,
) -> None:
    unsent, declined = make_order("unsent", customer_id="nobody"), make_order("no", payment_token="tok_chargeDeclined")
    failed, cancelled, too_late = make_order("failed"), make_order("cancelled"), make_order("too-late")
    plans = {
        unsent.order_id: parse_faults("process_payment:unavailable,update_inventory:lost_reply"),
        failed.order_id: parse_faults("process_payment:lost_reply*inf"),
        cancelled.order_id: parse_faults("update_inventory:unavailable*inf"),
        too_late.order_id: parse_faults("update_inventory:lost_reply*inf"),
    }
    shop = Shop(stage.data, PlanOfEachOrder(plans=plans))
    await add_search_attribute(stage.client, ORDER_STATUS)

    async with serve(stage.client, shop, max_cached_workflows=0):
        orders = (unsent, declined, failed, cancelled, too_late)
        handles = {order: await start(stage.client, order) for order in orders}
        for order in (cancelled, too_late):
            await wait_for_attempt(shop, order, "update_inventory")
            await handles[order].cancel()
        ends = await asyncio.gather(*(end_of(stage.client, handle, order) for order, handle in handles.items()))

    ledger = read_ledger(shop.location)
    shop.close()
    statuses = [status for status, _ in ends]
    assert statuses == [Status.COMPLETED, Status.REJECTED, Status.FAILED, Status.CANCELLED, Status.COMPLETED]
    assert_done_once(ledger, unsent, is_sent=False)
    assert_done_once(ledger, too_late)
    for order in (declined, failed, cancelled):
        assert_nothing_held(ledger, order)
