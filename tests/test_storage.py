"""The databases under stress: many processes at once, locks, a full disk, `kill -9`, directories that are no use."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import shutil
import sqlite3
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from conftest import make_order

import order_processor
from shop.catalogue import PRODUCTS, Product
from shop.errors import ConstraintViolated, ReplyLost, ServiceUnavailable, StoreUnusable
from shop.faults import Fault, FaultPlan, PlannedFault
from shop.ledger import Ledger, NoShop, Stock, read_ledger
from shop.orders import Item
from shop.services import stock
from shop.shop import Shop
from shop.stores import sqlite, storage
from shop.stores.location import Location, parse_location
from shop.stores.storage import Database

PROCESSES = [str(number) for number in range(8)]
NOBODY = 12345  # a user and a group to whom nothing belongs
# A race is not lost every time: without what guards it, some of these fail, but not each one.
FRESH_DATABASES = 100
FORK = multiprocessing.get_context("fork")


def effects(shop: Shop) -> Ledger:
    return replace(read_ledger(shop.location), attempts=())


@contextmanager
def lock_on(location: Location, service: str) -> Iterator[None]:
    """Hold the lock that all writers wait for, as another program would."""
    with closing(Shop(location)) as other, getattr(other, service).database.transaction():
        yield


def limit_pages(database: Database, more: int) -> None:
    """Let a database grow by so many pages: SQLite answers more as it answers a full disk."""
    with database.transaction() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + more}")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return where the `shop` of the fixtures is."""
    return tmp_path / "shop"


def at_once(rounds: int, act: Callable[[int, str], object]) -> None:
    """Let processes do something in the same moment, round by round; none of them fails."""
    gate = FORK.Barrier(len(PROCESSES))

    def play(order_id: str) -> None:
        for number in range(rounds):
            gate.wait(30)
            act(number, order_id)

    children = [FORK.Process(target=play, args=(order_id,)) for order_id in PROCESSES]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * len(PROCESSES)


def test_many_processes_make_a_fresh_database_at_once(tmp_path: Path) -> None:
    at_once(FRESH_DATABASES, lambda number, _: storage.open_database(tmp_path, str(number), stock.SCHEMA).close())

    for number in range(FRESH_DATABASES):
        with storage.read_only(tmp_path, str(number)) as connection:
            assert connection.execute("SELECT * FROM products").fetchall() == []


def test_many_processes_open_an_empty_shop_at_once_and_process_their_orders(location: Location) -> None:
    def process(_: int, order_id: str) -> None:
        with closing(Shop(location)) as shop:
            order_processor.process_order(shop, make_order(order_id))

    at_once(1, process)

    ledger = read_ledger(location)
    assert {attempt.outcome for attempt in ledger.attempts} == {"ok"}
    assert sorted(charge.order_id for charge in ledger.charges) == PROCESSES
    assert len(ledger.confirmations) == len(PROCESSES)
    assert ledger.stock["mug"] == Stock(initial=PRODUCTS[0].quantity, now=100 - 2 * 8)


def test_a_call_waits_for_a_database_that_another_program_has_locked(location: Location) -> None:
    with closing(Shop(location)) as shop, ThreadPoolExecutor() as executor:
        with lock_on(location, "payments"):
            waiting = executor.submit(shop.payments.process_payment, make_order())
            with pytest.raises(concurrent.futures.TimeoutError):
                waiting.result(timeout=0.3)

        waiting.result(timeout=30)

        assert [attempt.outcome for attempt in read_ledger(location).attempts] == ["ok"]


def test_a_database_that_stays_locked_is_unavailable_and_unchanged(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "CALL_TIMEOUT_SECONDS", 0.1)
    with closing(Shop(location)) as shop:
        before = read_ledger(location)

        with lock_on(location, "inventory"), pytest.raises(ServiceUnavailable, match="locked"):
            shop.inventory.update_inventory(make_order())

        assert read_ledger(location) == before
        shop.inventory.update_inventory(make_order())
        assert [attempt.outcome for attempt in read_ledger(location).attempts] == ["ok"]


def test_a_shop_whose_database_stays_locked_is_not_opened(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "CALL_TIMEOUT_SECONDS", 0.1)
    Shop(location).close()

    with lock_on(location, "inventory"), pytest.raises(ServiceUnavailable, match="locked"):
        Shop(location)


