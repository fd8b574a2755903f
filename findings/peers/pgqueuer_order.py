"""The order as one job of PgQueuer, a queue in PostgreSQL: the whole order is run again.

https://janbjorge.github.io/pgqueuer/
"""

from __future__ import annotations

import asyncio
import json
import os
from datetime import timedelta

import psycopg
from counter import as_json, from_json, main, open_shop
from pgqueuer import DatabaseRetryEntrypointExecutor, PgQueuer
from pgqueuer.db import PsycopgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from shop.errors import PermanentError, Refusal
from shop.orders import Order

# A job is taken over when its heartbeat is this old, by a worker that looks: an idle one does so this often. The
# defaults are 30 s and 30 s; 5 s is what the workflow of this project gives an attempt.
HEARTBEAT, IDLE = timedelta(seconds=5), timedelta(seconds=5)

shop = open_shop()


def process_order(job: Job) -> str:
    order = from_json(json.loads(job.payload or b""))
    # No step is remembered: the shop's keys make the repeats harmless.
    try:
        shop.inventory.validate_inventory(order)
        transaction_id = shop.payments.process_payment(order)
        shop.inventory.update_inventory(order)
    except PermanentError as error:
        held = shop.payments.void_charge(order)
        if held is None or not shop.inventory.void_sale(order):
            if held is not None:
                shop.payments.refund_payment(order)
            return f"{'rejected' if isinstance(error, Refusal) else 'failed'}: {error}"
        transaction_id = held
    shop.notifications.send_confirmation(order)
    return f"completed: {transaction_id}"


async def connect() -> PsycopgDriver:
    return PsycopgDriver(await psycopg.AsyncConnection.connect(os.environ["DATABASE_URL"], autocommit=True))


async def serve() -> None:
    queue = PgQueuer(await connect())

    def retrying(parameters: object) -> DatabaseRetryEntrypointExecutor:
        return DatabaseRetryEntrypointExecutor(parameters, max_attempts=3, initial_delay=timedelta(seconds=1))

    @queue.entrypoint("process_order", executor_factory=retrying, on_failure="hold")
    async def process(job: Job) -> None:
        await asyncio.to_thread(process_order, job)

    print("serving", flush=True)
    await queue.run(heartbeat_timeout=HEARTBEAT, dequeue_timeout=IDLE)


async def enqueue(order: Order) -> None:
    await Queries(await connect()).enqueue(
        "process_order", json.dumps(as_json(order)).encode(), dedupe_key=order.order_id
    )


async def describe(order_id: str) -> str:
    waiting = await Queries(await connect()).queue_size()  # one job at a time here
    return ", ".join(row.status for row in waiting) or "not in the queue"


if __name__ == "__main__":
    main(
        work=lambda: asyncio.run(serve()),
        start=lambda order: asyncio.run(enqueue(order)),
        state=lambda order_id: asyncio.run(describe(order_id)),
    )
