"""The programs, forked from a process that has imported what they import: that is most of what they cost a test.

A real process for each, with its own memory, streams, settings and end. That the programs also start from nothing is
seen where a test or a page runs them by their command.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from comparison.stage.processes import ROOT

PROGRAMS = ("order_processor", "run_worker", "run_workflow")
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([*PROGRAMS])


class ForkedProcess:
    """What `Program` knows of an `asyncio.subprocess.Process`. Belongs to the running loop."""

    def __init__(self, arguments: tuple[str, ...], streams: tuple[str, ...], settings: Mapping[str, str]) -> None:
        """Start it."""
        self._process = FORKS.Process(target=run, args=(arguments, streams, dict(settings)), daemon=True)
        self._process.start()
        assert self._process.pid
        self.pid: int = self._process.pid
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._process.sentinel, self._end)

    @property
    def returncode(self) -> int | None:
        """Return the exit status, minus the signal that killed it, or None while it runs."""
        return self._process.exitcode

    async def wait(self) -> int | None:
        """Wait for its end."""
        await self._ended.wait()
        return self.returncode

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._ended.set()


async def spawn(
    executable: str,
    *arguments: str,
    stdin: IO[Any],  # files, of whatever kind
    stdout: IO[Any],
    stderr: IO[Any],
    cwd: Path,
    env: Mapping[str, str],
) -> ForkedProcess | asyncio.subprocess.Process:
    """Fork one of our programs; start any other, as `asyncio.create_subprocess_exec` does."""
    if (executable, cwd) == (sys.executable, ROOT) and arguments[0].removesuffix(".py") in PROGRAMS:
        streams = tuple(stream.name for stream in (stdin, stdout, stderr))
        return ForkedProcess(arguments, streams, env)
    return await asyncio.create_subprocess_exec(
        executable, *arguments, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env
    )


def run(arguments: tuple[str, ...], streams: tuple[str, ...], settings: dict[str, str]) -> None:
    """Be the program, in a process that was just forked."""
    for number, (name, flags) in enumerate(zip(streams, (os.O_RDONLY, *[os.O_WRONLY | os.O_APPEND] * 2), strict=True)):
        os.dup2(os.open(name, flags), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # multiprocessing has put /dev/null in its place
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(settings)
    sys.argv = [*arguments]
    runpy.run_path(arguments[0], run_name="__main__")
