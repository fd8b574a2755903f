"""The order in DBOS: a library in the process that works, which records each step in PostgreSQL.

https://docs.dbos.dev/python/programming-guide
"""

from __future__ import annotations

import functools
import os
import threading

from counter import main, open_shop
from dbos import DBOS, DBOSClient

from shop.errors import OrderConflict, ShopError, TransientError
from shop.orders import Order

DATABASE = os.environ["DATABASE_URL"]
QUEUE = "orders"
shop = open_shop()


def is_transient(error: BaseException) -> bool:
    return isinstance(error, TransientError)


few_attempts = DBOS.step(retries_allowed=True, max_attempts=3, should_retry=is_transient)
# There is no "without limit"; this is a day, a minute apart.
until_done = DBOS.step(retries_allowed=True, max_attempts=1440, should_retry=is_transient)


@few_attempts
def validate_inventory(order: Order) -> None:
    shop.inventory.validate_inventory(order)


@few_attempts
def process_payment(order: Order) -> str:
    return shop.payments.process_payment(order)


@until_done
def update_inventory(order: Order) -> None:
    shop.inventory.update_inventory(order)


@until_done
def send_confirmation(order: Order) -> None:
    shop.notifications.send_confirmation(order)


@until_done
def void_charge(order: Order) -> str | None:
    return shop.payments.void_charge(order)


@until_done
def void_sale(order: Order) -> bool:
    return shop.inventory.void_sale(order)


@until_done
def refund_payment(order: Order) -> None:
    shop.payments.refund_payment(order)


@DBOS.workflow()
def process_order(order: Order) -> str:
    try:
        validate_inventory(order)
        transaction_id = process_payment(order)
        update_inventory(order)
    except OrderConflict:
        raise
    except Exception as error:
        # An error of the shop that is not transient, or DBOSMaxStepRetriesExceeded.
        held = void_charge(order)
        if held is None or not void_sale(order):
            if held is not None:
                refund_payment(order)
            return f"{'rejected' if isinstance(error, ShopError) else 'failed'}: {error}"
        transaction_id = held
    send_confirmation(order)
    return f"completed: {transaction_id}"


def work() -> None:
    DBOS(config={"name": "orders", "system_database_url": DATABASE, "log_level": "WARNING"})
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=32)
    print("serving", flush=True)
    threading.Event().wait()


@functools.cache
def client() -> DBOSClient:
    return DBOSClient(system_database_url=DATABASE)


def start(order: Order) -> None:
    client().enqueue({"queue_name": QUEUE, "workflow_name": "process_order", "workflow_id": order.order_id}, order)


def state(order_id: str) -> str:
    return str(client().retrieve_workflow(order_id).get_status().status)


if __name__ == "__main__":
    main(work, start, state)
