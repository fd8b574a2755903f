"""run_workflow.py: starts orders or attaches to them, and prints how they end; whatever happens to it meanwhile."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import socket
import sys
import termios
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from conftest import Stage, make_order, make_stage, write_orders
from wire import Wire

from comparison.processes import ROOT, Program, Server, clean_environment, free_port, wait_until
from plumbing.connection import TASK_QUEUE
from shop.orders import Order


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
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "run_workflow.py",
        *map(str, arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=settings,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(stdin), 60)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return Ended(process.returncode, output.decode().splitlines(), errors.decode())


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


@pytest.mark.parametrize("source", ["file", "-"])
async def test_orders_come_from_a_file_or_standard_input(served: Stage, tmp_path: Path, source: str) -> None:
    orders = [make_order(f"{source}.a"), make_order(f"{source}.b", payment_token="tok_chargeDeclined")]
    path = write_orders(tmp_path / "orders.jsonl", *orders)

    if source == "-":
        ended = await run_starter(served.settings, "-", stdin=path.read_bytes())
    else:
        ended = await run_starter(served.settings, path)

    assert (ended.status, ended.statuses) == (0, {f"{source}.a": "completed", f"{source}.b": "rejected"})
    assert len(ended.lines) == 2


async def test_each_order_is_announced_with_its_link_to_the_ui(served: Stage, tmp_path: Path) -> None:
    path = write_orders(tmp_path / "orders.jsonl", make_order("link.1"), make_order("link.2"))

    ended = await run_starter(served.settings, path)

    for order_id in ("link.1", "link.2"):
        link = f"{served.server.ui}/namespaces/{served.namespace}/workflows/order-{order_id}"
        assert ended.log.count(f"order {order_id}: started {link}\n") == 1


LINE = json.dumps(asdict(make_order("1"))).encode()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "there is no order"),
        (LINE + b"\n" + LINE, "line 2: order_id"),
        (LINE + b"\n\n{", "line 3: order"),
        (LINE.replace(b'"quantity": 2', b'"quantity": 2.0'), "line 1: items[0].quantity"),
        (b"\xff", "line 1: order"),
    ],
)
async def test_a_bad_file_is_refused_whole_before_anything_is_connected_to(
    tmp_path: Path, content: bytes, named: str
) -> None:
    # No server is there: a starter that connects first would say so, and end with 1.
    nowhere = clean_environment(TEMPORAL_ADDRESS=f"127.0.0.1:{free_port()}")
    path = tmp_path / "orders.jsonl"
    path.write_bytes(content)

    ended = await run_starter(nowhere, path)

    assert (ended.status, ended.lines, ended.log.count("\n")) == (2, [], 1)
    assert f"{path}: {named}" in ended.log


@pytest.mark.parametrize("arguments", [["--concurrency=0"], ["--concurrency=257"], ["--concurrency=x"], ["no-file"]])
async def test_bad_usage_is_refused_before_anything_is_connected_to(arguments: list[str]) -> None:
    nowhere = clean_environment(TEMPORAL_ADDRESS=f"127.0.0.1:{free_port()}")

    ended = await run_starter(nowhere, *arguments)

    assert (ended.status, ended.lines) == (2, [])
    assert arguments[0].partition("=")[0] in ended.log.splitlines()[-1]


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{free}", "127.0.0.1", "127.0.0.1:7233/", "http://127.0.0.1:7233", "no address"]
)
async def test_a_server_that_was_never_there_is_reported_within_five_seconds(address: str) -> None:
    address = address.format(free=free_port())
    started = time.monotonic()

    ended = await run_starter(clean_environment(TEMPORAL_ADDRESS=address))

    assert (ended.status, ended.lines, ended.log.count("\n")) == (1, [], 1)
    assert f"no Temporal server answers at {address}; start one" in ended.log
    assert re.search(r"the SDK says: \S+", ended.log)
    assert time.monotonic() - started < 5


async def test_a_server_that_accepts_and_never_answers_is_given_up_within_five_seconds(tmp_path: Path) -> None:
    async with connecting_to_silence(tmp_path) as starter:
        started = time.monotonic()
        status = await starter.wait(10)
        seconds = time.monotonic() - started

    log = starter.errors.read_text()
    assert (status, starter.lines(), log.count("\n")) == (1, [], 1)
    assert log.endswith("the SDK says: no answer in time\n")
    assert seconds < 5


@asynccontextmanager
async def connecting_to_silence(directory: Path) -> AsyncIterator[Program]:
    """Run a starter whose server accepts the connection and never answers; begin when it has connected."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        settings = clean_environment(TEMPORAL_ADDRESS=f"127.0.0.1:{silent.getsockname()[1]}")
        starter = Program(directory / "starter", settings, "run_workflow.py")
        await starter.start()
        connection, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(silent), 30)
        with connection:
            yield starter
        await starter.stop()


