"""run_server.py: a local server that keeps its state, or one sentence on why there is none."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from conftest import Stage
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client

from comparison.stage.processes import ROOT, Program, Server, clean_environment, free_port, wait_until
from plumbing.connection import NoConnection, connect
from run_server import SETTINGS
from run_workflow import run_order
from shop.orders import SAMPLE_ORDER, Status

# How much of its log a server has written, in bytes, when it is killed in its first start. In all it writes 1.7 MB:
# first its tables, then those of its search index, then the namespaces `default` and `temporal-system`.
MOMENTS = (0, 32, 50_000, 400_000, 660_000, 1_000_000, 1_500_000, 1_600_000, 1_639_000, 1_664_000, 1_680_000)


def run_server(tmp_path: Path, *options: str) -> Program:
    """Return a server that is not yet started; what is not given is a free port, or a file in `tmp_path`."""
    defaults = (f"--port={free_port()}", f"--db={tmp_path / 'db' / 'state'}")
    return Program(tmp_path / "server", clean_environment(), "run_server.py", *defaults, *options)


def listens(port: int) -> bool:
    """Tell whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def addresses_listened_on(pid: int) -> set[str]:
    """Return the addresses of all sockets on which a process listens, as Linux writes them."""
    files = Path(f"/proc/{pid}/fd")
    sockets = {os.readlink(file) for file in files.iterdir()}
    tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


def size_of_log(database: Path) -> int:
    """Return how many bytes a server has written, or -1 if it has not even made its file."""
    log = Path(f"{database}-wal")
    return log.stat().st_size if log.exists() else 0 if database.exists() else -1


def namespaces_in(database: Path, copy: Path) -> list[str]:
    """Return the namespaces in a server's file, read from a copy: the file stays as the server left it."""
    shutil.copytree(database.parent, copy)
    with closing(sqlite3.connect(copy / database.name)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'namespaces'").fetchone():
            return []
        return [name for (name,) in connection.execute("SELECT name FROM namespaces")]


async def status_of(program: Program) -> int:
    """Return the exit status of a program that is expected to end soon by itself; leave none behind if it does not."""
    try:
        return await program.run(20)
    finally:
        await program.stop()


def ended_in_one_sentence(program: Program) -> str:
    """Return the one line that a program which refused to start wrote."""
    assert program.lines() == []
    (sentence,) = program.errors.read_text().splitlines()
    return sentence


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[Server]:
    """Start a server and wait until it serves; kill it afterwards, which takes it a second less than to stop."""
    try:
        await server.start()
        yield server
    finally:
        await server.kill()


async def connect_when_healthy(address: str) -> Client:
    """Connect, once the server that listens also answers."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return await connect(clean_environment(TEMPORAL_ADDRESS=address))
        except NoConnection:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


def test_the_server_knows_each_dynamic_setting() -> None:
    names = [setting.split("=")[1] for setting in SETTINGS if setting.startswith("--dynamic-config-value=")]
    program = (Path(sys.executable).parent / "temporal").read_bytes()

    # It takes any name, and ignores what it does not know.
    unknown = [name for name in names if name.encode() not in program]

    assert names
    assert unknown == []


async def test_the_queues_drop_what_they_have_finished_long_before_the_servers_own_half_minute(
    own_server: Server,
) -> None:
    client = await own_server.client()
    await client.start_workflow("OrderWorkflow", id="order-1", task_queue="nobody-listens")

    with closing(sqlite3.connect(own_server.database)) as connection:
        await wait_until(lambda: tasks_in(connection) == 0, "both queues are empty", 15)
        (workflows,) = connection.execute("SELECT count(*) FROM executions").fetchone()

    assert workflows >= 1


def tasks_in(connection: sqlite3.Connection) -> int:
    """Count the tasks in the queues from which a workflow's steps and its entries in searches are made."""
    queues = "SELECT task_id FROM transfer_tasks UNION ALL SELECT task_id FROM visibility_tasks"
    (number,) = connection.execute(f"SELECT count(*) FROM ({queues})").fetchone()
    return int(number)


async def test_server_and_ui_answer_on_the_given_ports(tmp_path: Path) -> None:
    port, ui_port = free_port(), free_port()
    program = run_server(tmp_path, f"--port={port}", f"--ui-port={ui_port}", f"--db={tmp_path / 'new' / 'state'}")

    await program.start()
    try:
        await wait_until(lambda: not program.is_running or (listens(port) and listens(ui_port)), "the ports answer")
        client = await connect_when_healthy(f"127.0.0.1:{port}")
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        page = direct.open(f"http://127.0.0.1:{ui_port}", timeout=10).read()
    finally:
        await program.kill()

    assert client.namespace == "default"
    assert b"<html" in page
    assert f"Temporal server at 127.0.0.1:{port}, UI at http://localhost:{ui_port}\n" in program.errors.read_text()
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_it_listens_on_this_machine_only(server: Server) -> None:
    assert addresses_listened_on(server.pid) == {"0100007F"}


async def test_order_status_is_registered_as_a_keyword(server: Server) -> None:
    client = await server.client()

    known = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace="default"))

    assert known.custom_attributes["OrderStatus"] == IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD


