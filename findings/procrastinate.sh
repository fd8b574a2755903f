#!/usr/bin/env bash
# The order as one job of procrastinate 3.10.0, a queue in PostgreSQL, through the four trials of peers/trials.py.
# Run on 2026-11-29.
#
# Expected: a job whose worker is dead is given to another one; max_attempts=3 bounds that.
# Seen: the first only with the recipe of its documentation, a periodic task of one's own; without it (last line)
#   the job stays `doing`, also when the same process starts again. A job that kills its worker is tried without
#   end: attempts count errors. Each repeat begins at the first step.
# Settings: https://procrastinate.readthedocs.io/en/stable/howto/production/retry_stalled_jobs.html, with 5 s
#   instead of 30 s.
set -euo pipefail
findings=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q procrastinate==3.10.0 'psycopg[binary]==3.3.9' >"$folder/log" 2>&1 ||
    { cat "$folder/log"; exit 2; }
# Validates twice.
sed '/^        shop.inventory.validate_inventory(order)/p' "$findings/peers/procrastinate_order.py" >"$folder/changed.py"
sed '/^@app.periodic/d' "$findings/peers/procrastinate_order.py" >"$folder/plain.py"
try=(env "PYTHONPATH=$findings/.." "$folder/venv/bin/python" "$findings/peers/trials.py" --needs postgres)
"${try[@]}" "$folder/plain.py" "$folder/plain.py" --trial killed_after_the_charge --seconds 15 >"$folder/plain" &
plain=$!
"${try[@]}" "$findings/peers/procrastinate_order.py" "$folder/changed.py" >"$folder/trials" || exit 2
wait "$plain" || exit 2
cat "$folder/trials" "$folder/plain" >"$folder/seen"
diff - "$folder/seen" <<'SEEN'
killed after the charge: a living process resumed it; the charge ran twice; charged, mailed; the engine says: succeeded
order that kills: not given up after 6 deaths; charged, not mailed; the engine says: doing
step inserted: the order ended, the inserted step ran; charged, mailed; the engine says: succeeded
second process: the charge ran once; charged, mailed; the engine says: succeeded
killed after the charge: nobody resumed it; charged, not mailed; the engine says: doing
SEEN
