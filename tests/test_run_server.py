"""run_server.py: a local server that keeps its state, or one sentence on why there is none."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from conftest import Stage
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest

from comparison.processes import ROOT, Program, Server, clean_environment, free_port, wait_until
from connection import NoConnection, connect


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


async def test_server_and_ui_answer_on_the_given_ports(tmp_path: Path) -> None:
    port, ui_port = free_port(), free_port()
    program = Program(
        tmp_path / "server",
        clean_environment(),
        "run_server.py",
        f"--port={port}",
        f"--ui-port={ui_port}",
        f"--db={tmp_path / 'new' / 'state.sqlite3'}",
    )

    await program.start()
    try:
        await wait_until(lambda: not program.is_running or (listens(port) and listens(ui_port)), "the ports answer")
        client = await connect(clean_environment(TEMPORAL_ADDRESS=f"127.0.0.1:{port}"))
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        page = direct.open(f"http://127.0.0.1:{ui_port}", timeout=10).read()
    finally:
        await program.stop()

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
async def test_a_port_that_is_taken_is_named_and_nothing_is_started(tmp_path: Path, option: str) -> None:
    ports = {"--port": free_port(), "--ui-port": free_port()}
    options = [f"{name}={port}" for name, port in ports.items()]
    program = Program(
        tmp_path / "server", clean_environment(), "run_server.py", *options, f"--db={tmp_path / 'db' / 'state'}"
    )

    with socket.create_server(("127.0.0.1", ports[option])):
        status = await status_of(program)

    assert status == 1
    assert f"port {ports[option]} cannot be used" in ended_in_one_sentence(program)
    assert not (tmp_path / "db").exists()


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    program = Program(
        tmp_path / "server",
        clean_environment(),
        "run_server.py",
        f"--port={free_port()}",
        f"--db={tmp_path / 'file' / 'state.sqlite3'}",
    )

    status = await status_of(program)

    assert status == 1
    assert str(tmp_path / "file") in ended_in_one_sentence(program)


@pytest.mark.parametrize("options", [["--port=0"], ["--port=65536"], ["--ui-port=-1"], ["--port=65000"], ["--port=x"]])
async def test_a_port_that_cannot_be_is_bad_usage(tmp_path: Path, options: list[str]) -> None:
    program = Program(
        tmp_path / "server", clean_environment(), "run_server.py", *options, f"--db={tmp_path / 'db' / 'state'}"
    )

    status = await status_of(program)

    assert status == 2
    assert program.lines() == []
    assert "port" in program.errors.read_text().splitlines()[-1]
    assert not (tmp_path / "db").exists()


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


async def test_an_open_order_goes_on_after_the_server_was_killed_and_started_on_its_file(
    own_server: Server, tmp_path: Path
) -> None:
    stage = Stage(own_server, "default", await own_server.client(), tmp_path)
    start = Program(tmp_path / "start", stage.settings, "run_workflow.py", "--no-wait")
    assert await start.run() == 0

    await own_server.kill()
    await own_server.start()
    worker = await stage.start_worker()
    attach = Program(tmp_path / "attach", stage.settings, "run_workflow.py")
    try:
        status = await status_of(attach)
    finally:
        await worker.stop()

    assert (status, attach.lines()[0].split("\t")[:2]) == (0, ["1001", "completed"])
    assert [charge.order_id for charge in stage.ledger().charges] == ["1001"]


async def test_sigterm_ends_the_server_and_keeps_its_state(own_server: Server) -> None:
    start = Program(own_server.output.parent / "start", own_server.settings(), "run_workflow.py", "--no-wait")
    assert await start.run() == 0

    own_server.signal(signal.SIGTERM)
    status = await own_server.wait(20)
    with pytest.raises(NoConnection):
        await connect(own_server.settings())
    await own_server.start()
    client = await own_server.client()

    assert status == 0
    assert (await client.get_workflow_handle("order-1001").describe()).id == "order-1001"
