"""The least that Temporal asks for four steps: a workflow whose steps do nothing, on a worker like `run_worker.py`'s.

Beside the order's workflow it shows what the order adds to the engine's price.
"""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from plumbing.connection import connect
    from shop.orders import Order, Outcome, Status
    from workflows import TASK_QUEUE

STEPS, THREADS = 4, 32


@activity.defn
def do_nothing(order_id: str) -> None:
    """Take one step."""


@workflow.defn
class Floor:
    """Takes four steps, one after the other."""

    @workflow.run
    async def run(self, order_id: str) -> None:
        """Take them."""
        for _ in range(STEPS):
            await workflow.execute_activity(do_nothing, order_id, start_to_close_timeout=timedelta(seconds=5))


async def run_floor(client: Client, order: Order, *, wait: bool) -> Outcome:
    """Take the steps for one order, as `run_order` does for ours, and wait for the end."""
    await client.execute_workflow(Floor.run, order.order_id, id=order.order_id, task_queue=TASK_QUEUE)
    return Outcome(order.order_id, Status.COMPLETED, "")


async def serve() -> None:
    """Serve until killed."""
    worker = Worker(
        await connect(os.environ),
        task_queue=TASK_QUEUE,
        workflows=[Floor],
        activities=[do_nothing],
        activity_executor=ThreadPoolExecutor(THREADS),
        max_concurrent_activities=THREADS,
    )
    print("serving task queue", TASK_QUEUE, file=sys.stderr)
    await worker.run()


if __name__ == "__main__":
    asyncio.run(serve())
