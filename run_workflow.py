"""Start orders as workflows, or attach to those that run or ran, and print how they end.

python run_workflow.py [ORDERS] [--concurrency N] [--no-wait]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections import Counter

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, CancelledError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from connection import TASK_QUEUE, NoConnection, connect, leave_with, log_to_stderr, ui_link
from shop.orders import Order, Outcome, Status, load_orders, print_outcome
from workflows import ORDER_CONFLICT, OrderWorkflow, workflow_id_for

MAX_CONCURRENCY = 256
RECONNECT_SECONDS = 1.0
BAR_WIDTH = 40
# The server is away, too busy, or was cut off in mid-sentence ("transport error" comes as UNKNOWN): worth another try.
# Every other error is an answer.
RETRYABLE = (
    RPCStatusCode.UNAVAILABLE,
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.RESOURCE_EXHAUSTED,
    RPCStatusCode.UNKNOWN,
    RPCStatusCode.CANCELLED,
    RPCStatusCode.ABORTED,
    RPCStatusCode.INTERNAL,
)

logger = logging.getLogger("run_workflow")


class OrderIdTaken(Exception):
    """Another order with this id runs or ran."""


async def run_order(client: Client, order: Order, *, waits: bool) -> Outcome:
    """Start one order, or attach to it, and wait for its end; also through a restart of the server."""
    is_away = False
    while True:
        try:
            handle = await start_or_attach(client, order)
            if not waits:
                return Outcome(order.order_id, Status.STARTED, handle.id)
            return await wait_for_outcome(handle, order)
        except OrderIdTaken as error:
            return Outcome(order.order_id, Status.UNKNOWN, str(error))
        except RPCError as error:
            if error.status not in RETRYABLE:
                return Outcome(order.order_id, Status.UNKNOWN, f"the server refuses: {error.message}")
            if not is_away:
                logger.warning("order %s: the server is away; waiting for it (%s)", order.order_id, error.message)
            is_away = True
            await asyncio.sleep(RECONNECT_SECONDS)


async def start_or_attach(client: Client, order: Order) -> WorkflowHandle[OrderWorkflow, Outcome]:
    """Start the workflow of an order. If it runs, or ran within the namespace's retention, return that one.

    Raises:
        OrderIdTaken: if it runs or ran with other content; it is left alone.
        RPCError: if the server is away or refuses.
    """
    try:
        handle = await client.start_workflow(
            OrderWorkflow.run,
            order,
            id=workflow_id_for(order.order_id),
            task_queue=TASK_QUEUE,
            # Refuse the id while its workflow runs (the default) and after it closed (the default would run it again).
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            memo={"digest": order.digest},
            static_summary=f"{order.total_cents / 100:.2f} {order.currency}, customer {order.customer_id}",
        )
        how = "started"
    except WorkflowAlreadyStartedError:
        handle = client.get_workflow_handle_for(OrderWorkflow.run, workflow_id_for(order.order_id))
        if await (await handle.describe()).memo_value("digest", None) != order.digest:
            raise OrderIdTaken("an order with the same id and other content runs or ran; it was left alone") from None
        how = "attached to"
    logger.info("order %s: %s %s", order.order_id, how, ui_link(client, f"workflows/{handle.id}"))
    return handle


async def wait_for_outcome(handle: WorkflowHandle[OrderWorkflow, Outcome], order: Order) -> Outcome:
    """Wait until the workflow has closed, and put how it closed into the words of both versions."""
    try:
        return await handle.result()
    except WorkflowFailureError as error:
        cause = error.cause
        if isinstance(cause, CancelledError):
            return Outcome(order.order_id, Status.CANCELLED, "cancelled before its stock was taken")
        if isinstance(cause, ApplicationError) and cause.type != ORDER_CONFLICT:
            return Outcome(order.order_id, Status.FAILED, cause.message)
        return Outcome(
            order.order_id, Status.UNKNOWN, f"{cause}; if it was terminated: python -m shop settle {order.order_id}"
        )


async def run_orders(orders: list[Order], concurrency: int, *, waits: bool) -> list[Outcome]:
    """Run all orders and print a line for each as it ends. SIGINT and SIGTERM end the waiting, not the orders.

    Raises:
        NoConnection: if there is no server.
    """
    client = await connect(os.environ)
    with contextlib.suppress(RPCError):  # It is only a hint.
        await warn_if_nobody_listens(client)
    slots = asyncio.Semaphore(concurrency)
    outcomes: list[Outcome] = []

    async def run_and_report(order: Order) -> None:
        try:
            async with slots:
                outcome = await run_order(client, order, waits=waits)
        except asyncio.CancelledError:
            outcome = Outcome(order.order_id, Status.UNKNOWN, "interrupted; if it was started, it goes on")
        outcomes.append(outcome)
        print_outcome(outcome)
        show_progress(len(outcomes), len(orders))

    tasks = [asyncio.create_task(run_and_report(order)) for order in orders]
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, interrupt, tasks)
    await asyncio.gather(*tasks)
    return outcomes


def interrupt(tasks: list[asyncio.Task[None]]) -> None:
    """Stop waiting for the orders; those that were started go on."""
    logger.info("interrupted; orders that were started go on. To attach again, run the same command again")
    for task in tasks:
        task.cancel()


async def warn_if_nobody_listens(client: Client) -> None:
    """Say so if no worker serves the task queue: the orders would wait for one in silence."""
    answer = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=TASK_QUEUE),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        )
    )
    if not answer.pollers:
        logger.warning(
            "no worker listens on task queue %s; start one: python run_worker.py. Orders wait for it.", TASK_QUEUE
        )


def show_progress(done: int, total: int) -> None:
    """Draw a bar on a terminal, if there is more than a screenful of orders."""
    if sys.stderr.isatty() and total > BAR_WIDTH:
        bar = "#" * (BAR_WIDTH * done // total)
        sys.stderr.write(f"\r[{bar:<{BAR_WIDTH}}] {done}/{total}" + ("\n" if done == total else "\r"))


def main() -> int:
    """Return the exit status: 0 all settled, 1 some order is not or there is no server, 2 bad usage or bad input."""
    parser = argparse.ArgumentParser(description="Start orders as Temporal workflows.")
    parser.add_argument("orders", nargs="?", metavar="ORDERS", help="JSON Lines file, - for standard input")
    parser.add_argument("--concurrency", type=int, default=32, metavar="N", help="orders in flight (default: 32)")
    parser.add_argument("--no-wait", action="store_true", help="start the orders and leave")
    arguments = parser.parse_args()
    log_to_stderr()
    try:
        if not 1 <= arguments.concurrency <= MAX_CONCURRENCY:
            raise ValueError(f"--concurrency: must be from 1 to {MAX_CONCURRENCY}")
        orders = load_orders(arguments.orders)
    except (OSError, ValueError) as error:
        print(f"run_workflow: {error}", file=sys.stderr)
        return 2
    try:
        outcomes = asyncio.run(run_orders(orders, arguments.concurrency, waits=not arguments.no_wait))
    except NoConnection as error:
        print(f"run_workflow: {error}", file=sys.stderr)
        return 1
    counts = Counter(outcome.status.value for outcome in outcomes)
    logger.info("outcomes: %s", ", ".join(f"{number} {status}" for status, number in counts.items()))
    return 0 if all(outcome.is_settled for outcome in outcomes) else 1


if __name__ == "__main__":
    leave_with(main)
