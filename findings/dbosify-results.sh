#!/usr/bin/env bash
# dbosify 0.4.0, a drop-in replacement of Temporal's SDK over DBOS: its first install, a result that is an enum, queries
# on closed orders, and calls of the SDK in the workflow. Needs PostgreSQL's server. Run on 2026-11-30.
#
# Expected: `pip install dbosify` brings versions that fit together; a `Status(str, Enum)` in a dataclass comes back as the
#   member; a closed order answers queries while a worker lives; the workflow may call what the SDK's may. As with Temporal.
# Seen: pip picks dbos 3.4.0, with which dbosify.client does not import. With dbos 2.31.1 the member comes back as a list
#   of its letters. A completed order answers, a terminated one refuses. `workflow.metric_meter` is missing: the order
#   is RUNNING after 20 s; `upsert_memo` and `set_current_details` work.
# Settings: https://docs.dbos.dev/explanations/dbosify
set -euo pipefail
folder=$(mktemp -d)
chmod 755 "$folder"
cd "$folder"
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
python3 -m venv venv && venv/bin/pip install -q dbosify==0.4.0 dbos==3.4.0 >log 2>&1 || { cat log; exit 2; }

# PostgreSQL on a free port of 127.0.0.1; it refuses to run as root.
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1) || { echo "apt-get install postgresql"; exit 2; }
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
as=()
mkdir database
if [ "$(id -u)" = 0 ]; then chown postgres database; as=(setpriv --reuid=postgres --regid=postgres --clear-groups); fi
"${as[@]}" "$bin/initdb" -D database -U shop -A trust --no-sync >log 2>&1 || { cat log; exit 2; }
"${as[@]}" "$bin/postgres" -D database -cport="$port" -clisten_addresses=127.0.0.1 -cunix_socket_directories= >log 2>&1 &
export DATABASE_URL=postgresql://shop:none@127.0.0.1:$port/postgres
until "$bin/psql" -qc '' "$DATABASE_URL" 2>/dev/null; do sleep 0.2; done

cat >order.py <<'PYTHON'
import asyncio, os
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from dbosify import workflow
from dbosify.client import Client
from dbosify.worker import Worker

DATABASE = os.environ["DATABASE_URL"]
CALLS = {"upsert_memo": [{"stage": "running"}], "set_current_details": ["running"], "metric_meter": []}


class Status(str, Enum):
    COMPLETED = "completed"


@dataclass
class Outcome:
    status: Status


@workflow.defn
class Order:
    stage = "running"

    @workflow.run
    async def run(self, calls: str) -> Outcome:
        if calls in CALLS:
            getattr(workflow, calls)(*CALLS[calls])
        await workflow.wait_condition(lambda: calls != "wait")
        self.stage = "done"
        return Outcome(Status.COMPLETED)

    @workflow.query
    def where(self) -> str:
        return self.stage


async def asked(handle):
    try:
        return await handle.query(Order.where, rpc_timeout=timedelta(seconds=20))
    except Exception as error:
        return type(error).__name__


async def main():
    async with Worker(DATABASE, task_queue="orders", workflows=[Order]):
        client = await Client.connect(DATABASE)
        print(repr((await client.execute_workflow(Order.run, "", id="1", task_queue="orders")).status))
        print("query, completed:", await asked(client.get_workflow_handle("1")))
        handle = await client.start_workflow(Order.run, "wait", id="2", task_queue="orders")
        print("query, running:", await asked(handle))
        await handle.terminate()
        print("query, terminated:", await asked(handle))
        for calls in CALLS:
            handle = await client.start_workflow(Order.run, calls, id=calls, task_queue="orders")
            await asyncio.wait([asyncio.create_task(handle.result())], timeout=20)
            print(f"{calls}:", (await handle.describe()).status.name, flush=True)
        os._exit(0)


asyncio.run(asyncio.wait_for(main(), 120))
PYTHON

{
    { venv/bin/python order.py 2>&1 || true; } | tail -n 1
    venv/bin/pip install -q dbos==2.31.1 >log 2>&1 || exit 2
    venv/bin/python order.py 2>errors || cat errors
    grep -o -m 1 'AttributeError: .*' errors || true
} >seen
diff - seen <<'SEEN'
ModuleNotFoundError: No module named 'dbos._croniter'
['c', 'o', 'm', 'p', 'l', 'e', 't', 'e', 'd']
query, completed: done
query, running: running
query, terminated: WorkflowQueryFailedError
upsert_memo: COMPLETED
set_current_details: COMPLETED
metric_meter: RUNNING
AttributeError: module 'dbosify.workflow' has no attribute 'metric_meter'
SEEN
