"""Standard output that is full, or read by nobody: orders end all the same, and the exit status tells."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, redirect_stdout
from pathlib import Path

import pytest
from conftest import make_order, write_orders

from comparison.stage.processes import ROOT, clean_environment
from shop.__main__ import main
from shop.catalogue import Product
from shop.ledger import read_ledger
from shop.orders import Outcome, Status
from shop.shop import Shop
from shop.terminal.streams import Results, run_program


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "shop"


def run_with(streams: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program with a shell's redirections, as a user would write them; it shows no traceback."""
    completed = subprocess.run(
        ["bash", "-c", f'exec "$@" {streams}', "bash", sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in completed.stderr
    assert "Exception ignored" not in completed.stderr
    return completed


@pytest.mark.parametrize(
    ("streams", "status", "said"),
    [
        (">/dev/full", 1, "order_processor: standard output cannot be written: No space left on device\n"),
        ("> >(true)", 0, ""),
    ],
    ids=["full", "closed pipe"],
)
def test_orders_are_completed_without_a_standard_output_and_the_status_and_a_sentence_tell(
    tmp_path: Path, data: Path, streams: str, status: int, said: str
) -> None:
    orders = write_orders(tmp_path / "orders.jsonl", make_order("1"), make_order("2"))

    completed = run_with(streams, "order_processor.py", orders, "--data", data)

    assert completed.returncode == status
    assert [line for line in completed.stderr.splitlines(keepends=True) if " INFO " not in line] == [
        *filter(None, [said])
    ]
    assert [mail.order_id for mail in read_ledger(data).confirmations] == ["1", "2"]


def test_a_log_that_cannot_be_written_stops_no_order_and_makes_no_noise(data: Path) -> None:
    completed = run_with("", "order_processor.py", "--data", data, "--log", "/dev/full")

    assert completed.returncode == 0
    assert [mail.sent for mail in read_ledger(data).confirmations] == [True]
    assert "Logging error" not in completed.stderr
    assert all(" INFO order " in line for line in completed.stderr.splitlines())


@pytest.mark.parametrize("command", [("ledger",), ("settle", "1", "--yes"), ("--help",)])
def test_a_command_of_the_shop_whose_output_has_no_room_says_so(
    data: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Shop(data).close()
    monkeypatch.setenv("SHOP_DATA", str(data))
    monkeypatch.setattr(sys, "argv", ["shop", *command])

    with open("/dev/full", "w") as full, redirect_stdout(full):
        status = run_program("shop", main)

    assert status == 1
    assert "shop: standard output cannot be written: No space left on device\n" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_problem(data: Path) -> None:
    with closing(Shop(data)) as shop:
        shop.inventory.replace_products([Product(f"sku-{number}", "name", 1) for number in range(5_000)])

    completed = run_with("| head -c 1", "-m", "shop", "ledger", "--json", "--data", data)

    assert (completed.stdout, completed.stderr) == ("{", "")


def exit_with(status: int) -> Callable[[], int]:
    return lambda: sys.exit(status)


def interrupt() -> int:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("run", "status"), [(lambda: 0, 0), (lambda: 1, 1), (exit_with(2), 2), (interrupt, 2)])
def test_a_program_ends_with_the_status_of_its_main_and_an_interrupted_start_with_2(
    run: Callable[[], int], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program("program", run) == status

    said = capsys.readouterr().err
    assert said == ("program: interrupted; nothing was started\n" if run is interrupt else "")


def test_a_bug_is_not_taken_for_a_broken_stream() -> None:
    def divide() -> int:
        return 1 // int(os.environ.get("NOT_SET_BY_ANYBODY", "0"))

    with pytest.raises(ZeroDivisionError):
        run_program("program", divide)


@pytest.mark.parametrize("status", list(Status))
def test_one_order_that_needs_a_person_makes_the_exit_status_1(
    status: Status, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Results()

    results.print(Outcome("1", Status.COMPLETED, "txn_1"))
    results.print(Outcome("2", status, "a reason\nof two lines"))

    needs_nobody = status in (Status.COMPLETED, Status.REJECTED, Status.STARTED)
    assert results.exit_status("program") == (0 if needs_nobody else 1)
    assert capsys.readouterr().out == f"1\tcompleted\ttxn_1\n2\t{status.value}\ta reason of two lines\n"
