#!/usr/bin/env bash
# The order as one job of PgQueuer 1.6.0, a queue in PostgreSQL, through the four trials of peers/trials.py. Run
# on 2026-11-29.
#
# Expected: a job whose heartbeat is older than heartbeat_timeout is taken by another worker; max_attempts=3 of
#   the retrying executor bounds that.
# Seen: an idle worker looks for such jobs once in a dequeue_timeout (30 s by default), whatever heartbeat_timeout
#   says (last line: 5 s and 30 s, nobody takes over in 15 s). A job that kills its worker is tried on, six deaths long:
#   attempts count errors. Each repeat begins at the first step.
# Settings: https://janbjorge.github.io/pgqueuer/, with 5 s instead of 30 s for both.
set -euo pipefail
findings=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q 'pgqueuer[psycopg]==1.6.0' 'psycopg[binary]==3.3.9' >"$folder/log" 2>&1 ||
    { cat "$folder/log"; exit 2; }
# Validates twice.
sed '/^        shop.inventory.validate_inventory(order)/p' "$findings/peers/pgqueuer_order.py" >"$folder/changed.py"
sed 's/, dequeue_timeout=IDLE//' "$findings/peers/pgqueuer_order.py" >"$folder/half.py"
try=(env "PYTHONPATH=$findings/.." "$folder/venv/bin/python" "$findings/peers/trials.py" --needs postgres --set-up "pgq install")
"${try[@]}" "$folder/half.py" "$folder/half.py" --trial killed_after_the_charge --seconds 15 >"$folder/half" &
half=$!
"${try[@]}" "$findings/peers/pgqueuer_order.py" "$folder/changed.py" >"$folder/trials" || exit 2
wait "$half" || exit 2
cat "$folder/trials" "$folder/half" >"$folder/seen"
diff - "$folder/seen" <<'SEEN'
killed after the charge: a living process resumed it; the charge ran twice; charged, mailed; the engine says: not in the queue
order that kills: not given up after 6 deaths; charged, not mailed; the engine says: picked
step inserted: the order ended, the inserted step ran; charged, mailed; the engine says: not in the queue
second process: the charge ran once; charged, mailed; the engine says: not in the queue
killed after the charge: only the same process, started again, resumed it; the charge ran twice; charged, mailed; the engine says: not in the queue
SEEN