@pytest.mark.parametrize("option", ["--port", "--ui-port"])
async def test_a_port_that_is_taken_is_named_with_its_option_and_nothing_is_started(
    tmp_path: Path, option: str
) -> None:
    ports = {"--port": free_port(), "--ui-port": free_port()}
    program = run_server(tmp_path, *[f"{name}={port}" for name, port in ports.items()])

    with socket.create_server(("127.0.0.1", ports[option])):
        status = await status_of(program)

    sentence = ended_in_one_sentence(program)
    assert status == 1
    assert f"port {ports[option]} cannot be used" in sentence
    assert sentence.split()[-1] == option
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--port=0"],
        ["--port=65536"],
        ["--ui-port=0"],
        ["--ui-port=-1"],
        ["--port=65000"],
        ["--port=x"],
        ["--port=20000", "--ui-port=20000"],
    ],
)
async def test_ports_that_cannot_be_are_bad_usage(tmp_path: Path, options: list[str]) -> None:
    program = run_server(tmp_path, *options)

    status = await status_of(program)

    assert status == 2
    assert program.lines() == []
    assert "port" in program.errors.read_text().splitlines()[-1]
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize("name", ["100%.sqlite3", "what?.sqlite3", "no#1.sqlite3"])
async def test_a_file_name_that_the_server_would_read_as_another_is_bad_usage(tmp_path: Path, name: str) -> None:
    program = run_server(tmp_path, f"--db={tmp_path / 'db' / name}")

    status = await status_of(program)

    assert status == 2
    assert name in program.errors.read_text().splitlines()[-1]
    assert not (tmp_path / "db").exists()


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    program = run_server(tmp_path, f"--db={tmp_path / 'file' / 'state.sqlite3'}")

    status = await status_of(program)

    assert status == 2
    assert str(tmp_path / "file") in ended_in_one_sentence(program)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    program = run_server(tmp_path, f"--db={folder / 'state.sqlite3'}")

    status = await status_of(program)

    assert status == 2
    assert str(folder) in ended_in_one_sentence(program)


