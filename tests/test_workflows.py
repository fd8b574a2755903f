"""What the workflow makes of an answer that is final: an id that is taken, an order that was settled meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
from conftest import make_order
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from test_cancellation import Counter, Hold, assert_nothing_held, open_counter

from comparison.stage.processes import Program, Server, clean_environment
from shop.errors import OrderConflict, OutOfStock, PaymentDeclined, ShopError, UnknownCustomer
from shop.faults import Fault, FaultPlan, PlannedFault
from shop.orders import Status
from workflows import ATTEMPT_TIMEOUT, CONFIRMATION_RETRIES, FEW_ATTEMPTS, UNTIL_DONE, OrderWorkflow


@dataclass(frozen=True)
class Answers(Fault):
    """Has a step refused for good."""

    error: ShopError = OrderConflict("the id is taken")

    def before_effect(self) -> None:
        raise self.error


def answers(**errors: ShopError) -> FaultPlan:
    """Return the plan of an order whose steps give these answers."""
    return FaultPlan(tuple(PlannedFault(step, Answers(error=error), 1) for step, error in errors.items()))


# How an order gets to a call, and the calls that it has made when that one ends it.
FORWARD = ("validate_inventory", "process_payment", "update_inventory")
ROADS: dict[str, tuple[dict[str, ShopError], tuple[str, ...]]] = {
    "validate_inventory": ({}, FORWARD[:1]),
    "process_payment": ({}, FORWARD[:2]),
    "update_inventory": ({}, FORWARD),
    "send_confirmation": ({}, (*FORWARD, "send_confirmation")),
    "note_unsent": ({"send_confirmation": UnknownCustomer("ada")}, (*FORWARD, "send_confirmation", "note_unsent")),
    "void_charge": ({"process_payment": PaymentDeclined("no")}, (*FORWARD[:2], "void_charge")),
    "void_sale": ({"update_inventory": OutOfStock("none")}, (*FORWARD, "void_charge", "void_sale")),
    "refund_payment": (
        {"update_inventory": OutOfStock("none")},
        (*FORWARD, "void_charge", "void_sale", "refund_payment"),
    ),
}


@pytest.fixture(scope="module")
async def counter(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Counter]:
    async with open_counter(server, tmp_path_factory.mktemp("counter")) as opened:
        yield opened


@pytest.mark.parametrize("call", ROADS)
async def test_an_id_that_is_taken_ends_the_run_as_unknown_at_any_call_and_no_further_call_is_made(
    call: str, counter: Counter
) -> None:
    order, (road, calls) = make_order(f"conflict-{call}"), ROADS[call]
    handle = await counter.start(order, answers(**{**road, call: OrderConflict("the id is taken")}))

    end = await counter.end_of(handle, order)
    with pytest.raises(WorkflowFailureError) as failure:
        await handle.result()

    tried = [attempt.step for attempt in counter.ledger().attempts if attempt.order_id == order.order_id]
    assert end == (Status.UNKNOWN, WorkflowExecutionStatus.FAILED)
    assert isinstance(failure.value.cause, ApplicationError)
    assert (failure.value.cause.type, failure.value.cause.message) == (
        "OrderConflict",
        "OrderConflict: the id is taken",
    )
    assert tuple(tried) == calls
    assert counter.attempts(order, call) == ["OrderConflict"]
    assert await handle.query(OrderWorkflow.status) == "unknown"


async def test_other_content_that_was_charged_meanwhile_is_left_alone(counter: Counter) -> None:
    order, hold = make_order("raced"), Hold(step="process_payment")
    other = make_order("raced", customer_id="grace")
    handle = await counter.start_held(order, hold)

    counter.shop.payments.process_payment(other)
    hold.released.set()
    end = await counter.end_of(handle, order)

    ledger = counter.ledger()
    assert end == (Status.UNKNOWN, WorkflowExecutionStatus.FAILED)
    assert [(charge.digest, charge.refunded) for charge in ledger.charges if charge.order_id == "raced"] == [
        (other.digest, False)
    ]
    assert [void for void in ledger.voids if void.order_id == "raced"] == []


@pytest.mark.parametrize(("step", "customer_id"), [("send_confirmation", "ada"), ("note_unsent", "nobody")])
async def test_an_order_that_is_settled_before_its_mail_or_note_is_rejected_and_holds_nothing(
    step: str, customer_id: str, counter: Counter
) -> None:
    order, hold = make_order(f"settled-{step}", customer_id=customer_id), Hold(step=step)
    handle = await counter.start_held(order, hold)
    settle = Program(
        counter.stage.directory / f"settle-{step}",
        clean_environment(),
        *("-m", "shop", "settle", order.order_id, "--yes", f"--data={counter.stage.data}"),
    )

    exit_status = await settle.run()
    hold.released.set()
    end = await counter.end_of(handle, order)

    assert exit_status == 0
    assert end == (Status.REJECTED, WorkflowExecutionStatus.COMPLETED)
    assert (await handle.result()).detail == f"OrderVoided: order {order.order_id} was voided earlier"
    assert counter.attempts(order, step) == ["OrderVoided"]
    assert await handle.query(OrderWorkflow.status) == "rejected"
    assert_nothing_held(counter.ledger(), order)


def test_the_policy_few_attempts_is_three_of_them_from_a_second_on() -> None:
    assert RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3) == FEW_ATTEMPTS


def test_the_policy_until_done_has_no_limit_and_attempts_at_most_a_minute_apart() -> None:
    assert RetryPolicy(maximum_interval=timedelta(minutes=1)) == UNTIL_DONE


def test_the_policy_confirmation_retries_is_a_day_of_attempts_at_most_a_minute_apart() -> None:
    assert RetryPolicy(maximum_interval=timedelta(minutes=1), maximum_attempts=1_440) == CONFIRMATION_RETRIES


def test_an_attempt_takes_ten_seconds_at_most() -> None:
    assert timedelta(seconds=10) == ATTEMPT_TIMEOUT
