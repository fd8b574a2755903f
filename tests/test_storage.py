"""The databases under stress: many processes at once, locks, a full disk, `kill -9`, directories that are no use."""

from __future__ import annotations

import fcntl
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import make_order

from comparison.processes import ROOT, clean_environment
from shop import storage
from shop.catalogue import PRODUCTS, Product
from shop.errors import ReplyLost, ServiceUnavailable, StoreUnusable
from shop.faults import Fault, FaultPlan, PlannedFault
from shop.ledger import Ledger, NoShop, Stock, read_ledger
from shop.orders import Item
from shop.shop import Shop
from shop.storage import Database

PROCESSES = [str(number) for number in range(8)]
# A race is not lost every time: without the lock that `Database` takes, some of these fail, but not each one.
FRESH_DIRECTORIES = 20

# Opens each directory that it is told, as soon as nobody holds the gate, and processes one order of its own there.
ONE_OF_MANY = """
import fcntl
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from order_processor import process_order
from shop.orders import SAMPLE_ORDER
from shop.shop import Shop
from shop.storage import Database

for line in sys.stdin:
    with open(sys.argv[2]) as gate:
        print("at the gate", flush=True)
        fcntl.flock(gate, fcntl.LOCK_SH)
    try:
        shop = Shop(Path(line.strip()))
        print(process_order(shop, replace(SAMPLE_ORDER, order_id=sys.argv[1])).as_line(), flush=True)
        shop.close()
    except Exception as error:
        print(repr(error), flush=True)
"""

KILLED_IN_A_TRANSACTION = """
import sys
from pathlib import Path
from shop.shop import Shop
from shop.storage import Database

with Shop(Path(sys.argv[1])).inventory.database.transaction() as connection:
    connection.execute("PRAGMA cache_size = 10")  # far less than what follows: it has to go to the file
    connection.execute("UPDATE products SET now = 0")
    connection.executemany("INSERT INTO voids VALUES (?, 'digest')", [(f"order-{n}",) for n in range(20_000)])
    print("in the transaction", flush=True)
    sys.stdin.read()
"""


def effects(shop: Shop) -> Ledger:
    return replace(read_ledger(shop.location), attempts=())


@contextmanager
def lock_on(path: Path) -> Iterator[sqlite3.Connection]:
    """Hold the write lock of a database, as another program would."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def limit_pages(database: Database, more: int) -> None:
    """Let a database grow by so many pages: SQLite answers more as it answers a full disk."""
    with database.transaction() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + more}")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return where the `shop` of the fixtures is."""
    return tmp_path / "shop"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    path = tmp_path / "gate"
    path.touch()
    return path


@pytest.fixture
def processes(gate: Path) -> Iterator[list[subprocess.Popen[str]]]:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_MANY, order_id, str(gate)],
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for order_id in PROCESSES
    ]
    yield started
    for process in started:
        process.communicate(timeout=30)


def answers_of(processes: list[subprocess.Popen[str]]) -> list[str]:
    return [process.stdout.readline() for process in processes if process.stdout is not None]


def open_at_once(processes: list[subprocess.Popen[str]], gate: Path, data: Path) -> list[str]:
    """Let all processes open `data` in the same moment; return what each one answers."""
    with gate.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{data}\n")
            process.stdin.flush()
        assert answers_of(processes) == ["at the gate\n"] * len(PROCESSES)
    return answers_of(processes)


def test_many_processes_open_a_fresh_directory_at_once_and_process_their_orders(
    tmp_path: Path, gate: Path, processes: list[subprocess.Popen[str]]
) -> None:
    for number in range(FRESH_DIRECTORIES):
        data = tmp_path / str(number)

        answers = open_at_once(processes, gate, data)

        ledger = read_ledger(data)
        assert [answer.split("\t")[:2] for answer in answers] == [[order_id, "completed"] for order_id in PROCESSES]
        assert {attempt.outcome for attempt in ledger.attempts} == {"ok"}
        assert sorted(charge.order_id for charge in ledger.charges) == PROCESSES
        assert {sku: stock.initial for sku, stock in ledger.stock.items()} == {
            product.sku: product.quantity for product in PRODUCTS
        }
        assert ledger.stock["mug"] == Stock(initial=100, now=100 - 2 * 8)


