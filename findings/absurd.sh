#!/usr/bin/env bash
# The order in Absurd 0.5.1, on PostgreSQL, through the four trials of peers/trials.py. Run on 2026-11-29.
#
# Expected: a living worker takes over when the lease of the dead one has run out; a step inserted before one that
#   is done is an error.
# Seen: the first. A step is found by its name, not by its place: the inserted one ran after the charge, without a
#   word. The five attempts of a task are of the task, not of a step: an order that kills five processes is
#   failed, and stays charged, since no code of its own runs at the end.
# Settings: a lease of 5 s, as an attempt has in this project (the default is 120 s): https://earendil-
#   works.github.io/absurd/concepts/
set -euo pipefail
findings=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q absurd-sdk==0.5.1 absurdctl==0.5.1 >"$folder/pip" 2>&1 ||
    { cat "$folder/pip"; exit 2; }
# Validates twice.
sed '/^        step(shop.inventory.validate_inventory/p' "$findings/peers/absurd_order.py" >"$folder/changed.py"
PYTHONPATH=$findings/.. "$folder/venv/bin/python" "$findings/peers/trials.py" \
    "$findings/peers/absurd_order.py" "$folder/changed.py" --needs postgres \
    --set-up "absurdctl init" --set-up "absurdctl create-queue orders" >"$folder/seen" || exit 2
diff - "$folder/seen" <<'SEEN'
killed after the charge: a living process resumed it; the charge ran twice; charged, mailed; the engine says: completed
order that kills: given up after 5 deaths; charged, not mailed; the engine says: failed
step inserted: the order ended, the inserted step ran; charged, mailed; the engine says: completed
second process: the charge ran once; charged, mailed; the engine says: completed
SEEN
