#!/usr/bin/env bash
# In taskiq over a stream of Redis, a task longer than idle_timeout is begun again by the worker that carries it out.
# taskiq 0.13.0, taskiq-redis 1.2.4, Redis (apt-get install redis-server), 2026-11-30.
#
# Expected: the worker shows that it lives while it works, as in the queues with a heartbeat; at most another, idle
#   worker takes the message.
# Seen: one worker, which does not die, begins a task of 8 s four times within 8 s when idle_timeout is 2 s and other
#   messages come: it claims its own unacknowledged message. The default is ten minutes.
# Settings: https://github.com/taskiq-python/taskiq-redis
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
command -v redis-server >/dev/null || { echo "redis-server is not on the path: apt-get install redis-server"; exit 2; }

venv=${FINDINGS_CACHE:-$folder}/taskiq-redis-1.2.4
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q taskiq==0.13.0 taskiq-redis==1.2.4 && touch "$venv/installed"
} >"$folder/pip" 2>&1 || { cat "$folder/pip"; exit 2; }

cat >"$folder/tasks.py" <<'PYTHON'
import asyncio
import os

from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

url = f"unix://{os.getcwd()}/redis.sock"
broker = RedisStreamBroker(url, idle_timeout=2000, unacknowledged_lock_timeout=5)
begun = ended = 0


@broker.task
async def charge():
    global begun, ended
    begun += 1
    await asyncio.sleep(8)
    ended += 1


@broker.task
async def other():
    pass


async def main():
    broker.is_worker_process = True
    worker = asyncio.create_task(run_receiver_task(broker, run_startup=True))
    await asyncio.sleep(2)
    await charge.kiq()
    while not ended:
        await other.kiq()
        await asyncio.sleep(1)
    worker.cancel()
    print("begun again before it ended:", "yes" if begun > 1 else "no", flush=True)
    os._exit(0)


asyncio.run(main())
PYTHON
cd "$folder"
redis-server --port 0 --unixsocket "$folder/redis.sock" --save '' >redis.log &
for _ in $(seq 100); do [ -S redis.sock ] && break; sleep 0.1; done
[ -S redis.sock ] || { cat redis.log; exit 2; }
timeout 60 "$venv/bin/python" tasks.py >seen 2>log || { cat log; exit 2; }
diff - seen <<'SEEN'
begun again before it ended: yes
SEEN
