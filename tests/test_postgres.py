"""The shop in PostgreSQL: what SQLite does not have. Connections that are lost, a server that dies, passwords."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import Stage, address_of, make_order, write_orders
from postgres_server import DISCONNECT_OTHERS, PASSWORD, PostgresServer
from test_shop_commands import PROGRAMS as COMMANDS
from test_shop_commands import refusal_of, run_alone, run_here

from comparison.judge.accounts import accounts_of
from comparison.judge.audit import audit
from comparison.judge.command import read_outcomes
from comparison.stage.processes import POLL_SECONDS, ROOT, Program, Worker, free_port, wait_until
from shop.errors import ReplyLost, ServiceUnavailable
from shop.faults import Fault, FaultPlan, PlannedFault
from shop.ledger import read_ledger
from shop.orders import Item, Order
from shop.shop import Shop
from shop.stores import storage
from shop.stores.location import PostgresUrl, parse_location

PROGRAMS = {**COMMANDS, "audit": ("-m", "comparison", "audit", "examples/order.jsonl")}
# Any of these in a message would tell the password, or a part of it.
SECRETS = ("walnut", "plum", "turnip")
ORDERS = 24


@pytest.fixture
def shop(database: PostgresUrl) -> Iterator[Shop]:
    with closing(Shop(database)) as opened:
        yield opened


def is_told(text: str) -> bool:
    """Tell whether a text holds a part of the password."""
    return any(secret in text for secret in SECRETS)


def outcomes(shop: Shop, order_id: str = "1") -> list[str]:
    return [attempt.outcome for attempt in read_ledger(shop.location).attempts if attempt.order_id == order_id]


TROUBLES = {
    "no server": "refused",
    "wrong password": "authentication failed",
    "no such database": "does not exist",
    "no such setting": "unknown",
    "password with a slash": "the URL of a shop must read",
    "other store": "the URL of a shop must read",
}


@pytest.mark.parametrize(
    ("program", "trouble"),
    [*((program, "wrong password") for program in PROGRAMS), *(("ledger", trouble) for trouble in TROUBLES)],
)
def test_a_database_that_cannot_be_used_is_answered_with_2_one_sentence_and_no_password(
    postgres: PostgresServer, program: str, trouble: str
) -> None:
    url = postgres.url().secret
    data = {
        "no server": postgres.url(port=free_port()).secret,
        "wrong password": postgres.url(password=PASSWORD + PASSWORD).secret,
        "no such database": postgres.url(database="nowhere").secret,
        "no such setting": f"{url}?sslword=plum",
        "password with a slash": f"postgresql://shop:{PASSWORD}@127.0.0.1/shop",
        "other store": f"mysql://shop:{PASSWORD}@127.0.0.1/shop",
    }[trouble]

    said = refusal_of(*PROGRAMS[program], "--data", data)

    assert TROUBLES[trouble] in said
    assert not is_told(said)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://shop:plum%2Fturnip@db.example:5432/shop", "postgresql://db.example:5432/shop"),
        ("postgres://shop@db.example/shop", "postgresql://db.example/shop"),
        ("postgresql://", "postgresql://"),
        ("postgresql://a:1,b:2/shop", "postgresql://a:1,b:2/shop"),
        ("postgresql://u:plum@[::1]:5432/shop", "postgresql://[::1]:5432/shop"),
        ("postgresql:///?host=/run/pg&dbname=shop&user=u&password=plum", "postgresql:///?host=/run/pg&dbname=shop"),
        ("host=db password=plum dbname=shop", "host=db dbname=shop"),
        ("service=shop", "service=shop"),
        (r"host = db dbname='my shop' user='x y' password='it\'s plum'", "host=db dbname='my shop'"),
        ("host=/run/pg password=it's=plum port=5", "host=/run/pg port=5"),
        ("host=a,b port=1,2 dbname=shop target_session_attrs=read-write", "host=a,b port=1,2 dbname=shop"),
    ],
)
def test_a_database_is_shown_without_user_and_password(url: str, shown: str) -> None:
    location = parse_location(url)

    assert isinstance(location, PostgresUrl)
    assert (location.secret, str(location)) == (url, shown)
    assert not is_told(repr(location))


def test_the_script_runs_without_any_package_and_says_which_one_a_database_needs() -> None:
    completed = run_alone("-S", "order_processor.py", "--data", "postgresql://shop:plum@127.0.0.1/shop")

    assert (completed.returncode, completed.stdout) == (2, "")
    assert len(completed.stderr.splitlines()) == 1
    assert "pip install 'psycopg[binary]'" in completed.stderr
    assert not is_told(completed.stderr)


def test_the_scripts_log_is_in_the_default_folder_and_holds_no_password(database: PostgresUrl, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "shop", tmp_path / "shop")
    shutil.copy(ROOT / "order_processor.py", tmp_path)

    completed = run_alone(tmp_path / "order_processor.py", "--data", database)

    log = (tmp_path / "data" / "order_processor.log").read_text()
    assert (completed.returncode, completed.stdout.split("\t")[:2]) == (0, ["1001", "completed"])
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["order_processor.log"]
    assert "order 1001: send_confirmation" in log
    assert not is_told(log + completed.stdout + completed.stderr)
    assert [mail.sent for mail in read_ledger(database).confirmations] == [True]


def test_the_ledger_is_the_same_in_both_stores(database: PostgresUrl, tmp_path: Path) -> None:
    ledgers = []
    for location in (database, tmp_path):
        with closing(Shop(location, keys_enabled=False)) as shop:
            for number in range(3):
                order = make_order(str(number), items=(Item("mug", 1, 10**9), Item("coffee-1kg", 1, 0)))
                shop.payments.process_payment(order)
                shop.inventory.update_inventory(order)
                shop.payments.process_payment(order)
            shop.notifications.note_unsent(make_order("0"))
            shop.notifications.send_confirmation(make_order("1"))
            shop.payments.refund_payment(make_order("1", items=(Item("mug", 1, 10**9), Item("coffee-1kg", 1, 0))))
            shop.settle("2")
            shop.payments.void_charge(make_order("3"))
        ledger = read_ledger(location)
        ledgers.append(
            replace(
                ledger,
                attempts=tuple(replace(attempt, at="") for attempt in ledger.attempts),
                charges=tuple(replace(charge, transaction_id="") for charge in ledger.charges),
                sales=tuple(replace(sale, key="") for sale in ledger.sales),
                confirmations=tuple(sorted(ledger.confirmations, key=str)),
            )
        )

    assert ledgers[0] == ledgers[1]
    assert repr(ledgers[0]) == repr(ledgers[1])  # the types, too: True is 1
    assert len(ledgers[0].charges) == 6


def test_orders_wait_for_themselves_and_for_no_other(database: PostgresUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Shop(database)) as shop, closing(Shop(database)) as other, ThreadPoolExecutor() as executor:
        monkeypatch.setattr(storage, "CALL_TIMEOUT_SECONDS", 0.5)
        with other.payments.database.transaction("1"):
            same = executor.submit(shop.payments.process_payment, make_order("1")).exception(timeout=30)
            shop.payments.process_payment(make_order("2"))

        assert isinstance(same, ServiceUnavailable)
        assert [charge.order_id for charge in read_ledger(database).charges] == ["2"]


def test_orders_that_want_the_same_products_in_another_order_do_not_lock_each_other_out(shop: Shop) -> None:
    items = (Item("mug", 1, 100), Item("coffee-1kg", 1, 100))
    orders = [make_order(str(number), items=items[:: (1, -1)[number % 2]]) for number in range(80)]

    with ThreadPoolExecutor(8) as executor:
        for taken in [executor.submit(shop.inventory.update_inventory, order) for order in orders]:
            taken.result(timeout=60)

    assert {attempt.outcome for attempt in read_ledger(shop.location).attempts} == {"ok"}
    assert read_ledger(shop.location).stock["mug"].now == 20


def test_a_connection_that_was_lost_while_nobody_used_it_costs_no_attempt(postgres: PostgresServer, shop: Shop) -> None:
    with ThreadPoolExecutor(4) as executor:  # so that there are several
        list(executor.map(shop.payments.process_payment, [make_order(str(number)) for number in range(4)]))
    with postgres.connect() as operator:
        operator.execute(DISCONNECT_OTHERS)

    shop.payments.process_payment(make_order("5"))

    assert outcomes(shop, "5") == ["ok"]


@dataclass(frozen=True)
class AtCommit(Fault):
    """Lets the server do something in the commit of the charge: a deferred trigger runs there."""

    server: PostgresServer | None = None
    does: str = ""

    def before_effect(self) -> None:
        assert self.server
        with self.server.connect() as operator:
            operator.execute("SET search_path = payments")
            operator.execute(
                "CREATE OR REPLACE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN PERFORM {self.does}; RETURN NULL; END $$".encode()
            )
            operator.execute(
                "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON charges DEFERRABLE INITIALLY DEFERRED"
                " FOR EACH ROW EXECUTE FUNCTION at_commit()"
            )


@pytest.mark.parametrize(
    ("does", "is_committed"), [("pg_terminate_backend(pg_backend_pid())", False), ("pg_sleep(1.5)", True)]
)
def test_a_server_that_is_lost_in_a_commit_leaves_an_unknown_outcome_and_a_repeat_does_no_harm(
    postgres: PostgresServer,
    database: PostgresUrl,
    monkeypatch: pytest.MonkeyPatch,
    does: str,
    is_committed: bool,
) -> None:
    Shop(database).close()
    lost = AtCommit(server=postgres, does=does)
    with closing(Shop(database, FaultPlan((PlannedFault("process_payment", lost, 1),)))) as shop:
        with monkeypatch.context() as patch, pytest.raises(ReplyLost, match="committed"):
            patch.setattr(storage, "CALL_TIMEOUT_SECONDS", 0.7)
            shop.payments.process_payment(make_order())
        with postgres.connect() as operator:
            operator.execute("DROP TRIGGER at_commit ON payments.charges")  # waits for what is under way
        charges = read_ledger(database).charges
        shop.payments.process_payment(make_order())

    assert bool(charges) == is_committed
    assert outcomes(shop)[-1] == "ok"
    assert len(read_ledger(database).charges) == 1


def test_a_server_that_says_nothing_is_given_up_in_time_and_another_connection_is_made(
    postgres: PostgresServer, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.payments.process_payment(make_order("1"))
    monkeypatch.setattr(storage, "CALL_TIMEOUT_SECONDS", 0.5)
    with postgres.connect() as operator:
        rows = operator.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    for (pid,) in rows:
        os.kill(pid, signal.SIGSTOP)

    try:
        begin = time.monotonic()
        with pytest.raises(ServiceUnavailable):
            shop.payments.process_payment(make_order("2"))
        waited_seconds = time.monotonic() - begin
        shop.payments.process_payment(make_order("2"))
    finally:
        for (pid,) in rows:
            os.kill(pid, signal.SIGCONT)

    assert rows
    assert 0.5 <= waited_seconds < 1.5
    assert outcomes(shop, "2") == ["ok"]


def test_a_process_that_is_stopped_in_a_transaction_loses_it_and_its_locks(
    database: PostgresUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shop.stores.postgres.MAX_IDLE_SECONDS", 1)
    with (
        closing(Shop(database)) as stopped,
        closing(Shop(database)) as shop,
        pytest.raises(ServiceUnavailable),
        stopped.payments.database.transaction() as connection,
    ):
        connection.execute("DELETE FROM voids")
        shop.payments.process_payment(make_order())
        connection.execute("DELETE FROM charges")

    assert outcomes(shop) == ["ok"]
    assert len(read_ledger(database).charges) == 1


def test_a_server_that_is_down_is_unavailable_and_found_again_when_it_is_up(
    postgres: PostgresServer, shop: Shop
) -> None:
    shop.payments.process_payment(make_order("1"))

    postgres.kill()
    try:
        with pytest.raises(ServiceUnavailable) as refused:
            shop.payments.process_payment(make_order("2"))
    finally:
        postgres.start()
    shop.payments.process_payment(make_order("2"))

    assert not is_told(str(refused.value))
    assert [charge.order_id for charge in read_ledger(shop.location).charges] == ["1", "2"]


async def start_workers(stage: Stage, data: str, number: int) -> list[Worker]:
    # Slow enough for each of them to be killed in a call.
    faults = "process_payment:slow(1)"
    workers = [Worker(stage.directory / f"worker-{index}", stage.settings, data, faults) for index in range(number)]
    stage.started += workers
    for worker in workers:
        await worker.start()
    return workers


def orders_in_stock(number: int) -> list[Order]:
    """Return orders that find what they want; the card of every tenth one is declined."""
    tokens = ["tok_chargeDeclined" if index % 10 == 9 else "tok_visa" for index in range(number)]
    return [
        make_order(str(index), payment_token=token, items=(Item("coffee-1kg", 1, 100 + index), Item("mug", 1, 5)))
        for index, token in enumerate(tokens)
    ]


def errors_of(program: Program) -> str:
    return program.errors.read_text()


def is_in_a_slow_call(location: PostgresUrl, worker: Worker) -> bool:
    return (worker.pid, "process_payment", "started") in [
        (attempt.pid, attempt.step, attempt.outcome) for attempt in read_ledger(location).attempts
    ]


async def kill_in_a_slow_call(location: PostgresUrl, worker: Worker) -> None:
    while True:
        worker.signal(signal.SIGSTOP)  # else the call could come to its end meanwhile
        if is_in_a_slow_call(location, worker):
            return await worker.kill()
        worker.signal(signal.SIGCONT)
        await asyncio.sleep(POLL_SECONDS)


@pytest.mark.timeout(110)
async def test_workers_and_the_server_are_killed_under_load_and_no_order_is_lost(
    postgres: PostgresServer, database: PostgresUrl, stage: Stage
) -> None:
    orders = orders_in_stock(ORDERS)
    workers = await start_workers(stage, address_of(database), 4)
    starter = stage.starter(*orders)
    await starter.start()

    for worker in workers[:2]:
        await kill_in_a_slow_call(database, worker)
    await wait_until(lambda: len(read_ledger(database).charges) >= ORDERS // 4, "the other workers go on")
    postgres.kill()
    await wait_until(lambda: "the database" in "".join(map(errors_of, workers[2:])), "PostgreSQL was killed under load")
    postgres.start()
    status = await starter.wait(80)

    ledger = read_ledger(database)
    printed = read_outcomes(starter.output)
    logs = [errors_of(program) for program in stage.started]
    orders_file = write_orders(stage.directory / "orders.jsonl", *orders)
    audited = run_here("comparison", "audit", orders_file, "--data", database)
    seconds = sorted(account.seconds for account in accounts_of(orders, ledger).values())
    print(
        f"{ORDERS} orders, 2 of 4 workers and PostgreSQL killed; from an order's first attempt to its last:"
        f" median {statistics.median(seconds):.1f} s, at most {seconds[-1]:.1f} s;",
        dict(Counter(outcome.status.value for outcome in printed)),
    )
    assert audit(orders, ledger, printed, runs=1) == []
    assert (audited.returncode, audited.stdout) == (0, ""), audited.stderr
    assert status == (0 if all(outcome.is_settled for outcome in printed) else 1)
    assert all(is_in_a_slow_call(database, worker) for worker in workers[:2]), "killed in a call, which stays open"
    assert all(worker.is_running for worker in workers[2:])
    assert "serves another shop" not in "".join(logs)
    assert "Traceback" not in logs[4]
    assert not is_told("".join(logs) + starter.output.read_text())