@pytest.mark.parametrize("place", [".", "/dev/null"])
async def test_what_is_not_a_file_is_named_and_left_alone(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    program = run_server(tmp_path, f"--db={path}")

    status = await status_of(program)

    assert status == 2
    assert f"{path} cannot hold a server's state: it is not a file" in ended_in_one_sentence(program)
    assert path.exists()
    assert not Path(f"{path}.lock").exists()


async def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    database = tmp_path / "payments.sqlite3"
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript("CREATE TABLE charges (amount_cents); INSERT INTO charges VALUES (4390)")
    content = database.read_bytes()
    program = run_server(tmp_path, f"--db={database}")

    status = await status_of(program)

    assert status == 2
    assert "no such table: namespaces" in ended_in_one_sentence(program)
    assert database.read_bytes() == content


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    text = "1001\tcompleted\ttxn_1\n" * 100
    (tmp_path / "outcomes.tsv").write_text(text)
    program = run_server(tmp_path, f"--db={tmp_path / 'outcomes.tsv'}")

    status = await status_of(program)

    assert status == 2
    assert "file is not a database" in ended_in_one_sentence(program)
    assert (tmp_path / "outcomes.tsv").read_text() == text


def test_without_the_temporal_program_three_ways_to_get_one_are_named(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to(sys.executable)

    ended = subprocess.run(
        [python, "-S", ROOT / "run_server.py", f"--port={free_port()}", f"--db={tmp_path / 'db' / 'state'}"],
        env={**clean_environment(), "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert all(way in ended.stderr for way in ("make .venv", "Temporal CLI", "docker compose up"))
    assert not (tmp_path / "db").exists()


def test_the_default_file_is_beside_the_program_wherever_one_stands(tmp_path: Path) -> None:
    program = tmp_path / "programs" / "run_server.py"
    program.parent.mkdir()
    shutil.copy(ROOT / "run_server.py", program)
    (program.parent / "data").write_text("a file where the folder should be: the path is named, and nothing starts")

    ended = subprocess.run(
        [sys.executable, program, f"--port={free_port()}"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert ended.returncode == 2
    assert f"{program.parent / 'data' / 'temporal.sqlite3'} cannot hold" in ended.stderr


@pytest.mark.parametrize("bytes_written", MOMENTS)
async def test_killed_in_its_first_start_it_works_in_the_second(tmp_path: Path, bytes_written: int) -> None:
    server = Server(tmp_path / "server")
    database = server.database
    await Program.start(server)
    while size_of_log(database) < bytes_written and server.is_running:
        await asyncio.sleep(0)
    await server.kill()
    namespaces = namespaces_in(database, tmp_path / "copy")

    async with running(server):
        client = await server.client()
        found = await client.count_workflows("OrderStatus = 'completed'")

    assert found.count == 0
    assert ("starting anew" in server.errors.read_text()) == (namespaces == [])


async def test_a_file_in_which_a_namespace_was_made_is_kept_as_it_is(tmp_path: Path) -> None:
    server = Server(tmp_path / "server")
    async with running(server):
        await server.add_namespace("kept")
        await server.kill()

    async with running(server):
        client = await server.client("kept")
        found = await client.count_workflows()

    assert found.count == 0
    assert "starting anew" not in server.errors.read_text()


async def test_a_file_that_another_program_has_open_is_refused_and_left_alone(tmp_path: Path) -> None:
    database = tmp_path / "state.sqlite3"
    program = run_server(tmp_path, f"--db={database}")

    with closing(sqlite3.connect(database)) as other:
        other.executescript("PRAGMA journal_mode = WAL; CREATE TABLE namespaces (is_global)")
        status = await status_of(program)
        remaining = other.execute("SELECT name FROM sqlite_master").fetchall()

    assert status == 2
    assert "database is locked" in ended_in_one_sentence(program)
    assert remaining == [("namespaces",)]
    assert database.exists()


async def test_a_second_server_on_the_same_file_is_refused_under_whatever_name(
    own_server: Server, tmp_path: Path
) -> None:
    (own_server.output.parent / "link").symlink_to("temporal.sqlite3")
    names = ("temporal.sqlite3", "link")
    seconds = [run_server(tmp_path / name, f"--db={own_server.output.parent / name}") for name in names]

    statuses = [await status_of(second) for second in seconds]
    client = await own_server.client()

    assert statuses == [1, 1]
    assert all("a server is running on" in ended_in_one_sentence(second) for second in seconds)
    assert client.namespace == "default"


async def test_of_two_servers_started_at_once_on_a_fresh_file_one_serves(tmp_path: Path) -> None:
    database = tmp_path / "db" / "state"
    ports = [free_port() for _ in range(2)]
    programs = [
        Program(tmp_path / str(port), clean_environment(), "run_server.py", f"--port={port}", f"--db={database}")
        for port in ports
    ]

    try:
        await asyncio.gather(*[program.start() for program in programs])
        await wait_until(lambda: any(listens(port) for port in ports), "one serves")
        await wait_until(lambda: not all(program.is_running for program in programs), "the other one leaves")
        (refused,) = [program for program in programs if not program.is_running]
        status = await refused.wait()
    finally:
        for program in programs:
            await program.kill()

    assert status == 1
    assert "a server is running on" in ended_in_one_sentence(refused)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
async def test_with_closed_standard_streams_it_serves_and_prints_into_none_of_its_files(
    tmp_path: Path, closed: str
) -> None:
    port, database = free_port(), tmp_path / "state.sqlite3"
    program = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$@" {closed}', "sh"),
        *(sys.executable, ROOT / "run_server.py", f"--port={port}", f"--db={database}"),
        env=clean_environment(),
    )

    try:
        await wait_until(lambda: program.returncode is not None or listens(port), "it serves")
        status = program.returncode
    finally:
        os.kill(program.pid, signal.SIGKILL)
        await program.wait()

    assert status is None
    assert Path(f"{database}.lock").read_text() == ""


def test_refused_with_standard_error_closed_it_prints_nothing_elsewhere() -> None:
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, ROOT / "run_server.py", f"--port={free_port()}", "--db=."],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        timeout=30,
    )

    assert (ended.returncode, ended.stdout) == (2, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
async def test_it_serves_with_standard_output_on_a_full_disk(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with open("/dev/full", "wb") as full, errors.open("wb") as errors_file:
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, ROOT / "run_server.py", f"--port={free_port()}", f"--db={tmp_path / 'state'}"),
            env=clean_environment(),
            stdout=full,
            stderr=errors_file,
        )

    try:
        await wait_until(lambda: program.returncode is not None or "Temporal UI:" in errors.read_text(), "it serves")
        status = program.returncode
    finally:
        os.kill(program.pid, signal.SIGKILL)
        await program.wait()

    assert status is None


async def test_an_open_order_goes_on_after_the_server_was_killed_and_started_on_its_file(
    own_server: Server, tmp_path: Path
) -> None:
    stage = Stage(own_server, "default", await own_server.client(), tmp_path)
    started = await run_order(stage.client, SAMPLE_ORDER, wait=False)

    await own_server.kill()
    await own_server.start()
    worker = await stage.start_worker()
    try:
        ended = await run_order(await own_server.client(), SAMPLE_ORDER, wait=True)
    finally:
        await worker.kill()

    assert (started.status, ended.status) == (Status.STARTED, Status.COMPLETED)
    assert [charge.order_id for charge in stage.ledger().charges] == ["1001"]


async def test_sigterm_ends_the_server_and_keeps_its_state(own_server: Server) -> None:
    await run_order(await own_server.client(), SAMPLE_ORDER, wait=False)

    own_server.signal(signal.SIGTERM)
    status = await own_server.wait(20)
    with pytest.raises(NoConnection):
        await connect(own_server.settings())
    await own_server.start()
    client = await own_server.client()

    assert status == 0
    assert (await client.get_workflow_handle("order-1001").describe()).id == "order-1001"
