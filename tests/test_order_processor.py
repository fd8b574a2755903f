"""The script as a program, and what it makes of time-outs, interruptions, and orders that it has seen before."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import make_order, write_orders
from test_shop_commands import run_here

import order_processor
from comparison.stage.processes import ROOT, Program, clean_environment, wait_until
from shop.errors import Refusal
from shop.faults import parse_faults
from shop.ledger import Charge, Ledger, NoShop, read_ledger
from shop.orders import SAMPLE_ORDER, Item, Order, Outcome, Status
from shop.shop import Shop
from shop.stores import storage
from shop.terminal.batch import run_batch

# So many attempts use up a step.
TIMES = str(order_processor.MAXIMUM_ATTEMPTS)
OUTCOME_LINE = re.compile(r"[A-Za-z0-9._-]+\t(completed|rejected|failed|unknown)\t[^\t]+")
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "shop"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_processor, "INITIAL_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(storage, "CALL_TIMEOUT_SECONDS", 0.2)


@contextmanager
def signals_kept() -> Iterator[None]:
    """Let a program run in this process: it takes signals for itself."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def signals() -> Iterator[None]:
    with signals_kept():
        yield


def run_script(*arguments: object, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the script; whatever comes of it, it shows no traceback."""
    completed = subprocess.run(
        [sys.executable, *options, "order_processor.py", *map(str, arguments)],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in completed.stderr
    return completed


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


def is_begun(data: Path, step: str) -> bool:
    try:
        return tried(read_ledger(data), step) != []
    except NoShop:
        return False


def test_the_script_processes_the_sample_order_without_any_installed_package_and_logs_where_it_is_told(
    tmp_path: Path, data: Path
) -> None:
    completed = run_script("--data", data, "--log", tmp_path / "elsewhere.log", options=("-S",))

    [charge] = read_ledger(data).charges
    assert completed.returncode == 0
    assert completed.stdout == f"{SAMPLE_ORDER.order_id}\tcompleted\t{charge.transaction_id}\n"
    assert (tmp_path / "elsewhere.log").read_text() == completed.stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "there is no order in it"),
        (b"GOOD\n\n{}\n", "line 3: order_id: is missing"),
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

    completed = run_here("order_processor.py", path, "--data", data)

    assert (completed.returncode, completed.stdout) == (2, "")
    assert str(path) in completed.stderr
    assert reason in completed.stderr
    assert not data.exists()


@pytest.mark.parametrize(
    ("arguments", "settings", "named"),
    [
        *((("--concurrency", bad), {}, "--concurrency") for bad in ("0", "257", "1.5")),
        (("--faults", "process_payment:explode"), {}, "--faults: 'process_payment:explode'"),
        (("--faults", "random(2,7)"), {"SHOP_FAULTS": ""}, "--faults: 'random(2,7)'"),
        ((), {"SHOP_FAULTS": "ship_parcel:unavailable"}, "SHOP_FAULTS: 'ship_parcel:unavailable'"),
        ((), {"SHOP_IDEMPOTENCY": "maybe"}, "SHOP_IDEMPOTENCY"),
        (("one.jsonl", "two.jsonl"), {}, "two.jsonl"),
        (("--retries", "4"), {}, "--retries"),
    ],
)
def test_bad_usage_is_named_and_nothing_is_started(
    data: Path, arguments: tuple[str, ...], settings: dict[str, str], named: str
) -> None:
    completed = run_here("order_processor.py", *arguments, "--data", data, settings=settings)

    assert (completed.returncode, completed.stdout) == (2, "")
    assert named in completed.stderr
    assert not data.exists()


@pytest.mark.parametrize("log", ["no-such-folder/log", "."])
def test_a_log_that_cannot_be_opened_is_a_sentence_and_nothing_is_started(tmp_path: Path, data: Path, log: str) -> None:
    completed = run_here("order_processor.py", "--data", data, "--log", tmp_path / log)

    assert (completed.returncode, completed.stdout) == (2, "")
    assert completed.stderr.startswith("order_processor: ")
    assert str(tmp_path) in completed.stderr
    assert read_ledger(data).attempts == ()


def test_output_is_outcome_lines_alone_and_the_log_goes_to_a_file_and_the_terminal(tmp_path: Path, data: Path) -> None:
    orders = [
        make_order("1"),
        make_order("2", payment_token="tok_chargeDeclined"),
        make_order("3", customer_id="nobody"),
        make_order("4", items=(Item("unicorn", 1, 1),)),
    ]

    completed = run_script(
        write_orders(tmp_path / "orders.jsonl", *orders),
        *("--data", data, "--faults", "process_payment:lost_reply", "--concurrency", 256),
    )

    logged = (data / "order_processor.log").read_text()
    assert completed.returncode == 0
    assert all(OUTCOME_LINE.fullmatch(line) for line in completed.stdout.splitlines())
    assert statuses(completed.stdout) == {"1": "completed", "2": "rejected", "3": "completed", "4": "rejected"}
    assert "order 1: process_payment: attempt 2\n" in logged
    assert sorted(logged.splitlines()) == sorted(completed.stderr.splitlines())


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("signal_number", STOPPING)
def test_an_interrupted_batch_finishes_the_order_in_hand_and_begins_no_other(
    capsys: pytest.CaptureFixture[str], signal_number: int
) -> None:
    signal.signal(signal_number, lambda *_: None)  # what nobody takes would end the tests

    def process_order(order: Order) -> Outcome:
        signal.raise_signal(signal_number)
        return Outcome(order.order_id, Status.COMPLETED, "txn")

    results = run_batch([make_order("1"), make_order("2"), make_order("3")], 1, process_order)

    assert results.exit_status("script") == 1
    assert statuses(capsys.readouterr().out) == {"1": "completed", "2": "unknown", "3": "unknown"}


async def test_an_interrupted_script_completes_the_order_in_hand(tmp_path: Path, data: Path) -> None:
    orders = write_orders(tmp_path / "orders.jsonl", make_order("1"), make_order("2"))
    options = (f"--data={data}", "--faults=process_payment:slow(0.5)")
    script = Program(tmp_path / "script", clean_environment(), "order_processor.py", str(orders), *options)
    await script.start()
    await wait_until(lambda: is_begun(data, "process_payment"), "order 1 is in hand")

    script.signal(signal.SIGINT)
    status = await script.wait(60)

    ledger = read_ledger(data)
    assert status == 1
    assert statuses(script.output.read_text()) == {"1": "completed", "2": "unknown"}
    assert {attempt.order_id for attempt in ledger.attempts} == {"1"}
    assert [confirmation.sent for confirmation in ledger.confirmations] == [True]
    assert "Traceback" not in script.errors.read_text()


@pytest.mark.usefixtures("signals")
def test_a_script_that_was_started_with_nohup_does_not_end_with_its_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    run_batch([], 1, lambda order: Outcome(order.order_id, Status.COMPLETED, ""))

    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.usefixtures("signals")
def test_a_bug_ends_its_order_as_unknown_with_a_traceback_in_the_log_and_no_other_order(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    def process_order(order: Order) -> Outcome:
        return Outcome(order.order_id, Status.COMPLETED, str(1 // (int(order.order_id) - 1)))

    results = run_batch([make_order("1"), make_order("2")], 1, process_order)

    assert results.exit_status("script") == 1
    assert statuses(capsys.readouterr().out) == {"1": "unknown", "2": "completed"}
    assert "ZeroDivisionError" in results.outcomes[0].detail
    assert "Traceback" in caplog.text


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("threads", [0, 3])
def test_every_order_gets_its_line_when_the_machine_has_no_further_thread(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def start_if_there_is_room(thread: threading.Thread) -> None:
        if len(started) == threads:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_there_is_room)
    orders = [make_order(str(number)) for number in range(20)]

    results = run_batch(orders, 8, lambda order: Outcome(order.order_id, Status.COMPLETED, ""))

    assert sorted(int(outcome.order_id) for outcome in results.outcomes) == [*range(20)]
    assert len(started) <= threads


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
def test_a_charge_is_refunded_if_the_database_refuses_the_sale_and_no_further_attempt_is_made(data: Path) -> None:
    with closing(Shop(data)) as shop:
        with shop.inventory.database.transaction() as connection:
            connection.execute("CREATE TRIGGER broken BEFORE INSERT ON sales BEGIN SELECT raise(ABORT, 'broken'); END")

        outcome = order_processor.process_order(shop, make_order())

    ledger = read_ledger(data)
    assert outcome.status is Status.FAILED
    assert tried(ledger, "update_inventory") == ["ConstraintViolated"]
    assert [charge.refunded for charge in ledger.charges] == [True]
    assert [void.step for void in ledger.voids] == ["void_sale"]


@pytest.mark.usefixtures("impatient")
async def test_a_payment_that_outlives_its_time_outs_is_refused_when_it_comes_after_the_void(data: Path) -> None:
    with closing(Shop(data, parse_faults(f"process_payment:slow(1)*{TIMES}"))) as shop:
        outcome = order_processor.process_order(shop, make_order())
        voided = read_ledger(data)
        await wait_until(lambda: "started" not in tried(read_ledger(data), "process_payment"), "the late ones arrive")
        ledger = read_ledger(data)

    assert outcome.status is Status.FAILED
    assert "ReplyLost: no reply" in outcome.detail
    assert tried(voided, "process_payment") == ["started"] * order_processor.MAXIMUM_ATTEMPTS
    assert tried(ledger, "process_payment") == ["OrderVoided"] * order_processor.MAXIMUM_ATTEMPTS
    assert (ledger.sales, held_charges(ledger)) == ((), [])


@pytest.mark.usefixtures("impatient")
def test_an_order_whose_stock_was_taken_and_whose_replies_were_lost_is_completed(data: Path) -> None:
    outcome = process(data, make_order(), "update_inventory:lost_reply*inf")

    ledger = read_ledger(data)
    assert (outcome.status, outcome.detail) == (Status.COMPLETED, ledger.charges[0].transaction_id)
    assert (tried(ledger, "void_sale"), tried(ledger, "refund_payment")) == (["ok"], [])
    assert len(held_charges(ledger)) == len(ledger.confirmations) == 1
