#!/usr/bin/env bash
# The order as one message of dramatiq 2.2.1, over Redis, through the four trials of peers/trials.py. Needs Redis
# (apt-get install redis-server). Run on 2026-11-30.
#
# Expected: a message whose worker has shown no sign of life for heartbeat_timeout is given to another worker;
#   the limit of the retries bounds that.
# Seen: the first only if somebody looks: a living worker looks for such messages by chance, at one command in a
#   thousand by default (last line), and an idle one gives few. In one run nobody took over in 40 s, nor when the
#   same process started again, in 40 s more. With maintenance_chance at its greatest it looks each time. A message that kills its
#   worker is tried on, six deaths long: retries count errors. Each repeat begins at the first step.
# Settings: https://dramatiq.io/reference.html#dramatiq.brokers.redis.RedisBroker, with 5 s instead of a minute.
set -euo pipefail
findings=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q 'dramatiq[redis]==2.2.1' >"$folder/log" 2>&1 ||
    { cat "$folder/log"; exit 2; }
# Validates twice.
sed '/^        shop.inventory.validate_inventory(order)/p' "$findings/peers/dramatiq_order.py" >"$folder/changed.py"
PYTHONPATH=$findings/.. "$folder/venv/bin/python" "$findings/peers/trials.py" \
    "$findings/peers/dramatiq_order.py" "$folder/changed.py" --needs redis >"$folder/seen" || exit 2
"$folder/venv/bin/python" -c 'from dramatiq.brokers import redis
print("by default, looks at", redis.DEFAULT_MAINTENANCE_CHANCE, "of", redis.MAINTENANCE_SCALE, "commands")' >>"$folder/seen"
diff - "$folder/seen" <<'SEEN'
killed after the charge: a living process resumed it; the charge ran twice; charged, mailed; the engine says: not in the queue
order that kills: not given up after 6 deaths; charged, not mailed; the engine says: in the queue
step inserted: the order ended, the inserted step ran; charged, mailed; the engine says: not in the queue
second process: the charge ran once; charged, mailed; the engine says: not in the queue
by default, looks at 1000 of 1000000 commands
SEEN
