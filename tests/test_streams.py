"""Standard streams that are closed, full, or read by nobody: orders end all the same, and the exit status tells."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import make_order, write_orders

from comparison.stage.processes import ROOT, clean_environment
from shop.catalogue import Product
from shop.ledger import read_ledger
from shop.orders import Outcome, Status
from shop.shop import Shop
from shop.terminal.streams import Results, run_program

TWO_ORDERS = (make_order("1"), make_order("2"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "shop"


def run_with(streams: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program with a shell's redirections, as a user would write them."""
    return subprocess.run(
        ["bash", "-c", f'exec "$@" {streams}', "bash", sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def completed_in(data: Path) -> list[str]:
    return [mail.order_id for mail in read_ledger(data).confirmations]


@pytest.mark.parametrize(
    ("streams", "reason"),
    [
        (">/dev/full", "No space left on device"),
        (">&-", "Bad file descriptor"),
        (">&- <&-", "Bad file descriptor"),
    ],
)
def test_orders_are_completed_without_a_standard_output_and_the_status_and_a_sentence_tell(
    tmp_path: Path, data: Path, streams: str, reason: str
) -> None:
    orders = write_orders(tmp_path / "orders.jsonl", *TWO_ORDERS)

    completed = run_with(streams, "order_processor.py", orders, "--data", data)

    assert completed.returncode == 1
    assert f"order_processor: standard output cannot be written: {reason}" in completed.stderr
    assert "Traceback" not in completed.stderr
    assert completed_in(data) == ["1", "2"]


@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_orders_are_completed_and_printed_without_a_standard_error(tmp_path: Path, data: Path, streams: str) -> None:
    orders = write_orders(tmp_path / "orders.jsonl", *TWO_ORDERS)

    completed = run_with(streams, "order_processor.py", orders, "--data", data)

    assert completed.returncode == 0
    assert [line.split("\t")[:2] for line in completed.stdout.splitlines()] == [["1", "completed"], ["2", "completed"]]
    assert completed.stderr == ""
    assert completed_in(data) == ["1", "2"]


@pytest.mark.parametrize("streams", [">&- 2>&- <&-", ">/dev/full 2>/dev/full", ">/dev/full 2>&1"])
def test_orders_are_completed_without_any_stream(tmp_path: Path, data: Path, streams: str) -> None:
    orders = write_orders(tmp_path / "orders.jsonl", *TWO_ORDERS)

    completed = run_with(streams, "order_processor.py", orders, "--data", data)

    assert completed.returncode == 1
    assert completed_in(data) == ["1", "2"]
    assert "Traceback" not in (data / "order_processor.log").read_text()


def test_a_closed_stream_is_not_given_to_a_database(data: Path) -> None:
    run_with(">&- 2>&- <&-", "order_processor.py", "--data", data)

    completed = run_with("", "-m", "shop", "ledger", "--data", data)

    assert completed.returncode == 0
    assert all(path.read_bytes().startswith(b"SQLite format 3\0") for path in data.glob("*.sqlite3"))


def test_a_log_that_cannot_be_written_stops_no_order_and_makes_no_noise(tmp_path: Path, data: Path) -> None:
    data.mkdir()
    (data / "order_processor.log").symlink_to("/dev/full")
    orders = write_orders(tmp_path / "orders.jsonl", *TWO_ORDERS)

    completed = run_with("", "order_processor.py", orders, "--data", data)

    assert completed.returncode == 0
    assert completed_in(data) == ["1", "2"]
    assert "Logging error" not in completed.stderr
    assert "Traceback" not in completed.stderr
    assert all(" INFO order " in line for line in completed.stderr.splitlines())


@pytest.mark.parametrize("streams", [">/dev/full", ">&-"])
@pytest.mark.parametrize("command", [("ledger",), ("ledger", "--json"), ("settle", "1", "--yes"), ("reset", "--yes")])
def test_a_command_of_the_shop_without_a_standard_output_says_so(
    data: Path, command: tuple[str, ...], streams: str
) -> None:
    Shop(data).close()

    completed = run_with(streams, "-m", "shop", *command, "--data", data)

    assert completed.returncode == 1
    assert "shop: standard output cannot be written" in completed.stderr
    assert "Traceback" not in completed.stderr


@pytest.mark.parametrize("program", [("order_processor.py",), ("-m", "shop", "ledger")])
def test_bad_usage_is_answered_with_2_without_a_standard_error(data: Path, program: tuple[str, ...]) -> None:
    completed = run_with("2>&-", *program, "--data", data, "--unheard-of")

    assert (completed.returncode, completed.stdout) == (2, "")
    assert not data.exists()


def test_a_reader_that_leaves_early_is_no_problem(tmp_path: Path, data: Path) -> None:
    with closing(Shop(data)) as shop:
        shop.inventory.replace_products([Product(f"sku-{number}", "name", 1) for number in range(5_000)])

    completed = run_with("| head -c 1", "-m", "shop", "ledger", "--json", "--data", data)

    assert (completed.stdout, completed.stderr) == ("{", "")


def exit_with(status: int) -> Callable[[], int]:
    return lambda: sys.exit(status)


def interrupt() -> int:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("main", "status"), [(lambda: 0, 0), (lambda: 1, 1), (exit_with(2), 2), (interrupt, 2)])
def test_a_program_ends_with_the_status_of_its_main_and_an_interrupted_start_with_2(
    main: Callable[[], int], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program("program", main) == status

    said = capsys.readouterr().err
    assert said == ("program: interrupted; nothing was started\n" if main is interrupt else "")


def test_a_bug_is_not_taken_for_a_broken_stream() -> None:
    def divide() -> int:
        return 1 // int(os.environ.get("NOT_SET_BY_ANYBODY", "0"))

    with pytest.raises(ZeroDivisionError):
        run_program("program", divide)


@pytest.mark.parametrize(
    ("status", "exit_status"),
    [
        (Status.COMPLETED, 0),
        (Status.REJECTED, 0),
        (Status.STARTED, 0),
        (Status.FAILED, 1),
        (Status.CANCELLED, 1),
        (Status.UNKNOWN, 1),
    ],
)
def test_one_order_that_needs_a_person_makes_the_exit_status_1(
    status: Status, exit_status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Results()

    results.print(Outcome("1", Status.COMPLETED, "txn_1"))
    results.print(Outcome("2", status, "a reason\nof two lines"))

    assert results.exit_status("program") == exit_status
    assert capsys.readouterr().out == f"1\tcompleted\ttxn_1\n2\t{status.value}\ta reason of two lines\n"
