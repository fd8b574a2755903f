"""The script as a program, and what it makes of time-outs, interruptions, and orders that it has seen before."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ledger_of, make_order, write_orders

import order_processor
from comparison.processes import ROOT, Program, clean_environment, wait_until
from shop.faults import parse_faults
from shop.ledger import Charge, Ledger, read_ledger
from shop.orders import SAMPLE_ORDER, Item, Order, Outcome, Status
from shop.shop import Shop

OUTCOME_LINE = re.compile(r"[A-Za-z0-9._-]+\t(completed|rejected|failed|unknown)\t[^\t]+")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "shop"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_processor, "INITIAL_BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(order_processor, "ATTEMPT_TIMEOUT_SECONDS", 0.1)


def run_script(
    *arguments: object, stdin: bytes = b"", settings: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the script; whatever comes of it, it shows no traceback."""
    completed = subprocess.run(
        [sys.executable, "order_processor.py", *map(str, arguments)],
        cwd=ROOT,
        env=clean_environment(**(settings or {})),
        input=stdin,
        capture_output=True,
        timeout=60,
    )
    assert b"Traceback" not in completed.stderr
    return subprocess.CompletedProcess(
        completed.args, completed.returncode, completed.stdout.decode(), completed.stderr.decode()
    )


def process(data: Path, order: Order, faults: str = "") -> Outcome:
    with closing(Shop(data, parse_faults(faults))) as shop:
        return order_processor.process_order(shop, order)


def statuses(output: str) -> dict[str, str]:
    return dict(line.split("\t")[:2] for line in output.splitlines())


def tried(ledger: Ledger, step: str, order_id: str = "1") -> list[str]:
    return [attempt.outcome for attempt in ledger.attempts if (attempt.step, attempt.order_id) == (step, order_id)]


def effects_in(ledger: Ledger) -> Ledger:
    return replace(ledger, attempts=())


def held_charges(ledger: Ledger) -> list[Charge]:
    return [charge for charge in ledger.charges if not charge.refunded]


def test_the_sample_order_is_processed_without_any_arguments(data: Path) -> None:
    completed = run_script(settings={"SHOP_DATA": str(data)})

    [charge] = ledger_of(data).charges
    assert completed.returncode == 0
    assert completed.stdout == f"{SAMPLE_ORDER.order_id}\tcompleted\t{charge.transaction_id}\n"


