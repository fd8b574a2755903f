"""Serve the task queue: run order workflows and their steps, on the shop in the data directory.

python run_worker.py [--data DIR] [--faults SPEC] [--metrics IP:PORT]
"""

from __future__ import annotations

import plumbing  # noqa: F401  # first: says so if a package is missing

# isort: split

import argparse
import asyncio
import logging
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from temporalio.runtime import Runtime
from temporalio.worker import Worker

from activities import activities_of
from plumbing.admission import OneOrderInterceptor, UnknownWorkflow
from plumbing.connection import TASK_QUEUE, NoConnection, connect, register_search_attribute, ui_link
from plumbing.process import log_to_stderr, run_and_exit, run_loop
from plumbing.runtime import MetricsNotServed, ip_and_port, make_runtime
from plumbing.watch import identity_of_worker, warn_of_other_shops, watch
from shop.errors import StoreUnusable, TransientError
from shop.shop import Shop
from shop.terminal.options import add_shop_arguments, read_shop_options
from workflows import ATTEMPT_TIMEOUT, ORDER_STATUS, OrderWorkflow

# Steps wait for the shop, not for the CPU. A call that hangs keeps its thread beyond its time-out, because nothing can
# stop it in Python: there are threads to spare, so that other orders do not wait behind it.
MAX_CONCURRENT_STEPS = 200
# Longer than an attempt may take: a step that is under way when the worker is stopped comes to its end.
DRAIN_TIME = ATTEMPT_TIMEOUT + timedelta(seconds=1)
# How long a workflow waits for the worker that has it cached, after that one was killed. The default is 10 s.
STICKY_TIMEOUT = timedelta(seconds=2)

logger = logging.getLogger("run_worker")


async def serve(shop: Shop, runtime: Runtime) -> int:
    """Serve until SIGTERM or SIGINT, then let the steps that are under way end, for as long as an attempt may take.

    Raises:
        NoConnection: if the server cannot be reached, lacks the search attribute, or refuses the worker later on.
    """
    stopping = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, stopping.set)
    client = await connect(os.environ, identity_of_worker(shop.name), runtime)
    await register_search_attribute(client, ORDER_STATUS)
    await warn_of_other_shops(client)
    worker = Worker(
        client,
        task_queue=TASK_QUEUE,
        workflows=[OrderWorkflow, UnknownWorkflow],
        activities=activities_of(shop),
        interceptors=[OneOrderInterceptor()],
        activity_executor=ThreadPoolExecutor(MAX_CONCURRENT_STEPS),
        max_concurrent_activities=MAX_CONCURRENT_STEPS,
        graceful_shutdown_timeout=DRAIN_TIME,
        sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
    )
    running, watching = asyncio.create_task(worker.run()), asyncio.create_task(watch(client))
    logger.info(
        "serving task queue %s for the shop in %s; watch it at %s", TASK_QUEUE, shop.name, ui_link(client, "workflows")
    )
    await asyncio.wait([running, asyncio.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED)
    watching.cancel()
    if running.done():
        raise NoConnection(f"the worker has ended: {running.exception()}") from running.exception()
    logger.info("stopping: steps under way come to their end; press Ctrl-\\ to kill")
    _, hanging = await asyncio.wait([asyncio.create_task(worker.shutdown())], timeout=DRAIN_TIME.total_seconds() + 1)
    if hanging:
        logger.warning("a call hangs, and is left behind; its step is tried again by the next worker")
    logger.info("stopped; orders under way go on with the next worker")
    return 0


def main() -> int:
    """Return the exit status: 0 stopped on request, 1 no server or no port for metrics, 2 bad usage or no shop."""
    parser = argparse.ArgumentParser(description="Serve the order workflows.")
    add_shop_arguments(parser)
    parser.add_argument("--metrics", type=ip_and_port, metavar="IP:PORT", help="serve metrics there (default: none)")
    arguments = parser.parse_args()
    log_to_stderr()
    try:
        shop = read_shop_options(arguments, os.environ).open()
    except (ValueError, StoreUnusable, TransientError) as error:
        print(f"run_worker: {error}", file=sys.stderr)
        return 2
    try:
        return run_loop(serve(shop, make_runtime(arguments.metrics)))
    except (NoConnection, MetricsNotServed) as error:
        print(f"run_worker: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    run_and_exit("run_worker", main)
