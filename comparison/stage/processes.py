"""The supervisor: real processes on free ports and in folders of their own, started, killed by id, started again."""

from __future__ import annotations

import asyncio
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from plumbing.connection import NoConnection, connect

ROOT = Path(__file__).resolve().parent.parent.parent
# A busy machine: a worker that serves after a second here has taken half a minute elsewhere.
READY_TIMEOUT_SECONDS = 90.0
STOP_TIMEOUT_SECONDS = 20.0
POLL_SECONDS = 0.05
ANSWER_TIMEOUT = timedelta(seconds=1)
# Not port 0: a server first asks for a few ports of any number, and could be given the one that we have chosen for it.
# Linux gives out those from 32768, macOS those from 49152.
PORTS = range(20_000, 31_000)


def clean_environment(**settings: str) -> dict[str, str]:
    """Return this process's environment without any setting of Temporal, the shop or OpenTelemetry; with `settings`.

    Python may write its bytecode: a worker that may not compiles `workflows.py` anew for every order.
    """
    ours = ("TEMPORAL_", "SHOP_", "PAYLOAD_", "OTEL_", "PYTHONDONTWRITEBYTECODE")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    # An empty profile file: the user's own must not decide where we connect to.
    return {**inherited, "TEMPORAL_CONFIG_FILE": os.devnull, "PYTHONUNBUFFERED": "1", **settings}


