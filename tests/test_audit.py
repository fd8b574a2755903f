"""The judge is judged: it finds nothing where nothing is wrong, and every violation that is planted or made."""

from __future__ import annotations

import argparse
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import make_order, write_orders
from proofs import planted
from proofs.planted import Plant, clean_world, missed_violations, plants

from comparison.judge.accounts import Ending, accounts_of
from comparison.judge.audit import CLOSINGS, Violation, audit, judge_files
from comparison.judge.command import add_arguments, run
from shop.errors import ShopError
from shop.faults import parse_faults
from shop.ledger import Ledger, read_ledger
from shop.orders import Item, Order, Outcome, Status
from shop.shop import Shop
from workflows import FEW_ATTEMPTS

# So many attempts use up a step.
TIMES = FEW_ATTEMPTS.maximum_attempts
DOWN = f"unavailable*{TIMES}"
ORDER = make_order("1")
DECLINED = make_order("2", payment_token="tok_chargeDeclined")
NO_LEDGER = Ledger({}, (), (), (), (), ())

# The calls by short names: what a version would call.
SERVICES = {
    "validate": ("inventory", "validate_inventory"),
    "pay": ("payments", "process_payment"),
    "take": ("inventory", "update_inventory"),
    "send": ("notifications", "send_confirmation"),
    "note": ("notifications", "note_unsent"),
    "void_charge": ("payments", "void_charge"),
    "void_sale": ("inventory", "void_sale"),
    "refund": ("payments", "refund_payment"),
}
COMPLETE, VOID = "validate pay take send", "void_charge void_sale refund"


def do(shop: Shop, order: Order, calls: str) -> Ledger:
    """Make the calls, whatever the shop answers; return the ledger."""
    for call in calls.split():
        with suppress(ShopError):
            if call == "settle":
                shop.settle(order.order_id)
            else:
                service, name = SERVICES[call]
                getattr(getattr(shop, service), name)(order)
    return read_ledger(shop.location)


def times(call: str, number: int = TIMES) -> str:
    return " ".join([call] * number)


def lines(ledger: Ledger, *statuses: Status, order_id: str = "1") -> list[Outcome]:
    """Return what was printed of an order, run after run."""
    transactions = [charge.transaction_id for charge in ledger.charges if charge.order_id == order_id]
    return [
        Outcome(order_id, status, transactions[0] if status is Status.COMPLETED and transactions else "because")
        for status in statuses
    ]


def found(violations: Iterable[Violation]) -> list[tuple[str, str]]:
    return [(violation.rule, violation.sentence) for violation in violations]


def by_process(ledger: Ledger, *pids: int) -> Ledger:
    """Return the ledger as if each attempt had been made by another process."""
    assert len(pids) == len(ledger.attempts)
    return replace(
        ledger, attempts=tuple(replace(row, pid=pid) for row, pid in zip(ledger.attempts, pids, strict=True))
    )


REJECTED, FAILED, CANCELLED, COMPLETED = Status.REJECTED, Status.FAILED, Status.CANCELLED, Status.COMPLETED


TOO_MANY, OF_A_STRANGER = make_order(items=(Item("mug", 101, 1),)), make_order(customer_id="x")


