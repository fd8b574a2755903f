#!/usr/bin/env bash
# The linter for workflows finds two of six mistakes that break replay.
# temporalint 0.1.1, 2026-11-29.
#
# Expected: rule TPL008 ("nondeterministic call") finds what the SDK's sandbox would stop, and what it cannot see: the
#   iteration of a set.
# Seen: it finds the clock and the random number in the workflow's own method. It misses `time.sleep`, a file, the
#   order of a set, and the clock in a function of the same module. Its page names the last of these as a limit.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/temporalint-0.1.1
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q temporalint==0.1.1 &&
        touch "$venv/installed"
} >"$folder/pip" 2>&1 || { cat "$folder/pip"; exit 2; }

cat >"$folder/workflows.py" <<'PYTHON'
import random
import time
from datetime import datetime, timedelta

from temporalio import workflow

LIMIT = timedelta(seconds=5)


def stamp() -> str:
    return datetime.now().isoformat()


@workflow.defn
class Order:
    @workflow.run
    async def run(self, order_id: str) -> str:
        begun = datetime.now()
        lot = random.random()
        time.sleep(1)
        prices = open("prices.json").read()
        for warehouse in {"north", "south"}:
            await workflow.execute_activity("ask", warehouse, start_to_close_timeout=LIMIT)
        return f"{order_id} {stamp()} {begun} {lot} {prices}"
PYTHON
cd "$folder"
"$venv/bin/temporalint" workflows.py >seen || echo "exit status $?" >>seen

diff - "$folder/seen" <<'SEEN'
workflows.py:18:17: TPL008 nondeterministic datetime.datetime.now in workflow code; use workflow.now()
workflows.py:19:15: TPL008 nondeterministic random.random in workflow code; use workflow.random()
exit status 1
SEEN
