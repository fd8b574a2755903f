"""The order in Temporal, as the SDK's samples would write it: a server keeps the history, workers ask it for tasks.

https://docs.temporal.io/develop/python
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from counter import main, open_shop

    from shop.errors import PermanentError, Refusal
    from shop.orders import Order
    from shop.shop import Shop

T = TypeVar("T")

ADDRESS = os.environ.get("TEMPORAL_ADDRESS", "localhost:7233")
TASK_QUEUE = "orders"
FEW_ATTEMPTS = RetryPolicy(maximum_attempts=3)
UNTIL_DONE = RetryPolicy(maximum_interval=timedelta(minutes=1))


class Steps:
    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    @activity.defn
    def validate_inventory(self, order: Order) -> None:
        permanent(self.shop.inventory.validate_inventory, order)

    @activity.defn
    def process_payment(self, order: Order) -> str:
        return permanent(self.shop.payments.process_payment, order)

    @activity.defn
    def update_inventory(self, order: Order) -> None:
        permanent(self.shop.inventory.update_inventory, order)

    @activity.defn
    def send_confirmation(self, order: Order) -> None:
        permanent(self.shop.notifications.send_confirmation, order)

    @activity.defn
    def void_charge(self, order: Order) -> str | None:
        return permanent(self.shop.payments.void_charge, order)

    @activity.defn
    def void_sale(self, order: Order) -> bool:
        return permanent(self.shop.inventory.void_sale, order)

    @activity.defn
    def refund_payment(self, order: Order) -> None:
        permanent(self.shop.payments.refund_payment, order)


def permanent(call: Callable[[Order], T], order: Order) -> T:
    """Tell Temporal which errors another attempt would only repeat."""
    try:
        return call(order)
    except PermanentError as error:
        kind = "rejected" if isinstance(error, Refusal) else "failed"
        raise ApplicationError(str(error), type=kind, non_retryable=True) from error


@workflow.defn
class OrderWorkflow:
    @workflow.run
    async def run(self, order: Order) -> str:
        async def step(call: Callable[[Steps, Order], T], retries: RetryPolicy = UNTIL_DONE) -> T:
            return await workflow.execute_activity_method(
                call, order, start_to_close_timeout=timedelta(seconds=5), retry_policy=retries
            )

        try:
            await step(Steps.validate_inventory, FEW_ATTEMPTS)
            transaction_id = await step(Steps.process_payment, FEW_ATTEMPTS)
            await step(Steps.update_inventory)
        except ActivityError as error:
            held = await step(Steps.void_charge)
            if held is None or not await step(Steps.void_sale):
                if held is not None:
                    await step(Steps.refund_payment)
                refused = isinstance(error.cause, ApplicationError) and error.cause.type == "rejected"
                return f"{'rejected' if refused else 'failed'}: {error.cause}"
            transaction_id = held
        await step(Steps.send_confirmation)
        return f"completed: {transaction_id}"


async def serve() -> None:
    steps = Steps(open_shop())
    activities = [getattr(steps, name) for name in vars(Steps) if not name.startswith("_") and name != "shop"]
    with ThreadPoolExecutor(100) as threads:
        worker = Worker(
            await Client.connect(ADDRESS),
            task_queue=TASK_QUEUE,
            workflows=[OrderWorkflow],
            activities=activities,
            activity_executor=threads,
        )
        async with worker:
            print("serving", flush=True)
            await asyncio.Event().wait()


async def begin(order: Order) -> None:
    client = await Client.connect(ADDRESS)
    await client.start_workflow(OrderWorkflow.run, order, id=f"order-{order.order_id}", task_queue=TASK_QUEUE)


async def describe(order_id: str) -> str:
    client = await Client.connect(ADDRESS)
    handle = client.get_workflow_handle(f"order-{order_id}")
    status = (await handle.describe()).status
    return f"{status.name}" if status else "unknown"


if __name__ == "__main__":
    main(
        work=lambda: asyncio.run(serve()),
        start=lambda order: asyncio.run(begin(order)),
        state=lambda order_id: asyncio.run(describe(order_id)),
    )
