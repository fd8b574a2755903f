"""run_worker.py: stops without dropping a step, serves beside hung calls, and says in one sentence why it cannot."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Stage, make_order, make_stage
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from test_run_workflow import serving
from wire import Wire

from comparison.stage.processes import ROOT, Program, Server, Worker, clean_environment, free_port, wait_until
from plumbing.connection import NoConnection, connect
from run_worker import DRAIN_TIME, main
from run_workflow import run_order
from shop.ledger import Ledger
from shop.orders import Item, Order, Outcome, Status
from shop.terminal.streams import run_program

KEYWORD = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
INT = IndexedValueType.INDEXED_VALUE_TYPE_INT


async def search_attributes(stage: Stage) -> dict[str, IndexedValueType.ValueType]:
    """Return the search attributes that were registered in the stage's namespace."""
    known = await stage.client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=stage.namespace)
    )
    return dict(known.custom_attributes)


def worker_that_ends(settings: dict[str, str], directory: Path, *options: str) -> Program:
    """Return a worker that is not expected to serve."""
    return Program(directory / "worker", settings, "run_worker.py", f"--data={directory / 'shop'}", *options)


async def status_of(program: Program) -> int:
    """Return the exit status of a program that is expected to end soon by itself; leave none behind if it does not."""
    try:
        return await program.run(20)
    finally:
        await program.stop()


def sentence_of(program: Program) -> str:
    """Return the one sentence that a program which refused to serve wrote."""
    assert program.lines() == []
    (sentence,) = program.errors.read_text().splitlines()
    assert sentence.startswith("run_worker: ")
    return sentence


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
async def test_a_worker_that_is_asked_to_stop_brings_the_step_under_way_to_its_end(
    stage: Stage, signal_number: signal.Signals
) -> None:
    worker = await stage.start_worker("process_payment:slow(2)")
    starting = asyncio.create_task(run_order(stage.client, make_order(), wait=True))
    await wait_until(lambda: ("process_payment", "started") in tried(stage), "the payment is under way")

    worker.signal(signal_number)
    status = await worker.wait(15)
    tried_by_the_first = tried(stage)
    async with serving(stage):
        outcome = await starting

    assert (status, tried_by_the_first) == (0, [("validate_inventory", "ok"), ("process_payment", "ok")])
    assert outcome.status is Status.COMPLETED
    # The report arrived, too: the next worker does not try the payment again.
    assert [outcome for step, outcome in tried(stage) if step == "process_payment"] == ["ok"]
    assert len(stage.ledger().charges) == 1


def tried(stage: Stage) -> list[tuple[str, str]]:
    """Return step and outcome of all attempts so far."""
    return [(attempt.step, attempt.outcome) for attempt in stage.ledger().attempts]


async def test_without_a_server_it_says_so_within_five_seconds(tmp_path: Path) -> None:
    port = free_port()
    worker = worker_that_ends(clean_environment(TEMPORAL_ADDRESS=f"127.0.0.1:{port}"), tmp_path)
    started = time.monotonic()

    status = await status_of(worker)

    assert (status, time.monotonic() - started < 5) == (1, True)
    assert f"no Temporal server answers at 127.0.0.1:{port}; start one" in sentence_of(worker)


FAULTS_THAT_CANNOT_BE_READ = ["process_payment", "pay:unavailable", "process_payment:crash_before*0"]


