#!/usr/bin/env bash
# In huey, retries do not survive a kill.
# huey 3.5.4 (SqliteHuey), 2026-11-29.
#
# Expected: a task with `retries=3`, whose consumer is killed in the middle of it, is run again by the next consumer:
#   the queue is a file.
# Seen: the task was taken off the queue before it began. After the kill it is gone: not pending, not scheduled, no
#   result, and a new consumer runs nothing. An exception is retried; a death is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/huey-3.5.4
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q huey==3.5.4 &&
        touch "$venv/installed"
} >"$folder/pip" 2>&1 || { cat "$folder/pip"; exit 2; }

cat >"$folder/tasks.py" <<'PYTHON'
import os
import pathlib
import signal

from huey import SqliteHuey

huey = SqliteHuey(filename="queue.sqlite3")
calls = pathlib.Path("calls")


@huey.task(retries=3)
def raise_once() -> str:
    with calls.open("a") as file:
        file.write("raise_once\n")
    if calls.read_text().count("raise_once") == 1:
        raise ValueError("the bank is away")
    return "done"


@huey.task(retries=3)
def die_once() -> str:
    with calls.open("a") as file:
        file.write("die_once\n")
    if calls.read_text().count("die_once") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"
PYTHON
cd "$folder"
export HUEY="$venv/bin/python -m huey.bin.huey_consumer tasks.huey --workers 1 --quiet"
"$venv/bin/python" -c 'import tasks; tasks.raise_once(); tasks.die_once()'
timeout 60 $HUEY >first 2>&1 || true
timeout 20 $HUEY >second 2>&1 || true
{
    echo "raised once: called $(grep -c raise_once calls) times"
    echo "killed once: called $(grep -c die_once calls) times, in 20 s of a second consumer"
    "$venv/bin/python" -c 'from tasks import huey; print(f"pending {huey.pending()}, scheduled {huey.scheduled()}")'
} >seen

diff - "$folder/seen" <<'SEEN'
raised once: called 2 times
killed once: called 1 times, in 20 s of a second consumer
pending [], scheduled []
SEEN
