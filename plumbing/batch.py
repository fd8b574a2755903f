"""Many orders at a time: as many in flight as asked for, a line for each as it ends, a bar meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence

from rich.console import Console
from rich.progress import Progress

from shop.orders import Order, Outcome, Status
from shop.terminal.streams import Results

# After an interrupt, for the lines of the orders that have not ended; the reader may have stalled.
LAST_WORDS_SECONDS = 2.0
SCREENFUL = 40

logger = logging.getLogger("batch")


async def run_batch(
    orders: Sequence[Order], concurrency: int, run_order: Callable[[Order], Awaitable[Outcome]]
) -> Results | None:
    """Run all orders and print a line for each as it ends. SIGINT and SIGTERM end the waiting, not the orders.

    Returns:
        What was printed; None if not every line could be, because the reader has stalled.
    """
    slots, ended, results = asyncio.Semaphore(concurrency), asyncio.Queue[Outcome](), Results()

    async def run(order: Order) -> None:
        try:
            async with slots:
                outcome = await run_order(order)
        except asyncio.CancelledError:
            outcome = Outcome(order.order_id, Status.UNKNOWN, "interrupted; if it was started, it goes on")
        ended.put_nowait(outcome)

    async def report() -> None:
        with progress_bar("orders", len(orders)) as advance:
            for _ in orders:
                # In a thread: a reader that stalls must not make this process deaf to signals.
                await asyncio.to_thread(results.print, await ended.get())
                advance()

    interrupted = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, interrupted.set)
    tasks = [asyncio.create_task(run(order)) for order in orders]
    reporting = asyncio.create_task(report())
    await asyncio.wait([reporting, asyncio.create_task(interrupted.wait())], return_when=asyncio.FIRST_COMPLETED)
    if interrupted.is_set():
        logger.info("interrupted; orders that were started go on. To attach again, run the same command again")
        for task in tasks:
            task.cancel()
        await asyncio.wait([reporting], timeout=LAST_WORDS_SECONDS)
    if not reporting.done():
        # The line that waits for the reader holds the lock of the stream: a flush of that stream would wait, too.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # as long as the process
    if len(orders) > 1:
        counts = Counter(outcome.status.value for outcome in results.outcomes)
        logger.info("outcomes: %s", ", ".join(f"{number} {status}" for status, number in counts.items()))
    return results if reporting.done() else None


@contextlib.contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Draw a bar on a terminal, below the log lines, if there is more than a screenful to do; give what advances it."""
    if not sys.stderr.isatty() or total <= SCREENFUL:
        yield lambda: None
        return
    # By default it would take the results, too, and show them on standard error.
    with Progress(console=Console(stderr=True), redirect_stdout=False) as progress:
        task = progress.add_task(what, total=total)
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(_AboveTheBar(progress.console))
        yield lambda: progress.advance(task)


class _AboveTheBar(io.TextIOBase):
    """Where log lines go while a bar is drawn; they are not wrapped, so that links in them stay whole."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, text: str) -> int:
        self._console.print(text, end="", soft_wrap=True, markup=False, highlight=False, emoji=False)
        return len(text)
