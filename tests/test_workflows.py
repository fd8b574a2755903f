"""What the workflow makes of an answer that is final: an id that is taken, an order that was settled, a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest
from conftest import make_order
from counter import Counter, Handle, Hold, assert_nothing_held
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

import workflows
from comparison.stage.processes import wait_until
from shop.errors import OrderConflict, OutOfStock, PaymentDeclined, Refusal, ShopError, UnknownCustomer
from shop.faults import Fault, FaultPlan, PlannedFault, parse_faults
from shop.orders import Order, Status
from workflows import FEW_ATTEMPTS, TASK_QUEUE, OrderWorkflow, workflow_id_for

MINUTE = timedelta(minutes=1)
FINAL = ("OrderConflict", "OrderVoided", "Refusal", "PermanentError")


@dataclass(frozen=True)
class Answers(Fault):
    """Has a step refused."""

    error: ShopError = OrderConflict("the id is taken")

    def before_effect(self) -> None:
        raise self.error


def answers(**errors: ShopError) -> FaultPlan:
    """Return the plan of an order whose steps give these answers, each once."""
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


async def start_to_be_repeated(counter: Counter, order: Order, plan: FaultPlan, workflow_id: str = "") -> Handle:
    """Start an order as another client may: with a retry policy for the whole workflow."""
    counter.plans[order.order_id] = plan
    return await counter.stage.client.start_workflow(
        OrderWorkflow.run,
        order,
        id=workflow_id or workflow_id_for(order.order_id),
        task_queue=TASK_QUEUE,
        retry_policy=RetryPolicy(maximum_attempts=3),
    )


async def failure_after_one_run(handle: Handle) -> tuple[str | None, str]:
    """Wait until a workflow has failed; return the type and the message of its error."""
    with pytest.raises(WorkflowFailureError) as failure:
        await handle.result(follow_runs=False)
    description = await handle.describe()
    assert (description.run_id, description.status) == (handle.first_execution_run_id, WorkflowExecutionStatus.FAILED)
    assert isinstance(failure.value.cause, ApplicationError)
    return failure.value.cause.type, failure.value.cause.message


@pytest.mark.parametrize("call", ROADS)
async def test_an_id_that_is_taken_ends_the_run_as_unknown_at_any_call_and_no_further_call_is_made(
    call: str, counter: Counter
) -> None:
    order, (road, calls) = make_order(f"conflict-{call}"), ROADS[call]
    plan = answers(**{**road, call: OrderConflict("the id is taken")})
    handle = await start_to_be_repeated(counter, order, plan)

    failure = await failure_after_one_run(handle)

    tried = [attempt.step for attempt in counter.ledger().attempts if attempt.order_id == order.order_id]
    assert failure == ("OrderConflict", "OrderConflict: the id is taken")
    assert tuple(tried) == calls
    assert counter.attempts(order, call) == ["OrderConflict"]
    assert await handle.query(OrderWorkflow.status) == "unknown"


async def test_an_order_that_failed_is_not_run_again_by_a_clients_retry_policy(counter: Counter) -> None:
    order = make_order("outage")
    handle = await start_to_be_repeated(counter, order, parse_faults("validate_inventory:unavailable*inf"))

    failure = await failure_after_one_run(handle)

    assert failure == (
        "OrderFailed",
        "ServiceUnavailable: the service is unavailable (inventory); nothing was charged",
    )
    assert len(counter.attempts(order, "validate_inventory")) == FEW_ATTEMPTS.maximum_attempts
    assert_nothing_held(counter.ledger(), order)


async def test_an_order_under_a_foreign_id_is_not_run_again_by_a_clients_retry_policy(counter: Counter) -> None:
    order = make_order("foreign")
    handle = await start_to_be_repeated(counter, order, FaultPlan(), workflow_id="another-id")

    error_type, _ = await failure_after_one_run(handle)

    assert error_type == "ForeignWorkflowId"
    assert counter.attempts(order, "validate_inventory") == []


async def test_a_refund_that_is_refused_is_tried_on(counter: Counter) -> None:
    order = make_order("refused-refund")
    plan = answers(update_inventory=OutOfStock("none"), refund_payment=Refusal("the card has expired"))
    handle = await counter.start(order, plan)

    end = await counter.end_of(handle, order)

    assert end == (Status.REJECTED, WorkflowExecutionStatus.COMPLETED)
    assert counter.attempts(order, "refund_payment") == ["Refusal", "ok"]
    assert_nothing_held(counter.ledger(), order)


async def test_a_step_that_is_failed_by_hand_ends_the_order_with_the_reason_that_was_given(counter: Counter) -> None:
    order, hold = make_order("by-hand"), Hold(step="process_payment")
    handle = await counter.start_held(order, hold)
    (step,) = (await handle.describe()).raw_description.pending_activities
    names = ("--workflow-id", handle.id, "--activity-id", step.activity_id)

    await counter.stage.temporal("activity", "fail", *names, "--reason", "the bank is gone")
    failure = await failure_after_one_run(handle)
    hold.released.set()

    assert failure == ("OrderFailed", "the bank is gone; nothing was charged")
    assert_nothing_held(counter.ledger(), order)


@pytest.mark.parametrize(("step", "customer_id"), [("send_confirmation", "ada"), ("note_unsent", "nobody")])
async def test_an_order_that_is_settled_before_its_mail_or_note_is_rejected_and_holds_nothing(
    step: str, customer_id: str, counter: Counter
) -> None:
    order, hold = make_order(f"settled-{step}", customer_id=customer_id), Hold(step=step)
    handle = await counter.start_held(order, hold)

    counter.shop.settle(order.order_id)
    hold.released.set()
    end = await counter.end_of(handle, order)

    assert end == (Status.REJECTED, WorkflowExecutionStatus.COMPLETED)
    assert (await handle.result()).detail == f"OrderVoided: order {order.order_id} was voided earlier"
    assert counter.attempts(order, step) == ["OrderVoided"]
    assert await handle.query(OrderWorkflow.status) == "rejected"
    assert_nothing_held(counter.ledger(), order)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        (
            "FEW_ATTEMPTS",
            RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3, non_retryable_error_types=FINAL),
        ),
        ("UNTIL_DONE", RetryPolicy(maximum_interval=MINUTE, non_retryable_error_types=FINAL)),
        ("UNTIL_UNDONE", RetryPolicy(maximum_interval=MINUTE, non_retryable_error_types=FINAL[:2])),
        (
            "CONFIRMATION_RETRIES",
            RetryPolicy(maximum_interval=MINUTE, maximum_attempts=1_440, non_retryable_error_types=FINAL),
        ),
    ],
)
def test_a_retry_policy_is_as_the_table_of_the_steps_says(name: str, policy: RetryPolicy) -> None:
    assert getattr(workflows, name) == policy


def test_an_attempt_takes_five_seconds_at_most() -> None:
    assert timedelta(seconds=5) == workflows.ATTEMPT_TIMEOUT


@pytest.mark.parametrize(("call", "activity_id"), [("refund_payment", 6), ("note_unsent", 5)])
async def test_a_call_that_an_order_cannot_end_without_and_that_is_failed_by_hand_leaves_it_unknown(
    call: str, activity_id: int, counter: Counter
) -> None:
    order, hold = make_order(f"by-hand-{call}"), Hold(step=call)
    road = ROADS[call][0]
    counter.plans[order.order_id] = FaultPlan((*answers(**road).planned, *hold.plan().planned))
    handle = await counter.start(order, counter.plans[order.order_id])
    await wait_until(hold.reached.is_set, "it is under way")

    await counter.stage.client.get_async_activity_handle(
        workflow_id=handle.id, run_id=handle.result_run_id, activity_id=str(activity_id)
    ).fail(ApplicationError("by an operator", non_retryable=True))
    end = await counter.end_of(handle, order)
    hold.released.set()

    assert end == (Status.UNKNOWN, WorkflowExecutionStatus.FAILED)
    assert await handle.query(OrderWorkflow.status) == "unknown"
