"""A large order waits for a person: it runs when somebody approves it, and never if nobody does within a week.

Beside `python run_worker.py`, which runs the orders, start its worker. Then place an order, and decide:

python -m examples.large_order
temporal workflow start -w large-order-1002 -t large-orders --type LargeOrderWorkflow --input-file examples/order.jsonl
temporal workflow update execute -w large-order-1002 --name decide --input '{"is_approved": true, "by": "ada"}'
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from dataclasses import dataclass
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from plumbing.admission import Admission
    from plumbing.connection import NoConnection, connect
    from plumbing.process import log_to_stderr, run_and_exit, when_told_to_stop
    from shop.orders import Order, Outcome, Status
    from workflows import TASK_QUEUE, OrderWorkflow, workflow_id_for

LARGE_ORDERS = "large-orders"  # a task queue of its own: the workers of the orders do not know this workflow
REMIND_AFTER, EXPIRE_AFTER = timedelta(days=3), timedelta(days=7)


@dataclass(frozen=True)
class Decision:
    """What a person says about an order."""

    is_approved: bool
    by: str


@workflow.defn
class LargeOrderWorkflow:
    """Waits for a decision, and holds no process meanwhile. Approved, the order runs as its own workflow."""

    def __init__(self) -> None:
        """Begin without a decision."""
        self._decision: Decision | None = None
        # Counted from the start: a worker that comes days later gives the order no more time.
        self._expires_at = workflow.info().workflow_start_time + EXPIRE_AFTER

    @workflow.run
    async def run(self, order: Order) -> Outcome:
        """Wait for the decision, and return how the order ended. It fails if the order runs already, undecided."""
        order_workflow = workflow_id_for(order.order_id)
        if workflow.info().workflow_id != f"large-{order_workflow}":
            # Under two ids, one could be declined and the other approved.
            raise ApplicationError(f"order_id: it must wait as workflow large-{order_workflow}", non_retryable=True)
        workflow.set_current_details("waits for a decision")
        reminder = asyncio.create_task(remind_later(order))
        with contextlib.suppress(asyncio.TimeoutError):
            await workflow.wait_condition(lambda: self._decision is not None, timeout=self._expires_at - workflow.now())
        reminder.cancel()
        if self._decision is None:
            return Outcome(order.order_id, Status.REJECTED, f"nobody decided within {EXPIRE_AFTER.days} days")
        if not self._decision.is_approved:
            return Outcome(order.order_id, Status.REJECTED, f"declined by {self._decision.by}")
        workflow.set_current_details(f"approved by {self._decision.by}")
        return await workflow.execute_child_workflow(
            OrderWorkflow.run,
            order,
            id=order_workflow,
            task_queue=TASK_QUEUE,
            # By default the order is terminated when this workflow is, perhaps between its charge and its refund.
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
        )

    @workflow.update
    def decide(self, decision: Decision) -> None:
        """Approve or decline. When this is answered, the server has the decision, whatever dies then."""
        self._decision = decision

    @decide.validator
    def refuse(self, decision: Decision) -> None:
        """Refuse a decision of nobody, a second one, and one that is too late; the history keeps none of them."""
        if not decision.by.strip():
            raise ApplicationError("by: must name who decides")
        if self._decision:
            raise ApplicationError(f"it was decided by {self._decision.by}")
        if workflow.now() >= self._expires_at:  # and no worker was there to end it
            raise ApplicationError(f"it expired on {self._expires_at:%Y-%m-%d}")


async def remind_later(order: Order) -> None:
    """Remind once. Beside the waiting, not before it: a mail that cannot be sent must not hold up a decision."""
    await workflow.sleep(REMIND_AFTER, summary="reminder")
    await workflow.execute_activity(remind, order, start_to_close_timeout=timedelta(seconds=10))


@activity.defn
async def remind(order: Order) -> None:
    """Remind those who decide: here in the worker's log. Yours may send a mail."""
    activity.logger.warning("order %s: %s wait for a decision", order.order_id, order.total)


async def serve() -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP."""
    stopping = asyncio.Event()
    when_told_to_stop(stopping.set)
    client = await connect(os.environ)
    async with Worker(
        client, task_queue=LARGE_ORDERS, workflows=[LargeOrderWorkflow], activities=[remind], interceptors=[Admission()]
    ):
        logging.info("serving task queue %s", LARGE_ORDERS)
        await stopping.wait()


def main() -> int:
    """Return the exit status: 0 stopped on request, 1 no server, 2 bad settings."""
    log_to_stderr()
    try:
        asyncio.run(serve())
    except NoConnection as error:
        logging.error("%s", error)
        return error.exit_status
    return 0


if __name__ == "__main__":
    run_and_exit(main)
