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
from typing import cast
from urllib.parse import quote

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, CancelledError, WorkflowAlreadyStartedError
from temporalio.service import RPCError

from plumbing.batch import run_batch
from plumbing.connection import TASK_QUEUE, NoConnection, connect, ui_link
from plumbing.process import log_to_stderr, run_and_exit, run_loop
from plumbing.watch import is_retryable, warn_if_nobody_listens, watch
from shop.orders import Order, Outcome, Status
from shop.parsing import load_orders
from workflows import ORDER_CONFLICT, ORDER_STATUS, OrderWorkflow, workflow_id_for

MAX_CONCURRENCY = 256
RECONNECT_SECONDS = 1.0
# What closes a workflow without an end of its order: to start the order again takes it to its end.
UNFINISHED = (WorkflowExecutionStatus.TERMINATED, WorkflowExecutionStatus.TIMED_OUT)
# What somebody wants to look at afterwards: the starter prints a link to all of them.
LISTED = (Status.REJECTED, Status.FAILED, Status.CANCELLED)

logger = logging.getLogger("run_workflow")


class OrderIdTaken(Exception):
    """Another order with this id runs or ran."""


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


async def start_or_attach(
    client: Client, order: Order
) -> tuple[WorkflowHandle[OrderWorkflow, Outcome], WorkflowExecutionStatus | None]:
    """Start the workflow of an order. If it runs, or ran to its end and is remembered, return that one.

    Returns:
        One run of the workflow, and its status when we found it; None if it was started here.

    Raises:
        OrderIdTaken: if it runs or ran with other content; it is left alone.
        RPCError: if the server is away or refuses.
    """
    workflow_id, reuse_policy = workflow_id_for(order.order_id), WorkflowIDReusePolicy.REJECT_DUPLICATE
    while True:
        try:
            handle = await client.start_workflow(
                OrderWorkflow.run,
                order,
                id=workflow_id,
                task_queue=TASK_QUEUE,
                # Refuse the id while its workflow runs; USE_EXISTING would not tell which of the two happened.
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                id_reuse_policy=reuse_policy,
                static_summary=f"{order.total}, customer {order.customer_id}",
            )
            return handle, None
        except WorkflowAlreadyStartedError:
            found = await client.get_workflow_handle(workflow_id).describe()
        handle = client.get_workflow_handle_for(OrderWorkflow.run, workflow_id, run_id=found.run_id)
        if await input_of(client, handle) != order:
            raise OrderIdTaken("an order with the same id and other content runs or ran; it was left alone")
        if found.status not in UNFINISHED:
            return handle, found.status
        reuse_policy = WorkflowIDReusePolicy.ALLOW_DUPLICATE


async def input_of(client: Client, handle: WorkflowHandle[OrderWorkflow, Outcome]) -> Order | None:
    """Return the order that a workflow was started with, whoever started it; None if it was something else."""
    async for event in handle.fetch_history_events(page_size=1):
        started = event.workflow_execution_started_event_attributes
        try:
            if started.workflow_type.name == OrderWorkflow.__name__:
                (order,) = await client.data_converter.decode(started.input.payloads, [Order])
                return cast(Order, order)  # the converter's promise for that hint
        except ApplicationError:
            pass
        break
    return None


async def wait_for_outcome(
    client: Client, handle: WorkflowHandle[OrderWorkflow, Outcome], order: Order
) -> Outcome | None:
    """Wait until a run has closed, and put how it closed into the words of both versions.

    Returns:
        None if another run has taken its place: after a reset, for example.
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
    latest = await client.get_workflow_handle(handle.id).describe()
    if latest.run_id != handle.result_run_id:
        return None
    advice = f"start it again to take it to its end, or undo it: python -m shop settle {order.order_id}"
    return Outcome(order.order_id, Status.UNKNOWN, f"{cause}; {advice}")


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