@pytest.mark.parametrize(
    ("order", "faults", "calls", "printed", "ending"),
    [
        (ORDER, "", COMPLETE, [COMPLETED], Ending.COMPLETE),
        (ORDER, "", f"{COMPLETE} {COMPLETE}", [COMPLETED, COMPLETED], Ending.COMPLETE),
        (ORDER, "", COMPLETE, [Status.STARTED, Status.UNKNOWN, COMPLETED], Ending.COMPLETE),
        (ORDER, "", "validate pay take void_charge void_sale send", [COMPLETED], Ending.COMPLETE),
        (OF_A_STRANGER, "", f"{COMPLETE} note", [COMPLETED], Ending.COMPLETE_UNCONFIRMED),
        (OF_A_STRANGER, "", f"{COMPLETE} note {COMPLETE}", [COMPLETED] * 2, Ending.COMPLETE_UNCONFIRMED),
        (ORDER, "", "validate pay take note send", [COMPLETED], Ending.COMPLETE),
        (DECLINED, "", "validate pay void_charge", [REJECTED], Ending.REFUSED),
        (DECLINED, "", times("validate pay void_charge", 2), [REJECTED] * 2, Ending.REFUSED),
        (TOO_MANY, "", f"pay take {VOID}", [REJECTED], Ending.REFUSED),
        (ORDER, f"validate_inventory:{DOWN}", f"{times('validate')} void_charge", [FAILED], Ending.UNDONE),
        (
            ORDER,
            f"validate_inventory:{DOWN}",
            f"{times('validate')} void_charge validate pay void_charge",
            [FAILED, REJECTED],
            Ending.UNDONE,
        ),
        (ORDER, f"validate_inventory:{DOWN}", f"{times('validate')} void_charge", [FAILED, FAILED], Ending.UNDONE),
        (ORDER, f"update_inventory:{DOWN}", f"validate pay {times('take')} {VOID}", [FAILED], Ending.UNDONE),
        # Charges that all timed out: logged as ok, and the last one as refused.
        (ORDER, "", f"validate {times('pay', TIMES - 1)} {VOID} pay", [FAILED], Ending.UNDONE),
        # An inventory that could not even log the attempts.
        (ORDER, "", "void_charge", [FAILED], Ending.UNDONE),
        (ORDER, "", "void_charge", [CANCELLED], Ending.UNDONE),
        (ORDER, "", f"validate pay {VOID}", [CANCELLED], Ending.UNDONE),
        # Cancelled while a refusal, or the last failure, was on its way; or a call that was under way is refused later.
        (TOO_MANY, "", "validate void_charge", [CANCELLED], Ending.REFUSED),
        (DECLINED, "", "validate pay void_charge", [CANCELLED], Ending.REFUSED),
        (TOO_MANY, "", f"pay take {VOID}", [CANCELLED], Ending.REFUSED),
        (TOO_MANY, "", "void_charge validate", [CANCELLED], Ending.REFUSED),
        (ORDER, f"validate_inventory:{DOWN}", f"{times('validate')} void_charge", [CANCELLED], Ending.UNDONE),
        (ORDER, f"update_inventory:{DOWN}", f"validate pay {times('take')} {VOID}", [CANCELLED], Ending.UNDONE),
        (ORDER, "", "settle", [Status.UNKNOWN], Ending.UNDONE),
        (ORDER, "", "validate pay take settle", [], Ending.UNDONE),
        (ORDER, "", f"validate pay settle validate {VOID}", [Status.UNKNOWN, REJECTED], Ending.UNDONE),
    ],
)
def test_what_can_rightly_happen_is_no_violation(
    tmp_path: Path, order: Order, faults: str, calls: str, printed: list[Status], ending: Ending
) -> None:
    ledger = do(Shop(tmp_path, parse_faults(faults)), order, calls)

    outcomes = lines(ledger, *printed, order_id=order.order_id)

    assert found(audit([order], ledger, outcomes, runs=max(1, len(printed)))) == []
    assert accounts_of([order], ledger)[order.order_id].ending is ending


@pytest.mark.parametrize(("reason", "is_false"), [("ReplyLost: no reply", False), ("PaymentDeclined: no", True)])
def test_an_order_fails_though_it_was_refused_only_if_the_refusal_came_too_late(
    shop: Shop, reason: str, is_false: bool
) -> None:
    ledger = do(shop, DECLINED, "validate pay void_charge")

    violations = found(audit([DECLINED], ledger, [Outcome("2", FAILED, reason)]))

    assert violations == [("I7", "printed failed, but it was refused")] * is_false


@pytest.mark.parametrize(("outcome", "is_false"), [("started", False), ("ok", True)])
def test_an_attempt_that_stayed_open_in_an_outage_may_have_been_the_refusal(
    shop: Shop, outcome: str, is_false: bool
) -> None:
    ledger = do(shop, DECLINED, "validate pay void_charge")
    attempts = [replace(row, outcome=outcome) if row.step == "process_payment" else row for row in ledger.attempts]

    violations = found(
        audit([DECLINED], replace(ledger, attempts=tuple(attempts)), lines(ledger, REJECTED, order_id="2"))
    )

    assert (("I7", "printed rejected, but nothing was refused") in violations) is is_false
    assert (violations == []) is not is_false


def test_the_orders_that_violations_are_planted_into_are_clean() -> None:
    assert clean_world((), NO_LEDGER, ()).violations() == set()


