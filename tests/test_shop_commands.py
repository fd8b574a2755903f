"""`python -m shop` as its users run it: its output and exit status, and what it changed."""

from __future__ import annotations

import argparse
import io
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import replace
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest
from conftest import NORTHWIND, address_of, make_order
from test_shop import CALLS

import comparison.__main__
import order_processor
import run_worker
from comparison.stage.processes import ROOT, clean_environment
from shop.__main__ import main
from shop.catalogue import PRODUCTS
from shop.errors import OrderVoided
from shop.faults import FaultPlan, parse_faults
from shop.ledger import Ledger, read_ledger
from shop.orders import Order
from shop.parsing import load_orders
from shop.services import attempts
from shop.shop import Shop
from shop.stores import storage
from shop.stores.location import Location, PostgresUrl
from shop.terminal.options import ShopOptions, add_shop_arguments, read_shop_options
from shop.terminal.streams import run_program

STOCK = "sku,name,quantity\nP001,Chai,39\nP002,Chang,0\n"
CUSTOMERS = "customer_id,name,email\nVINET,Vins et alcools,vinet@example.com\n"
MAINS = {
    "shop": main,
    "order_processor.py": order_processor.main,
    "run_worker.py": run_worker.main,
    "comparison": comparison.__main__.main,
}
PROGRAMS = {
    "ledger": ("-m", "shop", "ledger"),
    "settle": ("-m", "shop", "settle", "1", "--yes"),
    "order_processor": ("order_processor.py",),
    "run_worker": ("run_worker.py",),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "shop"


def run_alone(
    *arguments: object, cwd: Path = ROOT, settings: Mapping[str, str] | None = None, stdin: int = subprocess.DEVNULL
) -> subprocess.CompletedProcess[str]:
    """Run a program as a process; whatever comes of it, it shows no traceback."""
    completed = subprocess.run(
        [sys.executable, *map(text_of, arguments)],
        cwd=cwd,
        env=clean_environment(**{"PYTHONPATH": str(ROOT), **(settings or {})}),
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in completed.stderr
    return completed


def run_here(
    *arguments: object, settings: Mapping[str, str] | None = None, stdin: int = subprocess.DEVNULL
) -> subprocess.CompletedProcess[str]:
    """Run a program in this process, with the same result: Python and the imports take longer than most commands."""
    program, *options = [text_of(argument) for argument in arguments if argument != "-m"]
    with (
        redirect_stdout(io.StringIO()) as output,
        redirect_stderr(io.StringIO()) as errors,
        open(os.devnull if stdin == subprocess.DEVNULL else os.dup(stdin)) as typed,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", [program, *options])
        patch.setattr(sys, "stdin", typed)
        for name, value in (settings or {}).items():
            patch.setenv(name, value)
        status = run_program(Path(program).stem, MAINS[program])
    return subprocess.CompletedProcess(program, status, output.getvalue(), errors.getvalue())


def refusal_of(*arguments: object, **options: Any) -> str:  # Any: as `run_here` declares
    """Run a program that is refused at its start; return the one sentence that it says."""
    completed = run_here(*arguments, **options)
    assert (completed.returncode, completed.stdout) == (2, ""), completed.stderr
    assert len(completed.stderr.splitlines()) == 1, completed.stderr
    return completed.stderr


def run_shop(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:  # Any: as `run_here` declares
    return run_here("shop", *arguments, **options)


def text_of(argument: object) -> str:
    return address_of(argument) if isinstance(argument, PostgresUrl) else str(argument)


def do(data: Location, order: Order, *steps: str) -> None:
    with closing(Shop(data)) as shop:
        for step in steps:
            CALLS[step](shop, order)


def write_catalogue(
    directory: Path, stock: str | bytes | None = STOCK, customers: str | bytes | None = CUSTOMERS
) -> Path:
    directory.mkdir()
    for name, content in (("stock.csv", stock), ("customers.csv", customers)):
        if content is not None:
            (directory / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return directory


def effects_in(ledger: Ledger) -> Ledger:
    return replace(ledger, attempts=())


def initial_stock(ledger: Ledger) -> dict[str, int]:
    return {sku: stock.initial for sku, stock in ledger.stock.items()}


def test_ledger_prints_the_documented_json(location: Location) -> None:
    do(location, make_order("1"), "process_payment", "update_inventory", "send_confirmation")
    do(location, make_order("2"), "void_charge")

    completed = run_shop("ledger", "--json", "--data", location)

    document = json.loads(completed.stdout)
    first_attempt = document["attempts"][0]
    assert (completed.returncode, completed.stderr) == (0, "")
    assert list(document) == ["stock", "sales", "charges", "confirmations", "voids", "attempts"]
    assert document["stock"]["mug"] == {"initial": 100, "now": 98}
    assert document["sales"] == [
        {"order_id": "1", "sku": "mug", "quantity": 2, "restored": False},
        {"order_id": "1", "sku": "coffee-1kg", "quantity": 1, "restored": False},
    ]
    assert document["charges"] == [
        {
            "order_id": "1",
            "transaction_id": document["charges"][0]["transaction_id"],
            "amount_cents": 4_390,
            "currency": "USD",
            "refunded": False,
        }
    ]
    assert document["charges"][0]["transaction_id"].startswith("txn_")
    assert document["confirmations"] == [{"order_id": "1", "customer_id": "ada", "sent": True}]
    kinds = [document["sales"][0]["restored"], document["charges"][0]["refunded"], document["confirmations"][0]["sent"]]
    assert repr(kinds) == "[False, False, True]"  # 0 and 1 would be equal to them
    assert document["voids"] == [{"order_id": "2", "step": "void_charge"}]
    assert first_attempt == {
        "step": "process_payment",
        "order_id": "1",
        "attempt": 1,
        "outcome": "ok",
        "pid": os.getpid(),
        "at": first_attempt["at"],
    }
    assert first_attempt["at"].endswith("+00:00")


def test_ledger_tells_people_what_happened_to_each_order(location: Location) -> None:
    do(location, make_order("1"), "process_payment", "update_inventory", "note_unsent")
    do(location, make_order("2", currency="JPY"), "process_payment", "refund_payment")

    completed = run_shop("ledger", "--data", location)

    first, second = completed.stdout.split("order 2\n")
    assert completed.returncode == 0
    assert "order 1\n" in first
    assert all(words in first for words in ("process_payment", "43.90 USD", "2 x mug", "to ada: noted as not sent"))
    assert "4390 JPY, refunded" in second
    assert "mug: 100 -> 98" in second


def test_an_attempt_is_stamped_with_microseconds_and_shown_with_milliseconds_also_at_a_full_second(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullSecond(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> FullSecond:
            return cls(2026, 1, 1, tzinfo=tz)

    monkeypatch.setattr(attempts, "datetime", FullSecond)
    do(folder, make_order(), "process_payment")

    assert [attempt.at for attempt in read_ledger(folder).attempts] == ["2026-01-01T00:00:00.000000+00:00"]
    assert "  00:00:00.000  process_payment " in run_shop("ledger", "--data", folder).stdout


def test_load_replaces_stock_and_customers_as_often_as_it_likes_also_by_what_excel_writes_as_csv_in_utf_8(
    tmp_path: Path, location: Location
) -> None:
    of_excel = (text.replace("\n", "\r\n").encode("utf-8-sig") for text in (STOCK, CUSTOMERS))
    directories = write_catalogue(tmp_path / "csv"), write_catalogue(tmp_path / "excel", *of_excel)

    for directory in directories:
        completed = run_shop("load", directory, "--data", location)

        assert (completed.returncode, completed.stderr) == (0, "")
        assert "2 products and 1 customers" in completed.stdout
        assert initial_stock(read_ledger(location)) == {"P001": 39, "P002": 0}
    with closing(Shop(location)) as shop:
        shop.notifications.send_confirmation(make_order(customer_id="VINET"))


def test_load_reads_the_whole_of_northwind(folder: Path) -> None:
    completed = run_shop("load", NORTHWIND, "--data", folder)

    ordered = {item.sku for order in load_orders(str(NORTHWIND / "orders.jsonl")) for item in order.items}
    assert completed.returncode == 0
    assert "77 products and 91 customers" in completed.stdout
    assert set(initial_stock(read_ledger(folder))) == ordered


def test_load_refuses_once_an_order_was_processed(tmp_path: Path, folder: Path) -> None:
    do(folder, make_order(), "update_inventory")
    before = read_ledger(folder)

    completed = run_shop("load", write_catalogue(tmp_path / "csv"), "--data", folder)

    assert completed.returncode == 1
    assert "reset" in completed.stderr
    assert read_ledger(folder) == before
    do(folder, make_order(), "send_confirmation")


@pytest.mark.parametrize(
    ("catalogue", "where"),
    [
        ({"stock": None}, "stock.csv"),
        ({"stock": ""}, "stock.csv: line 1"),
        ({"stock": "sku,name,quantity\n"}, "stock.csv: there is no row"),
        ({"stock": "name,sku,quantity\nChai,P001,39\n"}, "stock.csv: line 1"),
        ({"stock": STOCK + "P003,Syrup\n"}, "stock.csv: line 4"),
        ({"stock": STOCK + "P003,Syrup,1,2\n"}, "stock.csv: line 4"),
        ({"stock": STOCK + "P001,Chai again,39\n"}, "stock.csv: line 4"),
        ({"stock": STOCK + "P 3,Syrup,1\n"}, "stock.csv: line 4"),
        *(
            ({"stock": STOCK + f"P003,Syrup,{quantity}\n"}, "stock.csv: line 4: quantity")
            for quantity in ("", "-1", "1.5", " 1", "\N{SUPERSCRIPT TWO}", "1000000001", "9" * 5_000)
        ),
        ({"stock": STOCK.encode() + b"P003,\xff,1\n"}, "stock.csv"),
        ({"stock": STOCK + f"P003,{'x' * 200_000},1\n"}, "stock.csv"),
        ({"customers": None}, "customers.csv"),
        ({"customers": STOCK}, "customers.csv: line 1"),
        ({"customers": CUSTOMERS + "HANAR\n"}, "customers.csv: line 3"),
    ],
)
def test_load_refuses_a_bad_file_by_name_and_line_and_changes_nothing(
    tmp_path: Path, folder: Path, catalogue: dict[str, str | bytes | None], where: str
) -> None:
    do(folder, make_order())
    before = read_ledger(folder)

    assert where in refusal_of("shop", "load", write_catalogue(tmp_path / "csv", **catalogue), "--data", folder)

    assert read_ledger(folder) == before
    do(folder, make_order(), "send_confirmation")


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ((), "holds nothing"),
        (("process_payment", "update_inventory"), "refund 43.90 USD, put back 2 x mug, put back 1 x coffee-1kg"),
        (("process_payment", "refund_payment"), "holds nothing"),
    ],
    ids=["nothing", "charged and sold", "refunded"],
)
def test_settle_says_what_it_undoes_undoes_it_and_voids_the_order(
    location: Location, held: tuple[str, ...], said: str
) -> None:
    do(location, make_order("1"), *held)
    do(location, make_order("2"), "process_payment", "update_inventory")

    completed = [run_shop("settle", "1", "--yes", "--data", location) for _ in range(2)]

    ledger = read_ledger(location)
    assert [one.returncode for one in completed] == [0, 0]
    assert f"order 1: {said}; to be voided for good" in completed[0].stderr
    assert "nobody works on" in completed[0].stderr
    assert "order 1: holds nothing" in completed[1].stderr
    assert [charged.order_id for charged in ledger.charges if not charged.refunded] == ["2"]
    assert {sale.order_id for sale in ledger.sales if not sale.restored} == {"2"}
    assert ledger.stock["mug"].now == 98
    with closing(Shop(location)) as shop:
        for step in ("update_inventory", "process_payment", "send_confirmation", "note_unsent"):
            with pytest.raises(OrderVoided):
                CALLS[step](shop, make_order("1"))


@pytest.mark.parametrize("last", ["send_confirmation", "note_unsent"])
def test_settle_refuses_an_order_that_was_confirmed(folder: Path, last: str) -> None:
    do(folder, make_order(), "process_payment", "update_inventory", last)
    before = read_ledger(folder)

    completed = run_shop("settle", "1", "--yes", "--data", folder)

    assert (completed.returncode, completed.stdout) == (1, "")
    assert completed.stderr == "shop: order 1 is complete; nothing is owed\n"
    assert effects_in(read_ledger(folder)) == effects_in(before)


@pytest.mark.parametrize("command", [("settle", "1"), ("reset",)])
def test_settle_and_reset_without_yes_and_without_a_terminal_change_nothing(
    folder: Path, command: tuple[str, ...]
) -> None:
    do(folder, make_order(), "process_payment")
    before = read_ledger(folder)

    completed = run_shop(*command, "--data", folder)

    assert (completed.returncode, completed.stdout) == (1, "")
    assert "--yes" in completed.stderr
    assert read_ledger(folder) == before


@pytest.mark.parametrize(
    ("order_id", "arguments"),
    [
        ("-x1", ("-x1", "--yes")),
        ("-x1", ("--yes", "-x1")),
        ("-x1", ("--yes", "--", "-x1")),
        ("-h1", ("-h1", "--yes")),
        ("--x1", ("--x1", "--yes")),
        ("--yes-no", ("--yes", "--yes-no")),
        ("--1", ("--1", "--yes")),
        ("--yes", ("--yes", "--", "--yes")),
    ],
)
def test_an_order_whose_id_begins_with_a_dash_is_settled(
    folder: Path, order_id: str, arguments: tuple[str, ...]
) -> None:
    do(folder, make_order(order_id), "process_payment")

    completed = run_shop("settle", "--data", folder, *arguments)

    assert completed.returncode == 0, completed.stderr
    assert [(charged.order_id, charged.refunded) for charged in read_ledger(folder).charges] == [(order_id, True)]


def test_the_faults_of_the_environment_strike_no_command(tmp_path: Path, folder: Path) -> None:
    do(folder, make_order(), "process_payment", "update_inventory")
    settings = {"SHOP_FAULTS": "refund_payment:crash_before*inf,void_sale:unavailable*inf"}

    settled = run_shop("settle", "1", "--yes", "--data", folder, settings=settings)
    shown = run_shop("ledger", "--data", folder, settings={"SHOP_FAULTS": "what is no plan"})

    assert (settled.returncode, shown.returncode) == (0, 0)
    assert [charged.refunded for charged in read_ledger(folder).charges] == [True]


def test_settle_that_cannot_reach_a_service_says_so_and_can_be_repeated(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "CALL_TIMEOUT_SECONDS", 0.1)
    do(folder, make_order(), "process_payment", "update_inventory")
    with closing(Shop(folder)) as other_program, other_program.payments.database.transaction():
        blocked = run_here("shop", "settle", "1", "--yes", "--data", folder)

    repeated = run_shop("settle", "1", "--yes", "--data", folder)

    assert (blocked.returncode, blocked.stdout, repeated.returncode) == (1, "", 0)
    assert "locked" in blocked.stderr
    assert [charged.refunded for charged in read_ledger(folder).charges] == [True]


def test_reset_with_yes_forgets_everything_and_stocks_the_catalogue(tmp_path: Path, location: Location) -> None:
    run_shop("load", write_catalogue(tmp_path / "csv"), "--data", location)
    do(location, make_order(customer_id="VINET"), "process_payment", "refund_payment", "send_confirmation")

    completed = run_shop("reset", "--yes", "--data", location)

    ledger = read_ledger(location)
    assert completed.returncode == 0
    assert initial_stock(ledger) == {product.sku: product.quantity for product in PRODUCTS}
    assert (ledger.sales, ledger.charges, ledger.confirmations, ledger.voids, ledger.attempts) == ((), (), (), (), ())
    do(location, make_order(), "send_confirmation")


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Give both ends of a terminal: what is written to the first is typed at the second."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("command", [("reset",), ("settle", "1")])
@pytest.mark.parametrize(
    ("typed", "status", "is_meant"),
    [(b"y\n", 0, True), (b"n\n", 1, False), (b"\n", 1, False), (b"\x04", 1, False)],
    ids=["yes", "no", "nothing", "end of input"],
)
def test_reset_and_settle_ask_at_a_terminal(
    folder: Path, terminal: tuple[int, int], command: tuple[str, ...], typed: bytes, status: int, is_meant: bool
) -> None:
    do(folder, make_order(), "process_payment")
    keyboard, screen = terminal
    os.write(keyboard, typed)

    completed = run_shop(*command, "--data", folder, stdin=screen)

    held = [charged for charged in read_ledger(folder).charges if not charged.refunded]
    assert completed.returncode == status
    assert (held == []) == is_meant


@pytest.mark.parametrize(
    "arguments",
    [(), ("sell",), ("settle",), ("load",), ("ledger", "--xml"), ("settle", "1", "2"), ("settle", "-1", "-2")],
)
def test_bad_usage_is_answered_with_2(folder: Path, arguments: tuple[str, ...]) -> None:
    completed = run_shop(*arguments, settings={"SHOP_DATA": str(folder)})

    assert (completed.returncode, completed.stdout) == (2, "")
    assert "usage: python -m shop" in completed.stderr
    assert not folder.exists()


@pytest.mark.parametrize("value", ["maybe", ""])
def test_a_setting_that_cannot_be_read_is_answered_with_2_and_named(folder: Path, value: str) -> None:
    assert "SHOP_IDEMPOTENCY" in refusal_of("shop", "ledger", "--data", folder, settings={"SHOP_IDEMPOTENCY": value})
    assert not folder.exists()


def options_of(*arguments: str, **environment: str) -> ShopOptions:
    parser = argparse.ArgumentParser()
    add_shop_arguments(parser)
    return read_shop_options(parser.parse_args(arguments), environment)


def test_an_option_goes_before_the_environment_and_that_before_the_default() -> None:
    both = options_of("--data", "a", "--faults", "", SHOP_DATA="b", SHOP_FAULTS="void_sale:unavailable")
    by_environment = options_of(SHOP_DATA="~/b", SHOP_FAULTS="void_sale:unavailable", SHOP_IDEMPOTENCY="off")
    by_default = options_of()

    assert (both.location, both.faults) == (Path("a"), FaultPlan())
    assert (by_environment.location, by_environment.keys_enabled) == (Path.home() / "b", False)
    assert by_environment.faults == parse_faults("void_sale:unavailable")
    assert (by_default.location, by_default.keys_enabled) == (ROOT / "data", True)


def test_an_empty_option_opens_no_other_shop() -> None:
    with pytest.raises(ValueError, match="--data: is empty"):
        options_of("--data", "", SHOP_DATA="b")


def test_the_default_folder_does_not_depend_on_where_one_stands(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "shop", tmp_path / "copy" / "shop")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    completed = run_alone("-m", "shop", "ledger", cwd=elsewhere, settings={"PYTHONPATH": str(tmp_path / "copy")})

    assert completed.returncode == 0
    assert read_ledger(tmp_path / "copy" / "data").stock["mug"].now == 100
    assert [*elsewhere.iterdir()] == []


@pytest.mark.parametrize(
    ("program", "name"),
    [*((program, "file") for program in PROGRAMS), *(("ledger", name) for name in ("x" * 300, "garbage", "folder"))],
)
def test_a_data_directory_that_cannot_be_used_is_named_and_answered_with_2(
    tmp_path: Path, program: str, name: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "inventory.sqlite3").write_text("not a database, and long enough to be taken for one" * 99)
    (tmp_path / "folder" / "payments.sqlite3").mkdir(parents=True)

    assert str(tmp_path / name) in refusal_of(*PROGRAMS[program], "--data", tmp_path / name)
