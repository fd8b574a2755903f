#!/usr/bin/env bash
# LangGraph's RetryPolicy retries a declined card, and not a lost connection, when the node calls by `requests`.
# langgraph 1.2.24, requests 2.34.2, httpx 0.28.1, stripe 16.1.0, 2026-11-30.
#
# Expected: by default a node is tried again after an error that may pass (a connection, a time-out, a status of 5xx),
#   and not after one that is final; of the statuses that requests and httpx raise, the page names those of 5xx alone.
# Settings: https://langchain-ai.github.io/langgraph/how-tos/node-retries
# Seen: so it is with httpx. With requests every status is retried, the 402 of a declined card, too, since a response
#   that is no success counts as false; and ConnectionError and Timeout are not, since they are OSErrors, as is Python's
#   TimeoutError. An error of one's own or of an SDK is retried, a decline included. State `retry_on`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/langgraph-1.2.24-http
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q langgraph==1.2.24 requests==2.34.2 httpx==0.28.1 stripe==16.1.0 &&
        touch "$venv/installed"
} >"$folder/pip" 2>&1 || { cat "$folder/pip"; exit 2; }

cat >"$folder/order.py" <<'PYTHON'
from typing import TypedDict

import httpx
import requests
import stripe
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy


class Order(TypedDict, total=False):
    charged: bool


def trial(name, error):
    attempts = 0

    def charge(order):
        nonlocal attempts
        attempts += 1
        raise error

    graph = StateGraph(Order)
    graph.add_node("charge", charge, retry_policy=RetryPolicy(max_attempts=3, initial_interval=0.01))
    graph.add_edge(START, "charge")
    try:
        graph.compile().invoke({})
    except type(error):
        print(f"{name}: attempts {attempts}")


def by_requests(status):
    response = requests.Response()
    response.status_code = status
    try:
        response.raise_for_status()
    except requests.HTTPError as error:
        return error


def by_httpx(status):
    try:
        httpx.Response(status, request=httpx.Request("POST", "http://bank")).raise_for_status()
    except httpx.HTTPStatusError as error:
        return error


for status in (402, 503):
    trial(f"requests, {status}", by_requests(status))
    trial(f"httpx, {status}", by_httpx(status))
trial("requests.ConnectionError", requests.ConnectionError())
trial("httpx.ConnectError", httpx.ConnectError(""))
trial("requests.ReadTimeout", requests.ReadTimeout())
trial("httpx.ReadTimeout", httpx.ReadTimeout(""))
trial("TimeoutError", TimeoutError())
trial("stripe.CardError", stripe.CardError("declined", None, "card_declined"))
PYTHON
timeout 100 "$venv/bin/python" "$folder/order.py" >"$folder/seen" 2>"$folder/log" || { cat "$folder/log"; exit 2; }
diff - "$folder/seen" <<'SEEN'
requests, 402: attempts 3
httpx, 402: attempts 1
requests, 503: attempts 3
httpx, 503: attempts 3
requests.ConnectionError: attempts 1
httpx.ConnectError: attempts 3
requests.ReadTimeout: attempts 1
httpx.ReadTimeout: attempts 3
TimeoutError: attempts 1
stripe.CardError: attempts 3
SEEN