def test_the_script_runs_without_any_installed_package(data: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-S", "order_processor.py", "--data", str(data)],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert completed.returncode == 0, completed.stderr
    assert statuses(completed.stdout) == {"1001": "completed"}


def test_orders_are_read_from_standard_input(tmp_path: Path, data: Path) -> None:
    lines = write_orders(tmp_path / "orders.jsonl", make_order("1"), make_order("2")).read_bytes()

    completed = run_script("-", "--data", data, stdin=lines)

    assert completed.returncode == 0
    assert sorted(charge.order_id for charge in ledger_of(data).charges) == ["1", "2"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "there is no order in it"),
        (b"GOOD\nGOOD\n", "line 2: order_id"),
        (b"GOOD\n\n{}\n", "line 3: items: is missing"),
        (b"GOOD\nnot an order\n", "line 2: order"),
        (b"GOOD\n\xff\n", "line 2: order: is not UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_bad_file_is_refused_before_any_order_is_looked_at(
    tmp_path: Path, data: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "orders.jsonl"
    if content is not None:
        good = write_orders(path, make_order()).read_bytes().strip()
        path.write_bytes(content.replace(b"GOOD", good))

    completed = run_script(path, "--data", data)

    assert (completed.returncode, completed.stdout) == (2, "")
    assert str(path) in completed.stderr
    assert reason in completed.stderr
    assert ledger_of(data).attempts == ()


@pytest.mark.parametrize(
    ("arguments", "settings", "named"),
    [
        *((("--concurrency", bad), {}, "--concurrency") for bad in ("0", "-1", "257", "1.5", "many")),
        (("--faults", "process_payment:explode"), {}, "--faults: 'process_payment:explode'"),
        (("--faults", "random(2,7)"), {"SHOP_FAULTS": ""}, "--faults: 'random(2,7)'"),
        (("--faults", "random(0.1," + "9" * 5_000 + ")"), {}, "--faults"),
        ((), {"SHOP_FAULTS": "ship_parcel:unavailable"}, "SHOP_FAULTS: 'ship_parcel:unavailable'"),
        ((), {"SHOP_IDEMPOTENCY": "maybe"}, "SHOP_IDEMPOTENCY"),
        (("one.jsonl", "two.jsonl"), {}, "two.jsonl"),
        (("--retries", "4"), {}, "--retries"),
    ],
)
def test_bad_usage_is_named_and_nothing_is_started(
    data: Path, arguments: tuple[str, ...], settings: dict[str, str], named: str
) -> None:
    completed = run_script(*arguments, "--data", data, settings=settings)

    assert (completed.returncode, completed.stdout) == (2, "")
    assert named in completed.stderr
    assert not data.exists()


def test_a_data_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    completed = run_script("--data", tmp_path / "file")

    assert (completed.returncode, completed.stdout) == (2, "")
    assert str(tmp_path / "file") in completed.stderr


def test_an_option_goes_before_its_setting_in_the_environment(tmp_path: Path, data: Path) -> None:
    settings = {"SHOP_FAULTS": "validate_inventory:crash_before", "SHOP_DATA": str(tmp_path / "other")}

    completed = run_script("--faults", "", "--data", data, settings=settings)

    assert completed.returncode == 0
    assert tried(ledger_of(data), "validate_inventory", "1001") == ["ok"]
    assert not (tmp_path / "other").exists()


def test_without_keys_a_lost_reply_charges_twice(data: Path) -> None:
    settings = {"SHOP_IDEMPOTENCY": "off", "SHOP_FAULTS": "process_payment:lost_reply"}

    completed = run_script("--data", data, settings=settings)

    assert statuses(completed.stdout) == {"1001": "completed"}
    assert len(held_charges(ledger_of(data))) == 2


def test_output_is_outcome_lines_alone_and_the_log_goes_to_a_file_and_the_terminal(tmp_path: Path, data: Path) -> None:
    orders = [
        make_order("1"),
        make_order("2", payment_token="tok_chargeDeclined"),
        make_order("3", customer_id="nobody"),
        make_order("4", items=(Item("unicorn", 1, 1),)),
    ]
    faults = "process_payment:lost_reply"

    completed = run_script(
        write_orders(tmp_path / "orders.jsonl", *orders), "--data", data, "--faults", faults, "--concurrency", 256
    )

    log = (data / "order_processor.log").read_text()
    assert completed.returncode == 0
    assert all(OUTCOME_LINE.fullmatch(line) for line in completed.stdout.splitlines())
    assert statuses(completed.stdout) == {"1": "completed", "2": "rejected", "3": "completed", "4": "rejected"}
    assert "order 1: process_payment: attempt 1 failed" in log
    assert sorted(log.splitlines()) == sorted(completed.stderr.splitlines())


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_script_finishes_the_order_in_hand_and_takes_no_other(
    tmp_path: Path, data: Path, signal_number: int
) -> None:
    script = Program(
        tmp_path / "script",
        clean_environment(),
        "order_processor.py",
        str(write_orders(tmp_path / "orders.jsonl", *(make_order(order_id) for order_id in ("1", "2", "3")))),
        f"--data={data}",
        "--faults=process_payment:slow(1)",
    )
    await script.start()
    await wait_until(lambda: tried(ledger_of(data), "process_payment") == ["started"], "order 1 is in hand")

    script.signal(signal_number)
    status = await script.wait(60)

    ledger = ledger_of(data)
    assert status == 1
    assert statuses(script.output.read_text()) == {"1": "completed", "2": "unknown", "3": "unknown"}
    assert {attempt.order_id for attempt in ledger.attempts} == {"1"}
    assert [confirmation.sent for confirmation in ledger.confirmations] == [True]
    assert "Traceback" not in script.errors.read_text()


def test_a_script_that_is_interrupted_while_it_reads_shows_no_traceback(data: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "order_processor.py", "-", "--data", str(data)],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as script:
        assert script.stdin is not None
        pipe = script.stdin.fileno()
        os.write(pipe, b"\n")
        asyncio.run(wait_until(lambda: unread(pipe) == 0, "the script reads"))

        script.send_signal(signal.SIGINT)
        output, errors = script.communicate(timeout=60)

    assert b"Traceback" not in errors
    assert output == b""
    assert not data.exists()


def unread(pipe: int) -> int:
    """Return how many bytes wait in a pipe."""
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))
    return int(count)


