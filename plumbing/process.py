"""A process around the SDK: its log, its threads, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import NoReturn

from temporalio.exceptions import ApplicationError

at_exit = contextlib.ExitStack()  # What `run_and_exit` calls last. `atexit` has no part in it.


def log_to_stderr() -> None:
    """Send all logs to standard error, an expected failure of a step in one line."""
    logging.raiseExceptions = False  # A full disk stops the log, not the work.
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_shorten_expected_failure)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=[handler])


def _shorten_expected_failure(record: logging.LogRecord) -> bool:
    """Replace the traceback of a step's `ApplicationError`: whoever raises one has expected it."""
    attempt, error = getattr(record, "temporal_activity", None), record.exc_info and record.exc_info[1]
    if record.name == "temporalio.activity" and isinstance(error, ApplicationError):
        if attempt:
            record.msg = "%s: %s: attempt %s failed: %s"
            whose = attempt["workflow_id"] or "on its own"
            record.args = (whose, attempt["activity_type"], attempt["attempt"], error)
        else:  # of an activity that this worker does not know: the error names it, and its workflow
            record.msg, record.args = "a step failed: %s", (error,)
        record.exc_info = record.exc_text = None
    return True


# For a worker: so long a workflow waits for a killed one that has it cached. The default is 10 s; half a second strikes
# healthy workers under load.
STICKY_TIMEOUT = timedelta(seconds=1)


class PatientThreads(ThreadPoolExecutor):
    """Lets work wait where the machine gives no more threads; by default it fails, and uses up a step's attempts."""

    def __init__(self, max_workers: int) -> None:
        """Start one thread: it does what waits."""
        super().__init__(max_workers)
        self.submit(int).result()

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise


def when_told_to_stop(call: Callable[[], None]) -> None:
    """Have SIGINT, SIGTERM and SIGHUP (unless `nohup` has it ignored) call back in the running loop."""
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, call)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, call)


def run_and_exit(main: Callable[[], int]) -> NoReturn:
    """Run `main`, and end the process with the status that it returns.

    The SDK's native threads sometimes crash at exit: https://github.com/temporalio/sdk-python/issues/300
    """
    status = 1
    try:
        status = main()
    except SystemExit as request:  # from argparse, which has said why
        status = request.code if isinstance(request.code, int) else int(request.code is not None)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        at_exit.close()
        logging.shutdown()
        with contextlib.suppress(OSError, ValueError):
            if sys.stdout:  # None if it was closed, by `>&-`
                sys.stdout.flush()
        os._exit(status)
