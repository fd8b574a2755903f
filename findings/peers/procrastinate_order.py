"""The order as one job of procrastinate, a queue in PostgreSQL: the whole order is run again.

https://procrastinate.readthedocs.io/en/stable/howto/production/retry_stalled_jobs.html
"""

from __future__ import annotations

import os
from typing import Any

import procrastinate
from counter import as_json, from_json, main, open_shop

from shop.errors import PermanentError, Refusal, TransientError
from shop.orders import Order

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["DATABASE_URL"]))
shop = open_shop()

# The defaults are a heartbeat each 10 s, and 30 s; 5 s is what the workflow of this project gives an attempt.
HEARTBEAT_SECONDS, STALLED_SECONDS = 1, 5


@app.task(queue="orders", retry=procrastinate.RetryStrategy(max_attempts=3, wait=1, retry_exceptions={TransientError}))
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


# A job whose worker died stays `doing` unless somebody looks for it: the recipe of the page above, every 5 s instead of
# every ten minutes.
@app.periodic(cron="* * * * * */5")
@app.task(queue="orders", queueing_lock="retry_stalled_jobs", pass_context=True)
async def retry_stalled_jobs(context: procrastinate.JobContext, timestamp: int) -> None:
    for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_SECONDS):
        await app.job_manager.retry_job(job)


def work() -> None:
    with app.open():
        if not app.check_connection():
            app.schema_manager.apply_schema()
        print("serving", flush=True)
        app.run_worker(
            queues=["orders"],
            concurrency=32,
            update_heartbeat_interval=HEARTBEAT_SECONDS,
            stalled_worker_timeout=STALLED_SECONDS,
        )


def start(order: Order) -> None:
    with app.open():
        process_order.configure(queueing_lock=order.order_id).defer(document=as_json(order))


def state(order_id: str) -> str:
    with app.open():
        [job] = app.job_manager.list_jobs(queueing_lock=order_id)
        return job.status


if __name__ == "__main__":
    main(work, start, state)
