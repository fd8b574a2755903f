#!/usr/bin/env bash
# The order as one task of Celery 5.7.0 with acks_late, over Redis, through the four trials of peers/trials.py. Needs
# Redis (apt-get install redis-server). Run on 2026-11-30.
#
# Expected: a task that was not acknowledged when its worker died is given to another worker when visibility_timeout is
#   over; max_retries bounds that.
# Seen: an idle worker looks for such tasks once in 100 s, whatever visibility_timeout says; one that starts looks at
#   once (fifth line: nobody takes over in 30 s). With unacked_restore_throttle=1 it looks each 10 s. A task that
#   kills its worker is tried on, six deaths long: max_retries counts errors. In the default pool, prefork, the process that
#   dies is a child, and its parent acknowledges the task as failed, in spite of acks_late: nobody tries it again (last
#   line but one); with reject_on_worker_lost another child does (last line).
# Settings: https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html,
#   https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.redis.html, with 5 s instead of an hour.
set -euo pipefail
findings=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q 'celery[redis]==5.7.0' >"$folder/log" 2>&1 ||
    { cat "$folder/log"; exit 2; }
try=(env "PYTHONPATH=$findings/.." "$folder/venv/bin/python" "$findings/peers/trials.py" --needs redis --seconds 30)
order=$findings/peers/celery_order.py
# Validates twice.
sed '/^        shop.inventory.validate_inventory(order)/p' "$order" >"$folder/changed.py"
sed 's/, "unacked_restore_throttle": EACH//' "$order" >"$folder/plain.py"
sed 's/--pool=threads/--pool=prefork/; s/--concurrency=32/--concurrency=2/' "$order" >"$folder/prefork.py"
sed 's/acks_late=True/&, reject_on_worker_lost=True/' "$folder/prefork.py" >"$folder/rejecting.py"
variants=()
for name in plain prefork rejecting; do
    "${try[@]}" "$folder/$name.py" "$folder/$name.py" --trial killed_after_the_charge >"$folder/$name" &
    variants+=($!)
done
"${try[@]}" "$order" "$folder/changed.py" >"$folder/trials" || exit 2
for variant in "${variants[@]}"; do wait "$variant" || exit 2; done
cat "$folder/trials" "$folder/plain" "$folder/prefork" "$folder/rejecting" >"$folder/seen"
diff - "$folder/seen" <<'SEEN'
killed after the charge: a living process resumed it; the charge ran twice; charged, mailed; the engine says: SUCCESS
order that kills: not given up after 6 deaths; charged, not mailed; the engine says: STARTED
step inserted: the order ended, the inserted step ran; charged, mailed; the engine says: SUCCESS
second process: the charge ran once; charged, mailed; the engine says: SUCCESS
killed after the charge: only the same process, started again, resumed it; the charge ran twice; charged, mailed; the engine says: SUCCESS
killed after the charge: nobody resumed it; charged, not mailed; the engine says: FAILURE
killed after the charge: a living process resumed it; the charge ran twice; charged, mailed; the engine says: SUCCESS
SEEN
