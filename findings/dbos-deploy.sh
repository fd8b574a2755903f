#!/usr/bin/env bash
# DBOS 3.4.0: three small deploys under an order that was interrupted after its charge. Run on 2026-11-29.
#
# Expected: a changed comment is no change; a changed body of a step is one; a step inserted before the charge, with the
#   application version pinned, is refused, and the order waits for a roll-back.
# Seen: the version is a hash of the source of the *workflows*, so it is the other way round: after a changed comment the
#   new process looks for no older version, and the order stays PENDING; a changed step is resumed. With the version
#   pinned the inserted step ends the order as ERROR, with the charge made.
# Settings: https://docs.dbos.dev/production/workflow-recovery, https://docs.dbos.dev/python/tutorials/upgrading-workflows
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv && venv/bin/pip install -q dbos==3.4.0 >log 2>&1 || { cat log; exit 2; }

cat >order.py <<'PYTHON'
import os, signal, sys, time
from dbos import DBOS, SetWorkflowID

config = {"name": "orders", "system_database_url": os.environ["DATABASE"], "log_level": "CRITICAL"}
if os.environ.get("PINNED"):
    config["application_version"] = "1"
DBOS(config=config)


@DBOS.step()
def look():
    return "looked"


@DBOS.step()
def charge():
    return "charged"


@DBOS.step()
def ship():
    if sys.argv[1] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return "shipped"


@DBOS.workflow()
def order():
    # one order
    return [charge(), ship()]


DBOS.launch()
if sys.argv[1] == "die":
    with SetWorkflowID("1"):
        DBOS.start_workflow(order)
time.sleep(6)
print(DBOS.get_workflow_status("1").status, flush=True)
os._exit(0)
PYTHON

# deploy NAME SED: an order dies in its second step; then the changed program starts.
deploy() {
    export DATABASE=sqlite:///$folder/$1.sqlite PINNED=${3:-}
    venv/bin/python order.py die >/dev/null 2>&1 || true
    sed "$2" order.py >changed.py
    printf '%s: ' "$1"
    venv/bin/python changed.py resume
}
{
    deploy nothing_changed ''
    deploy comment_in_the_workflow 's/# one order/# a single order/'
    deploy body_of_a_step 's/return "shipped"/return "sent"/'
    deploy step_inserted_version_pinned 's/return \[charge/return [look(), charge/' pinned
} 2>/dev/null | tee seen >&2
diff - seen <<'SEEN'
nothing_changed: SUCCESS
comment_in_the_workflow: PENDING
body_of_a_step: SUCCESS
step_inserted_version_pinned: ERROR
SEEN
