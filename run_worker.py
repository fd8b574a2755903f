"""Serve the task queue: run order workflows and their steps, on the shop in the data directory.

python run_worker.py [--data DIR] [--faults SPEC]
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities import OrderActivities
from connection import (
    TASK_QUEUE,
    NoConnection,
    OneOrderInterceptor,
    UnknownWorkflow,
    connect,
    leave_with,
    log_to_stderr,
    ui_link,
)
from shop.errors import TransientError
from shop.shop import Shop, add_shop_arguments, read_shop_options
from shop.storage import DataDirectoryUnusable
from workflows import ORDER_STATUS, OrderWorkflow

# Steps wait for the shop, not for the CPU. As many threads as steps at a time: none waits in a queue of the pool.
MAX_CONCURRENT_STEPS = 32
# Longer than an attempt may take: a step that is under way when the worker is stopped comes to its end.
DRAIN_TIME = timedelta(seconds=11)
# How long a workflow waits for the worker that has it cached, after that one was killed. The default is 10 s.
STICKY_TIMEOUT = timedelta(seconds=2)

logger = logging.getLogger("run_worker")


async def serve(shop: Shop) -> None:
    """Serve until SIGTERM or SIGINT, then let the steps that are under way end.

    Raises:
        NoConnection: if the server cannot be reached or lacks the search attribute.
    """
    stopping = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, stopping.set)
    client = await connect(os.environ)
    await register_order_status(client)
    activities = OrderActivities(shop)
    with ThreadPoolExecutor(MAX_CONCURRENT_STEPS) as threads:
        async with Worker(
            client,
            task_queue=TASK_QUEUE,
            workflows=[OrderWorkflow, UnknownWorkflow],
            activities=[
                activities.validate_inventory,
                activities.process_payment,
                activities.update_inventory,
                activities.send_confirmation,
                activities.note_unsent,
                activities.refund_payment,
                activities.restore_inventory,
            ],
            interceptors=[OneOrderInterceptor()],
            activity_executor=threads,
            max_concurrent_activities=MAX_CONCURRENT_STEPS,
            graceful_shutdown_timeout=DRAIN_TIME,
            sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
        ):
            logger.info("serving task queue %s; watch it at %s", TASK_QUEUE, ui_link(client, "workflows"))
            await stopping.wait()
            logger.info("stopping: steps under way come to their end; press Ctrl-\\ to kill")
    logger.info("stopped; orders under way go on with the next worker")


async def register_order_status(client: Client) -> None:
    """See to it that the server knows `OrderStatus`: a workflow that sets an unknown attribute hangs.

    Raises:
        NoConnection: if it does not, and may not be told from here.
    """
    name, keyword = ORDER_STATUS.name, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    operator = client.operator_service
    try:
        known = await operator.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
        if name not in known.custom_attributes:
            await operator.add_search_attributes(
                AddSearchAttributesRequest(namespace=client.namespace, search_attributes={name: keyword})
            )
        elif known.custom_attributes[name] != keyword:
            raise NoConnection(f"the search attribute {name} is there, but is no Keyword; remove it first")
    except RPCError as error:
        raise NoConnection(
            f"the search attribute {name} cannot be registered from here ({error.message}); somebody who may must run:"
            f" temporal operator search-attribute create --namespace {client.namespace} --name {name} --type Keyword"
        ) from error


def main() -> int:
    """Return the exit status: 0 stopped on request, 1 no server or no shop, 2 bad usage."""
    parser = argparse.ArgumentParser(description="Serve the order workflows.")
    add_shop_arguments(parser)
    log_to_stderr()
    try:
        options = read_shop_options(parser.parse_args(), os.environ)
    except ValueError as error:
        print(f"run_worker: {error}", file=sys.stderr)
        return 2
    try:
        asyncio.run(serve(options.open()))
    except (NoConnection, DataDirectoryUnusable, TransientError) as error:
        print(f"run_worker: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    leave_with(main)
