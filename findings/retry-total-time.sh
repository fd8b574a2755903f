#!/usr/bin/env bash
# With a limit on the total time, retry libraries begin another attempt after it.
# tenacity 9.2.1, stamina 26.1.0, backoff 2.2.1, 2026-11-29.
#
# Expected: with a total of 4 s, calls that fail after 2 s and waits of 3 s there is one attempt: a second one would
#   begin at 5 s.
# Seen: tenacity's `stop_after_delay`, stamina's `timeout` and backoff's `max_time` ask whether the time is over when
#   an attempt fails, then wait, and begin the next one whatever the clock says: one charge more, after the caller's
#   deadline. tenacity's `stop_before_delay` counts the wait.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/retries
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q tenacity==9.2.1 stamina==26.1.0 backoff==2.2.1 &&
        touch "$venv/installed"
} >"$folder/pip" 2>&1 || { cat "$folder/pip"; exit 2; }

cat >"$folder/probe.py" <<'PYTHON'
import sys
import time
from collections.abc import Callable

import backoff
import stamina
import tenacity

began_at: list[float] = []


def call() -> None:
    began_at.append(time.monotonic())
    time.sleep(2)
    raise ConnectionError("cut off")


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


decorators: dict[str, Callable[..., Callable[[], None]]] = {
    "tenacity stop_after_delay": tenacity.retry(stop=tenacity.stop_after_delay(4), wait=tenacity.wait_fixed(3)),
    "tenacity stop_before_delay": tenacity.retry(stop=tenacity.stop_before_delay(4), wait=tenacity.wait_fixed(3)),
    "stamina timeout": stamina.retry(
        on=ConnectionError, attempts=None, timeout=4, wait_initial=3, wait_max=3, wait_jitter=0
    ),
    "backoff max_time": backoff.on_exception(
        backoff.constant, ConnectionError, max_time=4, interval=3, jitter=None
    ),
}
for name, decorate in decorators.items():
    began_at.clear()
    try:
        decorate(call)()
    except (ConnectionError, tenacity.RetryError):
        late = sum(began - began_at[0] > 4 for began in began_at)
        note(f"{name}: {len(began_at)} attempts, {late} of them begun after 4 s")
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
tenacity stop_after_delay: 2 attempts, 1 of them begun after 4 s
tenacity stop_before_delay: 1 attempts, 0 of them begun after 4 s
stamina timeout: 2 attempts, 1 of them begun after 4 s
backoff max_time: 2 attempts, 1 of them begun after 4 s
SEEN