def test_a_disk_that_is_full_halfway_through_an_effect_undoes_it_and_the_next_attempt_completes_it(shop: Shop) -> None:
    skus = [f"{'long-sku-':_<60}{number}" for number in range(500)]
    shop.inventory.replace_products([Product(sku, "name", 9) for sku in skus])
    order = make_order(items=tuple(Item(sku, 1, 100) for sku in skus))
    before = effects(shop)
    limit_pages(shop.inventory.database, more=2)

    with pytest.raises(ServiceUnavailable, match="full"):
        shop.inventory.update_inventory(order)
    struck = effects(shop)
    limit_pages(shop.inventory.database, more=1_000)
    shop.inventory.update_inventory(order)

    ledger = read_ledger(shop.location)
    assert struck == before
    assert [attempt.outcome for attempt in ledger.attempts] == ["ServiceUnavailable", "ok"]
    assert len(ledger.sales) == 500
    assert {stock.now for stock in ledger.stock.values()} == {8}


def test_a_process_killed_inside_a_transaction_leaves_nothing_of_it_and_keeps_nobody_waiting(
    location: Location,
) -> None:
    is_inside = FORK.Event()

    def stay_in_a_transaction() -> None:
        with Shop(location).inventory.database.transaction() as connection:
            connection.execute("UPDATE products SET now = 0")
            is_inside.set()
            threading.Event().wait()

    with closing(Shop(location)) as shop:
        before = read_ledger(location)
        process = FORK.Process(target=stay_in_a_transaction)
        process.start()
        assert is_inside.wait(30)
        process.kill()
        process.join()

        assert read_ledger(location) == before
        shop.inventory.update_inventory(make_order())


def test_an_error_inside_a_transaction_rolls_it_back_and_frees_the_database(location: Location) -> None:
    with closing(Shop(location)) as shop:
        before = read_ledger(location)

        with pytest.raises(ZeroDivisionError), shop.inventory.database.transaction() as connection:
            connection.execute("UPDATE products SET now = 0")
            _ = 1 / 0

        assert read_ledger(location) == before
        shop.inventory.update_inventory(make_order())


@pytest.mark.parametrize(
    ("step", "changes", "named"),
    [
        ("update_inventory", {"items": (Item("mug", -5, 1250),)}, "quantity"),
        ("update_inventory", {"items": (Item("mug", -(2**70), 1250),)}, ""),
        ("process_payment", {"items": (Item("mug", 1, -1),)}, "amount_cents"),
        ("process_payment", {"items": (Item("mug", 1, 2**70),)}, ""),
    ],
)
def test_what_the_database_refuses_is_refused_for_good_in_one_line(
    location: Location, step: str, changes: dict[str, object], named: str
) -> None:
    order = make_order("1", **changes)
    with closing(Shop(location)) as shop:
        before = read_ledger(location)
        service = shop.payments if step == "process_payment" else shop.inventory

        with pytest.raises(ConstraintViolated) as refused:
            getattr(service, step)(order)

        ledger = read_ledger(location)
        assert named in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1
        assert [attempt.outcome for attempt in ledger.attempts] == ["ConstraintViolated"]
        assert replace(ledger, attempts=()) == before


@pytest.mark.parametrize("value", [{"an": "object"}, object()])
def test_a_value_of_a_type_that_no_column_holds_is_refused_for_good_in_one_line(
    location: Location, value: object
) -> None:
    with closing(Shop(location)) as shop:
        with pytest.raises(ConstraintViolated) as refused, shop.payments.database.transaction() as connection:
            connection.execute("INSERT INTO voids (order_id, digest) VALUES ('1', ?)", (value,))

        assert len(str(refused.value).splitlines()) == 1
        assert read_ledger(location).voids == ()


def test_the_schema_itself_keeps_stock_from_falling_below_zero_and_keys_from_repeating(location: Location) -> None:
    with closing(Shop(location)) as shop:
        shop.inventory.update_inventory(make_order())
        before = read_ledger(location)

        for statement, named in (
            ("UPDATE products SET now = now - 101", "now"),
            ("INSERT INTO sales (idempotency_key, order_id, digest) VALUES ('1', '1', 'digest')", "idempotency_key"),
            ("INSERT INTO sales (idempotency_key, order_id) VALUES ('2', '2')", "digest"),
        ):
            with pytest.raises(ConstraintViolated, match=named), shop.inventory.database.transaction() as inside:
                inside.execute(statement)

        assert read_ledger(location) == before


@pytest.mark.parametrize(
    ("service", "table", "column"), [("payments", "voids", "digest"), ("inventory", "attempts", "at")]
)
def test_a_shop_of_another_layout_is_refused_at_the_start_with_the_column_that_is_missing(
    location: Location, service: str, table: str, column: str
) -> None:
    with closing(Shop(location)) as shop, getattr(shop, service).database.transaction() as connection:
        connection.execute(f"ALTER TABLE {table} RENAME COLUMN {column} TO other")

    with pytest.raises(StoreUnusable, match=rf"column:? {table}\.{column}"):
        Shop(location)


