"""Many orders in threads: as many at a time as asked for, a line for each as it ends. The script uses it."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from shop.orders import Order, Outcome, Status
from shop.terminal.streams import Results

logger = logging.getLogger("batch")


def run_batch(orders: Sequence[Order], concurrency: int, process_order: Callable[[Order], Outcome]) -> Results:
    """Process all orders, and print a line for each as it ends.

    SIGINT, SIGTERM and SIGHUP end the run: the orders in hand are finished, no other is begun.
    """
    results, stopping = Results(), threading.Event()
    waiting = iter(orders)  # shared by the threads: `next` on a list iterator is atomic, each order goes to one of them

    def stop(*_: object) -> None:
        logger.warning("stopping: orders under way are finished, no other is begun")
        stopping.set()

    def work() -> None:
        for order in waiting:
            if stopping.is_set():
                results.print(Outcome(order.order_id, Status.UNKNOWN, "interrupted before it was begun"))
            else:
                results.print(outcome_of(order, process_order))

    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` leaves it
        signal.signal(signal.SIGHUP, stop)
    with ThreadPoolExecutor(concurrency) as executor:
        try:
            for _ in range(min(concurrency, len(orders)) - 1):
                executor.submit(work)
        except RuntimeError as error:  # The machine has no further thread.
            logger.warning("fewer orders at a time than asked for: %s", error)
        work()  # This thread works, too: one is always there.
    return results


def outcome_of(order: Order, process_order: Callable[[Order], Outcome]) -> Outcome:
    """Process one order; a bug leaves it `unknown`, with its traceback in the log."""
    try:
        return process_order(order)
    except Exception as error:  # A bug ends this order only, not the others.
        logger.exception("order %s: a bug", order.order_id)
        return Outcome(order.order_id, Status.UNKNOWN, f"{type(error).__name__}: {error}; see the log")
