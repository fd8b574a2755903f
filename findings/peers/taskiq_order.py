"""The order as one task of taskiq, over a stream of Redis: the whole order is run again.

https://github.com/taskiq-python/taskiq-redis
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

from counter import as_json, from_json, main, open_shop
from taskiq import SimpleRetryMiddleware, TaskiqEvents, TaskiqState
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from shop.errors import PermanentError, Refusal, TransientError
from shop.orders import Order

REDIS = os.environ["REDIS_URL"]
# An unacknowledged message may be given to another worker after this time. The default is ten minutes; 5 s is what the
# workflow of this project gives an attempt.
IDLE_MILLISECONDS = 5000

broker = (
    RedisStreamBroker(REDIS, idle_timeout=IDLE_MILLISECONDS, unacknowledged_lock_timeout=5)
    .with_result_backend(RedisAsyncResultBackend(REDIS))
    .with_middlewares(SimpleRetryMiddleware(types_of_exceptions=(TransientError,)))
)
shop = open_shop()


@broker.task("process_order", retry_on_error=True, max_retries=3)
def process_order(document: dict[str, Any]) -> str:
    order = from_json(document)
    # No step is remembered: the shop's keys make the repeats harmless.
    try:
        shop.inventory.validate_inventory(order)
        transaction_id = shop.payments.process_payment(order)
        shop.inventory.update_inventory(order)
    except TransientError:
        time.sleep(2)  # the next attempt begins at once: this broker keeps no delay
        raise
    except PermanentError as error:
        held = shop.payments.void_charge(order)
        if held is None or not shop.inventory.void_sale(order):
            if held is not None:
                shop.payments.refund_payment(order)
            return f"{'rejected' if isinstance(error, Refusal) else 'failed'}: {error}"
        transaction_id = held
    shop.notifications.send_confirmation(order)
    return f"completed: {transaction_id}"


@broker.task("tick")
async def tick() -> None:
    """Do nothing: a worker looks for lost messages when it has received another one."""


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def serve(context: TaskiqState) -> None:
    async def send_ticks() -> None:
        while True:
            await tick.kiq()
            await asyncio.sleep(1)

    context.ticks = asyncio.create_task(send_ticks())
    print("serving", flush=True)


def work() -> None:
    taskiq = Path(sys.executable).with_name("taskiq")
    folder = Path(__file__).resolve().parent
    os.execv(taskiq, ["taskiq", "worker", f"--app-dir={folder}", "--workers=1", "taskiq_order:broker"])


async def send(order: Order) -> None:
    await broker.startup()
    await process_order.kicker().with_task_id(order.order_id).kiq(as_json(order))
    await broker.shutdown()


async def ask(order_id: str) -> str:
    if not await broker.result_backend.is_result_ready(order_id):
        return "no result"
    return "error" if (await broker.result_backend.get_result(order_id)).is_err else "success"


if __name__ == "__main__":
    main(work, lambda order: asyncio.run(send(order)), lambda order_id: asyncio.run(ask(order_id)))
