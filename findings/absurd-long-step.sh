#!/usr/bin/env bash
# Absurd 0.5.1: a step that takes longer than the lease (claim_timeout). Needs PostgreSQL's server. Run on 2026-11-29.
#
# Expected: the worker that is alive renews its lease while a step runs, or two workers charge at most twice.
# Seen: a lease is renewed when a step ends, not while it runs. Alone, a worker is not disturbed: one charge, completed.
#   With a second, idle worker each takes the task from the other, until its five attempts are used up: five charges, and
#   the task is failed, though no process died and no call failed.
# Settings: https://earendil-works.github.io/absurd/concepts/ (a lease of 2 s, a step of 5 s; the default is 120 s)
set -euo pipefail
folder=$(mktemp -d)
chmod 755 "$folder"
cd "$folder"
children=()
finish() { kill -9 "${children[@]}" 2>/dev/null || true; wait; rm -rf "$folder"; }
trap finish EXIT
python3 -m venv venv && venv/bin/pip install -q absurd-sdk==0.5.1 absurdctl==0.5.1 >log 2>&1 || { cat log; exit 2; }

# PostgreSQL on a free port of 127.0.0.1; it refuses to run as root.
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1) || { echo "apt-get install postgresql"; exit 2; }
export PATH=$folder/venv/bin:$bin:$PATH
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
as=()
mkdir database
if [ "$(id -u)" = 0 ]; then chown postgres database; as=(setpriv --reuid=postgres --regid=postgres --clear-groups); fi
"${as[@]}" initdb -D database -U shop -A trust --no-sync >log 2>&1 || { cat log; exit 2; }
"${as[@]}" postgres -D database -cport="$port" -clisten_addresses=127.0.0.1 -cunix_socket_directories= >log 2>&1 &
children+=($!)
export ABSURD_DATABASE_URL=postgresql://shop@127.0.0.1:$port/postgres
until psql -qc '' "$ABSURD_DATABASE_URL" 2>/dev/null; do sleep 0.2; done
absurdctl init -d "$ABSURD_DATABASE_URL" >log 2>&1 || { cat log; exit 2; }

cat >order.py <<'PYTHON'
import sys, time
from absurd_sdk import Absurd

queue, command = sys.argv[1:]
app = Absurd(queue_name=queue)


def charge():
    with open(queue, "a") as charges:
        charges.write("charged\n")
    time.sleep(5)


@app.register_task(name="order")
def order(params, ctx):
    ctx.step("charge", charge)
    return "done"


if command == "work":
    app.start_worker(claim_timeout=2)
else:
    app.create_queue()
    task = app.spawn("order", {})["task_id"]
    deadline = time.monotonic() + 60
    while (state := app.fetch_task_result(task).state) not in ("completed", "failed") and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(6)  # what still runs may charge
    print(queue, state, len(open(queue).readlines()), "charges")
PYTHON

for queue in one two; do
    python order.py $queue start >>seen &
    starter=$!
    sleep 2
    python order.py $queue work >>log 2>&1 &
    children+=($!)
    if [ $queue = two ]; then python order.py $queue work >>log 2>&1 & children+=($!); fi
    wait $starter
done
diff - seen <<'SEEN'
one completed 1 charges
two failed 5 charges
SEEN
