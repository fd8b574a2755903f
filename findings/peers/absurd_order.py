"""The order in Absurd: a table in PostgreSQL holds the tasks and what their steps returned; workers hold leases.

https://earendil-works.github.io/absurd/concepts/
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from absurd_sdk import Absurd, TaskContext
from counter import as_json, from_json, main, open_shop, order_for

from shop.errors import OrderConflict, PermanentError, Refusal
from shop.orders import Order

T = TypeVar("T")

# How long a task may go without a step before another worker claims it. The default is 120 s; 5 s is what the
# workflow of this project gives an attempt.
CLAIM_SECONDS = 5

app = Absurd(os.environ["DATABASE_URL"], queue_name="orders")
shop = open_shop()


@app.register_task(name="process-order")
def process_order(document: dict[str, Any], ctx: TaskContext) -> str:
    order = from_json(document)

    def step(call: Callable[[Order], T]) -> T:
        return ctx.step(call.__name__, lambda: call(order))

    # An error that another attempt may mend fails this run; the next one begins at the step that failed.
    try:
        step(shop.inventory.validate_inventory)
        transaction_id = step(shop.payments.process_payment)
        step(shop.inventory.update_inventory)
    except OrderConflict:
        raise
    except PermanentError as error:
        held = step(shop.payments.void_charge)
        if held is None or not step(shop.inventory.void_sale):
            if held is not None:
                step(shop.payments.refund_payment)
            return f"{'rejected' if isinstance(error, Refusal) else 'failed'}: {error}"
        transaction_id = held
    step(shop.notifications.send_confirmation)
    return f"completed: {transaction_id}"


def work() -> None:
    print("serving", flush=True)
    app.start_worker(concurrency=32, claim_timeout=CLAIM_SECONDS)


def start(order: Order) -> None:
    # Five attempts of the whole task, the default.
    retries = {"kind": "exponential", "base_seconds": 1, "factor": 2, "max_seconds": 60}
    app.spawn("process-order", as_json(order), retry_strategy=retries, idempotency_key=order.order_id)


def state(order_id: str) -> str:
    # The key finds the task that is there.
    task = app.spawn("process-order", as_json(order_for(order_id)), idempotency_key=order_id)
    snapshot = app.fetch_task_result(task["task_id"])
    return snapshot.state if snapshot else "unknown"


if __name__ == "__main__":
    main(work, start, state)
