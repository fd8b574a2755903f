"""The order as one task of Celery, over Redis: the whole order is run again.

https://docs.celeryq.dev/en/stable/userguide/tasks.html#Task.acks_late
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import worker_ready
from counter import as_json, from_json, main, open_shop

from shop.errors import PermanentError, Refusal, TransientError
from shop.orders import Order

# An unacknowledged task is given to another worker after this time. The default is an hour; 5 s is what the workflow
# of this project gives an attempt.
VISIBILITY_SECONDS = 5
# An idle worker comes by every 10 s, and by default looks for such tasks each tenth time.
EACH = 1

app = Celery("orders", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.broker_transport_options = {"visibility_timeout": VISIBILITY_SECONDS, "unacked_restore_throttle": EACH}
app.conf.task_track_started = True
app.conf.worker_prefetch_multiplier = 1
shop = open_shop()


# Acknowledged when it has ended, not when it begins, which is the default.
@app.task(acks_late=True, autoretry_for=(TransientError,), max_retries=2, default_retry_delay=1)
def process_order(document: dict[str, Any]) -> str:
    order = from_json(document)
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


@worker_ready.connect
def tell(**_: object) -> None:
    print("serving", flush=True)


def work() -> None:
    # Threads: an order that kills takes the whole worker with it, as in the other programs.
    # Each worker of a machine has a name of its own: RabbitMQ refuses the second one of a name.
    name = f"--hostname={os.getpid()}@%h"
    app.worker_main(["worker", name, "--pool=threads", "--concurrency=32", "--loglevel=warning"])


def start(order: Order) -> None:
    process_order.apply_async([as_json(order)], task_id=order.order_id)


def state(order_id: str) -> str:
    return str(app.AsyncResult(order_id).state)


if __name__ == "__main__":
    main(work, start, state)
