#!/usr/bin/env bash
# DBOS 3.4.0: an order that kills its process, with max_recovery_attempts=3. Run on 2026-11-29.
#
# Expected: after three recoveries the workflow gets an exception, and its `except` and `finally` make up for the charge.
# Seen: its status becomes MAX_RECOVERY_ATTEMPTS_EXCEEDED, and no code of it runs again: the charge stays. (Without the
#   argument the limit is 100.)
# Settings: https://docs.dbos.dev/python/reference/decorators
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv && venv/bin/pip install -q dbos==3.4.0 >log 2>&1 || { cat log; exit 2; }

cat >order.py <<'PYTHON'
import os, signal, sys, time
from dbos import DBOS, SetWorkflowID
from dbos._dbos import DEFAULT_MAX_RECOVERY_ATTEMPTS

DBOS(config={"name": "orders", "system_database_url": "sqlite:///orders.sqlite", "log_level": "CRITICAL"})


@DBOS.step()
def charge():
    print("charged", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


@DBOS.workflow(max_recovery_attempts=3)
def order():
    try:
        charge()
    except BaseException:
        print("refunded", flush=True)


DBOS.launch()
if sys.argv[1] == "start":
    with SetWorkflowID("1"):
        DBOS.start_workflow(order)
time.sleep(3)
print(DBOS.get_workflow_status("1").status, "; the default is", DEFAULT_MAX_RECOVERY_ATTEMPTS, flush=True)
os._exit(0)
PYTHON

{
    venv/bin/python order.py start || true
    for _ in 1 2 3 4 5 6; do venv/bin/python order.py resume || true; done
} >all 2>/dev/null
uniq -c all | sed 's/^ *//' >seen
diff - seen <<'SEEN'
4 charged
3 MAX_RECOVERY_ATTEMPTS_EXCEEDED ; the default is 100
SEEN
