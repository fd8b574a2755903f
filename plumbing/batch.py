"""Many at a time: as many in flight as asked for, and a bar on a terminal."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from plumbing.process import when_told_to_stop

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

SCREENFUL = 40

logger = logging.getLogger("batch")


async def run_batch(
    items: Sequence[ItemT],
    concurrency: int,
    run: Callable[[ItemT], Awaitable[ResultT]],
    report: Callable[[ItemT, ResultT | BaseException], None],
) -> None:
    """Run all items, and report each as it ends: its result, or whatever error it met.

    SIGINT, SIGTERM and SIGHUP end the waiting: what has not ended is reported as `CancelledError`.
    """
    slots = asyncio.Semaphore(concurrency)

    async def run_one(item: ItemT) -> None:
        result: ResultT | BaseException
        try:
            async with slots:
                result = await run(item)
        except (Exception, asyncio.CancelledError) as error:
            result = error
        report(item, result)
        advance()

    def interrupt() -> None:
        logger.info("interrupted; what was started goes on. To attach again, run the same command again")
        for task in tasks:
            task.cancel()

    when_told_to_stop(interrupt)
    is_drawn = len(items) > SCREENFUL and sys.stderr.isatty()
    with bar_of(len(items)) if is_drawn else nullcontext(lambda: None) as advance:
        tasks = [asyncio.create_task(run_one(item)) for item in items]
        await asyncio.gather(*tasks)  # `report` may raise; a task catches all else


@contextmanager
def bar_of(total: int) -> Iterator[Callable[[], None]]:
    """Draw a bar below the log; give what moves it on by one."""
    from rich.console import Console  # not above: an eighth of the start of a program that draws none
    from rich.progress import Progress

    # Unwrapped, so that links in the log stay whole. Results on a terminal go above the bar; a file is left alone.
    is_shown = bool(sys.stdout and sys.stdout.isatty())
    with Progress(console=Console(stderr=True, soft_wrap=True), redirect_stdout=is_shown) as bar:
        for handler in logging.getLogger().handlers:
            if getattr(handler, "stream", None) is bar.console.file:
                handler.setStream(sys.stderr)  # type: ignore[attr-defined]  # The bar has put itself in its place.
        drawn = bar.add_task("", total=total)
        yield lambda: bar.advance(drawn)
