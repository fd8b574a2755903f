#!/usr/bin/env bash
# The order as a durable function of AWS Lambda (SDK 3.0.0), on AWS's local runner (1.4.0), through the four
# trials of peers/trials.py. The program answers each call in a process of its own, as Lambda does. Run on
# 2026-11-29.
#
# Expected: Lambda calls the function again at once; a step that is declared AT_MOST_ONCE_PER_RETRY runs once; a
#   step inserted before one that is done is refused and waits.
# Seen: called again after 13 s (5 s of the runner, and a retry delay of up to 5 s). PER_RETRY is meant: with a
#   retry strategy that takes StepInterruptedError the charge runs once an attempt, here twice. That also ends an
#   order that kills: after three deaths it is refunded. The inserted step ends the order as FAILED, and leaves it
#   charged.
# Settings: https://docs.aws.amazon.com/lambda/latest/dg/durable-functions.html. The intervals are the runner's;
#   Lambda's own may differ.
set -euo pipefail
findings=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q aws-durable-execution-sdk-python==3.0.0 aws-durable-execution-sdk-python-testing==1.4.0 >"$folder/log" 2>&1 ||
    { cat "$folder/log"; exit 2; }
# Validates twice.
sed '/^        step(shop.inventory.validate_inventory/p' "$findings/peers/aws_order.py" >"$folder/changed.py"
PYTHONPATH=$findings/.. "$folder/venv/bin/python" "$findings/peers/trials.py" \
    "$findings/peers/aws_order.py" "$folder/changed.py" --needs aws --seconds 30 >"$folder/seen" || exit 2
diff - "$folder/seen" <<'SEEN'
killed after the charge: a living process resumed it; the charge ran twice; charged, mailed; the engine says: SUCCEEDED
order that kills: given up after 3 deaths; refunded, not mailed; the engine says: SUCCEEDED
step inserted: the order did not end, the inserted step did not run; charged, not mailed; the engine says: FAILED
second process: the charge ran once; charged, mailed; the engine says: SUCCEEDED
SEEN
