"""Start orders as workflows, or attach to those that run or ran, and print how they end.

python run_workflow.py [ORDERS] [--concurrency N] [--no-wait]
"""

from __future__ import annotations

import plumbing  # noqa: F401  # first: says so if a package is missing

# isort: split

import argparse
import asyncio
import functools
import logging
import os
import sys
from collections.abc import Awaitable
from urllib.parse import quote

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError

from plumbing.attach import Handle, OrderIdTaken, is_replaced, start_once
from plumbing.batch import run_batch
from plumbing.connection import TASK_QUEUE, NoConnection, connect, ui_link
from plumbing.process import log_to_stderr, run_and_exit, run_loop
from plumbing.watch import is_retryable, warn_if_nobody_listens, watch
from shop.orders import Order, Outcome, Status
from shop.parsing import load_orders
from workflows import ORDER_CONFLICT, ORDER_STATUS, OrderWorkflow, workflow_id_for

MAX_CONCURRENCY = 256
RECONNECT_SECONDS = 1.0
# What somebody wants to look at afterwards: the starter prints a link to all of them.
LISTED = (Status.REJECTED, Status.FAILED, Status.CANCELLED)

logger = logging.getLogger("run_workflow")


async def run_order(client: Client, order: Order, *, wait: bool) -> Outcome:
    """Start one order, or attach to it, and wait for its end; also through a restart of the server."""
    is_announced = False
    while True:
        try:
            handle, status = await start_or_attach(client, order)
            if not is_announced:
                how = "attached to" if status else "started"
                logger.info("order %s: %s %s", order.order_id, how, ui_link(client, f"workflows/{handle.id}"))
                is_announced = True
            if not wait and status in (None, WorkflowExecutionStatus.RUNNING):
                return Outcome(order.order_id, Status.STARTED, handle.id)
            outcome = await wait_for_outcome(client, handle, order)
            if outcome:
                return outcome
        except OrderIdTaken as error:
            return Outcome(order.order_id, Status.UNKNOWN, str(error))
        except RPCError as error:
            if not is_retryable(error):
                return Outcome(order.order_id, Status.UNKNOWN, f"the server refuses: {error.message}")
            await asyncio.sleep(RECONNECT_SECONDS)


async def start_or_attach(client: Client, order: Order) -> tuple[Handle, WorkflowExecutionStatus | None]:
    """Start the workflow of an order, or attach to it; for what is returned and raised see `start_once`."""
    workflow_id = workflow_id_for(order.order_id)

    def start(reuse_policy: WorkflowIDReusePolicy) -> Awaitable[Handle]:
        return client.start_workflow(
            OrderWorkflow.run,
            order,
            id=workflow_id,
            task_queue=TASK_QUEUE,
            # Refuse the id while its workflow runs; USE_EXISTING would not tell which of the two happened.
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            id_reuse_policy=reuse_policy,
            static_summary=f"{order.total}, customer {order.customer_id}",
        )

    return await start_once(client, order, workflow_id, OrderWorkflow.__name__, start)


async def wait_for_outcome(client: Client, handle: Handle, order: Order) -> Outcome | None:
    """Wait until a run has closed, and put how it closed into the words of both versions.

    Returns:
        None if another run has taken its place.
    """
    try:
        return await handle.result()
    except WorkflowFailureError as error:
        cause = error.cause
    if isinstance(cause, CancelledError):
        return Outcome(order.order_id, Status.CANCELLED, "cancelled before its stock was taken")
    if isinstance(cause, ApplicationError):
        status = Status.UNKNOWN if cause.type == ORDER_CONFLICT else Status.FAILED
        return Outcome(order.order_id, status, cause.message)
    if await is_replaced(client, handle):
        return None
    advice = f"start it again to take it to its end, or undo it: python -m shop settle {order.order_id}"
    return Outcome(order.order_id, Status.UNKNOWN, f"{type(cause).__name__}: {cause}; {advice}")


async def run_orders(orders: list[Order], concurrency: int, *, wait: bool) -> int:
    """Run all orders, and return the exit status.

    Raises:
        NoConnection: if there is no server.
    """
    client = await connect(os.environ)
    watching = asyncio.create_task(watch(client))
    await warn_if_nobody_listens(client)
    results = await run_batch(orders, concurrency, functools.partial(run_order, client, wait=wait))
    watching.cancel()
    if results is None:
        return 1
    for status in LISTED:
        if status in {outcome.status for outcome in results.outcomes}:
            query = quote(f'{ORDER_STATUS.name}="{status.value}"')
            logger.info("%s: %s", status.value, ui_link(client, f"workflows?query={query}"))
    return results.exit_status("run_workflow")


def main() -> int:
    """Return the exit status: 0 all settled, 1 some order is not or there is no server, 2 bad usage or bad input."""
    parser = argparse.ArgumentParser(description="Start orders as Temporal workflows.")
    parser.add_argument("orders", nargs="?", metavar="ORDERS", help="JSON Lines file, - for standard input")
    parser.add_argument("--concurrency", type=int, default=32, metavar="N", help="orders in flight (default: 32)")
    parser.add_argument("--no-wait", action="store_true", help="start the orders and leave")
    arguments = parser.parse_args()
    log_to_stderr()
    if not 1 <= arguments.concurrency <= MAX_CONCURRENCY:
        parser.error(f"--concurrency: must be from 1 to {MAX_CONCURRENCY}")
    try:
        orders = load_orders(arguments.orders)
    except (OSError, ValueError) as error:
        print(f"run_workflow: {error}", file=sys.stderr)
        return 2
    try:
        return run_loop(run_orders(orders, arguments.concurrency, wait=not arguments.no_wait))
    except NoConnection as error:
        print(f"run_workflow: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    run_and_exit("run_workflow", main)
