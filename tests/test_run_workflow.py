"""run_workflow.py: starts orders or attaches to them, and prints how they end; whatever happens to it meanwhile."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import pty
import re
import signal
import socket
import sys
import tempfile
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from conftest import Stage, make_order, make_stage, write_orders
from counter import serve, serving
from temporalio import workflow
from wire import Wire

from comparison.stage.processes import ROOT, Program, Server, clean_environment, free_port, wait_until
from plumbing.batch import SCREENFUL
from run_workflow import main, run_order
from shop.orders import Order, Status
from shop.terminal.streams import run_program


@dataclass(frozen=True)
class Ended:
    """What a starter left: exit status, lines on standard output, text on standard error."""

    status: int
    lines: list[str]
    log: str

    @property
    def statuses(self) -> dict[str, str]:
        return {line.split("\t")[0]: line.split("\t")[1] for line in self.lines}


async def run_starter(settings: dict[str, str], *arguments: str | Path, stdin: bytes = b"") -> Ended:
    """Run the starter to its end."""
    with tempfile.TemporaryDirectory() as directory:
        starter = Program(Path(directory) / "starter", settings, "run_workflow.py", *map(str, arguments))
        starter.standard_input = Path(directory) / "input"
        starter.standard_input.write_bytes(stdin)
        try:
            status = await starter.run(60)
        finally:
            if starter.is_running:
                await starter.kill()
        return Ended(status, starter.lines(), starter.errors.read_text())


async def start_and_wait_until_started(stage: Stage, *orders: Order) -> Program:
    """Run a starter on a stage without a worker until all its orders are open."""
    starter = stage.starter(*orders)
    await starter.start()
    await wait_until(
        lambda: not starter.is_running or starter.errors.read_text().count(": started ") == len(orders), "orders open"
    )
    assert starter.is_running
    return starter


@pytest.fixture(scope="module")
async def served(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """Share one worker without faults; each test uses order ids of its own."""
    stage = await make_stage(server, tmp_path_factory.mktemp("served"))
    worker = await stage.start_worker()
    assert worker.is_running
    yield stage
    await worker.stop()


async def test_without_arguments_the_sample_order_is_processed(served: Stage) -> None:
    ended = await run_starter(served.settings)

    assert (ended.status, ended.statuses) == (0, {"1001": "completed"})
    (charge,) = [charge for charge in served.ledger().charges if charge.order_id == "1001"]
    assert ended.lines == [f"1001\tcompleted\t{charge.transaction_id}"]


def two_orders(folder: Path, name: str) -> Path:
    """Write a file with an order that is completed and one that is rejected."""
    declined = make_order(f"{name}.b", payment_token="tok_chargeDeclined")
    return write_orders(folder / "orders.jsonl", make_order(f"{name}.a"), declined)


@pytest.fixture(scope="module")
async def from_file(served: Stage, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Run the starter with a file of two orders."""
    return await run_starter(served.settings, two_orders(tmp_path_factory.mktemp("file"), "file"))


async def test_orders_come_from_a_file(from_file: Ended) -> None:
    assert (from_file.status, from_file.statuses) == (0, {"file.a": "completed", "file.b": "rejected"})
    assert len(from_file.lines) == 2


async def test_each_order_is_announced_with_its_link_to_the_ui(from_file: Ended, served: Stage) -> None:
    for order_id in ("file.a", "file.b"):
        link = f"{served.server.ui}/namespaces/{served.namespace}/workflows/order-{order_id}"
        assert from_file.log.count(f"order {order_id}: started {link}\n") == 1


async def test_orders_come_from_standard_input(served: Stage, tmp_path: Path) -> None:
    ended = await run_starter(served.settings, "-", stdin=two_orders(tmp_path, "stdin").read_bytes())

    assert (ended.status, ended.statuses) == (0, {"stdin.a": "completed", "stdin.b": "rejected"})
    assert len(ended.lines) == 2


LINE = json.dumps(asdict(make_order("1"))).encode()


BAD_FILES = [
    (b"", "there is no order"),
    (LINE + b"\n" + LINE, "line 2: order_id"),
    (LINE + b"\n\n{", "line 3: order"),
    (LINE.replace(b'"quantity": 2', b'"quantity": 2.0'), "line 1: items[0].quantity"),
    (b"\xff", "line 1: order"),
]


