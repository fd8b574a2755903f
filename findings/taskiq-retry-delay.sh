#!/usr/bin/env bash
# In taskiq over Redis, SmartRetryMiddleware retries at once, whatever its delay says.
# taskiq 0.13.0, taskiq-redis 1.2.4, Redis (apt-get install redis-server), 2026-11-30.
#
# Expected: three attempts with default_delay=5 take ten seconds and more.
# Seen: less than a second on an idle machine. The middleware leaves the delay to the broker, as a label, and the brokers of
#   taskiq-redis keep none. With a schedule_source, and a scheduler process, it would be kept.
# Settings: https://taskiq-python.github.io/available-components/middlewares.html
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
import time

from taskiq import SmartRetryMiddleware
from taskiq.api import run_receiver_task
from taskiq_redis import ListQueueBroker, RedisStreamBroker

url = f"unix://{os.getcwd()}/redis.sock"


async def attempts(broker):
    began = []

    @broker.with_middlewares(SmartRetryMiddleware(default_retry_count=3, default_delay=5)).task(retry_on_error=True)
    async def charge():
        began.append(time.monotonic())
        raise ConnectionError("the bank is away")

    worker = asyncio.create_task(run_receiver_task(broker, run_startup=True))
    await asyncio.sleep(2)
    await charge.kiq()
    while len(began) < 3:
        await asyncio.sleep(0.1)
    worker.cancel()
    return "less than 5 s" if began[2] - began[0] < 5 else "5 s or more"


async def main():
    for kind in (ListQueueBroker, RedisStreamBroker):
        print(f"{kind.__name__}: from the first attempt to the third {await attempts(kind(url, queue_name=kind.__name__))}", flush=True)
    os._exit(0)


asyncio.run(main())
PYTHON
cd "$folder"
redis-server --port 0 --unixsocket "$folder/redis.sock" --save '' >redis.log &
for _ in $(seq 100); do [ -S redis.sock ] && break; sleep 0.1; done
[ -S redis.sock ] || { cat redis.log; exit 2; }
timeout 90 "$venv/bin/python" tasks.py >seen 2>log || { cat log; exit 2; }
diff - seen <<'SEEN'
ListQueueBroker: from the first attempt to the third less than 5 s
RedisStreamBroker: from the first attempt to the third less than 5 s
SEEN
