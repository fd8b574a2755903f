"""The order as one message of dramatiq, over Redis: the whole order is run again.

https://dramatiq.io/reference.html#dramatiq.brokers.redis.RedisBroker
"""

from __future__ import annotations

import os
from typing import Any

import dramatiq
import redis
from counter import as_json, from_json, main, open_shop
from dramatiq.brokers.redis import RedisBroker
from dramatiq.cli import main as run_workers
from dramatiq.cli import make_argument_parser

from shop.errors import PermanentError, Refusal, TransientError
from shop.orders import Order

# A message is given to another worker when its worker has shown no sign of life for so long. The default is 60 s; 5 s
# is what the workflow of this project gives an attempt.
HEARTBEAT_MILLISECONDS = 5000
# By default such messages are looked for at one command in a thousand: so many of a million.
MAINTENANCE_CHANCE = 1_000_000


class TellWhenServing(dramatiq.Middleware):
    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        print("serving", flush=True)


broker = RedisBroker(
    url=os.environ["REDIS_URL"], heartbeat_timeout=HEARTBEAT_MILLISECONDS, maintenance_chance=MAINTENANCE_CHANCE
)
broker.add_middleware(TellWhenServing())
dramatiq.set_broker(broker)
shop = open_shop()


def is_to_retry(attempts: int, error: Exception) -> bool:
    return isinstance(error, TransientError) and attempts < 2


@dramatiq.actor(queue_name="orders", retry_when=is_to_retry, min_backoff=1000)
def process_order(document: dict[str, Any]) -> None:
    order = from_json(document)
    # No step is remembered: the shop's keys make the repeats harmless.
    try:
        shop.inventory.validate_inventory(order)
        shop.payments.process_payment(order)
        shop.inventory.update_inventory(order)
    except PermanentError as error:
        held = shop.payments.void_charge(order)
        if held is None or not shop.inventory.void_sale(order):
            if held is not None:
                shop.payments.refund_payment(order)
            print(f"{'rejected' if isinstance(error, Refusal) else 'failed'}: {error}")
            return
    shop.notifications.send_confirmation(order)


def work() -> None:
    arguments = ["dramatiq_order", "--processes=1", "--threads=32", "--path", os.path.dirname(__file__)]
    raise SystemExit(run_workers(make_argument_parser().parse_args(arguments)))


def start(order: Order) -> None:
    process_order.send(as_json(order))


def state(order_id: str) -> str:
    # One order at a time here: what the queue holds, waiting or in a worker's hand.
    held = redis.from_url(os.environ["REDIS_URL"]).hlen("dramatiq:orders.msgs")
    return "in the queue" if held else "not in the queue"


if __name__ == "__main__":
    main(work, start, state)