async def test_an_order_without_a_worker_waits_and_the_starter_says_so_within_five_seconds(stage: Stage) -> None:
    starter = stage.starter(make_order())
    started = time.monotonic()
    await starter.start()
    await wait_until(lambda: "no worker listens" in starter.errors.read_text(), "the warning", 10)
    seconds_to_warning = time.monotonic() - started

    await stage.start_worker()
    status = await starter.wait(30)

    assert seconds_to_warning < 5
    assert (status, starter.lines()[0].split("\t")[:2]) == (0, ["1", "completed"])


async def test_where_a_worker_listens_no_warning_is_given(served: Stage, tmp_path: Path) -> None:
    ended = await run_starter(served.settings, write_orders(tmp_path / "orders.jsonl", make_order("listened")))

    assert ended.status == 0
    assert "no worker" not in ended.log


async def test_no_wait_starts_the_orders_and_leaves(stage: Stage) -> None:
    path = write_orders(stage.directory / "orders.jsonl", make_order("1"), make_order("2"))

    left = await run_starter(stage.settings, "--no-wait", path)
    await stage.start_worker()
    ended = await run_starter(stage.settings, path)

    assert (left.status, left.statuses) == (0, {"1": "started", "2": "started"})
    assert (ended.status, ended.statuses) == (0, {"1": "completed", "2": "completed"})
    assert ended.log.count(": attached to ") == 2


@pytest.mark.parametrize(
    ("token", "faults", "outcome"),
    [
        ("tok_visa", "", "completed"),
        ("tok_chargeDeclined", "", "rejected"),
        ("tok_visa", "process_payment:unavailable*inf", "failed"),
    ],
)
async def test_no_wait_of_an_order_that_has_ended_prints_how(
    stage: Stage, token: str, faults: str, outcome: str
) -> None:
    await stage.start_worker(faults)
    path = write_orders(stage.directory / "orders.jsonl", make_order(payment_token=token))
    first = await run_starter(stage.settings, path)

    again = await run_starter(stage.settings, "--no-wait", path)

    assert first.statuses == {"1": outcome}
    assert (again.status, again.lines) == (first.status, first.lines)


async def test_concurrency_one_processes_one_order_after_the_other(served: Stage, tmp_path: Path) -> None:
    order_ids = [f"queue.{number}" for number in range(4)]
    path = write_orders(tmp_path / "orders.jsonl", *map(make_order, order_ids))

    ended = await run_starter(served.settings, "--concurrency=1", path)

    assert (ended.status, [line.split("\t")[0] for line in ended.lines]) == (0, order_ids)
    tried = [attempt.order_id for attempt in served.ledger().attempts if attempt.order_id in order_ids]
    assert tried == [order_id for order_id in order_ids for _ in range(4)]