def test_every_planted_violation_is_found_in_the_ledger_that_was_judged(shop: Shop) -> None:
    ledger = do(shop, ORDER, COMPLETE)

    assert missed_violations([ORDER], ledger, lines(ledger, COMPLETED)) == []


def test_a_judge_that_finds_nothing_misses_every_planted_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planted, "audit", lambda *arguments, **options: [])

    missed = missed_violations((), NO_LEDGER, ())

    assert missed == [plant.what for plant in plants(clean_world((), NO_LEDGER, ()))]
    assert len(missed) > 80


def test_a_planted_violation_that_changes_nothing_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    def plant_nothing(clean: planted.World) -> Iterator[Plant]:
        yield Plant("nothing", "I2", planted.DONE, clean)

    monkeypatch.setattr(planted, "plants", plant_nothing)

    assert missed_violations((), NO_LEDGER, ()) == ["nothing"]


@pytest.mark.parametrize(
    ("calls", "sentences"),
    [
        ("", ["I1 abandoned, nothing held; last tried: nothing"]),
        ("validate", ["I1 abandoned, nothing held; last tried: validate_inventory"]),
        ("validate pay", ["I3 charged, stock never taken; owed 43.90 USD", "I5 4390 cents were kept, 0 earned"]),
        ("validate pay take", ["I2 charged, stock taken, not confirmed", "I5 4390 cents were kept, 0 earned"]),
        ("take", ["I2 stock taken, never charged"]),
        (
            "validate pay void_charge refund",
            ["I3 refunded, but its stock may still be taken: there is no tombstone of void_sale"],
        ),
        (
            f"{COMPLETE} refund",
            ["I2 stock taken, never charged", "I3 stock taken, never charged, and yet a confirmation was sent"],
        ),
        (f"pay {VOID} send", ["I3 undone, nothing held, and yet a confirmation was sent"]),
    ],
)
def test_an_order_that_is_left_half_done_is_named_with_what_is_owed(
    shop: Shop, calls: str, sentences: list[str]
) -> None:
    ledger = do(shop, ORDER, calls)

    assert [" ".join(violation) for violation in found(audit([ORDER], ledger))] == sentences


def test_without_keys_a_repeat_is_a_second_charge_and_a_second_sale_and_stays_one_though_all_are_undone(
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path, keys_enabled=False)

    kept = found(audit([ORDER], do(shop, ORDER, "validate pay pay take take")))
    undone = found(audit([ORDER], do(shop, ORDER, "settle")))

    assert [violation for violation in kept if violation not in undone] == [
        ("I2", "charged more than once; owed 43.90 USD"),
        ("I5", "8780 cents were kept, 0 earned"),
    ]
    assert undone == [("I2", "2 charges"), ("I2", "2 sales")]


@pytest.mark.parametrize("printed", [FAILED, CANCELLED])
def test_a_run_that_begins_when_the_order_has_ended_may_say_nothing_but_rejected(shop: Shop, printed: Status) -> None:
    ledger = do(shop, DECLINED, "validate pay void_charge validate void_charge")
    two_scripts = by_process(ledger, 1, 1, 1, 2, 2)

    outcomes = lines(ledger, REJECTED, printed, order_id="2")

    assert ("I7", f"printed {printed.value} by a run that began when it had ended as rejected") in found(
        audit([DECLINED], two_scripts, outcomes)
    )
    assert found(audit([DECLINED], two_scripts, lines(ledger, REJECTED, REJECTED, order_id="2"))) == []


def test_of_two_runs_that_race_each_may_have_a_reason_of_its_own(tmp_path: Path) -> None:
    shop = Shop(tmp_path, parse_faults(f"update_inventory:{DOWN}"))
    ledger = do(shop, ORDER, f"validate pay validate {times('take')} pay {VOID} take {VOID}")
    racing = by_process(ledger, 1, 1, 2, *[1] * TIMES, 2, *[1] * 3, *[2] * 4)

    assert found(audit([ORDER], racing, lines(ledger, REJECTED, FAILED), runs=2)) == []
    assert found(audit([ORDER], racing, lines(ledger, FAILED, REJECTED), runs=2)) == []


