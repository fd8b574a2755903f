#!/usr/bin/env bash
# DBOS 3.4.0: what an `except` meets live, and when the workflow is run again after a kill. Run on 2026-11-29.
#
# Expected: the same exception, or a refusal to record one that cannot be read back.
# Seen: an exception whose class takes two arguments is recorded without complaint; live it is caught by its class, and
#   after the restart a TypeError stands in its place: the `except` that made up for it is passed by.
# Settings: https://docs.dbos.dev/python/tutorials/step-tutorial
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv && venv/bin/pip install -q dbos==3.4.0 >log 2>&1 || { cat log; exit 2; }

cat >order.py <<'PYTHON'
import os, signal, sys, time
from dbos import DBOS, SetWorkflowID

DBOS(config={"name": "orders", "system_database_url": "sqlite:///orders.sqlite", "log_level": "CRITICAL"})


class Declined(Exception):
    def __init__(self, bank, reason):
        super().__init__(f"{bank}: {reason}")


@DBOS.step()
def charge():
    raise Declined("bank", "no money")


@DBOS.workflow()
def order():
    try:
        charge()
    except Exception as error:
        print("except meets", type(error).__name__, flush=True)
    if sys.argv[1] == "die":
        os.kill(os.getpid(), signal.SIGKILL)


DBOS.launch()
if sys.argv[1] == "die":
    with SetWorkflowID("1"):
        DBOS.start_workflow(order)
time.sleep(4)
os._exit(0)
PYTHON

{
    echo live
    venv/bin/python order.py die || true
    echo again
    venv/bin/python order.py resume
} >seen 2>/dev/null
diff - seen <<'SEEN'
live
except meets Declined
again
except meets TypeError
SEEN
