#!/usr/bin/env bash
# dbosify 0.4.0, a drop-in replacement of Temporal's SDK over DBOS: its first install, and a result that is an enum.
# Run on 2026-11-29.
#
# Expected: `pip install dbosify` brings versions that fit together; a `Status(str, Enum)` in a dataclass comes back as the
#   member, as with Temporal.
# Seen: pip picks dbos 3.4.0, with which dbosify.client does not import. With dbos 2.31.1 the member comes back as a list
#   of its letters.
# Settings: https://docs.dbos.dev/explanations/dbosify
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv && venv/bin/pip install -q dbosify==0.4.0 dbos==3.4.0 >log 2>&1 || { cat log; exit 2; }

cat >order.py <<'PYTHON'
import asyncio, os, sys
from dataclasses import dataclass
from enum import Enum
from dbosify import workflow
from dbosify.client import Client
from dbosify.worker import Worker

DATABASE = "sqlite:///orders.sqlite"


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
    venv/bin/python order.py 2>&1 | tail -n 1
    venv/bin/pip install -q dbos==2.31.1 >log 2>&1 || exit 2
    venv/bin/python order.py 2>errors || cat errors
} >seen
diff - seen <<'SEEN'
ModuleNotFoundError: No module named 'dbos._croniter'
['c', 'o', 'm', 'p', 'l', 'e', 't', 'e', 'd']
SEEN