def free_port() -> int:
    """Return a port that is free on 127.0.0.1, as is the one 1000 above it, where the UI goes."""
    while True:
        port = random.choice(PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            socket.create_server(("127.0.0.1", port + 1000)).close()
            return port


class NotInTime(Exception):
    """What was waited for did not happen; the message says what, and for how long it was waited for."""


async def wait_until(condition: Callable[[], bool], what: str, timeout_seconds: float = READY_TIMEOUT_SECONDS) -> None:
    """Wait until `condition` holds.

    Raises:
        NotInTime: if it does not.
    """
    deadline = asyncio.get_running_loop().time() + timeout_seconds
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise NotInTime(f"waited {timeout_seconds:.0f} s in vain: {what}")
        await asyncio.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class LogEntry:
    """What the supervisor saw of a program, in seconds since the epoch; `status` when it has ended."""

    at: float
    what: str
    status: int | None = None


class Program:
    """One of the repository's programs as a process. Its output goes to `<log>.out` and `<log>.err`, appended to.

    It has started when it has written, once more, the word by which it tells that it is `ready`, if there is one.
    """

    ready = ""
    executable = sys.executable
    tree = ROOT
    spawn: ClassVar[Callable[..., subprocess.Popen[bytes]]] = subprocess.Popen
    started: ClassVar[set[Program]] = set()  # and not seen to have ended

    def __init__(self, log: Path, environment: Mapping[str, str], *arguments: str) -> None:
        """Describe the process; `start` starts it."""
        self.output, self.errors = log.with_suffix(".out"), log.with_suffix(".err")
        self.arguments = arguments
        self.environment = dict(environment)
        self.process: subprocess.Popen[bytes] | None = None
        self.standard_input = Path(os.devnull)
        self.log: list[LogEntry] = []

    async def start(self) -> None:
        """Start it, or start it again; wait until it is ready, or has ended.

        Raises:
            NotInTime: if it is not.
        """
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.log.append(LogEntry(time.time(), f"{self.name} starts"))
        with self.output.open("ab") as output, self.errors.open("ab") as errors, self.standard_input.open() as lines:
            times_before = self._times_ready()
            # Not asyncio's: it may wait for ever where it is cancelled while it starts a process.
            self.process = self.spawn(
                (self.executable, *self.arguments),
                stdin=lines,
                stdout=output,
                stderr=errors,
                cwd=self.tree,
                env=self.environment,
            )
        self.started.add(self)
        if self.ready:
            await wait_until(lambda: self._times_ready() > times_before or not self.is_running, f"{self.name} is ready")

    def _times_ready(self) -> int:
        return self.errors.read_text().count(self.ready)

    @property
    def name(self) -> str:
        """Return what Python runs: a file, or a module behind `-m`."""
        return next(argument for argument in self.arguments if argument != "-m")

    @property
    def pid(self) -> int:
        """Return the process id."""
        assert self.process is not None, "start it first"
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Tell whether it was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    async def wait(self, timeout_seconds: float = math.inf) -> int:
        """Wait for its end; return the exit status, or minus the signal that killed it.

        Raises:
            NotInTime: if it does not end.
        """
        assert self.process is not None, "start it first"
        process = self.process
        await wait_until(lambda: process.poll() is not None, f"{self.name} ends", timeout_seconds)
        status = process.returncode
        # Not where somebody else has waited, too, and has started it again.
        if process is self.process and self.log[-1].status is None:
            self.started.discard(self)
            how = "killed" if status == -signal.SIGKILL else "ends"
            self.log.append(LogEntry(time.time(), f"{self.name} {how}", status))
        return status

    async def run(self, timeout_seconds: float = 90.0) -> int:
        """Start it and wait for its end."""
        await self.start()
        return await self.wait(timeout_seconds)

    def signal(self, signal_number: int) -> None:
        """Send it a signal, if it is still there."""
        if self.is_running:
            os.kill(self.pid, signal_number)

    async def kill(self) -> None:
        """Kill it with SIGKILL, if it runs: it gets no chance to clean up."""
        if self.is_running:
            self.signal(signal.SIGKILL)
            await self.wait()

    async def stop(self) -> None:
        """Ask it to stop, if it runs; kill it if it does not."""
        if self.is_running:
            self.signal(signal.SIGTERM)
            with suppress(NotInTime):
                await self.wait(STOP_TIMEOUT_SECONDS)
            await self.kill()

    def lines(self) -> list[str]:
        """Return what it wrote to standard output so far, over all its starts."""
        return self.output.read_text().splitlines()


async def kill_all(directory: Path) -> None:
    """Kill all programs that were started with a log somewhere in `directory` and that still run."""
    await asyncio.gather(*(program.kill() for program in Program.started if directory in program.output.parents))


class Server(Program):
    """A Temporal server with its state in a file: what was killed and is started again goes on."""

    def __init__(self, directory: Path, port: int | None = None) -> None:
        """Take a port, a free one if none is given; keep state and log in `directory`."""
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.ui = f"http://127.0.0.1:{self.port + 1000}"
        self.database = directory / "temporal.sqlite3"
        self._clients: dict[str, Client] = {}
        options = (f"--port={self.port}", f"--db={self.database}")
        super().__init__(directory / "server", clean_environment(), "run_server.py", *options)

    async def start(self) -> None:
        """Start it and wait until it serves."""
        await super().start()
        await self.client()

    def settings(self, namespace: str = "default") -> dict[str, str]:
        """Return the environment that makes a program connect here."""
        return clean_environment(TEMPORAL_ADDRESS=self.address, TEMPORAL_NAMESPACE=namespace)

    async def add_namespace(self, namespace: str) -> None:
        """Make a namespace: workers and orders in different ones do not see each other."""
        client = await self.client()
        await client.workflow_service.register_namespace(
            RegisterNamespaceRequest(namespace=namespace, workflow_execution_retention_period=Duration(seconds=86_400))
        )

    async def client(self, namespace: str = "default") -> Client:
        """Return a client, as soon as the server answers: one a namespace, which outlives a restart of the server.

        Raises:
            NoConnection: if the server is not there any more, or does not answer.
        """
        deadline = asyncio.get_running_loop().time() + READY_TIMEOUT_SECONDS
        while True:
            try:
                if namespace not in self._clients:
                    self._clients[namespace] = await connect(self.settings(namespace))
                client = self._clients[namespace]
                request = DescribeNamespaceRequest(namespace=namespace)
                await client.workflow_service.describe_namespace(request, timeout=ANSWER_TIMEOUT)
                return client
            except (NoConnection, RPCError) as error:
                if not self.is_running or asyncio.get_running_loop().time() > deadline:
                    log = " ".join(self.errors.read_text().splitlines()[-2:])
                    raise NoConnection(f"the server at {self.address} is away: {error}; its log: {log}") from error
                await asyncio.sleep(POLL_SECONDS)


class Worker(Program):
    """A worker on a server, with a shop."""

    ready = "serving"

    def __init__(self, log: Path, settings: Mapping[str, str], data: Path | str, faults: str = "") -> None:
        """Serve the shop in `data`, a folder or a URL, on the server and namespace that `settings` name."""
        super().__init__(log, settings, "run_worker.py", f"--data={data}", f"--faults={faults}")