def test_an_end_that_the_workflow_contradicts_is_a_violation(shop: Shop) -> None:
    ledger = do(shop, ORDER, COMPLETE)

    for printed in (COMPLETED, REJECTED, FAILED, CANCELLED):
        for closed_as in list(CLOSINGS.values())[1:]:
            violations = found(audit([ORDER], ledger, lines(ledger, printed), closings={"1": closed_as}))
            is_contradicted = ("I7", f"printed {printed.value}, but closed as {closed_as.name}") in violations
            assert is_contradicted == (CLOSINGS[printed] is not closed_as)


def test_without_a_workflow_nothing_can_be_cancelled(shop: Shop) -> None:
    ledger = do(shop, ORDER, "void_charge")

    assert found(audit([ORDER], ledger, lines(ledger, CANCELLED), closings={})) == [
        ("I7", "printed cancelled, but closed as not at all")
    ]


def test_attempts_are_counted_for_each_run(tmp_path: Path) -> None:
    shop = Shop(tmp_path, parse_faults(f"process_payment:{DOWN}"))

    ledger = do(shop, ORDER, f"{times('pay', TIMES + 1)} take send")

    assert found(audit([ORDER], ledger, runs=1)) == [("I9", f"process_payment: {TIMES + 1} attempts, {TIMES} allowed")]
    assert found(audit([ORDER], ledger, runs=2)) == []
    assert found(audit([ORDER], ledger, runs={"1": 2})) == []
    assert found(audit([ORDER], ledger)) == []


def test_two_thousand_orders_are_judged_in_seconds(shop: Shop) -> None:
    one = do(shop, ORDER, COMPLETE)
    ids = [str(number) for number in range(2_000)]
    orders = [make_order(order_id) for order_id in ids]
    tables: dict[str, Any] = {  # as many kinds of rows as tables
        table: tuple(replace(row, order_id=order_id) for order_id in ids for row in getattr(one, table))
        for table in planted.TABLES
    }

    begun = time.monotonic()
    violations = audit(orders, replace(one, **tables), [Outcome(order_id, FAILED, "") for order_id in ids], runs=1)

    assert time.monotonic() - begun < 8
    assert {violation.order_id for violation in violations} == {*ids, "-"}


