"""BEFORE: the order as a plain script. Retry loops, time-outs and refunds by hand; state in local variables.

    python order_processor.py [ORDERS] [--data DIR] [--faults SPEC] [--concurrency N]

It is what a careful engineer writes without durable state. What it cannot do is go on after it was killed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from shop.errors import OrderConflict, PermanentError, Refusal, ShopError, TransientError
from shop.orders import Order, Outcome, Status, load_orders, print_outcome
from shop.shop import Shop, add_shop_arguments, read_shop_options
from shop.storage import DataDirectoryUnusable

MAXIMUM_ATTEMPTS = 3
INITIAL_BACKOFF_SECONDS = 1.0
BACKOFF_COEFFICIENT = 2.0
ATTEMPT_TIMEOUT_SECONDS = 10.0
MAX_CONCURRENCY = 256

T = TypeVar("T")
logger = logging.getLogger("order_processor")


class AttemptTimedOut(TransientError):
    """The service did not answer in time; the call may still take effect."""


def process_order(shop: Shop, order: Order) -> Outcome:
    """Take one order through its four steps; undo what was done if one of them fails.

    All that is known of the order stands in this function's local variables. If the process dies, it is forgotten, and
    the next run can only ask the services how far an earlier one may have come.
    """
    try:
        if retry("look up the mail", order, lambda: shop.notifications.has_confirmed(order)):
            # Not to be touched: a second run that meets an outage would undo what has long been delivered.
            return Outcome(order.order_id, Status.COMPLETED, "completed by an earlier run")
        may_be_charged = may_be_taken = retry("look up the charge", order, lambda: shop.payments.has_charged(order))
    except ShopError as error:
        return Outcome(order.order_id, Status.UNKNOWN, f"{type(error).__name__}: {error}; nothing was done in this run")

    transaction_id = "transaction unknown"
    left_behind: list[str] = []
    try:
        retry("validate_inventory", order, lambda: shop.inventory.validate_inventory(order))
        # Set before the call: after a time-out the charge may stand, or be made later.
        may_be_charged = True
        transaction_id = retry("process_payment", order, lambda: shop.payments.process_payment(order))
        may_be_taken = True
        retry("update_inventory", order, lambda: shop.inventory.update_inventory(order))
    except ShopError as error:
        if may_be_taken and not isinstance(error, OrderConflict):
            undo("restore_inventory", order, lambda: shop.inventory.restore_inventory(order), left_behind)
        if may_be_charged:
            # By order, not by transaction: without a reply we do not know its id.
            undo("refund_payment", order, lambda: shop.payments.refund_payment(order), left_behind)
        return not_completed(order, error, left_behind)

    try:
        retry("send_confirmation", order, lambda: shop.notifications.send_confirmation(order))
    except ShopError as error:
        try:
            retry("note_unsent", order, lambda: shop.notifications.note_unsent(order))
        except ShopError as note_error:
            logger.critical("order %s: TELL THE CUSTOMER BY HAND: %s", order.order_id, note_error)
        return Outcome(order.order_id, Status.COMPLETED, f"{transaction_id}; no confirmation was sent: {error}")
    return Outcome(order.order_id, Status.COMPLETED, transaction_id)


def retry(step: str, order: Order, call: Callable[[], T]) -> T:
    """Call until it works, is refused for good, or three attempts are used up; wait 1 s, 2 s between them."""
    backoff_seconds = INITIAL_BACKOFF_SECONDS
    for attempt in range(1, MAXIMUM_ATTEMPTS + 1):
        logger.info("order %s: %s: attempt %d", order.order_id, step, attempt)
        try:
            return call_with_timeout(call)
        except PermanentError as error:
            logger.warning("order %s: %s: refused: %s", order.order_id, step, error)
            raise
        except TransientError as error:
            logger.warning("order %s: %s: attempt %d failed: %s", order.order_id, step, attempt, error)
            if attempt == MAXIMUM_ATTEMPTS:
                raise
        time.sleep(backoff_seconds)
        backoff_seconds *= BACKOFF_COEFFICIENT
    raise AssertionError("unreachable: the last attempt returns or raises")


def call_with_timeout(call: Callable[[], T]) -> T:
    """Give a call 10 s. One that takes longer goes on in its thread, and may still take effect.

    Raises:
        AttemptTimedOut: the outcome is unknown.
    """
    executor = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    try:
        return executor.submit(call).result(timeout=ATTEMPT_TIMEOUT_SECONDS)
    except concurrent.futures.TimeoutError as error:
        raise AttemptTimedOut(f"no answer within {ATTEMPT_TIMEOUT_SECONDS:.0f} s; it may still take effect") from error
    finally:
        executor.shutdown(wait=False)


def undo(step: str, order: Order, call: Callable[[], None], left_behind: list[str]) -> None:
    """Undo one step; if that fails, say so as loudly as a script can, and let the caller go on with the others."""
    try:
        retry(step, order, call)
    except OrderConflict:
        return  # The id belongs to another order: nothing of this one was done there.
    except ShopError as error:
        logger.critical("order %s: DO THIS BY HAND: %s: %s", order.order_id, step, error)
        left_behind.append(step)


def not_completed(order: Order, error: ShopError, left_behind: list[str]) -> Outcome:
    """Name what became of an order: rejected by the business, failed for a service, or not undone."""
    if left_behind:
        return Outcome(order.order_id, Status.UNKNOWN, f"{error}; NOT UNDONE: {', '.join(left_behind)}")
    if isinstance(error, OrderConflict):
        return Outcome(order.order_id, Status.UNKNOWN, str(error))
    status = Status.REJECTED if isinstance(error, Refusal) else Status.FAILED
    return Outcome(order.order_id, status, f"{type(error).__name__}: {error}")


def process_orders(shop: Shop, orders: list[Order], concurrency: int) -> bool:
    """Process all orders and print a line for each; tell whether nobody has to look after any of them."""
    stopping = threading.Event()

    def stop(*_: object) -> None:
        logger.warning("stopping: orders in hand are finished, no other is begun")
        stopping.set()

    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, stop)

    def process(order: Order) -> Outcome:
        if stopping.is_set():
            return Outcome(order.order_id, Status.UNKNOWN, "interrupted before it was looked at")
        try:
            return process_order(shop, order)
        except Exception as error:
            logger.exception("order %s: a bug", order.order_id)
            return Outcome(order.order_id, Status.UNKNOWN, f"{type(error).__name__}: {error}; see the log")

    with concurrent.futures.ThreadPoolExecutor(max_workers=concurrency) as executor:
        outcomes = []
        for future in concurrent.futures.as_completed([executor.submit(process, order) for order in orders]):
            outcomes.append(future.result())
            print_outcome(outcomes[-1])
    return all(outcome.is_settled for outcome in outcomes)


def log_to(directory: Path) -> None:
    """Log to the terminal and to `order_processor.log`: the only trace that an order leaves."""
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
    try:
        if not 1 <= arguments.concurrency <= MAX_CONCURRENCY:
            raise ValueError(f"--concurrency: must be from 1 to {MAX_CONCURRENCY}")
        options = read_shop_options(arguments, os.environ)
        orders = load_orders(arguments.orders)
        shop = options.open()
        log_to(options.directory)
    except (OSError, ValueError, DataDirectoryUnusable, TransientError) as error:
        print(f"order_processor: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while the orders were read
        return 2
    # The shop stays open: a call that was given up may still be under way, and ends before the process does.
    return 0 if process_orders(shop, orders, arguments.concurrency) else 1


if __name__ == "__main__":
    sys.exit(main())