def test_a_closed_standard_input_is_named(data: Path) -> None:
    completed = subprocess.run(
        ["bash", "-c", 'exec "$0" order_processor.py - --data "$1" <&-', sys.executable, str(data)],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert "Traceback" not in completed.stderr
    assert (completed.returncode, completed.stdout) == (2, "")


def test_orders_are_processed_to_their_end_when_nobody_reads_their_outcome(tmp_path: Path, data: Path) -> None:
    orders = write_orders(tmp_path / "orders.jsonl", *(make_order(str(number)) for number in range(5)))
    reader, writer = os.pipe()
    os.close(reader)

    completed = subprocess.run(
        [sys.executable, "order_processor.py", str(orders), "--data", str(data)],
        cwd=ROOT,
        env=clean_environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )

    os.close(writer)
    assert len(ledger_of(data).confirmations) == 5
    assert "Traceback" not in completed.stderr
    assert "Exception ignored" not in completed.stderr


@pytest.mark.usefixtures("impatient")
def test_a_refund_that_cannot_be_done_is_unknown_and_critical_in_the_log(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faults = "update_inventory:unavailable*inf,refund_payment:unavailable*inf"

    outcome = process(data, make_order(), faults)

    ledger = ledger_of(data)
    assert (outcome.status, outcome.is_settled) == (Status.UNKNOWN, False)
    assert "NOT UNDONE: refund_payment" in outcome.detail
    assert tried(ledger, "refund_payment") == ["ServiceUnavailable"] * 3
    assert tried(ledger, "restore_inventory") == ["ok"]
    assert len(held_charges(ledger)) == 1
    [loud] = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
    assert "order 1: DO THIS BY HAND: refund_payment" in loud


@pytest.mark.usefixtures("impatient")
async def test_a_payment_that_outlives_its_time_outs_is_refused_when_it_comes_after_the_refund(data: Path) -> None:
    with closing(Shop(data, parse_faults("process_payment:slow(1)*3"))) as shop:
        outcome = order_processor.process_order(shop, make_order())
        refunded = read_ledger(shop)
        await wait_until(lambda: "started" not in tried(read_ledger(shop), "process_payment"), "the late ones arrive")
        ledger = read_ledger(shop)

    assert outcome.status is Status.FAILED
    assert "AttemptTimedOut" in outcome.detail
    assert (tried(refunded, "process_payment"), tried(refunded, "refund_payment")) == (["started"] * 3, ["ok"])
    assert tried(ledger, "process_payment") == ["OrderVoided"] * 3
    assert ledger.charges == ()


@pytest.mark.usefixtures("impatient")
async def test_an_update_that_outlives_its_time_outs_is_refused_when_it_comes_after_the_restore(data: Path) -> None:
    with closing(Shop(data, parse_faults("update_inventory:slow(1)*3"))) as shop:
        outcome = order_processor.process_order(shop, make_order())
        await wait_until(lambda: "started" not in tried(read_ledger(shop), "update_inventory"), "the late ones arrive")
        ledger = read_ledger(shop)

    assert outcome.status is Status.FAILED
    assert tried(ledger, "update_inventory") == ["OrderVoided"] * 3
    assert (ledger.sales, held_charges(ledger)) == ((), [])


@pytest.mark.parametrize("is_sold", [False, True])
def test_an_order_whose_id_is_taken_by_an_unfinished_one_is_unknown_and_touches_nothing(
    data: Path, is_sold: bool
) -> None:
    with closing(Shop(data)) as shop:
        shop.payments.process_payment(make_order())
        if is_sold:
            shop.inventory.update_inventory(make_order())
    before = ledger_of(data)

    outcome = process(data, make_order(items=(Item("mug", 1, 1250),)))

    assert outcome.status is Status.UNKNOWN
    assert "other content" in outcome.detail
    assert "NOT UNDONE" not in outcome.detail
    assert effects_in(ledger_of(data)) == effects_in(before)


@pytest.mark.usefixtures("impatient")
def test_an_order_whose_refund_was_left_undone_holds_no_charge_once_it_is_rejected(data: Path) -> None:
    process(data, make_order(), "update_inventory:unavailable*inf,refund_payment:unavailable*inf")

    outcome = process(data, make_order())

    assert outcome.status is Status.REJECTED
    assert held_charges(ledger_of(data)) == []


def test_an_order_that_was_charged_by_a_killed_run_holds_no_charge_once_it_is_rejected(data: Path) -> None:
    order = make_order(items=(Item("last-one", 1, 9_900),))
    with closing(Shop(data)) as shop:
        shop.payments.process_payment(order)
        shop.inventory.update_inventory(make_order("2", items=order.items))

    outcome = process(data, order)

    assert outcome.status is Status.REJECTED
    assert held_charges(ledger_of(data)) == []


@pytest.mark.usefixtures("impatient")
def test_an_order_that_fails_takes_back_what_a_killed_run_had_sold(data: Path) -> None:
    with closing(Shop(data)) as shop:
        shop.payments.process_payment(make_order())
        shop.inventory.update_inventory(make_order())

    outcome = process(data, make_order(), "process_payment:unavailable*inf")

    ledger = ledger_of(data)
    assert outcome.status is Status.FAILED
    assert held_charges(ledger) == []
    assert {sale.restored for sale in ledger.sales} == {True}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("step", ["process_payment", "update_inventory"])
def test_a_finished_order_that_is_run_again_while_a_service_is_down_stays_whole(data: Path, step: str) -> None:
    process(data, make_order())
    before = ledger_of(data)

    process(data, make_order(), f"{step}:unavailable*inf")

    assert effects_in(ledger_of(data)) == effects_in(before)
