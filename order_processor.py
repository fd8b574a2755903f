"""BEFORE: the order as a plain script. Retry loops and refunds by hand; state in local variables.

    python order_processor.py [ORDERS] [--data DIR] [--faults SPEC] [--concurrency N] [--log FILE]

Each loop is careful. What the script cannot do is go on after it was killed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from shop.errors import OrderConflict, OrderVoided, PermanentError, Refusal, ShopError, StoreUnusable, TransientError
from shop.orders import Order, Outcome, Status
from shop.parsing import load_orders
from shop.shop import Shop
from shop.terminal.batch import run_batch
from shop.terminal.options import add_shop_arguments, read_shop_options
from shop.terminal.streams import run_program

MAXIMUM_ATTEMPTS = 3
INITIAL_INTERVAL_SECONDS = 1.0
BACKOFF_COEFFICIENT = 2.0
MAX_CONCURRENCY = 256
T = TypeVar("T")
logger = logging.getLogger("order_processor")


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
        # The point of no return: the stock is taken, and from here on nothing is undone.
        return confirm_order(shop, order, transaction_id)
    except ShopError as error:
        return not_completed(order, error)


def void_unless_sold(shop: Shop, order: Order, error: ShopError) -> str:
    """End an order, unless its stock is taken. The shop decides that, not what this run happens to know.

    A call that got no reply may still take effect, and another run of the order may have gone further than this one. So
    a void that finds nothing to undo leaves a tombstone: a row by which the service refuses whatever comes late.

    Returns:
        The transaction id if the stock is taken: then the order is to be completed.

    Raises:
        error: if the order is ended and holds nothing; its message says what was given back.
        HalfDone: if that could not be brought about.
    """
    # A conflict: what the id holds belongs to another order. A person decides.
    if not isinstance(error, OrderConflict):
        transaction_id = retry_or_alarm(shop.payments.void_charge, order)
        if transaction_id is not None:
            if retry_or_alarm(shop.inventory.void_sale, order):
                return transaction_id
            retry_or_alarm(shop.payments.refund_payment, order)
        given_back = f"{order.total} refunded" if transaction_id else "nothing was charged"
        error.args = (f"{error}; {given_back}",)
    raise error


def confirm_order(shop: Shop, order: Order, transaction_id: str) -> Outcome:
    """Mail the customer, or note that it could not be done."""
    try:
        retry(shop.notifications.send_confirmation, order)
    except (OrderConflict, Refusal):  # somebody has settled the order, or another one has its id
        raise
    except ShopError as error:
        retry_or_alarm(shop.notifications.note_unsent, order)
        transaction_id += f"; no confirmation is known to have been sent: {type(error).__name__}: {error}"
    return Outcome(order.order_id, Status.COMPLETED, transaction_id)


def not_completed(order: Order, error: ShopError) -> Outcome:
    """Return the outcome of an order that was refused, given up, or left half-done."""
    status = Status.REJECTED if isinstance(error, Refusal) else Status.FAILED
    if isinstance(error, (OrderConflict, HalfDone)):  # A person must look.
        status = Status.UNKNOWN
    return Outcome(order.order_id, status, f"{type(error).__name__}: {error}")


def retry(call: Callable[[Order], T], order: Order) -> T:
    """Call until it works, is refused for good, or its attempts are used up; each wait is twice as long as the last."""
    attempt, interval_seconds = 1, INITIAL_INTERVAL_SECONDS
    while True:
        logger.info("order %s: %s: attempt %d", order.order_id, call.__name__, attempt)
        try:
            return call(order)
        except PermanentError as error:
            logger.warning("order %s: %s: refused: %s", order.order_id, call.__name__, error)
            raise
        except TransientError as error:
            logger.warning("order %s: %s: attempt %d failed: %s", order.order_id, call.__name__, attempt, error)
            if attempt == MAXIMUM_ATTEMPTS:
                raise
        time.sleep(interval_seconds)
        attempt, interval_seconds = attempt + 1, interval_seconds * BACKOFF_COEFFICIENT


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


def log_to(path: str) -> None:
    """Log to the terminal and to a file: the only trace that an order leaves."""
    logging.raiseExceptions = False  # a full disk stops the log, not the orders
    handlers = (logging.StreamHandler(), logging.FileHandler(path))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=handlers)


def main() -> int:
    """Return the exit status: 0 all settled, 1 some order needs a person, 2 bad usage or bad input."""
    parser = argparse.ArgumentParser(description="Process orders with a plain script.")
    parser.add_argument("orders", nargs="?", metavar="ORDERS", help="JSON Lines file, - for standard input")
    parser.add_argument("--concurrency", type=int, default=1, metavar="N", help="orders at a time (default: 1)")
    parser.add_argument("--log", metavar="FILE", help="log file (default: order_processor.log in the data directory)")
    add_shop_arguments(parser)
    arguments = parser.parse_args()
    if not 1 <= arguments.concurrency <= MAX_CONCURRENCY:
        parser.error(f"--concurrency: must be from 1 to {MAX_CONCURRENCY}")
    try:
        options = read_shop_options(arguments, os.environ)
        orders = load_orders(arguments.orders)
        shop = options.open()
        log_to(os.path.expanduser(arguments.log or options.log_file("order_processor.log")))
    except (OSError, ValueError, StoreUnusable, TransientError) as error:
        print(f"order_processor: {error}", file=sys.stderr)
        return 2
    results = run_batch(orders, arguments.concurrency, lambda order: process_order(shop, order))
    return results.exit_status("order_processor")


if __name__ == "__main__":
    sys.exit(run_program("order_processor", main))
