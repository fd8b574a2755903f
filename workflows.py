"""AFTER: the order as a Temporal workflow. Retries are declared; where the order stands survives every crash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy, SearchAttributeKey
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities import OrderActivities as Steps
    from shop.errors import OrderConflict, OrderVoided, PermanentError, Refusal
    from shop.orders import Order, Outcome, Status

T = TypeVar("T")
Step = Callable[[Steps, Order], T]

TASK_QUEUE = "order-processing"
ORDER_STATUS = SearchAttributeKey.for_keyword("OrderStatus")
# The query and the UI's details tell every step. The search attribute tells only these two, and how the order ended:
# each write of it costs about 4 % of an order.
SEARCHABLE_STEPS = (Steps.update_inventory, Steps.void_charge)
ORDER_FAILED, HALF_DONE, GIVEN_BACK = "OrderFailed", "HalfDone", "given_back"

# The shop's errors, as `activities.step` names them. After these, another attempt gets the same answer.
CONFLICT, VOIDED = OrderConflict.__name__, OrderVoided.__name__
REFUSED, PERMANENT = Refusal.__name__, PermanentError.__name__
FINAL = (CONFLICT, VOIDED, REFUSED, PERMANENT)

# Bounds one attempt, and is how a killed worker is noticed: the next attempt comes when it expires. There is no limit
# for all attempts of a step (schedule-to-close): it would count hours without a worker.
ATTEMPT_TIMEOUT = timedelta(seconds=5)

# The customer waits at the checkout: three attempts, 1 s and 2 s apart; then the order is given up.
FEW_ATTEMPTS = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3, non_retryable_error_types=FINAL)
# The money is taken: go on for as long as it takes, from 1 s apart, doubling (the default), to a minute. An error that
# is none of the shop's, a bug for example, is tried again, too.
UNTIL_DONE = RetryPolicy(maximum_interval=timedelta(minutes=1), non_retryable_error_types=FINAL)
# No order ends with its money kept because a refund was refused.
UNTIL_UNDONE = RetryPolicy(maximum_interval=timedelta(minutes=1), non_retryable_error_types=(CONFLICT, VOIDED))
# A day of attempts: a later mail is useless. Hours without a worker use up none of them.
CONFIRMATION_RETRIES = RetryPolicy(
    maximum_interval=timedelta(minutes=1), maximum_attempts=24 * 60, non_retryable_error_types=FINAL
)


def workflow_id_for(order_id: str) -> str:
    """Return the one workflow id of an order: Temporal runs no two workflows of the same id at once."""
    return f"order-{order_id}"


@workflow.defn
class OrderWorkflow:
    """Takes one order through its four steps, or ends it without them."""

    def __init__(self) -> None:
        """Begin before the first step."""
        self._status = "started"
        self._given_back = ""

    @workflow.run
    async def run(self, order: Order) -> Outcome:
        """Process one order. The workflow id must be `workflow_id_for` the order.

        Raises:
            ApplicationError: of type `OrderFailed`, `OrderConflict`, `HalfDone` or `ForeignWorkflowId`.
            CancelledError, ActivityError: if the order was cancelled before its stock was taken; closes it as Canceled.
        """
        if workflow.info().workflow_id != workflow_id_for(order.order_id):
            # Under two ids an order could run twice at once.
            reason = f"order_id: order {order.order_id} must run as workflow {workflow_id_for(order.order_id)}"
            raise ApplicationError(reason, type="ForeignWorkflowId", non_retryable=True)
        try:
            try:
                await self._retry(Steps.validate_inventory, order, FEW_ATTEMPTS)
                transaction_id = await self._retry(Steps.process_payment, order, FEW_ATTEMPTS)
                await self._retry(Steps.update_inventory, order, UNTIL_DONE)
            except (ActivityError, asyncio.CancelledError) as error:
                transaction_id = await shielded(self._void_unless_sold(order, error))
            # The point of no return: the stock is taken. A cancellation comes too late, and a confirmation that cannot
            # be sent undoes nothing.
            return await shielded(self._confirm_order(order, transaction_id))
        except (ActivityError, asyncio.CancelledError) as error:
            return self._not_completed(order, error)  # An ApplicationError is an end of its own, and passes.

    @workflow.query
    def status(self) -> str:
        """Return the step the order is in, or how it ended."""
        return self._status

    async def _void_unless_sold(self, order: Order, error: BaseException) -> str:
        """End an order, unless its stock is taken. The shop decides that, not what this run happens to know.

        A call that timed out may still take effect, and another run may have gone further than this one. So each void
        leaves a tombstone where nothing has happened yet: a record that refuses the order from then on.

        Returns:
            The transaction id if the stock is taken: then the order is to be completed.

        Raises:
            error: if the order is ended and holds nothing.
        """
        # A conflict: what the id holds belongs to another order. A person decides.
        if error_type_of(error) != CONFLICT:
            transaction_id = await self._retry_or_alarm(Steps.void_charge, order)
            if transaction_id is not None:
                if await self._retry_or_alarm(Steps.void_sale, order):
                    return transaction_id
                await self._retry_or_alarm(Steps.refund_payment, order)
            self._given_back = f"{order.total} refunded" if transaction_id else "nothing was charged"
        raise error

    async def _confirm_order(self, order: Order, transaction_id: str) -> Outcome:
        """Mail the customer, or note that it could not be done."""
        try:
            await self._retry(Steps.send_confirmation, order, CONFIRMATION_RETRIES)
        except ActivityError as error:
            if error_type_of(error) in (CONFLICT, VOIDED, REFUSED):
                raise
            await self._retry_or_alarm(Steps.note_unsent, order)
            transaction_id += f"; no confirmation is known to have been sent: {reason_of(error)}"
        self._publish(Status.COMPLETED.value, transaction_id)
        return Outcome(order.order_id, Status.COMPLETED, transaction_id)

    def _not_completed(self, order: Order, error: BaseException) -> Outcome:
        """Return the outcome of an order that was refused, and raise that of one that was given up or cancelled."""
        if is_cancelled_exception(error):
            self._publish(Status.CANCELLED.value, self._given_back)
            workflow.upsert_memo({GIVEN_BACK: self._given_back})  # a workflow that closes so has no result
            raise error
        error_type = error_type_of(error)
        reason = "; ".join(filter(None, (reason_of(error), self._given_back)))
        if error_type in (REFUSED, VOIDED):
            self._publish(Status.REJECTED.value, reason)
            return Outcome(order.order_id, Status.REJECTED, reason)
        is_conflict = error_type == CONFLICT
        self._publish(Status.UNKNOWN.value if is_conflict else Status.FAILED.value, reason)
        # Not to be tried again by a retry policy of the workflow's: a second run would find the order's tombstone.
        raise ApplicationError(reason, type=CONFLICT if is_conflict else ORDER_FAILED, non_retryable=True)

    async def _retry(self, step: Step[T], order: Order, retries: RetryPolicy) -> T:
        """Run a step until it works, is refused for good, or has used up the attempts of its policy."""
        self._publish(step.__name__, is_searchable=step in SEARCHABLE_STEPS)
        return await workflow.execute_activity_method(
            step, order, start_to_close_timeout=ATTEMPT_TIMEOUT, retry_policy=retries
        )

    async def _retry_or_alarm(self, step: Step[T], order: Order) -> T:
        """Retry a call that the order cannot end without. If somebody ends it by hand, a person must act."""
        try:
            return await self._retry(step, order, UNTIL_UNDONE)
        except ActivityError as error:
            if is_cancelled_exception(error) or error_type_of(error) in (CONFLICT, VOIDED):
                raise
            reason = f"{step.__name__}: {reason_of(error)}; undo it: python -m shop settle {order.order_id}"
            self._publish(Status.UNKNOWN.value, reason)
            raise ApplicationError(reason, type=HALF_DONE, non_retryable=True) from error

    def _publish(self, status: str, reason: str = "", *, is_searchable: bool = True) -> None:
        """Tell the query, the UI and, where it pays, the search attribute where the order stands."""
        self._status = status
        workflow.set_current_details(f"**{status}**: {reason}" if reason else f"**{status}**")
        if is_searchable:
            workflow.upsert_search_attributes([ORDER_STATUS.value_set(status)])


def error_type_of(error: BaseException) -> str | None:
    """Return the name that `activities.step` gave to an error of the shop, or None."""
    cause = error.cause if isinstance(error, ActivityError) else error
    return cause.type if isinstance(cause, ApplicationError) else None


def reason_of(error: BaseException) -> str:
    """Return why a step was not done, in a sentence that begins with the error's own name."""
    cause = error.cause if isinstance(error, ActivityError) else error
    if is_cancelled_exception(error):
        return "cancelled"
    if isinstance(cause, TimeoutError):
        return "TimeoutError: no answer in time; whether the last attempt took effect is not known"
    if isinstance(cause, ApplicationError):
        return cause.message if cause.type in (REFUSED, PERMANENT) else str(cause)
    return f"{type(cause).__name__}: {cause}"


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """Bring `work` to its end, however often the workflow is cancelled meanwhile."""
    task = asyncio.create_task(work)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                return task.result()  # also where `work` itself has ended in a cancellation
            # The cancellation was of this wait only: wait again.
