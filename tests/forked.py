"""The programs, forked from a process that has imported what they import: that is most of what they cost a test.

A real process for each, with its own memory, streams, settings and end. That the programs also start from nothing is
seen where a shell starts them, on README.md's page and in other tests.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from comparison.stage.processes import POLL_SECONDS, ROOT

PROGRAMS = ("order_processor.py", "run_worker.py", "run_workflow.py")
MODULES = ("examples.codec_endpoint", "examples.durable_loop", "examples.http_orders", "examples.large_order")
OF_OTHERS = ("cryptography.hazmat.primitives.ciphers.aead", "starlette.applications", "uvicorn")
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([*(name.removesuffix(".py") for name in PROGRAMS), *OF_OTHERS])


class ForkedProcess:
    """What `Program` knows of a `subprocess.Popen`."""

    def __init__(
        self, arguments: Sequence[str], directory: Path, settings: Mapping[str, str], streams: Sequence[int]
    ) -> None:
        """Start it in a folder, with these settings alone, and standard input, output and error."""
        # Connections: of all that holds a descriptor, they can be handed to another process.
        ends = [Connection(os.dup(stream)) for stream in streams]
        self._process = FORKS.Process(target=run, args=(arguments, directory, dict(settings), ends), daemon=True)
        self._process.start()
        assert self._process.pid
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Return the exit status, minus the signal that killed it, or None while it runs."""
        return self.returncode

    def wait(self) -> int | None:
        """Wait for its end; return the exit status."""
        self._process.join()
        return self.returncode

    @property
    def returncode(self) -> int | None:
        """Return the exit status, if it has ended."""
        return self._process.exitcode


def spawn(
    command: Sequence[str],
    *,
    stdin: IO[Any],  # files, of whatever kind
    stdout: IO[Any],
    stderr: IO[Any],
    cwd: Path,
    env: Mapping[str, str],
) -> ForkedProcess | subprocess.Popen[bytes]:
    """Fork one of our programs; start any other, as `subprocess.Popen` does."""
    executable, *arguments = command
    if executable == sys.executable and {*arguments[:2]} & {*PROGRAMS, *MODULES}:
        return ForkedProcess(arguments, cwd, env, [stream.fileno() for stream in (stdin, stdout, stderr)])
    return subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env)


def run(arguments: Sequence[str], directory: Path, settings: dict[str, str], streams: list[Connection]) -> None:
    """Be the program, in a process that was just forked."""
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # multiprocessing has put /dev/null in its place
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(settings)
    program = arguments[1] if arguments[0] == "-m" else arguments[0]
    if directory != ROOT:  # a copy of the tree has code of its own
        ours = {path.stem for path in ROOT.iterdir()}
        for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
            del sys.modules[name]
    sys.path[:] = [str(directory), *(path for path in sys.path if path not in (str(ROOT), str(ROOT / "tests")))]
    sys.argv = [program, *arguments[arguments.index(program) + 1 :]]
    if arguments[0] == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str((directory / program).parent)
        runpy.run_path(program, run_name="__main__")


# What stands for `python` in a shell: asks for a fork of this process's, and ends as that does.
PYTHON = f"""#!{sys.executable} -SE
import json, os, signal, socket, sys
arguments = sys.argv[1:]
if not {{os.path.basename(arguments[0]), *arguments[1:2]}} & {{*{(*PROGRAMS[1:], *MODULES)}}}:
    os.execv(sys.executable, [sys.executable, *arguments])
door = socket.socket(socket.AF_UNIX)
door.connect(os.path.join(os.path.dirname(__file__), "door"))
socket.send_fds(door, [json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()], [0, 1, 2])
answers = door.makefile()
pid = int(answers.readline())
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
status = int(answers.readline())
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


class ForkingPython:
    """A folder with a `python` that, where it would start one of our programs, has it forked."""

    def __init__(self) -> None:
        """Make the folder."""
        self._directory = tempfile.TemporaryDirectory()  # a short name: a socket's has its limit
        self.folder = Path(self._directory.name)
        (self.folder / "python").write_text(PYTHON)
        (self.folder / "python").chmod(0o755)
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(self.folder / "door"))
        self._door.listen()
        self._answers: set[asyncio.Task[None]] = set()
        asyncio.get_running_loop().add_reader(self._door, self._fork)

    def close(self) -> None:
        """Remove the folder."""
        asyncio.get_running_loop().remove_reader(self._door)
        self._door.close()
        self._directory.cleanup()

    def _fork(self) -> None:
        asked, _ = self._door.accept()
        request, streams, _, _ = socket.recv_fds(asked, 1_000_000, 3)
        arguments, directory, settings = json.loads(request)
        process = ForkedProcess(arguments, Path(directory), settings, streams)
        for stream in streams:
            os.close(stream)
        answer = asyncio.create_task(self._answer(asked, process))
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

    async def _answer(self, asked: socket.socket, process: ForkedProcess) -> None:
        with asked, suppress(OSError):  # whoever asked was killed
            asked.sendall(f"{process.pid}\n".encode())
            while (status := process.poll()) is None:
                await asyncio.sleep(POLL_SECONDS)
            asked.sendall(f"{status}\n".encode())
