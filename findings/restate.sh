#!/usr/bin/env bash
# The order in Restate 1.7.12 (Python SDK 1.3.0), through the four trials of peers/trials.py. Needs npm, which
# brings the server. Run on 2026-11-29.
#
# Expected: the server calls another process of the service within a second; max_attempts=3 of the step bounds the
#   deaths, too; a step inserted before one that is done is refused.
# Seen: the first and the third (RT0016; it tries again and waits for the old code). max_attempts counts errors
#   that the service reports: a process that dies has reported none, and the call is made again, by the policy of
#   the invocation (70 attempts by default, then it is paused).
# Settings: https://docs.restate.dev/guides/error-handling. The new code stands at the old address;
#   https://docs.restate.dev/services/versioning gives it one of its own, and keeps the old code running for the
#   orders that it began.
set -euo pipefail
findings=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q restate-sdk==1.3.0 hypercorn==0.18.0 >"$folder/pip" 2>&1 ||
    { cat "$folder/pip"; exit 2; }
npm install --silent --prefix "$folder" @restatedev/restate-server@1.7.12 >"$folder/npm" 2>&1 || { cat "$folder/npm"; exit 2; }
server=$(find "$folder/node_modules" -path '*/bin/restate-server' -size +1M | head -n 1)
# Validates twice.
sed '/^        await step(shop.inventory.validate_inventory/p' "$findings/peers/restate_order.py" >"$folder/changed.py"
PYTHONPATH=$findings/.. RESTATE_SERVER=$server "$folder/venv/bin/python" "$findings/peers/trials.py" \
    "$findings/peers/restate_order.py" "$folder/changed.py" --needs restate >"$folder/seen" || exit 2
diff - "$folder/seen" <<'SEEN'
killed after the charge: a living process resumed it; the charge ran twice; charged, mailed; the engine says: completed
order that kills: not given up after 6 deaths; charged, not mailed; the engine says: backing-off RT0010
step inserted: the order did not end, the inserted step did not run; charged, not mailed; the engine says: backing-off RT0016
second process: the charge ran once; charged, mailed; the engine says: completed
SEEN