@pytest.mark.parametrize("faults", FAULTS_THAT_CANNOT_BE_READ)
def test_a_fault_plan_that_cannot_be_read_is_bad_usage_before_anything_is_connected_to(
    tmp_path: Path, faults: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status = end_without_a_server(monkeypatch, f"--data={tmp_path / 'shop'}", f"--faults={faults}")

    output, errors = capfd.readouterr()
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("run_worker: ")
    assert faults in errors
    assert not (tmp_path / "shop").exists()


def test_a_data_directory_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shop").touch()

    status = end_without_a_server(monkeypatch, f"--data={tmp_path / 'shop'}")

    output, errors = capfd.readouterr()
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("run_worker: ")
    assert str(tmp_path / "shop") in errors


def end_without_a_server(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the worker's program in this process where no server is; return its exit status.

    One that connects first would say that there is no server, and end with 1.
    """
    monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr(sys, "argv", ["run_worker.py", *arguments])
    monkeypatch.setattr(logging, "raiseExceptions", True)  # `main` switches it off: put it back afterwards
    return run_program("run_worker", main)


async def test_bad_usage_ends_the_program_with_2_and_one_sentence(tmp_path: Path) -> None:
    nowhere = clean_environment(TEMPORAL_ADDRESS=f"127.0.0.1:{free_port()}")
    worker = worker_that_ends(nowhere, tmp_path, f"--faults={FAULTS_THAT_CANNOT_BE_READ[0]}")

    status = await status_of(worker)

    assert status == 2
    assert FAULTS_THAT_CANNOT_BE_READ[0] in sentence_of(worker)


@dataclass(frozen=True)
class First:
    """A worker that is the first in its namespace, and which search attributes were there before it."""

    stage: Stage
    attributes_before: dict[str, IndexedValueType.ValueType]
    log: str


@pytest.fixture(scope="module")
async def first(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[First]:
    stage = await make_stage(server, tmp_path_factory.mktemp("first"))
    before = await search_attributes(stage)
    worker = await stage.start_worker()
    yield First(stage, before, worker.errors.read_text())
    for program in stage.started:
        await program.stop()


async def test_order_status_is_registered_where_it_lacks(first: First) -> None:
    assert "OrderStatus" not in first.attributes_before
    assert (await search_attributes(first.stage))["OrderStatus"] == KEYWORD


async def test_a_worker_says_which_shop_it_serves(first: First) -> None:
    assert f"for the shop in {first.stage.data.resolve()}; watch it at {first.stage.server.ui}" in first.log


async def test_a_second_worker_is_warned_of_the_first_if_that_serves_another_shop_and_only_then(first: First) -> None:
    stage = first.stage
    other = Worker(stage.directory / "other", stage.settings, stage.directory / "other-shop")
    stage.started.append(other)

    same = await stage.start_worker()
    await other.start()

    assert f"{stage.data.resolve()} serves another shop on the same task queue" in other.errors.read_text()
    assert "another shop" not in same.errors.read_text()


async def test_an_order_status_of_another_type_is_reported_and_left_alone(stage: Stage) -> None:
    await stage.client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(namespace=stage.namespace, search_attributes={"OrderStatus": INT})
    )
    worker = worker_that_ends(stage.settings, stage.directory)

    status = await status_of(worker)

    assert status == 1
    assert "OrderStatus" in sentence_of(worker)
    assert (await search_attributes(stage))["OrderStatus"] == INT


async def test_an_unknown_namespace_is_reported(server: Server) -> None:
    with pytest.raises(NoConnection, match="nowhere"):
        await connect(server.settings("nowhere"))


async def test_a_failed_attempt_is_logged_in_one_line_a_refusal_in_none_and_nothing_goes_to_standard_output(
    stage: Stage,
) -> None:
    worker = await stage.start_worker("validate_inventory:unavailable")

    outcome = await run_order(stage.client, make_order(payment_token="tok_chargeDeclined"), wait=True)
    await worker.stop()
    log = worker.errors.read_text()

    assert outcome.status is Status.REJECTED
    assert [line.partition(" order-1: ")[2].split(":")[:3] for line in log.splitlines() if "attempt 1" in line] == [
        ["validate_inventory", " attempt 1 failed", " ServiceUnavailable"],
    ]
    assert "Traceback" not in log
    assert worker.lines() == []


# More than the 32 threads that Python's own pool has at most.
HUNG_ORDERS = 40


@dataclass(frozen=True)
class Hung:
    """How orders ended whose first payment hangs, and what else went on meanwhile."""

    outcomes: list[Outcome]
    ledger: Ledger
    outcomes_of_others: list[Outcome]
    seconds_of_others: float
    exit_status: int
    seconds_to_exit: float
    log: str


@pytest.fixture(scope="module")
async def hung(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Hung:
    """Let the first payment of many orders hang; run orders that need no payment; stop the worker."""
    stage = await make_stage(server, tmp_path_factory.mktemp("hung"))
    worker = await stage.start_worker("process_payment:slow(90)")
    orders = [make_order(str(number), items=(Item("mug", 1, 1250),)) for number in range(HUNG_ORDERS)]
    unknown = [make_order(f"other-{number}", items=(Item("no-such-product", 1, 100),)) for number in range(5)]

    def run(orders: list[Order]) -> asyncio.Future[list[Outcome]]:
        return asyncio.gather(*(run_order(stage.client, order, wait=True) for order in orders))

    hanging = run(orders)
    await wait_until(lambda: tried(stage).count(("process_payment", "started")) == HUNG_ORDERS, "all payments hang")
    started = time.monotonic()
    outcomes_of_others = await run(unknown)
    seconds_of_others = time.monotonic() - started
    outcomes = await hanging
    ledger, started = stage.ledger(), time.monotonic()
    worker.signal(signal.SIGTERM)
    exit_status = await worker.wait(60)
    seconds_to_exit = time.monotonic() - started
    log = worker.errors.read_text()
    return Hung(outcomes, ledger, outcomes_of_others, seconds_of_others, exit_status, seconds_to_exit, log)


async def test_orders_whose_first_payment_hangs_all_end_before_any_hung_call_returns(hung: Hung) -> None:
    payments = [attempt for attempt in hung.ledger.attempts if attempt.step == "process_payment"]

    assert [outcome.status for outcome in hung.outcomes] == [Status.COMPLETED] * HUNG_ORDERS
    assert {attempt.outcome for attempt in payments if attempt.attempt == 1} == {"started"}
    assert [attempt.outcome for attempt in payments if attempt.attempt != 1] == ["ok"] * HUNG_ORDERS
    assert len(hung.ledger.charges) == HUNG_ORDERS


async def test_orders_that_need_no_payment_do_not_wait_behind_hung_ones(hung: Hung) -> None:
    assert {outcome.status for outcome in hung.outcomes_of_others} == {Status.REJECTED}
    # Less than the 10 s after which the hung calls are given up.
    assert hung.seconds_of_others < 9


async def test_a_worker_with_hung_calls_leaves_when_its_drain_time_is_over(hung: Hung) -> None:
    assert hung.exit_status == 0
    assert hung.seconds_to_exit < DRAIN_TIME.total_seconds() + 3
    assert "a call hangs, and is left behind" in hung.log
    assert "Traceback" not in hung.log


async def test_a_worker_whose_server_becomes_a_black_hole_says_so_says_when_it_is_back_and_can_be_stopped(
    stage: Stage,
) -> None:
    wire = Wire(stage.server)
    await wire.mend()
    worker = Worker(stage.directory / "worker", {**stage.settings, "TEMPORAL_ADDRESS": wire.address}, stage.data)
    stage.started.append(worker)
    await worker.start()

    wire.swallow()
    started = time.monotonic()
    await wait_until(lambda: "the server is away" in worker.errors.read_text(), "the outage is noticed")
    seconds_to_notice = time.monotonic() - started
    wire.carry_on()
    await wait_until(lambda: "the server answers again" in worker.errors.read_text(), "the end of it is noticed")
    outcome = await run_order(stage.client, make_order(), wait=True)
    wire.swallow()
    started = time.monotonic()
    worker.signal(signal.SIGTERM)
    exit_status = await worker.wait(30)
    seconds_to_exit = time.monotonic() - started
    wire.cut()

    assert seconds_to_notice < 10
    assert outcome.status is Status.COMPLETED
    assert (exit_status, seconds_to_exit < DRAIN_TIME.total_seconds() + 3) == (0, True)
    assert "Traceback" not in worker.errors.read_text()


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", "2>/dev/full", "2>&-", ">&- 2>&-"])
async def test_a_worker_without_a_usable_output_serves_all_the_same(stage: Stage, redirection: str) -> None:
    worker = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable),
        *("run_worker.py", f"--data={stage.data}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=ROOT,
        env=stage.settings,
    )
    try:
        outcome = await run_order(stage.client, make_order(), wait=True)
        os.kill(worker.pid, signal.SIGTERM)
        log, _ = await asyncio.wait_for(worker.communicate(), 30)
    finally:
        if worker.returncode is None:
            worker.kill()

    assert outcome.status is Status.COMPLETED
    assert worker.returncode == 0
    assert b"Traceback" not in log
    assert b"Logging error" not in log
