"""The order in Restate: a server calls this service over HTTP, and keeps a journal of its steps.

https://docs.restate.dev/tour/workflows
"""

from __future__ import annotations

import asyncio
import json
import os
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import hypercorn.asyncio
import restate
from counter import as_json, from_json, main, open_shop
from restate import RunOptions, TerminalError

from shop.errors import PermanentError, Refusal
from shop.orders import Order

T = TypeVar("T")

INGRESS, ADMIN = os.environ["RESTATE_INGRESS"], os.environ["RESTATE_ADMIN"]
FEW_ATTEMPTS = RunOptions[Any](max_attempts=3, initial_retry_interval=timedelta(seconds=1), retry_interval_factor=2.0)
UNTIL_DONE = RunOptions[Any]()  # as the server retries: https://docs.restate.dev/guides/error-handling

shop = open_shop()
orders = restate.Workflow("orders")


@orders.main()
async def process_order(ctx: restate.WorkflowContext, document: dict[str, Any]) -> str:
    order = from_json(document)

    async def step(call: Callable[[Order], T], retries: RunOptions[T] = UNTIL_DONE) -> T:
        def attempt() -> T:
            try:
                return call(order)
            except PermanentError as error:
                raise TerminalError(str(error), status_code=409 if isinstance(error, Refusal) else 500) from error

        return await ctx.run_typed(call.__name__, attempt, retries)

    try:
        await step(shop.inventory.validate_inventory, FEW_ATTEMPTS)
        transaction_id = await step(shop.payments.process_payment, FEW_ATTEMPTS)
        await step(shop.inventory.update_inventory)
    except TerminalError as error:
        held = await step(shop.payments.void_charge)
        if held is None or not await step(shop.inventory.void_sale):
            if held is not None:
                await step(shop.payments.refund_payment)
            return f"{'rejected' if error.status_code == 409 else 'failed'}: {error.message}"
        transaction_id = held
    await step(shop.notifications.send_confirmation)
    return f"completed: {transaction_id}"


def work() -> None:
    config = hypercorn.Config()
    config.bind = [os.environ["LISTEN_ON"]]
    print("serving", flush=True)
    asyncio.run(hypercorn.asyncio.serve(restate.app([orders]), config))  # type: ignore[arg-type]


def post(url: str, document: object) -> Any:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    request = urllib.request.Request(url, json.dumps(document).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def start(order: Order) -> None:
    post(f"{INGRESS}/orders/{order.order_id}/process_order/send", as_json(order))


def state(order_id: str) -> str:
    columns = "status, last_failure_error_code"
    query = f"SELECT {columns} FROM sys_invocation WHERE target_service_key = '{order_id}'"
    [row] = post(f"{ADMIN}/query", {"query": query})["rows"]
    return " ".join(filter(None, (row["status"], row.get("last_failure_error_code"))))


if __name__ == "__main__":
    main(work, start, state)
