#!/usr/bin/env bash
# The order in dbosify 0.4.0 (dbos 2.31.1), on PostgreSQL: the program peers/temporal_order.py with its imports
# changed, through the four trials of peers/trials.py. Run on 2026-11-29.
#
# Expected: a drop-in replacement behaves as what it replaces: after 5 s another worker tries the charge again, a
#   death counts as an attempt, and a changed workflow waits for the old code.
# Seen: recovery is that of DBOS (by executor id, when a process of that id starts), deaths are no attempts, and
#   the changed workflow ends the order as FAILED, charged. With the dbos that pip picks (3.4.0) its client does
#   not import: `dbos<3` is to be asked for.
# Settings: https://docs.dbos.dev/explanations/dbosify (executor ids a and b, but none for the second process).
set -euo pipefail
findings=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q dbosify==0.4.0 dbos==2.31.1 >"$folder/log" 2>&1 ||
    { cat "$folder/log"; exit 2; }
# The worker takes the address of the database, not a client.
sed -e 's/temporalio/dbosify/g' -e 's/TEMPORAL_ADDRESS", "localhost:7233/DATABASE_URL", "/' \
    -e 's/await Client.connect(ADDRESS),$/ADDRESS,/' "$findings/peers/temporal_order.py" >"$folder/order.py"
# Validates twice.
sed '/^            await step(Steps.validate_inventory/p' "$folder/order.py" >"$folder/changed.py"
PYTHONPATH=$findings/.. "$folder/venv/bin/python" "$findings/peers/trials.py" \
    "$folder/order.py" "$folder/changed.py" --needs postgres >"$folder/seen" || exit 2
diff - "$folder/seen" <<'SEEN'
killed after the charge: only the same process, started again, resumed it; the charge ran twice; charged, mailed; the engine says: COMPLETED
order that kills: not given up after 6 deaths; charged, not mailed; the engine says: RUNNING
step inserted: the order did not end, the inserted step did not run; charged, not mailed; the engine says: FAILED
second process: the charge ran once; charged, mailed; the engine says: COMPLETED
SEEN
