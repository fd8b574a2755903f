#!/usr/bin/env bash
# The order as one task of taskiq 0.13.0, over a stream of Redis (taskiq-redis 1.2.4), through the four trials of
# peers/trials.py. Needs Redis (apt-get install redis-server). Run on 2026-11-30.
#
# Expected: a message that was not acknowledged when its worker died is given to another worker when idle_timeout is
#   over; max_retries bounds that.
# Seen: a worker looks for such messages only after it has received a new one. On a quiet queue nobody takes the order
#   over, and no worker that starts does (last line: 20 s each). The program sends an empty message a second. An order
#   that kills its worker is tried on, six deaths long: max_retries counts errors.
# Settings: https://github.com/taskiq-python/taskiq-redis, with 5 s instead of ten minutes.
set -euo pipefail
findings=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q taskiq==0.13.0 taskiq-redis==1.2.4 >"$folder/log" 2>&1 ||
    { cat "$folder/log"; exit 2; }
try=(env "PYTHONPATH=$findings/.." "$folder/venv/bin/python" "$findings/peers/trials.py" --needs redis)
order=$findings/peers/taskiq_order.py
# The worker imports the program by its name. Validates twice; sends no messages of its own.
mkdir "$folder/changed" "$folder/quiet"
sed '/^        shop.inventory.validate_inventory(order)/p' "$order" >"$folder/changed/taskiq_order.py"
sed '/context.ticks = /d' "$order" >"$folder/quiet/taskiq_order.py"
quiet=$folder/quiet/taskiq_order.py
"${try[@]}" "$quiet" "$quiet" --trial killed_after_the_charge >"$folder/last" &
"${try[@]}" "$order" "$folder/changed/taskiq_order.py" >"$folder/seen" || exit 2
wait $! || exit 2
cat "$folder/last" >>"$folder/seen"
diff - "$folder/seen" <<'SEEN'
killed after the charge: a living process resumed it; the charge ran twice; charged, mailed; the engine says: success
order that kills: not given up after 6 deaths; charged, not mailed; the engine says: no result
step inserted: the order ended, the inserted step ran; charged, mailed; the engine says: success
second process: the charge ran once; charged, mailed; the engine says: success
killed after the charge: nobody resumed it; charged, not mailed; the engine says: no result
SEEN
