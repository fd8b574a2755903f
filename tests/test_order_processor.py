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
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import make_order, write_orders

import order_processor
from comparison.stage.processes import ROOT, Program, clean_environment, wait_until
from shop.errors import Refusal
from shop.faults import parse_faults
from shop.ledger import Charge, Ledger, NoShop, read_ledger
from shop.orders import SAMPLE_ORDER, Item, Order, Outcome, Status
from shop.shop import Shop

# So many attempts use up a step.
TIMES = str(order_processor.MAXIMUM_ATTEMPTS)
OUTCOME_LINE = re.compile(r"[A-Za-z0-9._-]+\t(completed|rejected|failed|unknown)\t[^\t]+")


def hurried(attempt_timeout_seconds: float = 1.0) -> str:
    """Return the script as it is, but for the waits: there is no pause between two attempts."""
    return f"""
import sys
import order_processor
from shop.terminal.streams import run_program

order_processor.ATTEMPT_TIMEOUT_SECONDS, order_processor.INITIAL_INTERVAL_SECONDS = {attempt_timeout_seconds}, 0.0
sys.exit(run_program("order_processor", order_processor.main))
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "shop"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_processor, "INITIAL_INTERVAL_SECONDS", 0.0)
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


def run_hurried(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the script with shorter waits."""
    return subprocess.run(
        [sys.executable, "-c", hurried(), *map(str, arguments)],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
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

    [charge] = read_ledger(data).charges
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
    assert sorted(charge.order_id for charge in read_ledger(data).charges) == ["1", "2"]


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
    assert not data.exists()


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
    assert tried(read_ledger(data), "validate_inventory", "1001") == ["ok"]
    assert not (tmp_path / "other").exists()


def test_without_keys_a_lost_reply_charges_twice(data: Path) -> None:
    settings = {"SHOP_IDEMPOTENCY": "off", "SHOP_FAULTS": "process_payment:lost_reply"}

    completed = run_script("--data", data, settings=settings)

    assert statuses(completed.stdout) == {"1001": "completed"}
    assert len(held_charges(read_ledger(data))) == 2


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
    await wait_until(lambda: is_begun(data, "process_payment"), "order 1 is in hand")

    script.signal(signal_number)
    status = await script.wait(60)

    ledger = read_ledger(data)
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
    assert len(read_ledger(data).confirmations) == 5
    assert "Traceback" not in completed.stderr
    assert "Exception ignored" not in completed.stderr


CALLS_NEEDED = {
    "void_charge": "update_inventory:unavailable*inf,void_charge:unavailable*" + TIMES,
    "void_sale": "update_inventory:unavailable*inf,void_sale:unavailable*" + TIMES,
    "refund_payment": "update_inventory:unavailable*inf,refund_payment:unavailable*" + TIMES,
    "note_unsent": "send_confirmation:unavailable*inf,note_unsent:unavailable*" + TIMES,
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("call", CALLS_NEEDED)
def test_an_order_that_cannot_be_ended_is_unknown_and_critical_in_the_log_and_no_later_call_is_made(
    data: Path, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    outcome = process(data, make_order(), CALLS_NEEDED[call])

    ledger = read_ledger(data)
    later = {"void_charge": ("void_sale", "refund_payment"), "void_sale": ("refund_payment",)}.get(call, ())
    assert (outcome.status, outcome.is_settled) == (Status.UNKNOWN, False)
    assert f"HalfDone: {call}: " in outcome.detail
    assert "run it again" in outcome.detail
    assert tried(ledger, call) == ["ServiceUnavailable"] * order_processor.MAXIMUM_ATTEMPTS
    assert [tried(ledger, step) for step in later] == [[]] * len(later)
    assert len(held_charges(ledger)) == 1
    [loud] = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
    assert f"order 1: HALF-DONE: RUN IT AGAIN: {call}" in loud


def test_an_undo_that_is_refused_leaves_the_order_half_done() -> None:
    class CardExpired(Refusal):
        """What a provider may say to a refund."""

    def refund_payment(order: Order) -> None:
        raise CardExpired("no refund")

    with pytest.raises(order_processor.HalfDone, match="refund_payment: no refund; run it again"):
        order_processor.retry_or_alarm(refund_payment, make_order())


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("call", "faults", "status"),
    [
        # Nothing was decided: with the service back, the order goes on.
        ("void_charge", "", Status.COMPLETED),
        ("void_sale", "", Status.COMPLETED),
        ("note_unsent", "", Status.COMPLETED),
        # With the inventory still down, it is given up: this time to the end.
        ("void_charge", "update_inventory:unavailable*inf", Status.FAILED),
        ("void_sale", "update_inventory:unavailable*inf", Status.FAILED),
        # The sale was voided: what is left is the refund.
        ("refund_payment", "", Status.REJECTED),
        ("note_unsent", "send_confirmation:unavailable*inf", Status.COMPLETED),
    ],
)
def test_an_order_that_was_left_half_done_comes_to_its_end_when_it_is_run_again(
    data: Path, call: str, faults: str, status: Status
) -> None:
    process(data, make_order(), CALLS_NEEDED[call])

    outcome = process(data, make_order(), faults)

    ledger = read_ledger(data)
    assert outcome.status is status
    assert (len(held_charges(ledger)) == 1) == (status is Status.COMPLETED)
    assert ({sale.restored for sale in ledger.sales} == {False}) == (status is Status.COMPLETED)
    assert len(ledger.confirmations) == (1 if status is Status.COMPLETED else 0)


def test_a_script_that_leaves_an_order_half_done_says_unknown_and_returns_1(tmp_path: Path, data: Path) -> None:
    faults = ",".join(f"{step}:unavailable*inf" for step in ("send_confirmation", "note_unsent"))

    completed = run_hurried(write_orders(tmp_path / "orders.jsonl", make_order()), "--data", data, "--faults", faults)

    assert completed.returncode == 1
    assert statuses(completed.stdout) == {"1": "unknown"}
    assert "HALF-DONE" in (data / "order_processor.log").read_text()
    assert [sale.restored for sale in read_ledger(data).sales] == [False, False]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("service", ["inventory", "notifications"])
def test_a_service_that_is_damaged_under_way_ends_the_order_truthfully_and_the_others_do_their_part(
    data: Path, service: str
) -> None:
    table = {"inventory": "sales", "notifications": "confirmations"}[service]
    with closing(Shop(data)) as shop:
        with shop.databases[("inventory", "payments", "notifications").index(service)].transaction() as connection:
            connection.execute(f"DROP TABLE {table}")

        outcome = order_processor.process_order(shop, make_order())

        with shop.payments.database.transaction() as connection:
            charges = connection.execute("SELECT refunded FROM charges").fetchall()
    # `validate_inventory` reads the sales, so a damaged inventory is found before the charge, and the charge is voided.
    assert outcome.status is (Status.FAILED if service == "inventory" else Status.UNKNOWN)
    assert "ServiceUnavailable" in outcome.detail or "note_unsent" in outcome.detail
    assert [row["refunded"] for row in charges] == ([] if service == "inventory" else [0])


@pytest.mark.usefixtures("impatient")
def test_a_charge_is_refunded_although_the_stock_cannot_be_written_any_more(data: Path) -> None:
    with closing(Shop(data)) as shop:
        with shop.inventory.database.transaction() as connection:
            connection.execute("CREATE TRIGGER broken BEFORE INSERT ON sales BEGIN SELECT raise(ABORT, 'broken'); END")

        outcome = order_processor.process_order(shop, make_order())

    ledger = read_ledger(data)
    assert outcome.status is Status.FAILED
    assert tried(ledger, "update_inventory") == ["ServiceUnavailable"] * order_processor.MAXIMUM_ATTEMPTS
    assert [charge.refunded for charge in ledger.charges] == [True]
    assert [void.step for void in ledger.voids] == ["void_sale"]


async def test_no_order_is_completed_in_a_folder_that_was_removed_under_way(tmp_path: Path, data: Path) -> None:
    script = Program(
        tmp_path / "script",
        clean_environment(),
        "-c",
        hurried(),
        str(write_orders(tmp_path / "orders.jsonl", make_order("1"), make_order("2"))),
        f"--data={data}",
        "--faults=process_payment:slow(0.5)",
    )
    await script.start()
    await wait_until(lambda: is_begun(data, "process_payment"), "order 1 is being charged")

    data.rename(tmp_path / "moved")
    status = await script.wait(60)

    assert status == 1
    assert set(statuses(script.output.read_text()).values()) == {"unknown"}
    assert "removed or replaced" in script.errors.read_text()
    assert "Traceback" not in script.errors.read_text()
    assert read_ledger(tmp_path / "moved").sales == ()
    assert not data.exists()


def is_begun(data: Path, step: str) -> bool:
    try:
        return tried(read_ledger(data), step) != []
    except NoShop:
        return False


@pytest.mark.parametrize(
    ("faults", "status", "waited_for"),
    [
        (
            "process_payment:slow(60)*inf",
            1,
            ", ".join(["process_payment of order 1"] * order_processor.MAXIMUM_ATTEMPTS),
        ),
        ("send_confirmation:slow(60)", 0, "send_confirmation of order 1"),
    ],
)
def test_a_script_says_which_hung_calls_it_waits_for_and_leaves_them_behind_after_one_attempts_time(
    tmp_path: Path, data: Path, faults: str, status: int, waited_for: str
) -> None:
    begin = time.monotonic()

    completed = run_hurried(write_orders(tmp_path / "orders.jsonl", make_order()), "--data", data, "--faults", faults)

    assert completed.returncode == status
    assert f"waiting up to 1 s for calls that timed out: {waited_for}" in completed.stderr
    assert time.monotonic() - begin < 30
    assert tried(read_ledger(data), faults.partition(":")[0])[0] == "started"


def test_a_script_that_waits_for_nothing_says_nothing_of_it(data: Path) -> None:
    completed = run_script("--data", data)

    assert "waiting" not in completed.stderr


def test_every_order_gets_its_line_when_the_machine_has_no_further_thread(tmp_path: Path, data: Path) -> None:
    orders = write_orders(tmp_path / "orders.jsonl", *(make_order(str(number)) for number in range(20)))

    # Room for seven stacks of 1 GB: the eighth thread cannot be started.
    completed = subprocess.run(
        ["bash", "-c", 'ulimit -s 1000000 -v 8000000 && exec "$@"', "-", sys.executable, "-c", hurried(), str(orders)]
        + [f"--data={data}", "--concurrency=20", "--faults=process_payment:slow(0.2)"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=90,
    )

    ledger = read_ledger(data)
    printed = statuses(completed.stdout)
    assert "start new thread" in completed.stderr
    assert "Traceback" not in completed.stderr
    assert sorted(printed, key=int) == [str(number) for number in range(20)]
    assert {order_id for order_id, status in printed.items() if status == "completed"} == {
        mail.order_id for mail in ledger.confirmations
    }
    assert "completed" in printed.values()


@pytest.mark.parametrize("source", ["file", "standard input"])
def test_a_file_of_one_huge_line_is_refused_without_filling_the_memory(tmp_path: Path, data: Path, source: str) -> None:
    path = tmp_path / "orders.jsonl"
    with path.open("wb") as file:
        file.truncate(10**9)  # a hole: it takes no room on the disk

    with path.open("rb") as file:
        script = subprocess.Popen(
            [sys.executable, "order_processor.py", str(path) if source == "file" else "-", "--data", str(data)],
            cwd=ROOT,
            env=clean_environment(),
            stdin=file,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert script.stderr is not None
        errors = script.stderr.read().decode()
        _, status, usage = os.wait4(script.pid, 0)
    script.stderr.close()
    script.returncode = os.waitstatus_to_exitcode(status)

    assert script.returncode == 2
    assert "line 1: order: is longer than 5000000 bytes" in errors
    assert usage.ru_maxrss < 400_000  # kB; the file has 1,000,000
    assert not data.exists()


@pytest.mark.usefixtures("impatient")
async def test_a_payment_that_outlives_its_time_outs_is_refused_when_it_comes_after_the_void(data: Path) -> None:
    with closing(Shop(data, parse_faults(f"process_payment:slow(1)*{TIMES}"))) as shop:
        outcome = order_processor.process_order(shop, make_order())
        voided = read_ledger(shop.location)
        await wait_until(lambda: "started" not in tried(read_ledger(data), "process_payment"), "the late ones arrive")
        ledger = read_ledger(shop.location)

    assert outcome.status is Status.FAILED
    assert "AttemptTimedOut" in outcome.detail
    assert (tried(voided, "process_payment"), tried(voided, "void_charge")) == (
        ["started"] * order_processor.MAXIMUM_ATTEMPTS,
        ["ok"],
    )
    assert tried(ledger, "process_payment") == ["OrderVoided"] * order_processor.MAXIMUM_ATTEMPTS
    assert ledger.charges == ()


@pytest.mark.usefixtures("impatient")
async def test_an_update_that_outlives_its_time_outs_is_refused_when_it_comes_after_the_void(data: Path) -> None:
    with closing(Shop(data, parse_faults(f"update_inventory:slow(1)*{TIMES}"))) as shop:
        outcome = order_processor.process_order(shop, make_order())
        await wait_until(lambda: "started" not in tried(read_ledger(data), "update_inventory"), "the late ones arrive")
        ledger = read_ledger(shop.location)

    assert outcome.status is Status.FAILED
    assert tried(ledger, "update_inventory") == ["OrderVoided"] * order_processor.MAXIMUM_ATTEMPTS
    assert (ledger.sales, held_charges(ledger)) == ((), [])


@pytest.mark.usefixtures("impatient")
def test_an_order_whose_stock_was_taken_and_whose_replies_were_lost_is_completed(data: Path) -> None:
    outcome = process(data, make_order(), "update_inventory:lost_reply*inf")

    ledger = read_ledger(data)
    assert (outcome.status, outcome.detail) == (Status.COMPLETED, ledger.charges[0].transaction_id)
    assert (tried(ledger, "void_sale"), tried(ledger, "refund_payment")) == (["ok"], [])
    assert len(held_charges(ledger)) == len(ledger.confirmations) == 1


@pytest.mark.parametrize("is_sold", [False, True])
def test_an_order_whose_id_is_taken_by_an_unfinished_one_is_unknown_and_touches_nothing(
    data: Path, is_sold: bool
) -> None:
    with closing(Shop(data)) as shop:
        shop.payments.process_payment(make_order())
        if is_sold:
            shop.inventory.update_inventory(make_order())
    before = read_ledger(data)

    outcome = process(data, make_order(items=(Item("mug", 1, 1250),)))

    ledger = read_ledger(data)
    assert outcome.status is Status.UNKNOWN
    assert "other content" in outcome.detail
    assert {attempt.step for attempt in ledger.attempts} <= {
        "validate_inventory",
        "process_payment",
        "update_inventory",
    }
    assert effects_in(ledger) == effects_in(before)


def test_an_order_that_was_charged_by_a_killed_run_holds_no_charge_once_it_is_rejected(data: Path) -> None:
    order = make_order(items=(Item("last-one", 1, 9_900),))
    with closing(Shop(data)) as shop:
        shop.payments.process_payment(order)
        shop.inventory.update_inventory(make_order("2", items=order.items))

    outcome = process(data, order)

    assert outcome.status is Status.REJECTED
    assert held_charges(read_ledger(data)) == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("step", ["validate_inventory", "process_payment", "update_inventory"])
def test_an_order_whose_stock_a_killed_run_took_is_completed_whatever_is_down(data: Path, step: str) -> None:
    with closing(Shop(data)) as shop:
        shop.payments.process_payment(make_order())
        shop.inventory.update_inventory(make_order())

    outcome = process(data, make_order(), f"{step}:unavailable*inf")

    ledger = read_ledger(data)
    assert outcome.status is Status.COMPLETED
    assert len(held_charges(ledger)) == len(ledger.confirmations) == 1
    assert {sale.restored for sale in ledger.sales} == {False}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("step", ["validate_inventory", "process_payment", "update_inventory", "send_confirmation"])
def test_a_finished_order_that_is_run_again_while_a_service_is_down_stays_whole(data: Path, step: str) -> None:
    process(data, make_order())
    before = read_ledger(data)

    outcome = process(data, make_order(), f"{step}:unavailable*inf")

    assert outcome.status is Status.COMPLETED
    assert effects_in(read_ledger(data)) == effects_in(before)


@pytest.mark.usefixtures("impatient")
def test_an_order_that_failed_is_rejected_when_it_is_run_again(data: Path) -> None:
    process(data, make_order(), "process_payment:unavailable*inf")
    before = read_ledger(data)

    outcome = process(data, make_order())

    assert outcome.status is Status.REJECTED
    assert "OrderVoided" in outcome.detail
    assert effects_in(read_ledger(data)) == effects_in(before)
