"""The order as a durable function of AWS Lambda, on AWS's local runner.

https://docs.aws.amazon.com/lambda/latest/dg/durable-functions.html

The function itself stands above `Functions`, which stands in for Lambda: it answers each call by a process of its own.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from aws_durable_execution_sdk_python.config import Duration, StepConfig, StepSemantics
from aws_durable_execution_sdk_python.context import DurableContext
from aws_durable_execution_sdk_python.exceptions import StepError, StepInterruptedError
from aws_durable_execution_sdk_python.execution import durable_execution
from aws_durable_execution_sdk_python.retries import RetryDecision, RetryStrategyConfig, create_retry_strategy
from counter import as_json, from_json, main, open_shop

from shop.errors import TransientError
from shop.orders import Order

T = TypeVar("T")

RUNNER = os.environ["AWS_ENDPOINT_URL_LAMBDA"]


def retries(attempts: int, *kinds: type[Exception]) -> Callable[[Exception, int], RetryDecision]:
    delay = Duration.from_seconds(1)
    strategy = RetryStrategyConfig(max_attempts=attempts, initial_delay=delay, retryable_error_types=list(kinds))
    return create_retry_strategy(strategy)


FEW_ATTEMPTS = StepConfig(retries(3, TransientError))
UNTIL_DONE = StepConfig(retries(1440, TransientError))
# Each attempt is recorded before it is made, and one that was interrupted counts.
PAYMENT = StepConfig(retries(3, TransientError, StepInterruptedError), StepSemantics.AT_MOST_ONCE_PER_RETRY)


@durable_execution
def process_order(document: dict[str, Any], context: DurableContext) -> str:
    shop, order = open_shop(), from_json(document)

    def step(call: Callable[[Order], T], config: StepConfig = UNTIL_DONE) -> T:
        return context.step(lambda _: call(order), call.__name__, config)

    try:
        step(shop.inventory.validate_inventory, FEW_ATTEMPTS)
        transaction_id = step(shop.payments.process_payment, PAYMENT)
        step(shop.inventory.update_inventory)
    except StepError as error:
        held = step(shop.payments.void_charge)
        if held is None or not step(shop.inventory.void_sale):
            if held is not None:
                step(shop.payments.refund_payment)
            return f"not completed: {error}"
        transaction_id = held
    step(shop.notifications.send_confirmation)
    return f"completed: {transaction_id}"


class Functions(BaseHTTPRequestHandler):
    """Lambda's Invoke, as far as the runner needs it."""

    def do_POST(self) -> None:  # noqa: N802
        event = self.rfile.read(int(self.headers["Content-Length"]))
        done = subprocess.run([sys.executable, __file__, "invoke"], input=event, stdout=subprocess.PIPE, check=False)
        self.send_response(200)
        answer = done.stdout
        if done.returncode:
            self.send_header("X-Amz-Function-Error", "Unhandled")
            answer = json.dumps({"errorType": "Runtime.ExitError", "errorMessage": "the runtime exited"}).encode()
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def work() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Functions, bind_and_activate=False)
    server.socket = socket.socket(fileno=int(os.environ["LISTEN_ON"]))
    print("serving", flush=True)
    server.serve_forever()


def start(order: Order) -> None:
    execution = {
        "AccountId": "123456789012",
        "FunctionName": "process_order",
        "FunctionQualifier": "$LATEST",
        "ExecutionName": order.order_id,
        "ExecutionTimeoutSeconds": 3600,
        "ExecutionRetentionPeriodDays": 1,
        "Input": json.dumps(as_json(order)),
    }
    request = urllib.request.Request(f"{RUNNER}/start-durable-execution", json.dumps(execution).encode())
    urllib.request.urlopen(request, timeout=30).close()


def state(order_id: str) -> str:
    with urllib.request.urlopen(f"{RUNNER}/2025-12-01/durable-executions", timeout=30) as answer:
        return str(next(e["Status"] for e in json.load(answer)["DurableExecutions"]))


if __name__ == "__main__":
    if sys.argv[1] == "invoke":
        print(json.dumps(process_order(json.load(sys.stdin), None)))
    else:
        main(work, start, state)
