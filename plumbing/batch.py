"""Many at a time: as many in flight as asked for, and a bar on a terminal."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

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
    is_drawn = len(items) > SCREENFUL and sys.stderr.isatty()
    # Unwrapped, so that links in the log stay whole. By default the bar would take standard output, too.
    bar = Progress(console=Console(stderr=True, soft_wrap=True), redirect_stdout=False, disable=not is_drawn)

    async def run_one(item: ItemT) -> None:
        result: ResultT | BaseException
        try:
            async with slots:
                result = await run(item)
        except (Exception, asyncio.CancelledError) as error:
            result = error
        report(item, result)
        bar.advance(drawn)

    def interrupt() -> None:
        logger.info("interrupted; what was started goes on. To attach again, run the same command again")
        for task in tasks:
            task.cancel()

    when_told_to_stop(interrupt)
    with bar:
        drawn = bar.add_task("", total=len(items))
        for handler in logging.getLogger().handlers:
            if is_drawn and getattr(handler, "stream", None) is bar.console.file:
                handler.setStream(sys.stderr)  # type: ignore[attr-defined]  # The bar has put itself in its place.
        tasks = [asyncio.create_task(run_one(item)) for item in items]
        await asyncio.gather(*tasks)  # `report` may raise; a task catches all else
