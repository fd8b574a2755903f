#!/usr/bin/env bash
# Around a generator, retry decorators do not retry, or repeat what was given out.
# tenacity 9.2.1, stamina 26.1.0, backoff 2.2.1, 2026-11-29.
#
# Expected: a generator that reads pages, decorated with a retry, goes on after an error; or the decorator refuses a
#   generator.
# Seen: tenacity and backoff call the function, which returns a generator at once, and that is a success: the error in
#   the middle reaches the caller after one attempt. stamina runs it again from the start, and the caller gets the
#   first page twice. None says a word.
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
from collections.abc import Callable, Iterator

import backoff
import stamina
import tenacity

runs = 0


def pages() -> Iterator[int]:
    """Give page 1, fail once, and give page 2 in the second run."""
    global runs
    runs += 1
    yield 1
    if runs == 1:
        raise ConnectionError("cut off")
    yield 2


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


decorators: dict[str, Callable[..., Callable[[], Iterator[int]]]] = {
    "tenacity": tenacity.retry(stop=tenacity.stop_after_attempt(3)),
    "stamina": stamina.retry(on=ConnectionError, attempts=3, wait_initial=0.1),
    "backoff": backoff.on_exception(backoff.constant, ConnectionError, max_tries=3, interval=0.1),
}
for name, decorate in decorators.items():
    runs = 0
    given = []
    try:
        for page in decorate(pages)():
            given.append(page)
        end = "the end"
    except ConnectionError as error:
        end = repr(error)
    note(f"{name}: {given}, then {end}; runs: {runs}")
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
tenacity: [1], then ConnectionError('cut off'); runs: 1
stamina: [1, 1, 2], then the end; runs: 2
backoff: [1], then ConnectionError('cut off'); runs: 1
SEEN
