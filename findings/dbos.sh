#!/usr/bin/env bash
# The order in DBOS 3.4.0, on PostgreSQL, through the four trials of peers/trials.py. Run on 2026-11-29.
#
# Expected: another process of the same application takes over what a dead one had begun, as from a queue; an
#   order that kills every process is given up after a few; a step inserted by a deploy is run or refused loudly;
#   a second process takes its share of the queue and touches nothing that the first one works on.
# Seen: no living process takes over: recovery is by executor id, when a process of that id starts (or by
#   Conductor, a service). Without an id every process is "local": a second one recovers, and charges, what the
#   first is charging. After the deploy the order stays PENDING: the version is a hash of the workflows' source,
#   and nobody runs the old one.
# Settings: https://docs.dbos.dev/production/workflow-recovery (executor ids a and b, but none for the second
#   process).
set -euo pipefail
findings=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q dbos==3.4.0 >"$folder/pip" 2>&1 ||
    { cat "$folder/pip"; exit 2; }
# Validates twice.
sed '/^        validate_inventory(order)/p' "$findings/peers/dbos_order.py" >"$folder/changed.py"
PYTHONPATH=$findings/.. "$folder/venv/bin/python" "$findings/peers/trials.py" \
    "$findings/peers/dbos_order.py" "$folder/changed.py" --needs postgres >"$folder/seen" || exit 2
# For a moment between a restart and the next try, the order is back in its queue.
sed -i '/^order that kills/s/ENQUEUED/PENDING/' "$folder/seen"
diff - "$folder/seen" <<'SEEN'
killed after the charge: only the same process, started again, resumed it; the charge ran twice; charged, mailed; the engine says: SUCCESS
order that kills: not given up after 6 deaths; charged, not mailed; the engine says: PENDING
step inserted: the order did not end, the inserted step did not run; charged, not mailed; the engine says: PENDING
second process: the charge ran twice; charged, mailed; the engine says: SUCCESS
SEEN
