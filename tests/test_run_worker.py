"""run_worker.py: stops without dropping a step, and says in one sentence why it cannot serve."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest
from conftest import Stage, make_order
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest

from comparison.processes import Program, Server, clean_environment, free_port, wait_until

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
    starter = stage.starter(make_order())
    await starter.start()
    await wait_until(lambda: ("process_payment", "started") in tried(stage), "the payment is under way")

    worker.signal(signal_number)
    status = await worker.wait(15)
    tried_by_the_first = tried(stage)
    await stage.start_worker()
    status_of_starter = await starter.wait(30)

    assert (status, tried_by_the_first) == (0, [("validate_inventory", "ok"), ("process_payment", "ok")])
    # The report arrived, too: the next worker does not try the payment again.
    assert (status_of_starter, [outcome for step, outcome in tried(stage) if step == "process_payment"]) == (0, ["ok"])
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


async def test_a_server_that_accepts_and_never_answers_is_given_up_within_five_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        worker = worker_that_ends(clean_environment(TEMPORAL_ADDRESS=address), tmp_path)
        started = time.monotonic()

        status = await status_of(worker)

    assert (status, time.monotonic() - started < 5) == (1, True)
    assert f"no Temporal server answers at {address}" in sentence_of(worker)


@pytest.mark.parametrize("faults", ["process_payment", "pay:unavailable", "process_payment:crash_before*0"])
async def test_a_fault_plan_that_cannot_be_read_is_bad_usage_before_anything_is_connected_to(
    tmp_path: Path, faults: str
) -> None:
    nowhere = clean_environment(TEMPORAL_ADDRESS=f"127.0.0.1:{free_port()}")
    worker = worker_that_ends(nowhere, tmp_path, f"--faults={faults}")

    status = await status_of(worker)

    assert status == 2
    assert faults in sentence_of(worker)
    assert not (tmp_path / "shop").exists()


async def test_a_data_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "shop").touch()
    worker = worker_that_ends(clean_environment(TEMPORAL_ADDRESS=f"127.0.0.1:{free_port()}"), tmp_path)

    status = await status_of(worker)

    assert status == 1
    assert str(tmp_path / "shop") in sentence_of(worker)


async def test_order_status_is_registered_where_it_lacks(stage: Stage) -> None:
    before = await search_attributes(stage)

    await stage.start_worker()

    assert "OrderStatus" not in before
    assert (await search_attributes(stage))["OrderStatus"] == KEYWORD


async def test_an_order_status_of_another_type_is_reported_and_left_alone(stage: Stage) -> None:
    await stage.client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(namespace=stage.namespace, search_attributes={"OrderStatus": INT})
    )
    worker = worker_that_ends(stage.settings, stage.directory)

    status = await status_of(worker)

    assert status == 1
    assert "OrderStatus" in sentence_of(worker)
    assert (await search_attributes(stage))["OrderStatus"] == INT


async def test_an_unknown_namespace_is_reported(server: Server, tmp_path: Path) -> None:
    worker = worker_that_ends(server.settings("nowhere"), tmp_path)

    status = await status_of(worker)

    assert status == 1
    assert "nowhere" in sentence_of(worker)


async def test_what_the_shop_refuses_is_logged_in_one_line_and_nothing_goes_to_standard_output(stage: Stage) -> None:
    worker = await stage.start_worker("validate_inventory:unavailable")

    status, printed = await stage.run_orders(make_order(payment_token="tok_chargeDeclined"))
    await worker.stop()
    log = worker.errors.read_text()

    assert (status, printed) == (0, {"1": "rejected"})
    assert [line.partition(" order-1: ")[2].split(":")[:3] for line in log.splitlines() if "attempt" in line] == [
        ["validate_inventory", " attempt 1 failed", " ServiceUnavailable"],
        ["process_payment", " attempt 1 failed", " PaymentDeclined"],
    ]
    assert "Traceback" not in log
    assert worker.lines() == []
