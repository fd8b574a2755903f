"""AFTER: the order as a Temporal workflow. Retries are declared; where the order stands survives every crash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy, SearchAttributeKey
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities import OrderActivities
    from shop.errors import PERMANENT_ERRORS, REFUSALS, OrderConflict
    from shop.orders import Order, Outcome, Status

T = TypeVar("T")
Step = Callable[[OrderActivities, Order], T]

ORDER_STATUS = SearchAttributeKey.for_keyword("OrderStatus")
ORDER_FAILED = "OrderFailed"
ORDER_CONFLICT = OrderConflict.__name__

# Bounds one attempt, and is how a killed worker is noticed: the next attempt comes when it expires.
ATTEMPT_TIMEOUT = timedelta(seconds=10)

# Nothing has happened to the order yet: better a quick "failed" than a customer who waits. (An order waits for a worker
# as long as it takes: no time-out counts before the first attempt begins.)
VALIDATION_RETRIES = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_attempts=3, non_retryable_error_types=PERMANENT_ERRORS
)
# The customer waits at the till: three attempts, after 1 s and 2 s more; then the order is given up and refunded.
PAYMENT_RETRIES = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_attempts=3, non_retryable_error_types=PERMANENT_ERRORS
)
# The money is taken: goes on for as long as it takes. At most a minute apart, to go on soon after an outage.
INVENTORY_RETRIES = RetryPolicy(maximum_interval=timedelta(minutes=1), non_retryable_error_types=PERMANENT_ERRORS)
# Nobody waits for a mail, and one that is late by more than a day helps nobody.
CONFIRMATION_RETRIES = RetryPolicy(maximum_interval=timedelta(minutes=1), non_retryable_error_types=PERMANENT_ERRORS)
CONFIRMATION_DEADLINE = timedelta(days=1)
# An undo that is given up leaves a customer charged for nothing.
UNDO_RETRIES = RetryPolicy(maximum_interval=timedelta(minutes=1), non_retryable_error_types=PERMANENT_ERRORS)


def workflow_id_for(order_id: str) -> str:
    """Return the one workflow id of an order: Temporal runs no two workflows of the same id at once."""
    return f"order-{order_id}"


@workflow.defn
class OrderWorkflow:
    """Takes one order through its four steps, and undoes what was done if it cannot be completed."""

    def __init__(self) -> None:
        """Start without a step."""
        self._status = "started"

    @workflow.run
    async def run(self, order: Order) -> Outcome:
        """Process one order. The workflow id must be `workflow_id_for` the order.

        Raises:
            ApplicationError: of type `OrderFailed`, `OrderConflict` or `ForeignWorkflowId`.
            CancelledError, ActivityError: if the order was cancelled before its stock was taken; closes it as Canceled.
        """
        if workflow.info().workflow_id != workflow_id_for(order.order_id):
            raise ApplicationError(
                f"order_id: order {order.order_id} must run as workflow {workflow_id_for(order.order_id)},"
                f" not {workflow.info().workflow_id}",
                type="ForeignWorkflowId",
            )
        undo: list[Step[None]] = []
        money = f"{order.total_cents / 100:.2f} {order.currency}"
        units = f"{sum(item.quantity for item in order.items)} units of {len(order.items)} products"
        try:
            if await self._run_step(
                OrderActivities.validate_inventory, order, VALIDATION_RETRIES, f"are {units} there?"
            ):
                # Delivered by an earlier run, which Temporal has forgotten since. From here there is no way back: an
                # outage in this run must not undo what the customer has.
                return await shielded(self._deliver_again(order))
            # An undo is registered before its step: a step that timed out may have happened, or happen later.
            undo.append(OrderActivities.refund_payment)
            transaction_id = await self._run_step(
                OrderActivities.process_payment, order, PAYMENT_RETRIES, f"charge {money}"
            )
            undo.append(OrderActivities.restore_inventory)
            await self._run_step(OrderActivities.update_inventory, order, INVENTORY_RETRIES, f"take {units}")
        except (ActivityError, asyncio.CancelledError) as error:
            await shielded(self._undo(undo, order, why=reason(error)))
            return self._not_completed(order, error)
        # The point of no return: from here a cancellation comes too late.
        return await shielded(self._confirm(order, transaction_id))

    @workflow.query
    def status(self) -> str:
        """Return the step the order is in, or how it ended: the value of the search attribute `OrderStatus`."""
        return self._status

    async def _deliver_again(self, order: Order) -> Outcome:
        transaction_id = await self._run_step(
            OrderActivities.process_payment, order, INVENTORY_RETRIES, "find the earlier charge"
        )
        return await self._confirm(order, transaction_id)

    async def _confirm(self, order: Order, transaction_id: str) -> Outcome:
        detail = transaction_id
        try:
            await self._run_step(
                OrderActivities.send_confirmation,
                order,
                CONFIRMATION_RETRIES,
                f"mail customer {order.customer_id}",
                deadline=CONFIRMATION_DEADLINE,
            )
        except ActivityError as error:
            detail = f"{transaction_id}; no confirmation was sent: {reason(error)}"
            await self._run_step(OrderActivities.note_unsent, order, UNDO_RETRIES, "note that no mail was sent")
        self._publish_status(Status.COMPLETED.value, detail)
        return Outcome(order.order_id, Status.COMPLETED, detail)

    async def _undo(self, undo: Sequence[Step[None]], order: Order, why: str) -> None:
        for step in reversed(undo):
            try:
                await self._run_step(step, order, UNDO_RETRIES, f"undo: {why}")
            except ActivityError as error:
                # Only for good: the id belongs to another order, so there is nothing of this one to undo.
                workflow.logger.warning("%s: %s", step.__name__, reason(error))

    def _not_completed(self, order: Order, error: BaseException) -> Outcome:
        """Return the outcome of an order that was refused, and raise that of one that was given up or cancelled."""
        detail = reason(error)
        if is_cancelled_exception(error):
            self._publish_status(Status.CANCELLED.value, detail)
            raise error
        if error_type(error) in REFUSALS:
            self._publish_status(Status.REJECTED.value, detail)
            return Outcome(order.order_id, Status.REJECTED, detail)
        if error_type(error) == ORDER_CONFLICT:
            self._publish_status(Status.UNKNOWN.value, detail)
            raise ApplicationError(detail, type=ORDER_CONFLICT)
        self._publish_status(Status.FAILED.value, detail)
        raise ApplicationError(detail, type=ORDER_FAILED)

    async def _run_step(
        self, step: Step[T], order: Order, retries: RetryPolicy, summary: str, deadline: timedelta | None = None
    ) -> T:
        self._publish_status(
            step.__name__, f"{summary}. Attempts and their errors are listed under Pending Activities."
        )
        return await workflow.execute_activity_method(
            step,
            order,
            start_to_close_timeout=ATTEMPT_TIMEOUT,
            schedule_to_close_timeout=deadline,
            retry_policy=retries,
            summary=summary,
        )

    def _publish_status(self, status: str, details: str) -> None:
        """Tell the query, the search attribute and the UI where the order stands."""
        self._status = status
        workflow.upsert_search_attributes([ORDER_STATUS.value_set(status)])
        workflow.set_current_details(f"**{status}**: {details}")


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """Bring `work` to its end, however often the workflow is cancelled meanwhile."""
    task = asyncio.create_task(work)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # `task` itself is cancelled only when the worker drops the workflow from its cache.
            if task.done():
                raise


def error_type(error: BaseException) -> str | None:
    """Return the name of the shop's error that ended an activity."""
    cause = error.cause if isinstance(error, ActivityError) else None
    return cause.type if isinstance(cause, ApplicationError) else None


def reason(error: BaseException) -> str:
    """Return one sentence on why a step was not done."""
    if is_cancelled_exception(error):
        return "cancelled"
    cause = error.cause if isinstance(error, ActivityError) else None
    if isinstance(cause, TimeoutError):
        return "TimeoutError: no answer in time; the last attempt may have taken effect"
    if isinstance(cause, ApplicationError):
        return f"{cause.type}: {cause.message}"
    return str(error)
