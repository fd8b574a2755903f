"""The script behind a table of orders: as durable as it claims to be, judged like the two versions."""

from __future__ import annotations

import io
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path

import psycopg
import pytest
from conftest import address_of, make_order, write_orders
from test_order_processor import signals_kept

import order_processor
from comparison.stage.processes import ROOT, clean_environment
from examples import durable_loop
from examples.durable_loop import LEASE_SECONDS, MAXIMUM_DEATHS, SCHEMA, Claim, OrderTable
from order_processor import process_order
from shop.faults import parse_faults
from shop.ledger import Attempt, read_ledger
from shop.orders import Order, Outcome, Status
from shop.shop import ORDERS, Shop
from shop.stores import storage
from shop.stores.location import Location
from shop.stores.storage import file_of, open_database, read_only
from shop.terminal.streams import run_program

TIMEOUT_SECONDS = 100
COMPLETED = Outcome("1", Status.COMPLETED, "txn_1")


def start(data: Location, *arguments: str) -> subprocess.Popen[str]:
    """Start a process, to be killed, put to sleep or told to stop."""
    return subprocess.Popen(
        [sys.executable, "-m", "examples.durable_loop", *arguments, f"--data={address_of(data)}"],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def run(data: Location, *arguments: str, given: str = "") -> tuple[int, str]:
    """Run the program in this process; return its exit status and what it printed."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed, signals_kept():
        patch.setattr(sys, "argv", ["durable_loop", *arguments, f"--data={address_of(data)}"])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
        return run_program("durable_loop", durable_loop.main), printed.getvalue()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def attempts_in(shop: Shop) -> tuple[Attempt, ...]:
    return read_ledger(shop.location).attempts


def work(shop: Shop, table: OrderTable) -> int:
    return durable_loop.work(shop, table, threading.Event())


@pytest.fixture
def table(location: Location, monkeypatch: pytest.MonkeyPatch) -> Iterator[OrderTable]:
    """Give a table with one order, in either store; a locked one is given up after a moment."""
    monkeypatch.setattr(storage, "CALL_TIMEOUT_SECONDS", 0.3)
    with closing(open_database(location, ORDERS, SCHEMA)) as database:
        table = OrderTable(database)
        table.accept(make_order())
        yield table


def claimed(table: OrderTable) -> Claim:
    claim = table.claim()
    assert claim
    return claim


def move_lease(table: OrderTable, seconds: float) -> None:
    """Make the lease look as if the clock had been set back by so much, or as if so much time had passed."""
    with table.database.transaction() as connection:
        connection.execute("UPDATE orders SET leased_until = leased_until + ?", (seconds,))


def seconds_left(location: Location, table: OrderTable) -> float:
    with read_only(location, ORDERS) as connection:
        row = connection.execute(f"SELECT leased_until - {table.database.clock} AS seconds FROM orders").fetchone()
        return float(row["seconds"])


@contextmanager
def locked(location: Location) -> Iterator[None]:
    """Let nobody write to the table."""
    if isinstance(location, Path):
        with closing(sqlite3.connect(file_of(location, ORDERS), isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
    else:
        with psycopg.connect(location.secret) as other:
            other.execute("LOCK TABLE orders.orders IN EXCLUSIVE MODE")
            yield


def test_an_order_that_is_accepted_again_is_processed_once_and_answered_with_its_outcome(tmp_path: Path) -> None:
    path = write_orders(tmp_path / "orders.jsonl", make_order())

    accepted = [run(tmp_path, "accept", "-", given=path.read_text()), run(tmp_path, "accept", str(path))]
    worked = [run(tmp_path, "work")[1] for _ in range(2)]
    ended = run(tmp_path, "accept", str(path))

    assert accepted == [(0, "1\taccepted\n")] * 2
    assert "completed" in worked[0]
    assert worked[1] == ""
    assert ended == (0, worked[0])


def test_an_id_that_was_accepted_with_other_content_is_refused_and_the_first_order_is_processed(tmp_path: Path) -> None:
    first, other = make_order("1"), make_order("1", customer_id="grace")
    path = write_orders(tmp_path / "orders.jsonl", first)

    run(tmp_path, "accept", str(path))
    refused = run(tmp_path, "accept", str(write_orders(path, other, make_order("2"))))
    worked, _ = run(tmp_path, "work")

    assert refused == (1, "1\tunknown\tan order with the same id and other content was accepted\n2\taccepted\n")
    assert worked == 0
    assert {mail.order_id: mail.customer_id for mail in read_ledger(tmp_path).confirmations} == {"1": "ada", "2": "ada"}


@pytest.mark.parametrize(
    ("steps", "status", "refunded"), [(1, Status.FAILED, True), (2, Status.COMPLETED, False)], ids=["charged", "sold"]
)
def test_an_order_that_is_given_up_is_refunded_unless_its_stock_is_taken(
    steps: int, status: Status, refunded: bool, shop: Shop
) -> None:
    order = make_order()
    for step in (shop.payments.process_payment, shop.inventory.update_inventory)[:steps]:
        step(order)

    outcome = durable_loop.run(shop, Claim(order, 6, MAXIMUM_DEATHS))

    assert outcome
    assert outcome.status is status
    assert [charge.refunded for charge in read_ledger(shop.location).charges] == [refunded]


@pytest.mark.parametrize("command", [("accept", "examples/order.jsonl"), ("work",)])
def test_a_table_of_an_earlier_layout_is_refused_at_once(location: Location, command: tuple[str, ...]) -> None:
    open_database(location, ORDERS, "CREATE TABLE IF NOT EXISTS orders (\n    order_id TEXT\n);").close()

    assert run(location, *command) == (2, "")


def test_bad_input_is_refused_whole(tmp_path: Path) -> None:
    status, printed = run(tmp_path, "accept", "-", given="{}\n")

    assert (status, printed) == (2, "")
    assert [*tmp_path.iterdir()] == []


def test_a_bug_stops_neither_the_worker_nor_the_other_orders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def process(shop: Shop, order: Order) -> Outcome:
        return process_order(shop, order) if order.order_id == "2" else process_order(shop, None)  # type: ignore[arg-type]

    monkeypatch.setattr(durable_loop, "process_order", process)
    monkeypatch.setattr(durable_loop, "LEASE_SECONDS", 0.05)
    monkeypatch.setattr(durable_loop, "POLL_SECONDS", 0.02)
    table = OrderTable(open_database(tmp_path, ORDERS, SCHEMA))
    durable_loop.accept_all([make_order("1"), make_order("2")], table)

    with closing(Shop(tmp_path)) as shop:
        work(shop, table)

    ended = {line.split("\t")[0]: line.split("\t")[1] for line in capsys.readouterr().out.splitlines()[2:]}
    assert ended == {"2": "completed", "1": "failed"}


@pytest.mark.parametrize("seconds_wrong", [-3600.0, 3600.0])
def test_a_lease_is_as_long_as_it_says_also_on_a_machine_whose_clock_is_wrong(
    seconds_wrong: float, location: Location, table: OrderTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed(table)
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + seconds_wrong)

    left, too_early = seconds_left(location, table), table.claim()
    move_lease(table, -LEASE_SECONDS - 1)

    assert LEASE_SECONDS - 1 < left <= LEASE_SECONDS
    assert too_early is None
    assert table.claim()


def test_a_clock_that_is_set_back_makes_no_order_wait(table: OrderTable) -> None:
    claimed(table)

    move_lease(table, 3600)

    assert table.claim()


def test_only_the_latest_claim_ends_an_order(table: OrderTable) -> None:
    stale = claimed(table)
    move_lease(table, -LEASE_SECONDS - 1)
    latest = claimed(table)

    assert not table.give_back(stale, Outcome("1", Status.FAILED, "too late"))
    assert table.accept(make_order()) is None
    assert table.give_back(latest, COMPLETED)
    assert not table.give_back(stale, Outcome("1", Status.FAILED, "too late"))
    assert table.accept(make_order()) == COMPLETED
    assert table.give_back(latest, COMPLETED)  # again, because the reply to the first was lost


def test_a_process_that_wakes_up_when_its_order_was_taken_over_prints_nothing(shop: Shop, tmp_path: Path) -> None:
    run(shop.location, "accept", str(write_orders(tmp_path / "orders.jsonl", make_order())))
    asleep = start(shop.location, "work", "--faults=process_payment:slow(1)")
    wait_until(lambda: "process_payment" in [attempt.step for attempt in attempts_in(shop)])
    asleep.send_signal(signal.SIGSTOP)

    taken_over = run(shop.location, "work")
    asleep.send_signal(signal.SIGCONT)
    printed, _ = asleep.communicate(timeout=TIMEOUT_SECONDS)

    assert (taken_over[0], taken_over[1].split("\t")[:2]) == (0, ["1", "completed"])
    assert (asleep.returncode, printed) == (0, "")


def test_a_lease_is_renewed_again_after_the_table_was_locked_for_longer_than_it_lasts(
    location: Location, table: OrderTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable_loop, "LEASE_SECONDS", 0.6)

    with table.renewed(claimed(table)):
        with locked(location):
            wait_until(lambda: seconds_left(location, table) < -0.6)
        wait_until(lambda: seconds_left(location, table) > 0)


def test_a_worker_waits_until_the_table_can_be_reached_again(
    location: Location, table: OrderTable, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Shop(location)) as shop:
        working = threading.Thread(target=work, args=(shop, table))
        with locked(location):
            working.start()
            wait_until(lambda: "the table of orders" in caplog.text)
        working.join(TIMEOUT_SECONDS)

    ended = table.accept(make_order())
    assert ended
    assert ended.status is Status.COMPLETED


def test_a_worker_starts_while_the_table_is_locked(location: Location, table: OrderTable) -> None:
    with locked(location):
        opened = OrderTable(open_database(location, ORDERS, SCHEMA))

    with closing(opened.database):
        assert opened.has_open_orders()


def test_after_a_reset_an_order_is_accepted_and_worked_on_again(location: Location, table: OrderTable) -> None:
    with closing(Shop(location)) as shop:
        work(shop, table)

        shop.reset()
        accepted = table.accept(make_order())
        work(shop, table)

    assert accepted is None
    assert len(read_ledger(location).charges) == 1


def test_only_runs_that_never_came_back_count_as_deaths(table: OrderTable) -> None:
    claims = []
    for _ in range(2 * MAXIMUM_DEATHS):
        claims.append(claimed(table))
        move_lease(table, -LEASE_SECONDS - 1)
    for slow in claims[:MAXIMUM_DEATHS]:
        table.give_back(slow, COMPLETED)

    claim = claimed(table)

    assert (claim.number, claim.deaths) == (2 * MAXIMUM_DEATHS + 1, MAXIMUM_DEATHS)


def test_an_order_that_is_half_done_is_run_again_until_its_service_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable_loop, "LEASE_SECONDS", 0.05)
    monkeypatch.setattr(durable_loop, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(order_processor, "INITIAL_INTERVAL_SECONDS", 0.001)
    runs = 2 * MAXIMUM_DEATHS
    failures = runs * order_processor.MAXIMUM_ATTEMPTS
    table = OrderTable(open_database(tmp_path, ORDERS, SCHEMA))
    table.accept(make_order())

    down = f"update_inventory:unavailable*{failures},void_charge:unavailable*{failures}"
    with closing(Shop(tmp_path, parse_faults(down))) as shop:
        status = work(shop, table)

    attempts = [attempt.outcome for attempt in attempts_in(shop) if attempt.step == "update_inventory"]
    assert attempts == ["ServiceUnavailable"] * failures + ["ok"]
    assert status == 0


def test_an_order_whose_id_the_shop_knows_with_other_content_waits_for_a_person(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    process_order(shop, make_order(customer_id="grace"))
    table = OrderTable(open_database(shop.location, ORDERS, SCHEMA))
    table.accept(make_order())

    status = work(shop, table)

    assert status == 1
    assert capsys.readouterr().out.startswith("1\tunknown\tOrderConflict")


def test_an_order_that_cannot_even_be_given_up_is_left_to_a_person(shop: Shop) -> None:
    outcome = durable_loop.run(shop, Claim(make_order(), 11, 2 * MAXIMUM_DEATHS))

    assert outcome == Outcome("1", Status.UNKNOWN, "10 runs never came back")
    assert attempts_in(shop) == ()


@pytest.mark.parametrize("told_by", [signal.SIGTERM, signal.SIGHUP])
def test_a_worker_that_is_asked_to_stop_ends_the_order_in_hand_and_begins_no_other(
    shop: Shop, tmp_path: Path, told_by: signal.Signals
) -> None:
    path = write_orders(tmp_path / "orders.jsonl", make_order("1"), make_order("2"))
    run(shop.location, "accept", str(path))
    stopped = start(shop.location, "work", "--faults=process_payment:slow(1)")
    wait_until(lambda: "process_payment" in [attempt.step for attempt in attempts_in(shop)])

    stopped.send_signal(told_by)
    printed, _ = stopped.communicate(timeout=TIMEOUT_SECONDS)

    assert (stopped.returncode, printed.split("\t")[:2]) == (0, ["1", "completed"])
    assert {attempt.order_id for attempt in attempts_in(shop)} == {"1"}
