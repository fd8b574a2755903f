"""BEFORE: the order as a plain script. Retry loops, time-outs and refunds by hand; state in local variables.

    python order_processor.py [ORDERS] [--data DIR] [--faults SPEC] [--concurrency N]

Each loop is careful. What the script cannot do is go on after it was killed.
"""

from __future__ import annotations

import _thread
import argparse
import concurrent.futures
import functools
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from shop.errors import (
    OrderConflict,
    OrderVoided,
    PermanentError,
    Refusal,
    ShopError,
    StoreUnusable,
    TransientError,
)
from shop.orders import Order, Outcome, Status
from shop.parsing import load_orders
from shop.shop import Shop
from shop.terminal.batch import run_batch
from shop.terminal.options import add_shop_arguments, read_shop_options
from shop.terminal.streams import run_program

MAXIMUM_ATTEMPTS = 3
INITIAL_INTERVAL_SECONDS = 1.0
BACKOFF_COEFFICIENT = 2.0
ATTEMPT_TIMEOUT_SECONDS = 10.0
MAX_CONCURRENCY = 256

T = TypeVar("T")
logger = logging.getLogger("order_processor")
# Calls that were given up, by what they were for: each may still take effect.
late_calls: dict[concurrent.futures.Future[Any], str] = {}


class AttemptTimedOut(TransientError):
    """The service did not answer in time; the call may still take effect."""


class HalfDone(TransientError):
    """The order could not be brought to an end; to run it again resumes it."""


def process_order(shop: Shop, order: Order) -> Outcome:
    """Take one order through its four steps.

    Where the order stands is in local variables: if the process dies, nobody knows, until somebody runs it again.
    """
    try:
        try:
            retry(shop.inventory.validate_inventory, order)
            transaction_id = retry(shop.payments.process_payment, order)
            retry(shop.inventory.update_inventory, order)
        except ShopError as error:
            transaction_id = void_unless_sold(shop, order, error)
        # The point of no return: a confirmation that fails never undoes an order.
        return confirm_order(shop, order, transaction_id)
    except ShopError as error:
        return not_completed(order, error)
    except Exception as error:  # A bug ends this order only, not the others.
        logger.exception("order %s: a bug", order.order_id)
        return Outcome(order.order_id, Status.UNKNOWN, f"{type(error).__name__}: {error}; see the log")


def void_unless_sold(shop: Shop, order: Order, error: ShopError) -> str:
    """End an order, unless its stock is taken. The shop decides that, not what this run happens to know.

    A call that timed out may still take effect, and another run of the order may have gone further than this one.

    Returns:
        The transaction id if the stock is taken: then the order is to be completed.

    Raises:
        error: if the order is ended and holds nothing.
        HalfDone: if that could not be brought about.
    """
    # A conflict: what the id holds belongs to another order. A person decides.
    if not isinstance(error, OrderConflict):
        transaction_id = retry_or_alarm(shop.payments.void_charge, order)
        if transaction_id is not None:
            if retry_or_alarm(shop.inventory.void_sale, order):
                return transaction_id
            retry_or_alarm(shop.payments.refund_payment, order)
    raise error


def confirm_order(shop: Shop, order: Order, transaction_id: str) -> Outcome:
    """Mail the customer, or note that it could not be done."""
    try:
        retry(shop.notifications.send_confirmation, order)
    except (OrderConflict, OrderVoided):
        raise
    except ShopError as error:
        retry_or_alarm(shop.notifications.note_unsent, order)
        transaction_id += f"; no confirmation is known to have been sent: {type(error).__name__}: {error}"
    return Outcome(order.order_id, Status.COMPLETED, transaction_id)


def not_completed(order: Order, error: ShopError) -> Outcome:
    """Return the outcome of an order that was refused, given up, or left half-done."""
    if isinstance(error, (OrderConflict, HalfDone)):
        status = Status.UNKNOWN
    else:
        status = Status.REJECTED if isinstance(error, Refusal) else Status.FAILED
    return Outcome(order.order_id, status, f"{type(error).__name__}: {error}")