async def test_the_same_order_started_twice_at_once_is_one_order_with_one_answer(served: Stage, tmp_path: Path) -> None:
    path = write_orders(tmp_path / "orders.jsonl", make_order("twice"))

    one, other = await asyncio.gather(run_starter(served.settings, path), run_starter(served.settings, path))

    assert (one.status, one.statuses) == (0, {"twice": "completed"})
    assert (other.status, other.lines) == (one.status, one.lines)
    tried = [attempt.outcome for attempt in served.ledger().attempts if attempt.order_id == "twice"]
    assert tried == ["ok"] * 4


@pytest.mark.parametrize(
    ("faults", "status", "outcome", "charges"),
    [("", 0, "completed", 1), ("process_payment:lost_reply*inf", 1, "failed", 1)],
)
async def test_an_order_that_is_run_again_after_its_end_gives_the_outcome_it_had(
    stage: Stage, faults: str, status: int, outcome: str, charges: int
) -> None:
    await stage.start_worker(faults)
    path = write_orders(stage.directory / "orders.jsonl", make_order())
    first = await run_starter(stage.settings, path)
    before = stage.ledger()

    again = await run_starter(stage.settings, path)

    assert (first.status, first.statuses) == (status, {"1": outcome})
    assert (again.status, again.lines) == (first.status, first.lines)
    assert stage.ledger() == before
    assert len(before.charges) == charges


async def test_the_id_of_an_order_with_other_content_is_refused_and_nothing_is_touched(
    served: Stage, tmp_path: Path
) -> None:
    order = make_order("conflict")
    other = make_order("conflict", items=order.items[:1])
    first = await run_starter(served.settings, write_orders(tmp_path / "orders.jsonl", order))
    before = served.ledger()

    second = await run_starter(served.settings, write_orders(tmp_path / "others.jsonl", other))

    assert (first.status, second.status, second.statuses) == (0, 1, {"conflict": "unknown"})
    assert "other content" in second.lines[0]
    assert "settle" not in second.lines[0]
    assert served.ledger() == before


async def test_an_order_that_another_client_started_is_attached_to(stage: Stage) -> None:
    order = make_order()
    document = {"a_newer_field": True, **asdict(order)}
    await start_from_the_command_line(stage, "OrderWorkflow", json.dumps(document))
    starter = stage.starter(order)
    await starter.start()
    await wait_until(lambda: ": attached to " in starter.errors.read_text(), "it is attached to")

    await stage.start_worker()
    status = await starter.wait(30)

    assert (status, starter.lines()[0].split("\t")[:2]) == (0, ["1", "completed"])
    assert [charge.order_id for charge in stage.ledger().charges] == ["1"]


@pytest.mark.parametrize(
    ("workflow_type", "content"), [("OrderWorkflw", json.dumps(asdict(make_order()))), ("OrderWorkflow", '{"id": 1}')]
)
async def test_an_id_that_is_taken_by_something_else_is_left_alone(
    stage: Stage, workflow_type: str, content: str
) -> None:
    await start_from_the_command_line(stage, workflow_type, content)
    path = write_orders(stage.directory / "orders.jsonl", make_order())

    ended = await run_starter(stage.settings, path)

    assert (ended.status, ended.statuses) == (1, {"1": "unknown"})
    assert "other content" in ended.lines[0]
    assert "settle" not in ended.lines[0]