def test_a_new_data_directory_is_private_to_its_user_and_so_is_each_file_in_one_of_all(tmp_path: Path) -> None:
    Shop(tmp_path / "of" / "mine").close()
    shop = Shop(tmp_path)

    assert stat.S_IMODE((tmp_path / "of" / "mine").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("*.sqlite3*")} == {0o600}
    shop.close()


def test_many_threads_behind_the_lock_of_another_program_are_all_answered_after_one_waiting_time(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(location)

    def call(number: int) -> float:
        # Each comes a little later than the one before it: when that one gives up, it has time left.
        threading.Event().wait(number * 0.15)
        begin = time.monotonic()
        with pytest.raises(ServiceUnavailable, match="locked|busy"):
            shop.payments.process_payment(make_order(str(number)))
        return time.monotonic() - begin

    with closing(shop), lock_on(location, "payments"), ThreadPoolExecutor(6) as executor:
        monkeypatch.setattr(storage, "CALL_TIMEOUT_SECONDS", 1.5)
        waited_seconds = list(executor.map(call, range(6)))

    # To wait for the other threads and then anew for the other program would take 2.25 s and more.
    assert min(waited_seconds) > 1.2
    assert max(waited_seconds) < 2.2
    assert read_ledger(location).attempts == ()


@dataclass(frozen=True)
class Locked(Fault):
    """Lets another program lock the payments before the effect of a call that has waited for a while."""

    lock: ExitStack = field(default_factory=ExitStack)
    other: Shop | None = None

    def before_effect(self) -> None:
        assert self.other
        threading.Event().wait(1)
        self.lock.enter_context(self.other.payments.database.transaction())


def test_all_the_waiting_of_a_call_together_is_within_its_time_and_nothing_was_sent(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Shop(location)) as other, ExitStack() as lock:
        struck = FaultPlan((PlannedFault("process_payment", Locked(lock=lock, other=other), 1),))
        with closing(Shop(location, struck)) as shop:
            monkeypatch.setattr(storage, "CALL_TIMEOUT_SECONDS", 2.0)
            begin = time.monotonic()
            with pytest.raises(ServiceUnavailable, match="locked"):
                shop.payments.process_payment(make_order())
            waited_seconds = time.monotonic() - begin

    ledger = read_ledger(location)
    assert 1.9 < waited_seconds < 2.8  # 1 s before it was locked, 1 s after; to close its row it waits no second time
    assert ([attempt.outcome for attempt in ledger.attempts], ledger.charges) == (["started"], ())


def test_looking_waits_for_no_writer_and_sees_nothing_that_is_not_committed(location: Location) -> None:
    with closing(Shop(location)) as other:
        before = read_ledger(location)

        with (
            other.payments.database.transaction(),
            other.notifications.database.transaction(),
            other.inventory.database.transaction() as writer,
        ):
            writer.execute("UPDATE products SET now = 0")
            seen = read_ledger(location)

        assert seen == before
        assert read_ledger(location) != before


def in_another_users_name(action: Callable[[], object]) -> str:
    """Do something as a user who may only read; return what came of it, as text."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            said = repr(action())
        except BaseException as error:
            said = repr(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("state", ["at rest", "open", "in a transaction", "killed"])
def test_a_user_who_may_only_read_reads_the_ledger_as_it_is_and_changes_nothing(state: str) -> None:
    # Not in pytest's folder, into which nobody else may look.
    with tempfile.TemporaryDirectory() as folder, ExitStack() as writing:
        data = Path(folder) / "shop"
        shop = Shop(data)
        shop.payments.process_payment(make_order())
        expected = repr(read_ledger(data))
        if state == "in a transaction":
            writing.enter_context(shop.inventory.database.transaction()).execute("UPDATE products SET now = 0")
        if state == "killed":  # what is left then: the log was not put into the file
            data = shutil.copytree(data, Path(folder) / "copy")
        if state in ("at rest", "killed"):
            shop.close()
        for path in (Path(folder), data, *data.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        files = {path: path.read_bytes() for path in data.iterdir() if not path.name.endswith("-shm")}

        seen = in_another_users_name(lambda: read_ledger(data))

        assert seen == expected
        assert {path: path.read_bytes() for path in data.iterdir() if not path.name.endswith("-shm")} == files
        assert (data / "inventory.sqlite3-wal" in files) == (state != "at rest")


def test_a_shop_that_is_opened_while_a_reader_copies_it_is_not_half_read(
    shop: Shop, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.close()
    connect = sqlite._connect

    def open_the_shop(place: str, timeout_seconds: float, *, uri: bool = False) -> sqlite3.Connection:
        connection = connect(place, timeout_seconds, uri=uri)
        if place.endswith("mode=ro"):
            connection.close()  # as for a user who may only read
        elif uri:
            (data / "inventory.sqlite3-wal").touch()
        return connection

    monkeypatch.setattr(sqlite, "_connect", open_the_shop)

    with pytest.raises(NoShop, match="somebody opened it meanwhile; read it again"):
        read_ledger(data)


@pytest.mark.parametrize("service", ["inventory", "payments", "notifications"])
def test_looking_makes_no_file_that_is_missing(tmp_path: Path, service: str) -> None:
    Shop(tmp_path).close()
    missing = tmp_path / f"{service}.sqlite3"
    missing.unlink()

    with pytest.raises(NoShop, match=str(missing)):
        read_ledger(tmp_path)

    assert not missing.exists()


@pytest.mark.parametrize("text", ["~nobody-of-that-name/shop", "~nobody-of-that-name"])
def test_no_folder_is_made_of_a_home_directory_that_is_unknown(text: str) -> None:
    with pytest.raises(ValueError, match="no such home directory is known"):
        parse_location(text)


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert parse_location("~/shop") == tmp_path / "shop"


def drop_a_table(data: Path) -> None:
    with closing(sqlite3.connect(data / "inventory.sqlite3")) as connection:
        connection.execute("DROP TABLE sales")


def overwrite_the_file(data: Path) -> None:
    for path in data.glob("inventory.sqlite3*"):
        with path.open("r+b") as file:
            file.write(b"garbage " * (path.stat().st_size // 8))


@pytest.mark.parametrize("damage", [drop_a_table, overwrite_the_file])
def test_a_database_that_is_damaged_while_it_is_used_is_an_unavailable_service(
    shop: Shop, data: Path, damage: Callable[[Path], None]
) -> None:
    shop.inventory.validate_inventory(make_order())
    shop.payments.process_payment(make_order())

    damage(data)

    for call in (shop.inventory.update_inventory, shop.inventory.void_sale):
        with pytest.raises(ServiceUnavailable):
            call(make_order())
    shop.payments.refund_payment(make_order())
    with pytest.raises(NoShop, match="inventory"):
        read_ledger(shop.location)
    with shop.payments.database.transaction() as connection:
        assert [row["refunded"] for row in connection.execute("SELECT refunded FROM charges")] == [1]


def remove(data: Path) -> None:
    shutil.rmtree(data)


def move_away(data: Path) -> None:
    data.rename(data.with_name("moved"))


def replace_by_a_copy(data: Path) -> None:
    move_away(data)
    shutil.copytree(data.with_name("moved"), data)


@pytest.mark.parametrize("mishap", [remove, move_away, replace_by_a_copy])
def test_a_data_folder_that_is_removed_or_replaced_while_it_is_used_is_noticed(
    shop: Shop, data: Path, mishap: Callable[[Path], None]
) -> None:
    shop.payments.process_payment(make_order())

    mishap(data)

    for call in (
        shop.inventory.validate_inventory,
        shop.payments.process_payment,
        shop.inventory.update_inventory,
        shop.notifications.send_confirmation,
        shop.payments.void_charge,
        shop.notifications.note_unsent,
    ):
        with pytest.raises(ServiceUnavailable, match="removed or replaced"):
            call(make_order())


@dataclass(frozen=True)
class MishapBeforeTheReply(Fault):
    """Does something to the shop when the effect is committed and its attempt is not yet closed."""

    mishap: Callable[[], object] = lambda: None

    def after_effect(self) -> None:
        self.mishap()


def test_an_effect_whose_attempt_cannot_be_closed_is_an_unknown_outcome_and_stays_open(tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    mishap = MishapBeforeTheReply(mishap=lambda: (tmp_path / "shop").rename(moved))
    shop = Shop(tmp_path / "shop", FaultPlan((PlannedFault("process_payment", mishap, 1),)))

    with closing(shop), pytest.raises(ReplyLost, match="took effect"):
        shop.payments.process_payment(make_order())

    ledger = read_ledger(moved)
    assert [charge.order_id for charge in ledger.charges] == ["1"]
    assert [attempt.outcome for attempt in ledger.attempts] == ["started"]
