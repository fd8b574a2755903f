"""Says what would pass in silence: a server that is away, a queue without a worker, workers on different shops."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from contextlib import suppress
from datetime import timedelta

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, GetSystemInfoRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from plumbing.connection import RPC_TIMEOUT, TASK_QUEUE

# A server that takes connections and answers nothing is noticed, and said, within 10 s.
PING_SECONDS = 3.0
PING_TIMEOUT = timedelta(seconds=5)
# A worker asks for work at least every minute. The server lists it for about five after the last time.
LISTENING_SECONDS = 70.0

# The server is away, too busy, or was cut off in mid-sentence ("transport error" comes as UNKNOWN): worth another try.
# Every other error is an answer.
RETRYABLE = (
    RPCStatusCode.UNAVAILABLE,
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.RESOURCE_EXHAUSTED,
    RPCStatusCode.UNKNOWN,
    RPCStatusCode.CANCELLED,
    RPCStatusCode.ABORTED,
    RPCStatusCode.INTERNAL,
)

logger = logging.getLogger("watch")


async def watch(client: Client) -> None:
    """Say when the server stops answering, and when it answers again; run until cancelled.

    The SDK waits in silence: for a minute and more, if nobody closes the connection.
    """
    is_away = False
    while True:
        try:
            await client.workflow_service.get_system_info(GetSystemInfoRequest(), timeout=PING_TIMEOUT)
            if is_away:
                logger.info("the server answers again")
            is_away = False
        except RPCError as error:
            if not is_away:
                what = "is away" if is_retryable(error) else "refuses this program"
                logger.warning("the server %s; waiting for it (%s)", what, error.message)
            is_away = True
        await asyncio.sleep(PING_SECONDS)


def is_retryable(error: RPCError) -> bool:
    """Tell whether a call is worth another try."""
    return error.status in RETRYABLE


def identity_of_worker(shop: str) -> str:
    """Return what the server and its UI call a worker: process, machine and the shop that it serves, by name."""
    return f"{os.getpid()}@{socket.gethostname()} {shop}"


async def warn_of_other_shops(client: Client) -> None:
    """Say so if another worker on the queue serves another shop: one would charge, the other take the stock."""
    mine = _shop_of(client.identity)
    with suppress(RPCError):  # It is only a hint.
        for identity in await pollers(client):
            if _shop_of(identity) != mine:
                logger.warning(
                    "worker %s serves another shop on the same task queue: an order would be charged in one and take"
                    " its stock from the other; stop one of the two",
                    identity,
                )


def _shop_of(identity: str) -> str:
    """Return which shop a worker serves: one with a URL is the same on all machines, a folder is not."""
    place = identity.partition("@")[2]
    shop = place.partition(" ")[2]
    return shop if "://" in shop else place


async def warn_if_nobody_listens(client: Client) -> None:
    """Say so if no worker serves the task queue: the orders would wait for one in silence."""
    with suppress(RPCError):  # It is only a hint.
        if not await pollers(client):
            logger.warning("no worker listens on task queue %s; start one: python run_worker.py", TASK_QUEUE)


async def pollers(client: Client) -> list[str]:
    """Return the workers that asked for workflows a short while ago: one that was killed counts for a minute more."""
    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=TASK_QUEUE),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    answer = await client.workflow_service.describe_task_queue(request, timeout=RPC_TIMEOUT)
    oldest = time.time() - LISTENING_SECONDS
    return [poller.identity for poller in answer.pollers if poller.last_access_time.seconds > oldest]
