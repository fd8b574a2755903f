"""The script behind a table of orders: as durable as it claims to be, judged like the two versions."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from conftest import make_order, write_orders

from comparison.judge.audit import audit
from comparison.judge.command import parse_outcome
from comparison.stage.processes import ROOT, clean_environment
from examples import durable_loop
from examples.durable_loop import give_up
from order_processor import process_order
from shop.ledger import read_ledger
from shop.orders import Order, Outcome, Status
from shop.shop import Shop
from shop.stores.storage import open_database

KILLED = -9
TIMEOUT_SECONDS = 100


def start(data: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "examples.durable_loop", *arguments, f"--data={data}"],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def run(data: Path, *arguments: str, given: str = "") -> tuple[int, str]:
    process = start(data, *arguments)
    printed, _ = process.communicate(given, timeout=TIMEOUT_SECONDS)
    return process.returncode, printed


def test_an_order_from_standard_input_whose_process_is_killed_is_completed_by_the_next(tmp_path: Path) -> None:
    faults = "--faults=process_payment:crash_after"

    accepted = run(tmp_path, "accept", "-", given=(ROOT / "examples" / "order.jsonl").read_text())
    killed = run(tmp_path, "work", faults)
    status, printed = run(tmp_path, "work", faults)

    assert accepted == (0, "1002\taccepted\n")
    assert killed == (KILLED, "")
    assert (status, printed.split("\t")[:2]) == (0, ["1002", "completed"])


def test_an_order_that_is_accepted_twice_is_processed_once(tmp_path: Path) -> None:
    path = write_orders(tmp_path / "orders.jsonl", make_order())

    accepted = [run(tmp_path, "accept", str(path)) for _ in range(2)]
    worked = [run(tmp_path, "work")[1].count("completed") for _ in range(2)]

    assert accepted == [(0, "1\taccepted\n")] * 2
    assert worked == [1, 0]


def test_an_id_that_was_accepted_with_other_content_is_refused_and_the_first_order_is_processed(tmp_path: Path) -> None:
    first, other = make_order("1"), make_order("1", customer_id="grace")
    path = write_orders(tmp_path / "orders.jsonl", first)

    run(tmp_path, "accept", str(path))
    refused = run(tmp_path, "accept", str(write_orders(path, other, make_order("2"))))
    worked, _ = run(tmp_path, "work")

    assert refused == (1, "1\tunknown\tan order with the same id and other content was accepted\n2\taccepted\n")
    assert worked == 0
    assert {mail.order_id: mail.customer_id for mail in read_ledger(tmp_path).confirmations} == {"1": "ada", "2": "ada"}


@pytest.mark.timeout(200)
def test_three_processes_under_random_crashes_end_every_order_as_the_audit_wants_it(tmp_path: Path) -> None:
    orders = [make_order(str(number)) for number in range(60)]
    work = ("work", "--faults=random(0.1,5)")
    run(tmp_path, "accept", str(write_orders(tmp_path / "orders.jsonl", *orders)))

    processes, printed, deaths = [start(tmp_path, *work) for _ in range(3)], "", 0
    while processes:
        process = processes.pop(0)
        printed += process.communicate(timeout=TIMEOUT_SECONDS)[0]
        if process.returncode == KILLED:
            deaths += 1
            processes.append(start(tmp_path, *work))

    outcomes = [parse_outcome(line.encode()) for line in printed.splitlines()]
    assert deaths > 0
    assert {outcome.order_id for outcome in outcomes} == {order.order_id for order in orders}
    assert audit(orders, read_ledger(tmp_path), outcomes, runs=deaths + 1) == []


@pytest.mark.parametrize(
    ("steps", "status", "refunded"), [(1, Status.FAILED, True), (2, Status.COMPLETED, False)], ids=["charged", "sold"]
)
def test_an_order_that_is_given_up_is_refunded_unless_its_stock_is_taken(
    steps: int, status: Status, refunded: bool, shop: Shop
) -> None:
    order = make_order()
    for step in (shop.payments.process_payment, shop.inventory.update_inventory)[:steps]:
        step(order)

    outcome = give_up(shop, order)

    assert outcome.status is status
    assert [charge.refunded for charge in read_ledger(shop.location).charges] == [refunded]


def test_bad_input_is_refused_whole(tmp_path: Path) -> None:
    status, printed = run(tmp_path, "accept", "-", given="{}\n")

    assert (status, printed) == (2, "")
    assert run(tmp_path, "work") == (0, "")


def test_a_bug_stops_neither_the_worker_nor_the_other_orders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def process(shop: Shop, order: Order) -> Outcome:
        return process_order(shop, order) if order.order_id == "2" else process_order(shop, None)  # type: ignore[arg-type]

    monkeypatch.setattr(durable_loop, "process_order", process)
    monkeypatch.setattr(durable_loop, "LEASE_SECONDS", 0.1)
    table = durable_loop.OrderTable(open_database(tmp_path, "orders", durable_loop.SCHEMA))
    durable_loop.accept_all([make_order("1"), make_order("2")], table)

    with closing(Shop(tmp_path)) as shop:
        durable_loop.work(shop, table)

    ended = {line.split("\t")[0]: line.split("\t")[1] for line in capsys.readouterr().out.splitlines()[2:]}
    assert ended == {"2": "completed", "1": "failed"}
