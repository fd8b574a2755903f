#!/usr/bin/env bash
# Circuit breakers: one lets the process call one at a time, two have no trial call, and some failures do not count.
# pybreaker 1.4.1, aiobreaker 1.2.0, purgatory 3.0.1, 2026-11-30.
#
# Expected: closed, a breaker is not in the way. After three failures it opens, whatever the function is and however it
#   fails. When its time is over one call goes through as a trial, and the others are refused until it has ended.
# Seen: pybreaker holds a lock while it calls: threads that share a breaker charge one after the other, and behind a
#   bank that hangs they all wait, closed as it is. It counts no failure of an `async def` function, whose call has
#   succeeded when the coroutine is made. Half-open, aiobreaker and purgatory let all five calls through that arrive
#   before the first one ends. aiobreaker counts no time-out of `asyncio.wait_for` around it, which is a cancellation
#   inside: a bank that hangs never opens it. purgatory counts it.
# Pages: https://github.com/danielfm/pybreaker https://github.com/arlyon/aiobreaker https://mardiros.github.io/purgatory
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/breakers-2026-11-30
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q pybreaker==1.4.1 aiobreaker==1.2.0 purgatory==3.0.1 && touch "$venv/installed"
} >"$folder/pip" 2>&1 || { cat "$folder/pip"; exit 2; }

cat >"$folder/charges.py" <<'PYTHON'
import asyncio
import threading
import time
from datetime import timedelta

import aiobreaker
import purgatory
import pybreaker

charges = 0


def refuse():
    raise ConnectionError


async def arefuse():
    raise ConnectionError


async def hang():
    await asyncio.sleep(60)


lock = threading.Lock()
at_work = most = 0


def charge():
    global charges, at_work, most
    with lock:
        charges += 1
        at_work += 1
        most = max(most, at_work)
    time.sleep(0.5)
    with lock:
        at_work -= 1


async def acharge():
    global charges
    charges += 1
    await asyncio.sleep(0.5)


def errors(call, times=4):
    seen = []
    for _ in range(times):
        try:
            call()
        except Exception as error:
            seen.append(type(error).__name__)
    return ", ".join(seen)


async def aerrors(call, times=4):
    seen = []
    for _ in range(times):
        try:
            await call()
        except Exception as error:
            seen.append(type(error).__name__)
    return ", ".join(seen)


def five_threads(call):
    global charges, most
    charges = most = 0
    threads = [threading.Thread(target=errors, args=(call, 1)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return f"charges of five: {charges}, at a time: {most}"


def try_pybreaker():
    breaker = pybreaker.CircuitBreaker(fail_max=3, reset_timeout=60)
    print("pybreaker, closed:", five_threads(lambda: breaker.call(charge)))
    print("pybreaker, errors:", errors(lambda: breaker.call(refuse)))
    guarded = pybreaker.CircuitBreaker(fail_max=3, reset_timeout=60)(arefuse)
    print("pybreaker, errors of an async function:", asyncio.run(aerrors(guarded)))


def try_purgatory():
    breakers = purgatory.SyncCircuitBreakerFactory(default_threshold=3, default_ttl=1)
    print("purgatory, closed:", five_threads(breakers("bank")(charge)))
    print("purgatory, errors:", errors(breakers("bank")(refuse)))
    time.sleep(1.2)
    print("purgatory, half-open:", five_threads(breakers("bank")(charge)))


async def try_async():
    global charges
    charges = 0
    breaker = aiobreaker.CircuitBreaker(fail_max=3, timeout_duration=timedelta(seconds=1))
    print("aiobreaker, errors:", await aerrors(lambda: breaker.call_async(arefuse)))
    await asyncio.sleep(1.2)
    await asyncio.gather(*(breaker.call_async(acharge) for _ in range(5)), return_exceptions=True)
    print("aiobreaker, half-open: charges of five:", charges)
    breaker = aiobreaker.CircuitBreaker(fail_max=3)
    print("aiobreaker, time-outs:", await aerrors(lambda: asyncio.wait_for(breaker.call_async(hang), 0.1)))
    breakers = purgatory.AsyncCircuitBreakerFactory(default_threshold=3)

    async def hang_in_a_context():
        async with await breakers.get_breaker("bank"):
            await hang()

    print("purgatory, time-outs:", await aerrors(lambda: asyncio.wait_for(hang_in_a_context(), 0.1)))


try_pybreaker()
try_purgatory()
asyncio.run(try_async())
PYTHON
timeout 100 "$venv/bin/python" "$folder/charges.py" >"$folder/seen" 2>"$folder/log" || { cat "$folder/log"; exit 2; }
diff - "$folder/seen" <<'SEEN'
pybreaker, closed: charges of five: 5, at a time: 1
pybreaker, errors: ConnectionError, ConnectionError, CircuitBreakerError, CircuitBreakerError
pybreaker, errors of an async function: ConnectionError, ConnectionError, ConnectionError, ConnectionError
purgatory, closed: charges of five: 5, at a time: 5
purgatory, errors: ConnectionError, ConnectionError, ConnectionError, OpenedState
purgatory, half-open: charges of five: 5, at a time: 5
aiobreaker, errors: ConnectionError, ConnectionError, CircuitBreakerError, CircuitBreakerError
aiobreaker, half-open: charges of five: 5
aiobreaker, time-outs: TimeoutError, TimeoutError, TimeoutError, TimeoutError
purgatory, time-outs: TimeoutError, TimeoutError, TimeoutError, OpenedState
SEEN
