#!/usr/bin/env bash
# In SAQ, an orderly stop of a worker runs a job with retries=1 a second time, and a kill does not.
# saq 0.26.4 over Redis (apt-get install redis-server), 2026-11-30.
#
# Expected: retries is the number of attempts, 1 by default: a job that must not be repeated is begun once. A worker that
#   is told to stop ends its jobs first, or gives them up as failed.
# Seen: on SIGTERM the worker cancels its jobs at once and puts them back, whatever retries says ("attempts 2 of 1"): each
#   deploy charges twice what is being charged. After a kill the job is aborted when its time-out is over, and the
#   charge stays without an end. Set `shutdown_grace_period_s`: with it the job ends first.
# Settings: https://saq-py.readthedocs.io (the sweep each 2 s here, each 60 s by default; a time-out of 5 s, of 10 s)
set -euo pipefail
folder=$(mktemp -d)
trap 'kill -9 $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
command -v redis-server >/dev/null || { echo "redis-server is not on the path: apt-get install redis-server"; exit 2; }

venv=${FINDINGS_CACHE:-$folder}/saq-0.26.4
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q 'saq[redis]==0.26.4' redis==7.4.0 typing-extensions==4.16.0 && touch "$venv/installed"
} >"$folder/pip" 2>&1 || { cat "$folder/pip"; exit 2; }

cat >"$folder/orders.py" <<'PYTHON'
import asyncio
import sys

from redis.asyncio import Redis
from saq.queue.redis import RedisQueue
from saq.worker import Worker

queue = RedisQueue(Redis(unix_socket_path="redis.sock"), name=sys.argv[1])


async def charge(context):
    with open(queue.name, "a") as charges:
        charges.write("charged\n")
    await asyncio.sleep(4)


def worker(grace):
    timers = {"schedule": 1, "sweep": 2, "worker_info": 10, "abort": 1}
    grace = {"shutdown_grace_period_s": int(grace)} if grace else {}
    return Worker(queue, [charge], timers=timers, dequeue_timeout=1, **grace)


async def put():
    await queue.enqueue("charge", timeout=5, key="order-1001")


async def show():
    job = await queue.job("order-1001")
    charged = len(open(queue.name).readlines())
    print(f"{queue.name}: charged {charged}, {job.status.value}, attempts {job.attempts} of {job.retries}")


async def main():
    if sys.argv[2] == "work":
        await worker(*sys.argv[3:]).start()
    else:
        await {"put": put, "show": show}[sys.argv[2]]()
    await queue.disconnect()


asyncio.run(main())
PYTHON
cd "$folder"
redis-server --port 0 --unixsocket "$folder/redis.sock" --save '' >redis.log &
for _ in $(seq 100); do [ -S redis.sock ] && break; sleep 0.1; done
[ -S redis.sock ] || { cat redis.log; exit 2; }

# trial NAME SIGNAL [GRACE]: the signal meets the first worker in its charge; a second worker has 15 s.
trial() {
    "$venv/bin/python" orders.py "$1" put
    "$venv/bin/python" orders.py "$1" work "${3:-}" &
    first=$!
    for _ in $(seq 100); do [ -s "$1" ] && break; sleep 0.1; done
    kill "-$2" "$first"
    wait "$first" || true
    timeout 15 "$venv/bin/python" orders.py "$1" work "${3:-}" || true
    "$venv/bin/python" orders.py "$1" show >&3
}
{
    trial stopped TERM
    trial killed KILL
    trial stopped-with-grace TERM 10
} 3>seen >log 2>&1 || { cat log; exit 2; }
diff - seen <<'SEEN'
stopped: charged 2, complete, attempts 2 of 1
killed: charged 1, aborted, attempts 1 of 1
stopped-with-grace: charged 1, complete, attempts 1 of 1
SEEN