async def start_from_the_command_line(stage: Stage, workflow_type: str, content: str) -> None:
    """Start a workflow under the id of order 1, as somebody with the `temporal` program would."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "temporal",
        *("workflow", "start", "--type", workflow_type, "--workflow-id", "order-1", "--task-queue", TASK_QUEUE),
        *("--input", content, "--address", stage.server.address, "--namespace", stage.namespace),
        env=stage.settings,
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_other_content_under_the_id_of_an_open_order_is_refused_and_the_order_goes_on(stage: Stage) -> None:
    order = make_order()
    starter = await start_and_wait_until_started(stage, order)

    other = write_orders(stage.directory / "other.jsonl", make_order(customer_id="grace"))
    refused = await run_starter(stage.settings, other)
    await stage.start_worker()
    status_of_first = await starter.wait(30)

    assert (refused.status, refused.statuses, status_of_first) == (1, {"1": "unknown"}, 0)
    assert [charge.amount_cents for charge in stage.ledger().charges] == [order.total_cents]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_starter_leaves_its_orders_running_and_can_attach_again(
    stage: Stage, signal_number: signal.Signals
) -> None:
    orders = [make_order("1"), make_order("2")]
    starter = await start_and_wait_until_started(stage, *orders)

    starter.signal(signal_number)
    status = await starter.wait(10)
    await stage.start_worker()
    attached = await run_starter(stage.settings, write_orders(stage.directory / "orders.jsonl", *orders))

    assert (status, sorted(line.split("\t")[:2] for line in starter.lines())) == (
        1,
        [["1", "unknown"], ["2", "unknown"]],
    )
    log = starter.errors.read_text()
    assert "To attach again, run the same command again" in log
    assert "Traceback" not in log
    assert (attached.status, attached.statuses) == (0, {"1": "completed", "2": "completed"})
    assert sorted(charge.order_id for charge in stage.ledger().charges) == ["1", "2"]


async def test_a_terminated_order_is_unknown_and_the_line_says_what_to_do(stage: Stage) -> None:
    starter = await start_and_wait_until_started(stage, make_order())

    await stage.client.get_workflow_handle("order-1").terminate("by the test")
    status = await starter.wait(10)

    assert (status, starter.lines()[0].split("\t")[:2]) == (1, ["1", "unknown"])
    assert "start it again to take it to its end" in starter.lines()[0]
    assert "python -m shop settle 1" in starter.lines()[0]
    assert "Traceback" not in starter.errors.read_text()


async def test_a_cancelled_order_is_cancelled_and_holds_nothing(stage: Stage) -> None:
    starter = await start_and_wait_until_started(stage, make_order())

    await stage.client.get_workflow_handle("order-1").cancel()
    await stage.start_worker()
    status = await starter.wait(30)

    assert (status, starter.lines()[0].split("\t")[:2]) == (1, ["1", "cancelled"])
    assert (stage.ledger().charges, stage.ledger().sales) == ((), ())
    assert "Traceback" not in starter.errors.read_text()


@pytest.mark.parametrize(
    ("redirection", "status", "is_printed"),
    [
        (">/dev/full", 1, False),
        (">&-", 1, False),
        ("2>/dev/full", 0, True),
        ("2>&-", 0, True),
        ("<&- >&- 2>&-", 1, False),
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


@pytest.mark.parametrize("buffering", ["", "1"], ids=["buffered", "unbuffered"])
async def test_a_reader_that_stalls_does_not_make_the_starter_deaf_to_signals(stage: Stage, buffering: str) -> None:
    path = write_orders(stage.directory / "orders.jsonl", make_order("1"), make_order("2"))
    reading, writing = os.pipe()
    fill(writing)

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "run_workflow.py", "--no-wait", str(path)),
        stdout=writing,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**stage.settings, "PYTHONUNBUFFERED": buffering},
    )
    assert process.stderr is not None
    try:
        log = await asyncio.wait_for(process.stderr.readuntil(b"order 2: started"), 30)
        started = time.monotonic()
        os.kill(process.pid, signal.SIGTERM)
        status = await asyncio.wait_for(process.wait(), 20)
    finally:
        if process.returncode is None:
            process.kill()
        os.close(writing)
        os.close(reading)

    assert (status, time.monotonic() - started < 5) == (1, True)
    assert b"Traceback" not in log + await process.stderr.read()


def fill(pipe: int) -> None:
    """Write to a pipe until it is full."""
    os.set_blocking(pipe, False)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, bytes(65536))
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b".")
    os.set_blocking(pipe, True)


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
    async with connecting_to_silence(tmp_path) as starter:
        starter.signal(signal.SIGINT)
        status = await starter.wait(10)

    assert (status, starter.lines()) == (2, [])
    assert starter.errors.read_text() == "run_workflow: interrupted; nothing was started\n"


async def test_a_starter_whose_server_becomes_a_black_hole_says_so_and_that_it_is_back(stage: Stage) -> None:
    wire = Wire(stage.server)
    await wire.mend()
    path = write_orders(stage.directory / "orders.jsonl", make_order())
    settings = {**stage.settings, "TEMPORAL_ADDRESS": wire.address}
    starter = Program(stage.directory / "starter", settings, "run_workflow.py", str(path))
    stage.started.append(starter)
    await starter.start()
    await wait_until(lambda: "order 1: started" in starter.errors.read_text(), "the order is open")

    wire.swallow()
    started = time.monotonic()
    await wait_until(lambda: "the server is away" in starter.errors.read_text(), "the outage is noticed")
    seconds_to_notice = time.monotonic() - started
    wire.carry_on()
    await wait_until(lambda: "the server answers again" in starter.errors.read_text(), "the end of it is noticed")
    await stage.start_worker()
    status = await starter.wait(60)
    wire.cut()

    assert seconds_to_notice < 10
    assert (status, starter.lines()[0].split("\t")[:2]) == (0, ["1", "completed"])
    assert "Traceback" not in starter.errors.read_text()


async def test_a_reader_that_leaves_is_not_reported_as_bad_input(stage: Stage) -> None:
    # As in `run_workflow.py ORDERS | head -0`. Exit status 2 would say that nothing was started.
    path = write_orders(stage.directory / "orders.jsonl", make_order("1"), make_order("2"), make_order("3"))
    buffered = {name: value for name, value in stage.settings.items() if name != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "run_workflow.py",
        "--no-wait",
        str(path),
        stdout=writing,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=buffered,
    )
    os.close(writing)
    _, errors = await asyncio.wait_for(process.communicate(), 30)

    assert (await stage.client.get_workflow_handle("order-1").describe()).id == "order-1"
    assert process.returncode in (0, 1), errors.decode()
    assert b"Traceback" not in errors


async def test_progress_is_drawn_on_a_terminal_and_nowhere_else(stage: Stage) -> None:
    path = write_orders(stage.directory / "orders.jsonl", *[make_order(str(number)) for number in range(41)])

    elsewhere = await run_starter(stage.settings, "--no-wait", path)
    status, output, on_terminal = await run_on_terminal(stage.settings, "--no-wait", path)

    assert (elsewhere.status, len(elsewhere.lines), "100%" in elsewhere.log) == (0, 41, False)
    assert (status, len(output.splitlines())) == (0, 41)
    assert "100%" in on_terminal
    assert b"%" not in output


async def run_on_terminal(settings: dict[str, str], *arguments: str | Path) -> tuple[int, bytes, str]:
    """Run the starter with a terminal as its standard error; return exit status, standard output and what it showed."""
    terminal, its_end = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "run_workflow.py",
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=its_end,
        cwd=ROOT,
        env=settings,
    )
    os.close(its_end)
    shown, (output, _) = await asyncio.gather(asyncio.to_thread(read_to_end, terminal), process.communicate())
    os.close(terminal)
    assert process.returncode is not None
    return process.returncode, output, shown.decode()


def read_to_end(terminal: int) -> bytes:
    """Read until the other side has closed; Linux says so by an error."""
    read = b""
    try:
        while part := os.read(terminal, 65536):
            read += part
    except OSError:
        pass
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
        await wait_until(lambda: "the server is away" in starter.errors.read_text(), "the outage is noticed")
        # Longer than the 10 s for which the SDK is patient.
        await asyncio.sleep(11)
        await own_server.start()
        await stage.start_worker()
        status = await starter.wait(60)
    finally:
        for program in stage.started:
            await program.stop()

    assert (status, [line.split("\t")[:2] for line in starter.lines()]) == (0, [["1", "completed"], ["2", "completed"]])
    assert "Traceback" not in starter.errors.read_text()
    assert sorted(charge.order_id for charge in stage.ledger().charges) == ["1", "2"]
