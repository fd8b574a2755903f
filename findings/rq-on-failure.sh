#!/usr/bin/env bash
# In RQ, on_failure is called at each error, not at the last one, and not at a death.
# RQ 3.0.0 over Redis (apt-get install redis-server), 2026-11-30.
#
# Expected: on_failure, the place for an undo, is called once, when the last attempt of Retry(max=2) has failed: after
#   an error, and after a death of the process that works.
# Seen: it is called at each error, also for a job that succeeds at its second attempt. A death counts as an attempt,
#   but after three of them the job is failed, and on_failure was never called.
# Settings: https://python-rq.org/docs/ (job callbacks), https://python-rq.org/docs/exceptions/
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
command -v redis-server >/dev/null || { echo "redis-server is not on the path: apt-get install redis-server"; exit 2; }

venv=${FINDINGS_CACHE:-$folder}/rq-3.0.0
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q rq==3.0.0 && touch "$venv/installed"
} >"$folder/pip" 2>&1 || { cat "$folder/pip"; exit 2; }

cat >"$folder/tasks.py" <<'PYTHON'
import os
import signal


def note(line):
    with open("calls", "a") as calls:
        print(line, file=calls)


def raise_always():
    note("raise_always: attempt")
    raise ValueError("the bank is away")


def raise_once():
    note("raise_once: attempt")
    if open("calls").read().count("raise_once: attempt") == 1:
        raise ValueError("the bank is away")


def die():
    note("die: attempt")
    os.kill(os.getpid(), signal.SIGKILL)


def on_failure(job, connection, kind, error, traceback):
    note(job.id + ": on_failure")
PYTHON
cat >"$folder/run.py" <<'PYTHON'
import tasks
from redis import Redis
from rq import Callback, Queue, Retry, Worker

queue = Queue(connection=Redis(unix_socket_path="redis.sock"))
for task in (tasks.raise_always, tasks.raise_once, tasks.die):
    name = task.__name__
    job = queue.enqueue(task, job_id=name, retry=Retry(max=2), on_failure=Callback(tasks.on_failure))
    Worker([queue], connection=queue.connection).work(burst=True, logging_level="CRITICAL")
    calls = open("calls").read().splitlines()
    attempts, told = calls.count(f"{name}: attempt"), calls.count(f"{name}: on_failure")
    print(f"{name}: {attempts} attempts, on_failure called {told} times, the job is {job.get_status().value}")
PYTHON
cd "$folder"
redis-server --port 0 --unixsocket "$folder/redis.sock" --save '' >redis.log &
for _ in $(seq 100); do [ -S redis.sock ] && break; sleep 0.1; done
[ -S redis.sock ] || { cat redis.log; exit 2; }
"$venv/bin/python" run.py >seen 2>log || { cat log; exit 2; }
diff - seen <<'SEEN'
raise_always: 3 attempts, on_failure called 3 times, the job is failed
raise_once: 2 attempts, on_failure called 1 times, the job is finished
die: 3 attempts, on_failure called 0 times, the job is failed
SEEN
