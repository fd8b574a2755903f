#!/usr/bin/env bash
# Restate 1.7.12 (Python SDK 1.3.0): a step whose result is too large. Needs npm, which brings the server. Run on
# 2026-11-29.
#
# Expected: the invocation fails with an error that names the limit (32 MiB), and the step is not done again.
# Seen: the step is done again and again, with the pauses of the retry policy, and the invocation is "backing-off"; that
#   the message is too large stands in its last failure.
# Settings: https://docs.restate.dev/server/configuration (defaults)
set -euo pipefail
folder=$(mktemp -d)
cd "$folder"
children=()
finish() { kill -9 "${children[@]}" 2>/dev/null || true; wait 2>/dev/null; rm -rf "$folder"; }
trap finish EXIT
python3 -m venv venv && venv/bin/pip install -q restate-sdk==1.3.0 hypercorn==0.18.0 >log 2>&1 || { cat log; exit 2; }
npm install --silent @restatedev/restate-server@1.7.12 >log 2>&1 || { cat log; exit 2; }

cat >service.py <<'PYTHON'
import asyncio, sys
import hypercorn.asyncio, restate

orders = restate.Service("orders")


def render():
    with open("runs", "a") as runs:
        runs.write("run\n")
    return "x" * 40_000_000


@orders.handler()
async def invoice(ctx: restate.Context) -> int:
    return len(await ctx.run_typed("render", render))


config = hypercorn.Config()
config.bind = [f"127.0.0.1:{sys.argv[1]}"]
asyncio.run(hypercorn.asyncio.serve(restate.app([orders]), config))
PYTHON
ports=$(python3 -c '
import socket
probes = [socket.socket() for _ in range(4)]
for probe in probes:
    probe.bind(("127.0.0.1", 0))
print(*(probe.getsockname()[1] for probe in probes))')
read -r node ingress admin service <<<"$ports"
RESTATE_BIND_ADDRESS=127.0.0.1:$node RESTATE_INGRESS__BIND_ADDRESS=127.0.0.1:$ingress RESTATE_LISTEN_MODE=tcp \
    RESTATE_ADMIN__BIND_ADDRESS=127.0.0.1:$admin RESTATE_DISABLE_TELEMETRY=true \
    "$(find node_modules -path '*/bin/restate-server' -size +1M | head -n 1)" --node-name one >log 2>&1 &
children+=($!)
venv/bin/python service.py "$service" >service.log 2>&1 &
children+=($!)
post() { curl -sS --retry 30 --retry-delay 1 --retry-all-errors -X POST -H 'accept: application/json' "$@"; }
json='content-type: application/json'
post -H "$json" "http://127.0.0.1:$admin/deployments" -d "{\"uri\": \"http://127.0.0.1:$service\"}" >/dev/null
post "http://127.0.0.1:$ingress/orders/invoice/send" >/dev/null
sleep 20
for _ in 1 2 3 4 5 6 7 8 9; do  # between two attempts
    post -H "$json" "http://127.0.0.1:$admin/query" -d '{"query": "SELECT status, last_failure FROM sys_invocation"}' >answer
    grep -q backing-off answer && break
    sleep 1
done
{
    [ "$(wc -l <runs)" -gt 2 ] && echo "the step ran again and again"
    grep -o '"status":"[a-z-]*"' answer
    grep -o 'message size limit' answer
} >seen
cat answer >&2
diff - seen <<'SEEN'
the step ran again and again
"status":"backing-off"
message size limit
SEEN
