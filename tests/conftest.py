"""Shops, servers, workers and orders of the tests: real ones, on free ports and in folders of their own."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import forked
import pytest
from postgres_server import FOLDERS, PostgresServer
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.testing import WorkflowEnvironment
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it has no types

from comparison.stage.processes import Program, Server, Worker
from plumbing.converters import StrictPayloadConverter
from shop.ledger import Ledger, read_ledger
from shop.orders import SAMPLE_ORDER, Order
from shop.shop import Shop
from shop.stores.location import Location, PostgresUrl
from workflows import ORDER_STATUS

pytest_plugins = ["counter"]  # a fixture

PROGRAMS = Path(sys.executable).parent
TEMPORAL, TEST_SERVER = PROGRAMS / "temporal", str(PROGRAMS / "temporal-test-server")
NORTHWIND = Path(__file__).resolve().parent.parent / "examples" / "northwind"

# These keep both cores busy on their own: one after the other, in the same process.
HEAVY = ("test_crashes", "test_comparison")
LONGEST_FIRST = (
    *HEAVY,
    "test_documents",
    "test_run_worker",
    "test_deployments",
    "test_run_workflow",
    "test_new_runs",
    "test_encryption",
    "test_starting",
)


class ModulesStayTogether(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """Gives a process whole modules, the heavy ones all to the same.

    `--dist loadgroup` would do, but has no effect with pytest 9.2: https://github.com/pytest-dev/pytest-xdist/issues/1386
    """

    def _split_scope(self, nodeid: str) -> str:
        module = Path(nodeid.partition("::")[0]).stem
        return "heavy" if module in HEAVY else module


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ModulesStayTogether:
    """Tell pytest-xdist which tests stay together."""
    return ModulesStayTogether(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: it is not left alone at the end."""
    place = {module: number for number, module in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def make_order(order_id: str = "1", **changes: object) -> Order:
    """Return the sample order with another id, and with `changes`."""
    return replace(SAMPLE_ORDER, order_id=order_id, **changes)  # type: ignore[arg-type]  # fields by name


def write_orders(path: Path, *orders: Order) -> Path:
    """Write a JSON Lines file."""
    path.write_text("".join(json.dumps(asdict(order)) + "\n" for order in orders))
    return path


def address_of(location: Location) -> str:
    """Return what to write for `--data`."""
    return location.secret if isinstance(location, PostgresUrl) else str(location)


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("TEMPORAL_", "SHOP_", "PAYLOAD_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", os.devnull)


def pytest_configure(config: pytest.Config) -> None:
    """Let programs hear SIGINT and SIGHUP, also where the tests run in the background of a shell, or under nohup."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runs_tests = "PYTEST_XDIST_WORKER" in os.environ or not config.getoption("numprocesses", None)
    if runs_tests and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # A program inherits what is ignored, but no handler.
        signal.signal(signal.SIGHUP, lambda signal_number, frame: None)


@pytest.fixture(scope="session", autouse=True)
def _programs_are_forked() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "spawn", staticmethod(forked.spawn))
        yield


@pytest.fixture(scope="session")
async def quick_python() -> AsyncIterator[Path]:
    """Give a folder with a `python` for a shell, that has our programs forked."""
    python = forked.ForkingPython()
    yield python.folder
    python.close()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Open a fresh shop with the built-in catalogue, in which nothing goes wrong."""
    opened = Shop(tmp_path / "shop")
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Run one PostgreSQL server for the whole session; each test gets its database empty."""
    if not FOLDERS:
        pytest.skip("PostgreSQL is not installed (Debian's package: postgresql)")
    started = PostgresServer()
    started.start()
    yield started
    started.stop()


@pytest.fixture(params=["sqlite", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Location]:
    """Give a place for a fresh shop, in the one store and in the other."""
    if request.param == "sqlite":
        yield tmp_path / "shop"
    else:
        yield request.getfixturevalue("database")


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[PostgresUrl]:
    """Give an empty database; empty it afterwards."""
    yield postgres.url()
    postgres.empty()


class OthersServer(Server):
    """A server that another process has started."""

    is_running = True
    pid = 0


@pytest.fixture(scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """Run one Temporal server for all processes of the session; `stage` gives each test a namespace of its own.

    Who needs it first starts it; who leaves last kills it.
    """
    own_folder = tmp_path_factory.getbasetemp()
    directory = (own_folder.parent if "PYTEST_XDIST_WORKER" in os.environ else own_folder) / "server"
    directory.mkdir(exist_ok=True)
    note = directory / "port-and-pid"
    with (directory / "door").open("w") as door, (directory / "users").open("w") as users:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)
        if not note.exists():
            started = Server(directory)
            await started.start()
            note.write_text(f"{started.port} {started.pid}")
        fcntl.flock(door, fcntl.LOCK_UN)
        port, pid = map(int, note.read_text().split())
        shared = OthersServer(directory, port)
        shared.pid = pid
        yield shared
        fcntl.flock(door, fcntl.LOCK_EX)
        with suppress(BlockingIOError):  # the others
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            note.unlink()
            os.kill(pid, signal.SIGKILL)  # sooner than to stop it


@dataclass
class Stage:
    """A namespace on a server, a data directory, and the programs that a test starts on them."""

    server: Server
    namespace: str
    client: Client
    directory: Path
    started: list[Program] = field(default_factory=list)

    @property
    def data(self) -> Path:
        """Return the shop's data directory."""
        return self.directory / "shop"

    @property
    def settings(self) -> dict[str, str]:
        """Return the environment of the programs."""
        return self.server.settings(self.namespace)

    async def start_worker(self, faults: str = "") -> Worker:
        """Start a worker and wait until it serves."""
        worker = Worker(self.directory / f"worker-{len(self.started)}", self.settings, self.data, faults)
        self.started.append(worker)
        await worker.start()
        return worker

    def starter(self, *orders: Order) -> Program:
        """Return the starter for a file of `orders`, not yet started."""
        path = write_orders(self.directory / f"orders-{len(self.started)}.jsonl", *orders)
        program = Program(self.directory / f"starter-{len(self.started)}", self.settings, "run_workflow.py", str(path))
        self.started.append(program)
        return program

    async def run_orders(self, *orders: Order) -> tuple[int, dict[str, str]]:
        """Run the starter to its end; return its exit status and the status that it printed for each order."""
        starter = self.starter(*orders)
        status = await starter.run()
        return status, {line.split("\t")[0]: line.split("\t")[1] for line in starter.lines()}

    async def temporal(self, *arguments: str) -> None:
        """Do something as somebody with the `temporal` program would."""
        where = ("--address", self.server.address, "--namespace", self.namespace)
        process = await asyncio.create_subprocess_exec(
            TEMPORAL, *arguments, *where, env=self.settings, stdout=asyncio.subprocess.DEVNULL
        )
        assert await asyncio.wait_for(process.wait(), 30) == 0

    def ledger(self) -> Ledger:
        """Read what happened in the shop."""
        return read_ledger(self.data)


async def make_stage(server: Server, directory: Path) -> Stage:
    """Make a stage with a namespace of its own."""
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    await server.add_namespace(namespace)
    return Stage(server, namespace, await server.client(namespace), directory)


@pytest.fixture
async def stage(server: Server, tmp_path: Path) -> AsyncIterator[Stage]:
    """Give a test a namespace of its own on the session's server; stop afterwards what it started."""
    made = await make_stage(server, tmp_path)
    yield made
    for program in made.started:
        await program.kill()


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[Server]:
    """Run a server that the test may kill."""
    started = Server(tmp_path / "server")
    await started.start()
    yield started
    await started.kill()


@pytest.fixture
async def environment() -> AsyncIterator[WorkflowEnvironment]:
    """Run a server that skips time, for one test."""
    async with await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=TEST_SERVER,
        data_converter=replace(DataConverter.default, payload_converter_class=StrictPayloadConverter),
    ) as started:
        # An order hangs on a server that does not know the attribute.
        await started.client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=started.client.namespace,
                search_attributes={ORDER_STATUS.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD},
            )
        )
        yield started
