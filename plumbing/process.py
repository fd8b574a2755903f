"""A program around the SDK: its logs, and a process that ends when it is told to, with the status that it says."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import NoReturn

from temporalio.exceptions import ApplicationError

from shop.errors import ShopError
from shop.terminal.streams import run_program


def log_to_stderr() -> None:
    """Send all logs to standard error, an expected failure in one line."""
    logging.raiseExceptions = False  # a full disk stops the log, not the orders
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_shorten_shop_errors)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=[handler])


def run_loop(work: Coroutine[None, None, int]) -> int:
    """Run `work` as `asyncio.run` does, but do not wait for what it leaves behind: a call that hangs has no end."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(work)


def run_and_exit(name: str, main: Callable[[], int]) -> NoReturn:
    """Run `main` and end the process with the status it returns, whatever threads are left.

    The SDK's native threads sometimes crash or hang at exit, see https://github.com/temporalio/sdk-python/issues/300,
    and a call that hangs keeps its thread.
    """
    status = 1
    try:
        status = run_program(name, main)
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def _shorten_shop_errors(record: logging.LogRecord) -> bool:
    """Replace the traceback of an attempt that the shop did not answer with yes by what the shop said."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, (ShopError, ApplicationError)):
        attempt = getattr(record, "temporal_activity", {})
        kind = error.type if isinstance(error, ApplicationError) else type(error).__name__
        reason = error.message if isinstance(error, ApplicationError) else error
        record.msg = "%s: %s: attempt %s failed: %s: %s"
        record.args = (attempt.get("workflow_id"), attempt.get("activity_type"), attempt.get("attempt"), kind, reason)
        record.exc_info = record.exc_text = None
    return True