def test_a_call_waits_for_a_database_that_another_program_has_locked(tmp_path: Path) -> None:
    shop, released = Shop(tmp_path), threading.Event()
    with closing(shop), lock_on(tmp_path / "payments.sqlite3") as lock:

        def release() -> None:
            released.set()
            lock.execute("ROLLBACK")

        timer = threading.Timer(0.3, release)
        timer.start()
        shop.payments.process_payment(make_order())

        assert released.is_set()
        assert [attempt.outcome for attempt in read_ledger(shop.location).attempts] == ["ok"]
        timer.join()


def test_a_database_that_stays_locked_is_unavailable_and_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "BUSY_TIMEOUT_SECONDS", 0.1)
    with closing(Shop(tmp_path)) as shop:
        before = read_ledger(shop.location)

        with lock_on(tmp_path / "inventory.sqlite3"), pytest.raises(ServiceUnavailable, match="locked"):
            shop.inventory.update_inventory(make_order())

        assert read_ledger(shop.location) == before
        shop.inventory.update_inventory(make_order())
        assert [attempt.outcome for attempt in read_ledger(shop.location).attempts] == ["ok"]


def test_a_shop_whose_database_stays_locked_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BUSY_TIMEOUT_SECONDS", 0.1)
    Shop(tmp_path).close()

    with lock_on(tmp_path / "inventory.sqlite3"), pytest.raises(ServiceUnavailable, match="locked"):
        Shop(tmp_path)


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


def test_a_disk_without_room_for_any_attempt_loses_no_charge(shop: Shop) -> None:
    limit_pages(shop.payments.database, more=0)

    charged = 0
    with pytest.raises(ServiceUnavailable, match="full"):
        for number in range(1_000):
            shop.payments.process_payment(make_order(str(number)))
            charged += 1
    full = read_ledger(shop.location)
    limit_pages(shop.payments.database, more=1_000)
    shop.payments.process_payment(make_order(str(charged)))

    charges = [charge.order_id for charge in read_ledger(shop.location).charges]
    assert 0 < len(full.charges) == charged
    assert charges == [str(number) for number in range(charged + 1)]


def test_a_process_killed_inside_a_transaction_leaves_nothing_of_it(tmp_path: Path) -> None:
    Shop(tmp_path).close()
    before = read_ledger(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED_IN_A_TRANSACTION, str(tmp_path)],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in the transaction\n"
        written = (tmp_path / "inventory.sqlite3-wal").stat().st_size

        process.kill()

    assert written > 100_000
    assert read_ledger(tmp_path) == before
    with closing(sqlite3.connect(tmp_path / "inventory.sqlite3")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_an_error_inside_a_transaction_rolls_it_back_and_frees_the_database(shop: Shop) -> None:
    before = read_ledger(shop.location)

    with pytest.raises(ZeroDivisionError), shop.inventory.database.transaction() as connection:
        connection.execute("UPDATE products SET now = 0")
        _ = 1 / 0

    assert read_ledger(shop.location) == before


def test_the_schema_itself_keeps_stock_from_falling_below_zero_and_keys_from_repeating(shop: Shop) -> None:
    shop.inventory.update_inventory(make_order())
    before = read_ledger(shop.location)

    for statement in ("UPDATE products SET now = now - 101", "INSERT INTO sales VALUES ('1', '1', 'digest', 0)"):
        with pytest.raises(ServiceUnavailable, match="constraint"), shop.inventory.database.transaction() as connection:
            connection.execute(statement)

    assert read_ledger(shop.location) == before


def test_a_new_data_directory_is_private_to_its_user(tmp_path: Path) -> None:
    Shop(tmp_path / "of" / "mine").close()

    assert stat.S_IMODE((tmp_path / "of" / "mine").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("obstacle", "is_directory"),
    [("data", False), ("data/inventory.sqlite3", False), ("data/payments.sqlite3", False), ("data/.lock", True)],
)
def test_a_data_directory_that_cannot_be_used_is_named(tmp_path: Path, obstacle: str, is_directory: bool) -> None:
    path = tmp_path / obstacle
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if is_directory else path.write_text("neither a database nor a directory. " * 100)

    with pytest.raises(StoreUnusable, match=str(tmp_path / "data")):
        Shop(tmp_path / "data")


def test_many_threads_behind_the_lock_of_another_program_are_all_answered_after_one_waiting_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "BUSY_TIMEOUT_SECONDS", 2.0)
    shop = Shop(tmp_path)

    def call(number: int) -> float:
        # Each comes a little later than the one before it: when that one gives up, it has time left.
        threading.Event().wait(number * 0.15)
        begin = time.monotonic()
        with pytest.raises(ServiceUnavailable):
            shop.payments.process_payment(make_order(str(number)))
        return time.monotonic() - begin

    with closing(shop), lock_on(tmp_path / "payments.sqlite3"), ThreadPoolExecutor(8) as executor:
        waited_seconds = list(executor.map(call, range(8)))

    # To wait for the other threads and then anew for the other program would take 3 s and more.
    assert min(waited_seconds) > 1.5
    assert max(waited_seconds) < 2.8
    assert read_ledger(tmp_path).attempts == ()


