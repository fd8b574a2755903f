"""Serve the task queue: run order workflows and their steps, on the shop in the data directory.

python run_worker.py [--data DIR] [--faults SPEC] [--metrics IP:PORT] [--deployment NAME --build-id ID]
"""

from __future__ import annotations

import plumbing  # noqa: F401  # first: says so if a package is missing

# isort: split

import argparse
import asyncio
import functools
import logging
import os
import sys
from datetime import timedelta

from temporalio.runtime import Runtime
from temporalio.worker import Worker, WorkerDeploymentConfig

from activities import activities_of
from plumbing.admission import Admission
from plumbing.connection import NoConnection, add_search_attribute, connect, runtime, ui_link
from plumbing.process import STICKY_TIMEOUT, PatientThreads, log_to_stderr, run_and_exit, when_told_to_stop
from plumbing.versions import add_version_arguments, read_version
from shop.errors import StoreUnusable, TransientError
from shop.shop import Shop
from shop.terminal.options import add_shop_arguments, read_shop_options
from shop.terminal.streams import run_program
from workflows import ATTEMPT_TIMEOUT, ORDER_STATUS, TASK_QUEUE, OrderWorkflow

MAX_CONCURRENT_STEPS = 100  # as by default; each has a thread

logger = logging.getLogger("run_worker")


async def serve(shop: Shop, core: Runtime, deployment: WorkerDeploymentConfig | None) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; then let the steps that are under way end."""
    stopping = asyncio.Event()
    when_told_to_stop(stopping.set)
    client = await connect(os.environ, core)
    await add_search_attribute(client, ORDER_STATUS)
    async with Worker(
        client,
        task_queue=TASK_QUEUE,
        workflows=[OrderWorkflow],
        activities=activities_of(shop),
        interceptors=[Admission()],
        deployment_config=deployment,
        activity_executor=PatientThreads(MAX_CONCURRENT_STEPS),
        workflow_task_executor=PatientThreads(MAX_CONCURRENT_STEPS),
        max_concurrent_activities=MAX_CONCURRENT_STEPS,
        graceful_shutdown_timeout=ATTEMPT_TIMEOUT + timedelta(seconds=1),
        sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
    ):
        page = ui_link(client, "workflows")
        version = f" as {deployment.version.to_canonical_string()}" if deployment else ""
        logger.info("serving task queue %s%s for the shop in %s; watch it at %s", TASK_QUEUE, version, shop.name, page)
        await stopping.wait()
        logger.info("stopping: steps under way come to their end")
    logger.info("stopped; orders under way go on with the next worker")


def main() -> int:
    """Return the exit status: 0 stopped on request, 1 no server, 2 bad usage or no shop."""
    parser = argparse.ArgumentParser(description="Serve the order workflows.")
    add_shop_arguments(parser)
    parser.add_argument("--metrics", metavar="IP:PORT", help="serve metrics there (default: none)")
    add_version_arguments(parser)
    arguments = parser.parse_args()
    log_to_stderr()
    try:
        deployment = read_version(arguments)
        core = runtime(arguments.metrics)
        shop = read_shop_options(arguments, os.environ).open()
    except (ValueError, StoreUnusable, TransientError) as error:
        print(f"run_worker: {error}", file=sys.stderr)
        return 2
    try:
        asyncio.run(serve(shop, core, deployment))
    except NoConnection as error:
        print(f"run_worker: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    run_and_exit(functools.partial(run_program, "run_worker", main))