def end_without_a_server(monkeypatch: pytest.MonkeyPatch, main: Callable[[], int], *arguments: str | Path) -> int:
    """Run a program in this process where no server is; return its exit status.

    One that connects first would say that there is no server, and end with 1.
    """
    monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr(sys, "argv", [main.__module__, *map(str, arguments)])
    monkeypatch.setattr(logging, "raiseExceptions", True)  # `main` switches it off: put it back afterwards
    return run_program(main.__module__, main)


@pytest.mark.parametrize(("content", "named"), BAD_FILES)
def test_a_bad_file_is_refused_whole_before_anything_is_connected_to(
    tmp_path: Path, content: bytes, named: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_bytes(content)

    status = end_without_a_server(monkeypatch, main, path)

    output, errors = capfd.readouterr()
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert f"{path}: {named}" in errors


@pytest.mark.parametrize("argument", ["--concurrency=0", "--concurrency=257", "--concurrency=x", "no-file"])
def test_bad_usage_is_refused_before_anything_is_connected_to(
    argument: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status = end_without_a_server(monkeypatch, main, argument)

    output, errors = capfd.readouterr()
    assert (status, output) == (2, "")
    assert argument.partition("=")[0] in errors.splitlines()[-1]


async def test_no_wait_starts_the_orders_and_leaves(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    orders = [make_order("1"), make_order("2")]
    path = write_orders(stage.directory / "orders.jsonl", *orders)

    left = await run_starter(stage.settings, "--no-wait", path)
    async with serving(stage):
        outcomes = [await run_order(stage.client, order, wait=True) for order in orders]

    assert (left.status, left.statuses) == (0, {"1": "started", "2": "started"})
    assert [outcome.status for outcome in outcomes] == [Status.COMPLETED] * 2
    assert caplog.text.count(": attached to ") == 2


async def test_concurrency_one_processes_one_order_after_the_other(served: Stage, tmp_path: Path) -> None:
    order_ids = [f"queue.{number}" for number in range(4)]
    path = write_orders(tmp_path / "orders.jsonl", *map(make_order, order_ids))

    ended = await run_starter(served.settings, "--concurrency=1", path)

    assert (ended.status, [line.split("\t")[0] for line in ended.lines]) == (0, order_ids)
    tried = [attempt.order_id for attempt in served.ledger().attempts if attempt.order_id in order_ids]
    assert tried == [order_id for order_id in order_ids for _ in range(4)]


async def test_the_id_of_an_order_with_other_content_is_refused_and_nothing_is_touched(
    served: Stage, tmp_path: Path
) -> None:
    order = make_order("conflict")
    other = make_order("conflict", items=order.items[:1])
    first = await run_order(served.client, order, wait=True)
    before = served.ledger()

    second = await run_starter(served.settings, write_orders(tmp_path / "others.jsonl", other))

    assert (first.status, second.status, second.statuses) == (Status.COMPLETED, 1, {"conflict": "unknown"})
    assert "other content" in second.lines[0]
    assert "settle" not in second.lines[0]
    assert served.ledger() == before


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_an_interrupted_starter_leaves_its_orders_running_and_can_attach_again(
    stage: Stage, signal_number: signal.Signals
) -> None:
    orders = [make_order("1"), make_order("2")]
    starter = await start_and_wait_until_started(stage, *orders)

    starter.signal(signal_number)
    status = await starter.wait(10)
    async with serving(stage):
        attached = [await run_order(stage.client, order, wait=True) for order in orders]

    assert (status, sorted(line.split("\t")[:2] for line in starter.lines())) == (
        1,
        [["1", "unknown"], ["2", "unknown"]],
    )
    log = starter.errors.read_text()
    assert "To attach again, run the same command again" in log
    assert "Traceback" not in log
    assert [outcome.status for outcome in attached] == [Status.COMPLETED] * 2
    assert sorted(charge.order_id for charge in stage.ledger().charges) == ["1", "2"]


async def test_a_terminated_order_is_unknown_and_the_line_says_what_to_do(stage: Stage) -> None:
    starter = await start_and_wait_until_started(stage, make_order())

    await stage.client.get_workflow_handle("order-1").terminate(reason="by the test")
    status = await starter.wait(10)

    assert (status, starter.lines()[0].split("\t")[:2]) == (1, ["1", "unknown"])
    assert "\tTerminatedError: by the test; start it again to take it to its end" in starter.lines()[0]
    assert "python -m shop settle 1" in starter.lines()[0]
    assert "Traceback" not in starter.errors.read_text()


async def test_a_cancelled_order_is_cancelled_and_holds_nothing(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    running = asyncio.create_task(run_order(stage.client, make_order(), wait=True))
    await wait_until(lambda: "order 1: started" in caplog.text, "the order is open")

    await stage.client.get_workflow_handle("order-1").cancel()
    async with serving(stage):
        outcome = await running

    assert (outcome.status, outcome.detail) == (
        Status.CANCELLED,
        "cancelled before its stock was taken; nothing was charged",
    )
    assert (stage.ledger().charges, stage.ledger().sales) == ((), ())
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("redirection", "status", "is_printed"),
    [
        (">&-", 1, False),
        ("2>/dev/full", 0, True),
    ],
)
async def test_without_a_usable_output_the_order_is_completed_and_the_status_tells_whether_its_line_was_lost(
    served: Stage, tmp_path: Path, redirection: str, status: int, is_printed: bool
) -> None:
    order = make_order(f"redirected-{len(redirection)}")
    path = write_orders(tmp_path / "orders.jsonl", order)

    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "run_workflow.py", str(path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=served.settings,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 60)

    assert [charge.order_id for charge in served.ledger().charges if charge.order_id == order.order_id] != []
    assert process.returncode == status
    assert output.startswith(f"{order.order_id}\tcompleted\t".encode()) == is_printed
    assert b"Traceback" not in errors
    assert b"Logging error" not in errors
    if "2>" not in redirection:
        assert b"run_workflow: standard output cannot be written: " in errors


async def test_an_interrupt_while_standard_input_is_read_is_one_line(stage: Stage) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "run_workflow.py", "-"),
        stdin=(ends := os.pipe())[0],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=stage.settings,
    )
    reading, writing = ends
    os.write(writing, b"{")
    await wait_until(lambda: bytes_waiting_in(reading) == 0, "standard input is being read")

    os.kill(process.pid, signal.SIGINT)
    output, errors = await asyncio.wait_for(process.communicate(), 10)
    os.close(reading)
    os.close(writing)

    assert (process.returncode, output) == (2, b"")
    assert errors == b"run_workflow: interrupted; nothing was started\n"


def bytes_waiting_in(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


async def test_an_interrupt_while_it_connects_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts the connection, and never answers
        silent.setblocking(False)
        settings = clean_environment(TEMPORAL_ADDRESS=f"127.0.0.1:{silent.getsockname()[1]}")
        starter = Program(tmp_path / "starter", settings, "run_workflow.py")
        await starter.start()
        connection, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(silent), 30)
        with connection:
            starter.signal(signal.SIGINT)
            status = await starter.wait(10)

    assert (status, starter.lines()) == (2, [])
    assert starter.errors.read_text() == "run_workflow: interrupted; nothing was started\n"


async def test_a_starter_whose_server_becomes_a_black_hole_goes_on_when_it_is_back(stage: Stage) -> None:
    wire = Wire(stage.server)
    await wire.mend()
    path = write_orders(stage.directory / "orders.jsonl", make_order())
    settings = {**stage.settings, "TEMPORAL_ADDRESS": wire.address}
    starter = Program(stage.directory / "starter", settings, "run_workflow.py", str(path))
    stage.started.append(starter)
    await starter.start()
    await wait_until(lambda: "order 1: started" in starter.errors.read_text(), "the order is open")

    wire.swallow()
    await wait_until(lambda: "order-1 waits: the server does not tell" in starter.errors.read_text(), "it is said")
    wire.carry_on()
    async with serving(stage):
        status = await starter.wait(60)
    await wire.cut()

    assert (status, starter.lines()[0].split("\t")[:2]) == (0, ["1", "completed"])
    assert "Traceback" not in starter.errors.read_text()


async def test_progress_is_drawn_on_a_terminal_and_nowhere_else(stage: Stage) -> None:
    orders = [make_order(str(number)) for number in range(SCREENFUL + 1)]
    path = write_orders(stage.directory / "orders.jsonl", *orders)

    elsewhere = await run_starter(stage.settings, "--no-wait", path)
    status, shown = await run_on_terminal(stage, path, stage.directory / "out")
    status_of_all, all_shown = await run_on_terminal(stage, path)

    printed = (stage.directory / "out").read_text()
    assert (elsewhere.status, len(elsewhere.lines), "100%" in elsewhere.log) == (0, len(orders), False)
    assert (status, len(printed.splitlines())) == (0, len(orders))
    assert b"100%" in shown
    assert "%" not in printed
    # A result has its line for itself, above the bar, which is erased before.
    lines = [
        line.rpartition(b"\x1b[2K")[2] for line in all_shown.splitlines() if re.search(rb"\d\s+started\s+order-", line)
    ]
    assert (status_of_all, len(lines), [line for line in lines if b"%" in line]) == (0, len(orders), [])


async def run_on_terminal(stage: Stage, orders: Path, results: Path | None = None) -> tuple[int | None, bytes]:
    """Run the starter with a terminal, but for its results if these go to a file; return what the terminal shows."""
    terminal, its_end = pty.openpty()
    with open(os.devnull) as nothing, open(its_end, "wb") as screen, open(results or os.devnull, "wb") as file:
        starter = Program.spawn(
            (sys.executable, "run_workflow.py", "--no-wait", str(orders)),
            stdin=nothing,
            stdout=file if results else screen,
            stderr=screen,
            cwd=ROOT,
            env=stage.settings,
        )
    shown = asyncio.create_task(asyncio.to_thread(read_to_end, terminal))
    status = await asyncio.to_thread(starter.wait)
    await shown
    os.close(terminal)
    return status, shown.result()


def read_to_end(terminal: int) -> bytes:
    """Read until the other side has closed; Linux says so by an error."""
    read = b""
    with suppress(OSError):
        while part := os.read(terminal, 65536):
            read += part
    return read


async def test_a_starter_outlives_a_server_that_is_away_for_longer_than_the_sdk_is_patient(
    own_server: Server, tmp_path: Path
) -> None:
    stage = Stage(own_server, "default", await own_server.client(), tmp_path)
    path = write_orders(tmp_path / "orders.jsonl", make_order("1"), make_order("2"))
    starter = Program(tmp_path / "starter", stage.settings, "run_workflow.py", "--concurrency=1", str(path))
    stage.started.append(starter)
    await starter.start()
    await wait_until(lambda: "order 1: started" in starter.errors.read_text(), "the first order is open")

    try:
        await own_server.kill()
        # Later than the 10 s for which the SDK is patient by default.
        await wait_until(lambda: "the server does not tell" in starter.errors.read_text(), "the outage is said")
        await own_server.start()
        await stage.start_worker()
        status = await starter.wait(60)
    finally:
        for program in stage.started:
            await program.stop()

    assert (status, [line.split("\t")[:2] for line in starter.lines()]) == (0, [["1", "completed"], ["2", "completed"]])
    assert "Traceback" not in starter.errors.read_text()
    assert sorted(charge.order_id for charge in stage.ledger().charges) == ["1", "2"]


@workflow.defn(name="OrderWorkflow", sandboxed=False)
class NewerWorkflow:
    """What a newer worker may serve: its outcomes have a word that this starter does not know."""

    @workflow.run
    async def run(self, order: Order) -> dict[str, str]:
        word = "completed" if order.order_id == "2" else "parked"
        return {"order_id": order.order_id, "status": word, "detail": "in aisle 7"}


async def test_an_error_that_nobody_foresaw_ends_its_orders_line_with_unknown_and_no_other(stage: Stage) -> None:
    async with serve(stage.client, workflows=[NewerWorkflow]):
        ended = await run_starter(
            stage.settings, write_orders(stage.directory / "orders.jsonl", make_order("1"), make_order("2"))
        )

    assert (ended.status, ended.statuses) == (1, {"1": "unknown", "2": "completed"})
    (line,) = [line for line in ended.lines if line.startswith("1\t")]
    assert line.endswith("; see the log")
    assert "order 1: " in ended.log
    assert "parked" in ended.log
    assert "Traceback" in ended.log