def test_a_thread_that_waits_for_another_one_is_answered_after_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "BUSY_TIMEOUT_SECONDS", 0.2)
    shop = Shop(tmp_path)

    with closing(shop), ThreadPoolExecutor() as executor, shop.payments.database.transaction():
        waiting = executor.submit(shop.payments.process_payment, make_order())
        error = waiting.exception(timeout=30)

    assert isinstance(error, ServiceUnavailable)
    assert "busy" in str(error)


def test_looking_waits_for_no_writer_and_sees_nothing_that_is_not_committed(shop: Shop, data: Path) -> None:
    before = read_ledger(shop.location)

    with lock_on(data / "inventory.sqlite3") as writer:
        writer.execute("UPDATE products SET now = 0")
        with lock_on(data / "payments.sqlite3"), lock_on(data / "notifications.sqlite3"):
            seen = read_ledger(shop.location)

    assert seen == before


def test_looking_changes_no_database(tmp_path: Path) -> None:
    with closing(Shop(tmp_path)) as shop:
        shop.settle("1")
        shop.inventory.update_inventory(make_order("2"))
        with shop.inventory.database.transaction() as connection:
            connection.execute("DELETE FROM products")  # emptied by a mishap: looking must not stock it again
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("*.sqlite3")}

    ledger = read_ledger(tmp_path)

    assert ledger.stock == {}
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("*.sqlite3")} == before
    assert len(before) == 3


@pytest.mark.parametrize("service", ["inventory", "payments", "notifications"])
def test_looking_makes_no_file_that_is_missing(tmp_path: Path, service: str) -> None:
    Shop(tmp_path).close()
    missing = tmp_path / f"{service}.sqlite3"
    missing.unlink()

    with pytest.raises(NoShop, match=str(missing)):
        read_ledger(tmp_path)

    assert not missing.exists()


def test_looking_makes_no_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NoShop):
        read_ledger(tmp_path / "nowhere")

    assert not (tmp_path / "nowhere").exists()


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


def replace_by_a_new_shop(data: Path) -> None:
    remove(data)
    Shop(data).close()


def replace_each_file(data: Path) -> None:
    for path in data.glob("*.sqlite3"):
        path.with_suffix(".copy").write_bytes(path.read_bytes())
        path.with_suffix(".copy").rename(path)


@pytest.mark.parametrize("mishap", [remove, move_away, replace_by_a_copy, replace_by_a_new_shop, replace_each_file])
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


def test_a_refusal_whose_attempt_cannot_be_closed_is_a_refusal_all_the_same(
    shop: Shop, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "BUSY_TIMEOUT_SECONDS", 0.1)
    held = sqlite3.connect(data / "payments.sqlite3", isolation_level=None)

    @dataclass(frozen=True)
    class LockedBeforeTheEffect(Fault):
        def before_effect(self) -> None:
            held.execute("BEGIN IMMEDIATE")

    struck = Shop(shop.location, FaultPlan((PlannedFault("process_payment", LockedBeforeTheEffect(), 1),)))
    with closing(held), closing(struck), pytest.raises(ServiceUnavailable, match="locked"):
        struck.payments.process_payment(make_order())

    ledger = read_ledger(shop.location)
    assert ([attempt.outcome for attempt in ledger.attempts], ledger.charges) == (["started"], ())


def test_a_folder_whose_lock_is_held_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BUSY_TIMEOUT_SECONDS", 0.1)
    Shop(tmp_path).close()

    with (tmp_path / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreUnusable, match="another process holds this lock"):
            Shop(tmp_path)

    Shop(tmp_path).close()
