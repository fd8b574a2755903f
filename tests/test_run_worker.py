"""run_worker.py: serves, stops without dropping a step, and says in one sentence why it cannot."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import Stage, make_order
from counter import serving
from test_run_workflow import end_without_a_server
from wire import Wire

from comparison.stage.processes import ROOT, Program, Worker, wait_until
from run_worker import main
from run_workflow import run_order
from shop.orders import Item, Status


def tried(stage: Stage) -> list[tuple[str, str]]:
    """Return step and outcome of all attempts so far."""
    return [(attempt.step, attempt.outcome) for attempt in stage.ledger().attempts]


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
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


@pytest.mark.parametrize("faults", ["process_payment", "pay:unavailable", "process_payment:crash_before*0"])
def test_a_fault_plan_that_cannot_be_read_is_bad_usage_before_anything_is_connected_to(
    tmp_path: Path, faults: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status = end_without_a_server(monkeypatch, main, f"--data={tmp_path / 'shop'}", f"--faults={faults}")

    output, errors = capfd.readouterr()
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("run_worker: ")
    assert faults in errors
    assert not (tmp_path / "shop").exists()


def test_a_data_directory_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shop").touch()

    status = end_without_a_server(monkeypatch, main, f"--data={tmp_path / 'shop'}")

    output, errors = capfd.readouterr()
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("run_worker: ")
    assert str(tmp_path / "shop") in errors


async def test_each_attempt_is_logged_a_failed_one_in_one_line_more_and_nothing_goes_to_standard_output(
    stage: Stage,
) -> None:
    worker = await stage.start_worker("validate_inventory:unavailable")

    outcome = await run_order(stage.client, make_order(payment_token="tok_chargeDeclined"), wait=True)
    await worker.stop()

    log = worker.errors.read_text()
    assert outcome.status is Status.REJECTED
    assert [line.split(" ", 3)[3] for line in log.splitlines() if ": attempt" in line] == [
        "order 1: validate_inventory: attempt 1",
        "order-1: validate_inventory: attempt 1 failed: ServiceUnavailable: the service is unavailable (inventory)",
        "order 1: validate_inventory: attempt 2",
        "order 1: process_payment: attempt 1",
        "order 1: void_charge: attempt 1",
    ]
    assert f"for the shop in {stage.data.resolve()}; watch it at {stage.server.ui}" in log
    assert "Traceback" not in log
    assert worker.lines() == []


async def test_too_few_threads_make_orders_wait_and_fail_none(stage: Stage) -> None:
    """A thread of Python takes as much of the address space as its stack may grow to."""
    orders = [make_order(str(number), items=(Item("mug", 1, 1250),)) for number in range(12)]
    worker = await asyncio.create_subprocess_exec(
        *("bash", "-c", 'ulimit -s 1000000 -v 8000000 && exec "$@"', "-", sys.executable),
        *("run_worker.py", f"--data={stage.data}", "--faults=process_payment:slow(0.3)"),
        cwd=ROOT,
        env=stage.settings,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        outcomes = await asyncio.gather(*(run_order(stage.client, order, wait=True) for order in orders))
        worker.terminate()
        log, _ = await asyncio.wait_for(worker.communicate(), 30)
    finally:
        if worker.returncode is None:
            worker.kill()

    assert {outcome.status for outcome in outcomes} == {Status.COMPLETED}
    assert {outcome for step, outcome in tried(stage) if step == "process_payment"} == {"ok"}
    assert b"Traceback" not in log
    assert worker.returncode == 0


async def test_a_worker_whose_server_becomes_a_black_hole_goes_on_when_it_is_back_and_can_be_stopped(
    stage: Stage,
) -> None:
    wire = Wire(stage.server)
    await wire.mend()
    worker = Worker(stage.directory / "worker", {**stage.settings, "TEMPORAL_ADDRESS": wire.address}, stage.data)
    stage.started.append(worker)
    await worker.start()

    taken = wire.taken
    wire.swallow()
    await wait_until(lambda: wire.taken > taken, "it tries another connection")
    wire.carry_on()
    outcome = await run_order(stage.client, make_order(), wait=True)
    await wire.cut()
    await wait_until(lambda: "retried" in worker.errors.read_text(), "an outage is said")
    await wire.mend()
    wire.swallow()
    started = time.monotonic()
    worker.signal(signal.SIGTERM)
    exit_status = await worker.wait(60)
    seconds_to_exit = time.monotonic() - started
    await wire.cut()

    assert outcome.status is Status.COMPLETED
    assert (exit_status, seconds_to_exit < 30) == (0, True)
    assert "Traceback" not in worker.errors.read_text()


async def test_a_worker_that_cannot_write_its_log_serves_all_the_same(stage: Stage) -> None:
    with open(os.devnull) as nothing, open("/dev/full", "wb") as full:
        worker = Program.spawn(
            (sys.executable, "run_worker.py", f"--data={stage.data}"),
            stdin=nothing,
            stdout=full,
            stderr=full,
            cwd=ROOT,
            env=stage.settings,
        )
    try:
        outcome = await run_order(stage.client, make_order(), wait=True)
    finally:
        os.kill(worker.pid, signal.SIGTERM)

    assert outcome.status is Status.COMPLETED
    assert await asyncio.to_thread(worker.wait) == 0


async def test_a_worker_under_nohup_outlives_its_terminal(stage: Stage) -> None:
    worker = await asyncio.create_subprocess_exec(
        *("nohup", sys.executable, "run_worker.py", f"--data={stage.data}"),
        cwd=ROOT,
        env=stage.settings,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert worker.stderr
    try:
        await asyncio.wait_for(worker.stderr.readuntil(b"serving"), 60)
        worker.send_signal(signal.SIGHUP)
        outcome = await run_order(stage.client, make_order(), wait=True)
        worker.terminate()
        status = await asyncio.wait_for(worker.wait(), 30)
    finally:
        if worker.returncode is None:
            worker.kill()

    assert (outcome.status, status) == (Status.COMPLETED, 0)
