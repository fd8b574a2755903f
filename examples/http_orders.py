"""Orders by HTTP: an order is accepted when the Temporal server has it, and not before.

python -m examples.http_orders [--port 8080]     (beside `python run_worker.py`, which runs the orders)
curl -i --json @examples/order.jsonl localhost:8080/orders
curl localhost:8080/orders/1002
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError, RPCStatusCode

from plumbing.connection import NoConnection, connect
from plumbing.encryption import KeyMissing
from plumbing.process import log_to_stderr, run_and_exit
from plumbing.starting import OPEN, IdTaken, describe, start_once
from run_workflow import not_completed
from shop.orders import InvalidOrder, Order, Outcome, Status
from shop.parsing import MAX_LINE_BYTES
from workflows import TASK_QUEUE, OrderWorkflow, workflow_id_for

T = TypeVar("T")
ANSWER_SECONDS = 1.5  # of the two within which a caller has an answer

logger = logging.getLogger("http_orders")


async def place(request: Request) -> JSONResponse:
    """Start an order, or find it started. However often it is sent, the answer is the same."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_LINE_BYTES:
                raise HTTPException(413, f"order: is longer than {MAX_LINE_BYTES} bytes")
        order = Order.from_json(bytes(body))
        order.check()
        accepted = Outcome(order.order_id, Status.STARTED, workflow_id_for(order.order_id))
        options = {"id": accepted.detail, "task_queue": TASK_QUEUE, "static_summary": order.total}
        await answer_of(request, lambda client: start_once(client, OrderWorkflow.run, order, **options))
    except (InvalidOrder, ClientDisconnect) as error:
        raise HTTPException(422, str(error)) from error
    except IdTaken as error:
        raise HTTPException(409, str(error)) from error
    return JSONResponse(asdict(accepted), 202, {"Location": f"/orders/{order.order_id}"})


async def show(request: Request) -> JSONResponse:
    """Say how an order stands: `started` while it is under way, then how it ended."""
    order_id: str = request.path_params["order_id"]
    workflow_id = workflow_id_for(order_id)

    async def find(client: Client) -> Outcome:
        if (await describe(client, workflow_id)).workflow_execution_info.status in OPEN:
            return Outcome(order_id, Status.STARTED, workflow_id)
        try:
            return await client.get_workflow_handle_for(OrderWorkflow.run, workflow_id).result()
        except WorkflowFailureError as error:
            return await not_completed(client, order_id, error.cause)

    return JSONResponse(asdict(await answer_of(request, find)))


async def answer_of(request: Request, ask: Callable[[Client], Awaitable[T]]) -> T:
    """Return what the Temporal server answers. Where it does not, say 503: to send an order again is harmless."""

    async def ask_when_connected() -> T:
        return await ask(await asyncio.shield(request.app.state.connecting))

    try:
        return await asyncio.wait_for(ask_when_connected(), ANSWER_SECONDS)
    except KeyMissing as error:
        raise HTTPException(503, str(error)) from error
    except (asyncio.TimeoutError, RPCError) as error:
        if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND:
            raise HTTPException(404, "the server knows no such order, or not any more") from error
        logger.warning("no answer from the Temporal server: %r", error)
        raise HTTPException(503, "not known to be accepted: send it again", {"Retry-After": "1"}) from error


async def connect_at_last() -> Client:
    """Connect to a server that may come later than this program."""
    while True:
        try:
            return await connect(os.environ)
        except NoConnection as error:
            logger.warning("%s", error)
            await asyncio.sleep(1)


@contextlib.asynccontextmanager
async def connecting(app: Starlette) -> AsyncIterator[None]:
    """Connect beside the requests, for as long as the application runs."""
    app.state.connecting = asyncio.create_task(connect_at_last())
    yield
    app.state.connecting.cancel()


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m examples.http_orders", description="Take orders by HTTP.")
    parser.add_argument("--port", type=int, default=8080, help="on 127.0.0.1 (default: 8080)")
    port = parser.parse_args().port
    if port not in range(1, 65536):
        parser.error("--port: must be from 1 to 65535")
    log_to_stderr()
    routes = [Route("/orders", place, methods=["POST"]), Route("/orders/{order_id}", show)]
    uvicorn.run(Starlette(routes=routes, lifespan=connecting), host="127.0.0.1", port=port, log_config=None)
    return 0


if __name__ == "__main__":
    run_and_exit(main)
