#!/usr/bin/env bash
# The order as a flow of Prefect 3.9.1 with its local server, through the four trials of peers/trials.py. Run on
# 2026-11-30.
#
# Expected: a flow whose process is killed is reported as Crashed by the runner that started it, and not tried again,
#   whatever its retries say; run again by hand, it does not repeat a task whose result was kept; if the runner
#   dies, too, the flow stays Running.
# Seen: that (last line but one: the process is killed; last line: its runner, too). With a hook that does what
#   `prefect flow-run retry` does, a living runner takes the order over, and one that kills is tried on, six deaths
#   long. The inserted step, the same task with the same inputs, does not run: its result is taken from the cache.
# Settings: https://docs.prefect.io/v3/how-to-guides/workflows/retry-flow-runs (by hand, here by the hook on_crashed),
#   https://docs.prefect.io/v3/advanced/detect-zombie-flows (for a runner that dies; from 30 s on; not set here)
set -euo pipefail
findings=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q prefect==3.9.1 >"$folder/log" 2>&1 ||
    { cat "$folder/log"; exit 2; }
order=$findings/peers/prefect_order.py
# Validates twice; without the hook; takes the runner along when it dies; has a runner that dies once the order is to be
# run again, so that the changed program does that.
sed '/^        validate_inventory(order)/p' "$order" >"$folder/changed.py"
sed 's/, on_crashed=\[run_again\]//' "$order" >"$folder/plain.py"
sed 's/^import asyncio/&\nimport os/; s/^    order = from_json.*/&\n    os.kill(os.getppid(), 9)/' "$order" >"$folder/both.py"
sed 's/^import asyncio/&\nimport os/; s/^        client.set_flow_run_state.*/&\n    os.kill(os.getpid(), 9)/' "$order" >"$folder/last.py"
try=(env "PYTHONPATH=$findings/.." "$folder/venv/bin/python" "$findings/peers/trials.py" --needs prefect)
plain=("$folder/plain.py" "$folder/plain.py" --trial killed_after_the_charge)
both=("$folder/both.py" "$folder/both.py" --trial killed_after_the_charge)
ours=("$order" "$folder/changed.py" --trial)
inserted=("$folder/last.py" "$folder/changed.py" --trial step_inserted --seconds 60 --ending 60)
# Three at a time: the servers and runners of six need more than two cores.
"${try[@]}" "${ours[@]}" killed_after_the_charge >"$folder/1" & first=$!
"${try[@]}" "${ours[@]}" order_that_kills >"$folder/2" & second=$!
"${try[@]}" "${inserted[@]}" >"$folder/3" && wait $first && wait $second || exit 2
"${try[@]}" "${ours[@]}" second_process >"$folder/4" & first=$!
"${try[@]}" "${plain[@]}" >"$folder/5" & second=$!
"${try[@]}" "${both[@]}" >"$folder/6" && wait $first && wait $second || exit 2
# Between two deaths the order is on its way to the next one.
sed -i -E '/^order that kills/s/(Crashed|Submitting|Pending|Running|Late)$/Scheduled/' "$folder/2"
cat "$folder"/[1-6] >"$folder/seen"
diff - "$folder/seen" <<'SEEN'
killed after the charge: a living process resumed it; the charge ran twice; charged, mailed; the engine says: Completed
order that kills: not given up after 6 deaths; charged, not mailed; the engine says: Scheduled
step inserted: the order ended, the inserted step did not run; charged, mailed; the engine says: Completed
second process: the charge ran once; charged, mailed; the engine says: Completed
killed after the charge: nobody resumed it; charged, not mailed; the engine says: Crashed
killed after the charge: nobody resumed it; charged, not mailed; the engine says: Running
SEEN