def run_audit(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(arguments))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return the directory of a shop with one complete order, which no program uses."""
    shop = Shop(tmp_path / "shop")
    do(shop, ORDER, COMPLETE)
    shop.close()
    return tmp_path / "shop"


@pytest.fixture
def orders(tmp_path: Path) -> str:
    """Return a file with that order."""
    return str(write_orders(tmp_path / "orders.jsonl", ORDER))


def test_the_command_names_what_is_owed_and_exits_1(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    do(Shop(data), make_order("2"), "validate pay")

    status = run_audit(str(write_orders(tmp_path / "orders.jsonl", ORDER, make_order("2"))), f"--data={data}")

    output, errors = capsys.readouterr()
    assert status == 1
    assert output.splitlines() == [
        "2\tI3\tcharged, stock never taken; owed 43.90 USD",
        "-\tI5\t8780 cents were kept, 4390 earned",
    ]
    assert errors.startswith("2 orders: 1 charged, stock taken, confirmed, 1 charged, stock never taken; 2 viol")


def test_the_command_judges_every_line_that_was_printed(
    data: Path, orders: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (transaction,) = [charge.transaction_id for charge in read_ledger(data).charges]
    said = tmp_path / "said.tsv"
    said.write_text(f"1\tcompleted\t{transaction}\n\n1\tfailed\tso it said\n9\trejected\tof nobody\n")

    assert run_audit(orders, f"--data={data}") == 0
    assert run_audit(orders, f"--data={data}", f"--outcomes={said}") == 1
    assert capsys.readouterr().out.splitlines() == [
        "1\tI7\tprinted failed, but charged, stock taken, confirmed",
        "9\tI6\t1 outcome(s), and nobody placed it",
    ]


def test_the_command_allows_one_run_if_it_is_told_what_was_printed(
    data: Path, orders: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = do(Shop(data), ORDER, times("pay"))
    said = tmp_path / "said.tsv"
    said.write_text(f"1\tcompleted\t{ledger.charges[0].transaction_id}\n")

    assert run_audit(orders, f"--data={data}", f"--outcomes={said}", "--runs=2") == 0
    assert run_audit(orders, f"--data={data}") == 0
    assert run_audit(orders, f"--data={data}", f"--outcomes={said}") == 1
    assert capsys.readouterr().out == f"1\tI9\tprocess_payment: {TIMES + 1} attempts, {TIMES} allowed\n"


def test_the_command_takes_the_shop_from_the_environment(
    data: Path, orders: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHOP_DATA", str(data))

    assert run_audit(orders) == 0
    assert "1 charged, stock taken, confirmed" in capsys.readouterr().err


def test_the_command_changes_nothing(data: Path, orders: str) -> None:
    with closing(sqlite3.connect(data / "inventory.sqlite3")) as connection:
        connection.execute("DELETE FROM products")
        connection.commit()
    before = {path.name: path.read_bytes() for path in data.glob("*.sqlite3")}

    assert run_audit(orders, f"--data={data}") == 1

    assert {path.name: path.read_bytes() for path in data.glob("*.sqlite3")} == before


def test_the_command_refuses_outcomes_with_a_bad_line_and_names_it(
    data: Path, orders: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = tmp_path / "said.tsv"
    bad_lines = ("1 completed txn", "1\tcompleted", "1\tcompleted\ttxn\tmore", "1\tdone\ttxn", "1\tcompleted\t\udcff")
    reason = "must read order_id<TAB>status<TAB>detail, in UTF-8; a status is one of completed, rejected, failed, "

    for line in bad_lines:
        said.write_text(f"1\tcompleted\ttxn\n{line}\n", errors="surrogateescape")

        assert run_audit(orders, f"--data={data}", f"--outcomes={said}") == 2
        assert capsys.readouterr() == ("", f"audit: {said}: line 2: {reason}cancelled, unknown, started\n")


def test_the_command_refuses_what_it_cannot_read_in_one_sentence_and_makes_no_shop(
    data: Path, orders: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        ("nowhere.jsonl",),
        (orders, f"--data={tmp_path / 'nowhere'}"),
        (orders, f"--data={orders}"),
        (orders, "--outcomes=nowhere"),
        (orders, "--outcomes=."),
    ):
        assert run_audit(f"--data={data}", *arguments) == 2
        output, errors = capsys.readouterr()
        assert output == ""
        assert errors.startswith("audit: ")
        assert len(errors.splitlines()) == 1
    assert not (tmp_path / "nowhere").exists()


def overwrite(path: Path) -> None:
    path.write_bytes(b"this is no database" * 500)


def damage(path: Path) -> None:
    """Spoil all pages but the first, which holds the schema."""
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(byte ^ 0x55 for byte in content[4096:]))


def damage_an_index(path: Path) -> None:
    """Make an index disagree with its table: every row can still be read."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'order_id)', 'digest)') WHERE type = 'index'")


@pytest.mark.parametrize(
    ("spoil", "name"), [(Path.unlink, "notifications"), (overwrite, "inventory"), (damage, "inventory")]
)
def test_the_command_judges_no_shop_of_which_a_file_is_missing_or_damaged(
    data: Path, orders: str, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], name: str
) -> None:
    spoil(data / f"{name}.sqlite3")

    status = run_audit(orders, f"--data={data}")

    output, errors = capsys.readouterr()
    assert (status, output) == (2, "")
    assert f"{name}.sqlite3" in errors
    assert len(errors.splitlines()) == 1


def test_the_command_judges_no_shop_with_a_file_that_reads_well_but_is_not_intact(
    data: Path, orders: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage_an_index(data / "payments.sqlite3")

    status = run_audit(orders, f"--data={data}")

    assert [violation.rule for violation in judge_files(data)] == ["I9"]
    assert status == 2
    assert "payments.sqlite3 is damaged" in capsys.readouterr().err


def test_the_command_says_that_a_shop_is_locked(
    data: Path, orders: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shop.stores.storage.CALL_TIMEOUT_SECONDS", 0.1)
    with closing(sqlite3.connect(data / "payments.sqlite3", isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")

        status = run_audit(orders, f"--data={data}")

    assert status == 2
    assert "locked" in capsys.readouterr().err


def test_the_command_refuses_no_runs_at_all(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_audit(orders, "--runs=0")

    assert ended.value.code == 2
    assert "must be a whole number from 1" in capsys.readouterr().err
