"""What the long commands share: a folder of their own that is gone afterwards, and a bar on the terminal."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from comparison.stage.processes import NotInTime, kill_all
from plumbing.connection import NoConnection
from plumbing.process import when_told_to_stop

INTERRUPTED = 130  # as shells say it of SIGINT


def in_own_folder(work: Callable[[Path], Coroutine[None, None, bool]]) -> int:
    """Run in a fresh folder, and kill in the end whatever was started there and still runs.

    The folder is kept only if something was not as expected; then it is said where it is.
    """
    directory = Path(tempfile.mkdtemp(prefix="comparison-"))
    problem = "not as expected"
    try:
        is_as_expected = asyncio.run(_until_interrupted(work, directory))
    except (NotInTime, NoConnection) as error:  # A machine too busy for our patience.
        is_as_expected, problem = False, str(error)
    except BaseException:
        print(f"the folder of this run is {directory}", file=sys.stderr)
        raise
    if is_as_expected is False:
        print(f"{problem}; the folder of this run is {directory}", file=sys.stderr)
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    if is_as_expected is None:
        print("interrupted; all processes are stopped", file=sys.stderr)
        return INTERRUPTED
    return 0


async def _until_interrupted(work: Callable[[Path], Coroutine[None, None, bool]], directory: Path) -> bool | None:
    """Return what the work returns; None if a signal ended it. No second signal disturbs its cleaning up."""
    working = asyncio.create_task(work(directory))
    interrupted = asyncio.create_task(interruption().wait())
    await asyncio.wait([working, interrupted], return_when=asyncio.FIRST_COMPLETED)
    is_interrupted = not working.done()
    others = asyncio.all_tasks() - {asyncio.current_task()}  # Supervisors among them: nothing is started again.
    for task in others:
        task.cancel()
    await asyncio.wait([*others, working])
    await kill_all(directory)
    if not is_interrupted:
        return working.result()
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The loop's handlers end with the loop, and a folder is still to be removed.
        asyncio.get_running_loop().remove_signal_handler(signal_number)
        signal.signal(signal_number, signal.SIG_IGN)
    return None


def interruption() -> asyncio.Event:
    """Return an event that is set, from here on, by Ctrl-C, `kill`, or a terminal that is closed."""
    interrupted = asyncio.Event()
    when_told_to_stop(interrupted.set)
    return interrupted


def new_file(text: str) -> Path:
    """Read an option that names a file to write, before the work whose result goes there.

    Raises:
        argparse.ArgumentTypeError: if there is no folder for it, or if it is a folder itself.
    """
    if Path(text).is_dir() or not Path(text).absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text or '(empty)'} is a folder, or there is no folder for it")
    return Path(text)


def make_progress() -> Progress:
    """Return a bar on standard error, only on a terminal; drawn once a second, since the benchmark counts its CPU."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, refresh_per_second=1, transient=True, disable=not console.is_terminal)
