#!/usr/bin/env bash
# dbosify 0.4.0, a drop-in replacement of Temporal's SDK over DBOS: its first install, and a result that is an enum.
# Needs PostgreSQL's server. Run on 2026-11-30.
#
# Expected: `pip install dbosify` brings versions that fit together; a `Status(str, Enum)` in a dataclass comes back as the
#   member, as with Temporal.
# Seen: pip picks dbos 3.4.0, with which dbosify.client does not import. With dbos 2.31.1 the member comes back as a list
#   of its letters.
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
import asyncio, os, sys
from dataclasses import dataclass
from enum import Enum
from dbosify import workflow
from dbosify.client import Client
from dbosify.worker import Worker

DATABASE = os.environ["DATABASE_URL"]


class Status(str, Enum):
    COMPLETED = "completed"


@dataclass
class Outcome:
    status: Status


@workflow.defn
class Order:
    @workflow.run
    async def run(self) -> Outcome:
        return Outcome(Status.COMPLETED)


async def main():
    async with Worker(DATABASE, task_queue="orders", workflows=[Order]):
        client = await Client.connect(DATABASE)
        outcome = await client.execute_workflow(Order.run, id="1", task_queue="orders")
        print(repr(outcome.status), flush=True)
        os._exit(0)


asyncio.run(main())
PYTHON

{
    { venv/bin/python order.py 2>&1 || true; } | tail -n 1
    venv/bin/pip install -q dbos==2.31.1 >log 2>&1 || exit 2
    venv/bin/python order.py 2>errors || cat errors
} >seen
diff - seen <<'SEEN'
ModuleNotFoundError: No module named 'dbos._croniter'
['c', 'o', 'm', 'p', 'l', 'e', 't', 'e', 'd']
SEEN
