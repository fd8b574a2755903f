"""What stands between a backlog and a service: a rate limit, priority, fairness. Counts and places, not times."""

from __future__ import annotations

import asyncio
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from statistics import mean

from conftest import TEMPORAL, Stage, make_order
from counter import COMPLETED, attempts_of, end_of, serve, start
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.common import Priority
from temporalio.worker import Worker

from comparison.stage.processes import Server
from plumbing.connection import add_search_attribute, connect
from shop.ledger import read_ledger
from shop.shop import Shop
from workflows import ORDER_STATUS, TASK_QUEUE

LIMIT = 5  # steps a second
# Places of the late ones, on the average: 35 in turn, 5 in strict order, 10 if both kinds alternate.
BACKLOG, LATE = 30, 10
EARLY = 17
# The order holds in each partition of a queue for itself, and by default a queue has four.
FAIR = [
    f"--dynamic-config-value=matching.{setting}"
    for setting in ("enableFairness=true", "numTaskqueueReadPartitions=1", "numTaskqueueWritePartitions=1")
]
STEPS = ["validate_inventory", "process_payment", "update_inventory", "send_confirmation"]


@workflow.defn(sandboxed=False)
class OneStep:
    """Does one step, whose name the test counts."""

    @workflow.run
    async def run(self, name: str) -> None:
        await workflow.execute_activity("note", name, start_to_close_timeout=timedelta(seconds=30))


async def limit_queue(stage: Stage, limit: str) -> None:
    """Set the limit of the queue itself, as an operator would."""
    names = ("--task-queue", TASK_QUEUE, "--task-queue-type", "activity", "--queue-rps-limit", limit)
    await stage.temporal("task-queue", "config", "set", *names)


async def places_of_the_late(server: Server, client: Client, first: Priority, late: Priority) -> list[int]:
    """Queue steps while nobody takes any, then some more; return the places at which the late ones are begun."""
    queue, begun = uuid.uuid4().hex, []

    @activity.defn
    async def note(name: str) -> None:
        begun.append(name)

    async with Worker(client, task_queue=queue, workflows=[OneStep]):
        handles: list[WorkflowHandle[OneStep, None]] = []
        for number in range(BACKLOG + LATE):
            name, priority = ("first", first) if number < BACKLOG else ("late", late)
            handle = await client.start_workflow(
                OneStep.run, name, id=f"{queue}-{number}", task_queue=queue, priority=priority
            )
            handles.append(handle)
            while not (await handle.describe()).raw_description.pending_activities:
                await asyncio.sleep(0.01)
        other = await connect(server.settings(client.namespace))  # a client has one worker on a queue
        async with Worker(other, task_queue=queue, activities=[note], max_concurrent_activities=1):
            await asyncio.gather(*(handle.result() for handle in handles))
    return [place for place, name in enumerate(begun) if name == "late"]


async def test_a_limit_that_the_workers_set_holds_for_all_of_them_and_uses_up_no_attempt(
    stage: Stage, shop: Shop
) -> None:
    orders = [make_order(f"{number}") for number in range(8)]
    await add_search_attribute(stage.client, ORDER_STATUS)
    another = await connect(stage.settings)  # a client has one worker on a queue

    async with serve(stage.client, shop, steps_per_second=LIMIT), serve(another, shop, steps_per_second=LIMIT):
        handles = [await start(stage.client, order) for order in orders]
        ends = [await end_of(stage.client, handle, order) for handle, order in zip(handles, orders, strict=True)]

    ledger = read_ledger(shop.location)
    times = sorted(datetime.fromisoformat(attempt.at) for attempt in ledger.attempts)
    at_once = 2 * LIMIT  # the server lets some go before it counts
    assert ends == [COMPLETED] * len(orders)
    assert [attempts_of(ledger, order, step) for order in orders for step in STEPS] == [["ok"]] * len(times)
    assert (times[-1] - times[0]).total_seconds() >= (len(times) - at_once) / LIMIT


async def test_a_limit_of_the_queue_does_not_reach_steps_that_the_worker_is_handed_eagerly(
    stage: Stage, shop: Shop
) -> None:
    """A limit of 0 lets no step through that goes by the queue. By default, a worker that has room is given the next
    step with the answer to the last one.
    """
    eager, queued = make_order("eager"), make_order("queued")
    await add_search_attribute(stage.client, ORDER_STATUS)
    await limit_queue(stage, "0")

    async with serve(stage.client, shop):
        end = await end_of(stage.client, await start(stage.client, eager), eager)
    async with serve(stage.client, shop, is_eager=False):
        handle = await start(stage.client, queued)
        while not (await handle.describe()).raw_description.pending_activities:
            await asyncio.sleep(0.1)
        begun_under_the_limit = attempts_of(read_ledger(shop.location), queued, STEPS[0])
        await limit_queue(stage, "default")
        end_without = await end_of(stage.client, handle, queued)

    assert (end, begun_under_the_limit, end_without) == (COMPLETED, [], COMPLETED)


async def test_urgent_steps_overtake_a_backlog_but_in_no_strict_order(stage: Stage) -> None:
    urgent, rest = Priority(priority_key=1), Priority(priority_key=5)

    places = await places_of_the_late(stage.server, stage.client, rest, urgent)

    assert mean(places) < EARLY


async def test_fairness_keys_share_a_queue_only_where_the_server_is_told_to(stage: Stage, tmp_path: Path) -> None:
    one, another = Priority(fairness_key="one"), Priority(fairness_key="another")
    told = Server(tmp_path)
    told.executable = str(TEMPORAL)
    told.arguments = ("server", "start-dev", f"--port={told.port}", "--headless", "--log-level=error", *FAIR)
    await told.start()

    by_default = await places_of_the_late(stage.server, stage.client, one, another)
    shared = await places_of_the_late(told, await told.client(), one, another)
    await told.kill()

    assert mean(shared) < EARLY < mean(by_default)
