#!/usr/bin/env bash
# Django's tasks in the database: a killed task stays RUNNING, and a charge that returns an amount has failed.
# django-tasks 0.12.0, django-tasks-db 0.13.0 (Django 5.2.19, SQLite), 2026-11-30.
#
# Expected: a task whose worker was killed is taken over by the next worker, or marked as failed; a result that is no JSON
#   is refused before the task runs, or is stored as text, as Django's own encoder does it.
# Seen: the killed task is RUNNING for good: there is no lease, and no command looks for it; nothing says that an order
#   waits. A second SIGTERM, as from an impatient supervisor, marks the task as FAILED in the middle. A charge that
#   returns a Decimal, as Django's money fields do, or a date is made, and FAILED: who enqueues it again charges twice.
# Settings: https://github.com/RealOrangeOne/django-tasks-db
set -euo pipefail
folder=$(mktemp -d)
trap 'kill -9 $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/django-tasks-db-0.13.0
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q Django==5.2.19 django-tasks==0.12.0 django-tasks-db==0.13.0 && touch "$venv/installed"
} >"$folder/pip" 2>&1 || { cat "$folder/pip"; exit 2; }

cd "$folder"
cat >settings.py <<'PYTHON'
INSTALLED_APPS = ["django_tasks", "django_tasks_db"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3"}}
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
USE_TZ = True
SECRET_KEY = "for this script"
PYTHON
cat >orders.py <<'PYTHON'
import os
import signal
import time
from decimal import Decimal

from django_tasks import task


def charge(name):
    with open("charges", "a") as charges:
        charges.write(f"{name}\n")


@task
def killed():
    charge("killed")
    os.kill(os.getpid(), signal.SIGKILL)


@task
def amount():
    charge("amount")
    return Decimal("12.50")


@task
def text():
    charge("text")
    return "12.50"


@task
def stopped():
    charge("stopped")
    time.sleep(8)
PYTHON
cat >put.py <<'PYTHON'
import sys

import django

django.setup()
import orders

for name in sys.argv[1:]:
    getattr(orders, name).enqueue()
PYTHON
cat >show.py <<'PYTHON'
import django

django.setup()
from django_tasks_db.models import DBTaskResult

charges = open("charges").read().split()
for task in DBTaskResult.objects.order_by("enqueued_at"):
    name = task.task_path.split(".")[1]
    print(f"{name}: charged {charges.count(name)}, {task.status} {task.exception_class_path}".rstrip())
PYTHON
export DJANGO_SETTINGS_MODULE=settings PYTHONPATH=$folder
python=$venv/bin/python
{
    "$python" -m django migrate
    "$python" put.py killed amount text
    "$python" -m django db_worker --no-startup-delay || true # dies of the first task
    timeout 10 "$python" -m django db_worker --no-startup-delay || true
    "$python" put.py stopped
    "$python" -m django db_worker --no-startup-delay &
    worker=$!
    for _ in $(seq 100); do grep -q stopped charges && break; sleep 0.1; done
    kill "$worker"
    sleep 1
    kill "$worker"
    wait "$worker" || true
    "$python" show.py >seen
} >log 2>&1 || { cat log; exit 2; }
diff - seen <<'SEEN'
killed: charged 1, RUNNING
amount: charged 1, FAILED builtins.TypeError
text: charged 1, SUCCESSFUL
stopped: charged 1, FAILED builtins.SystemExit
SEEN
