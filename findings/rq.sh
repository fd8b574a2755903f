#!/usr/bin/env bash
# The order as one job of RQ 3.0.0, over Redis, through the four trials of peers/trials.py. Needs Redis (apt-get install
# redis-server). Run on 2026-11-30.
#
# Expected: the worker sees the death of the process that it forked for the job, and counts it as a failed attempt:
#   tried again at once, and three times in all; no code of the order runs then. If the worker dies with it, the next
#   one that looks takes the job over when the lease of 90 s is over.
# Seen: that. An idle worker looks each ten minutes (last line: nobody in 100 s), and one that starts, at once.
# Settings: https://python-rq.org/docs/exceptions/ (Retry), https://python-rq.org/docs/workers/ (the rest: defaults)
set -euo pipefail
findings=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q rq==3.0.0 >"$folder/log" 2>&1 ||
    { cat "$folder/log"; exit 2; }
try=(env "PYTHONPATH=$findings/.." "$folder/venv/bin/python" "$findings/peers/trials.py" --needs redis)
order=$findings/peers/rq_order.py
# The worker imports the program by its name. Validates twice; takes the worker along when it dies.
mkdir "$folder/changed" "$folder/both"
sed '/^        shop.inventory.validate_inventory(order)/p' "$order" >"$folder/changed/rq_order.py"
sed 's/^    shop, order = .*/&; os.kill(os.getppid(), 9)/' "$order" >"$folder/both/rq_order.py"
both=$folder/both/rq_order.py
"${try[@]}" "$both" "$both" --trial killed_after_the_charge --seconds 100 >"$folder/last" &
"${try[@]}" "$order" "$folder/changed/rq_order.py" >"$folder/seen" || exit 2
wait $! || exit 2
cat "$folder/last" >>"$folder/seen"
diff - "$folder/seen" <<'SEEN'
killed after the charge: a living process resumed it; the charge ran twice; charged, mailed; the engine says: finished
order that kills: given up after 3 deaths; charged, not mailed; the engine says: failed
step inserted: the order ended, the inserted step ran; charged, mailed; the engine says: finished
second process: the charge ran once; charged, mailed; the engine says: finished
killed after the charge: only the same process, started again, resumed it; the charge ran twice; charged, mailed; the engine says: finished
SEEN
