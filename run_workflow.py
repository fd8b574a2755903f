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
from collections import Counter
from urllib.parse import quote

from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError

from plumbing.batch import run_batch
from plumbing.connection import NoConnection, connect, ui_link
from plumbing.encryption import KeyMissing
from plumbing.process import log_to_stderr, run_and_exit
from plumbing.starting import OPEN, STARTED_HERE, IdTaken, result_of, start_once
from plumbing.waiting import saying_what_for
from shop.orders import Order, Outcome, Status
from shop.parsing import load_orders
from shop.terminal.streams import Results, run_program
from workflows import CONFLICT, GIVEN_BACK, HALF_DONE, ORDER_STATUS, TASK_QUEUE, OrderWorkflow, workflow_id_for

MAX_CONCURRENCY = 256
# What somebody wants to look at afterwards: the starter prints a link to all of them.
LISTED = (Status.REJECTED, Status.FAILED, Status.CANCELLED)

logger = logging.getLogger("run_workflow")


async def run_order(client: Client, order: Order, *, wait: bool) -> Outcome:
    """Start one order, or attach to it, and wait for its end; also through a restart of the server."""
    workflow_id = workflow_id_for(order.order_id)
    summary = f"{order.total}, customer {order.customer_id}"
    try:
        async with saying_what_for(client, workflow_id):
            handle, found = await start_once(
                client, OrderWorkflow.run, order, id=workflow_id, task_queue=TASK_QUEUE, static_summary=summary
            )
            how = "started" if found is STARTED_HERE else "attached to"
            logger.info("order %s: %s %s", order.order_id, how, ui_link(client, f"workflows/{workflow_id}"))
            if found in OPEN and not wait:
                return Outcome(order.order_id, Status.STARTED, workflow_id)
            try:
                return await result_of(client, OrderWorkflow.run, order, handle)
            except WorkflowFailureError as error:
                return await not_completed(client, order.order_id, error.cause)
    except (IdTaken, KeyMissing) as error:
        return Outcome(order.order_id, Status.UNKNOWN, str(error))
    except RPCError as error:
        return Outcome(order.order_id, Status.UNKNOWN, f"the server refuses: {error.message}")


async def not_completed(client: Client, order_id: str, cause: BaseException) -> Outcome:
    """Put how a workflow closed without a result into the words of both versions."""
    if isinstance(cause, CancelledError):
        closed = await client.get_workflow_handle(workflow_id_for(order_id)).describe()
        given_back = await closed.memo_value(GIVEN_BACK, "it holds nothing")
        return Outcome(order_id, Status.CANCELLED, f"cancelled before its stock was taken; {given_back}")
    if isinstance(cause, ApplicationError):
        status = Status.UNKNOWN if cause.type in (CONFLICT, HALF_DONE) else Status.FAILED
        return Outcome(order_id, status, cause.message)
    advice = f"start it again to take it to its end, or undo it: python -m shop settle {order_id}"
    return Outcome(order_id, Status.UNKNOWN, f"{type(cause).__name__}: {cause}; {advice}")


async def run_orders(orders: list[Order], concurrency: int, *, wait: bool) -> int:
    """Run all orders, print a line for each as it ends, and return the exit status.

    Raises:
        NoConnection: if there is no server.
    """
    client, results = await connect(os.environ), Results()

    def report(order: Order, result: Outcome | BaseException) -> None:
        if isinstance(result, asyncio.CancelledError):
            result = Outcome(order.order_id, Status.UNKNOWN, "interrupted; if it was started, it goes on")
        elif isinstance(result, BaseException):  # Nobody has foreseen it; the other orders go on.
            logger.error("order %s: a bug, or a server that is newer", order.order_id, exc_info=result)
            reason = f"{type(result).__name__}: {result}; see the log"
            result = Outcome(order.order_id, Status.UNKNOWN, reason)
        results.print(result)

    await run_batch(orders, concurrency, functools.partial(run_order, client, wait=wait), report)
    counts = Counter(outcome.status for outcome in results.outcomes)
    if len(orders) > 1:
        logger.info("outcomes: %s", ", ".join(f"{number} {status.value}" for status, number in counts.items()))
    for status in LISTED:
        if status in counts:
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
        return asyncio.run(run_orders(orders, arguments.concurrency, wait=not arguments.no_wait))
    except NoConnection as error:
        print(f"run_workflow: {error}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    run_and_exit(functools.partial(run_program, "run_workflow", main))
