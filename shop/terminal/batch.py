"""Many orders, in threads: as many at a time as asked for, a line for each as it ends. The script uses it."""

from __future__ import annotations

import _thread
import logging
import signal
import threading
from collections.abc import Callable, Sequence

from shop.orders import Order, Outcome, Status
from shop.terminal.streams import Results

logger = logging.getLogger("batch")


def run_batch(orders: Sequence[Order], concurrency: int, process_order: Callable[[Order], Outcome]) -> Results:
    """Process all orders, and print a line for each as it ends. SIGINT and SIGTERM end the run after those in hand.

    Where the machine gives fewer threads than asked for, fewer orders are processed at a time.
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
                results.print(process_order(order))

    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, stop)
    try:
        for _ in range(min(concurrency, len(orders)) - 1):
            # Not `threading.Thread`: its `start` never returns if the new thread dies because memory is short.
            _thread.start_new_thread(work, ())
    except RuntimeError as error:
        logger.warning("fewer orders at a time than asked for: %s", error)
    work()
    results.wait_for(len(orders))
    return results