def retry(call: Callable[[Order], T], order: Order) -> T:
    """Call until it works, is refused for good, or its attempts are used up; each wait is twice as long as the last."""
    interval_seconds = INITIAL_INTERVAL_SECONDS
    for attempt in range(1, MAXIMUM_ATTEMPTS + 1):
        logger.info("order %s: %s: attempt %d", order.order_id, call.__name__, attempt)
        try:
            return call_with_timeout(call, order)
        except PermanentError as error:
            logger.warning("order %s: %s: refused: %s", order.order_id, call.__name__, error)
            raise
        except TransientError as error:
            logger.warning("order %s: %s: attempt %d failed: %s", order.order_id, call.__name__, attempt, error)
            if attempt == MAXIMUM_ATTEMPTS:
                raise
        time.sleep(interval_seconds)
        interval_seconds *= BACKOFF_COEFFICIENT
    raise AssertionError("unreachable: the last attempt returns or raises")


def retry_or_alarm(call: Callable[[Order], T], order: Order) -> T:
    """Retry a call that the order cannot end without. If it fails or is refused, a person must act.

    Raises:
        HalfDone: to run the order again resumes it.
        OrderConflict, OrderVoided: as the call does.
    """
    try:
        return retry(call, order)
    except (OrderConflict, OrderVoided):
        raise
    except ShopError as error:
        logger.critical("order %s: HALF-DONE: RUN IT AGAIN: %s: %s", order.order_id, call.__name__, error)
        raise HalfDone(f"{call.__name__}: {error}; run it again") from error


def call_with_timeout(call: Callable[[Order], T], order: Order) -> T:
    """Give a call 10 s. One that takes longer goes on in its thread, and may still take effect.

    Raises:
        AttemptTimedOut: the outcome is unknown.
    """
    answer: concurrent.futures.Future[T] = concurrent.futures.Future()

    def answer_call() -> None:
        try:
            answer.set_result(call(order))
        except BaseException as error:
            answer.set_exception(error)

    try:
        # Not `threading.Thread`: its `start` never returns if the new thread dies because memory is short.
        _thread.start_new_thread(answer_call, ())
    except RuntimeError as error:
        logger.warning("order %s: %s: %s; called without a time-out", order.order_id, call.__name__, error)
        return call(order)
    concurrent.futures.wait([answer], timeout=ATTEMPT_TIMEOUT_SECONDS)
    if not answer.done():
        late_calls[answer] = f"{call.__name__} of order {order.order_id}"
        raise AttemptTimedOut(f"no answer within {ATTEMPT_TIMEOUT_SECONDS:.0f} s; it may still take effect")
    return answer.result()


def wait_for_late_calls() -> None:
    """Give calls that timed out the time of one more attempt to land. What hangs longer is left behind."""
    late = {call: name for call, name in late_calls.items() if not call.done()}
    if late:
        names = ", ".join(late.values())
        logger.info("waiting up to %.0f s for calls that timed out: %s", ATTEMPT_TIMEOUT_SECONDS, names)
        concurrent.futures.wait(late, timeout=ATTEMPT_TIMEOUT_SECONDS)


def log_to(directory: Path) -> None:
    """Log to the terminal and to `order_processor.log`: the only trace that an order leaves."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    logging.raiseExceptions = False  # a full disk stops the log, not the orders
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        handlers=[logging.StreamHandler(), logging.FileHandler(directory / "order_processor.log")],
    )


def main() -> int:
    """Return the exit status: 0 all settled, 1 some order needs a person, 2 bad usage or bad input."""
    parser = argparse.ArgumentParser(description="Process orders with a plain script.")
    parser.add_argument("orders", nargs="?", metavar="ORDERS", help="JSON Lines file, - for standard input")
    parser.add_argument("--concurrency", type=int, default=1, metavar="N", help="orders at a time (default: 1)")
    add_shop_arguments(parser)
    arguments = parser.parse_args()
    if not 1 <= arguments.concurrency <= MAX_CONCURRENCY:
        parser.error(f"--concurrency: must be from 1 to {MAX_CONCURRENCY}")
    try:
        options = read_shop_options(arguments, os.environ)
        orders = load_orders(arguments.orders)
        shop = options.open()
        log_to(options.log_directory)
    except (OSError, ValueError, StoreUnusable, TransientError) as error:
        print(f"order_processor: {error}", file=sys.stderr)
        return 2
    results = run_batch(orders, arguments.concurrency, functools.partial(process_order, shop))
    wait_for_late_calls()
    return results.exit_status("order_processor")


if __name__ == "__main__":
    sys.exit(run_program("order_processor", main))
