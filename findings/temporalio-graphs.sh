#!/usr/bin/env bash
# The drawn workflow is not the one that runs.
# temporalio-graphs 0.4.0, 2026-11-29.
#
# Expected: the tool draws every step, and the undo on a branch of its own; what it cannot follow it refuses, or
#   marks.
# Seen: written step by step, the undo in `except` is drawn in line, as a step that follows each sale; a local
#   activity and `start_activity` are left out. With the calls behind a method of one's own, as one writes a retry
#   policy once, all steps are one box with the name of a variable. No warning in either.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/temporalio-graphs-0.4.0
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q temporalio-graphs==0.4.0 &&
        touch "$venv/installed"
} >"$folder/pip" 2>&1 || { cat "$folder/pip"; exit 2; }

cat >"$folder/plain.py" <<'PYTHON'
from datetime import timedelta

from temporalio import workflow

LIMIT = timedelta(seconds=5)


@workflow.defn
class Order:
    @workflow.run
    async def run(self, order_id: str) -> str:
        await workflow.execute_local_activity("validate_inventory", order_id, start_to_close_timeout=LIMIT)
        try:
            await workflow.execute_activity("process_payment", order_id, start_to_close_timeout=LIMIT)
            await workflow.execute_activity("update_inventory", order_id, start_to_close_timeout=LIMIT)
        except Exception:
            await workflow.execute_activity("refund_payment", order_id, start_to_close_timeout=LIMIT)
            return "failed"
        await workflow.start_activity("send_confirmation", order_id, start_to_close_timeout=LIMIT)
        return "completed"
PYTHON
cat >"$folder/method.py" <<'PYTHON'
from datetime import timedelta

from temporalio import workflow


@workflow.defn
class Order:
    @workflow.run
    async def run(self, order_id: str) -> str:
        await self._do("process_payment", order_id)
        await self._do("update_inventory", order_id)
        return "completed"

    async def _do(self, step: str, order_id: str) -> None:
        await workflow.execute_activity(step, order_id, start_to_close_timeout=timedelta(seconds=5))
PYTHON
for workflow in plain method; do
    echo "$workflow:"
    "$venv/bin/python" -c 'import sys, temporalio_graphs; print(temporalio_graphs.analyze_workflow(sys.argv[1]))' \
        "$folder/$workflow.py" |
        grep -e '-->'
done >"$folder/seen" 2>&1

diff - "$folder/seen" <<'SEEN'
plain:
s --> process_payment
process_payment --> update_inventory
update_inventory --> refund_payment
refund_payment --> e
method:
s --> step
step --> e
SEEN
