"""The order as one job of RQ, over Redis: the whole order is run again.

https://python-rq.org/docs/exceptions/
"""

from __future__ import annotations

import os
from typing import Any

from counter import as_json, from_json, main, open_shop
from redis import Redis
from rq import Queue, Retry, Worker
from rq.job import Job

from shop.errors import PermanentError, Refusal
from shop.orders import Order

connection = Redis.from_url(os.environ["REDIS_URL"])
queue = Queue("orders", connection=connection)


def process_order(document: dict[str, Any]) -> str:
    shop, order = open_shop(), from_json(document)
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


def work() -> None:
    print("serving", flush=True)
    # It forks a process for each job. The scheduler brings back what waits for its next attempt.
    Worker([queue], connection=connection).work(with_scheduler=True)


def start(order: Order) -> None:
    # By name: this file is __main__ here and there.
    queue.enqueue("rq_order.process_order", as_json(order), job_id=order.order_id, retry=Retry(max=2, interval=1))


def state(order_id: str) -> str:
    return Job.fetch(order_id, connection=connection).get_status().value


if __name__ == "__main__":
    main(work, start, state)
