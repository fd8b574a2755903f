"""The judge is judged: it finds nothing in a clean shop, and every violation that is planted or made."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import make_order, write_orders

from comparison.audit import Ending, Violation, accounts_of, audit, judge_files
from comparison.planted import missed_violations
from comparison.processes import ROOT, clean_environment
from shop.errors import OutOfStock, PaymentDeclined
from shop.faults import parse_faults
from shop.ledger import read_ledger
from shop.orders import Item, Order, Status
from shop.shop import Shop

ORDER = make_order("1")
DECLINED = make_order("2", payment_token="tok_chargeDeclined")


def complete(shop: Shop, order: Order) -> None:
    shop.inventory.validate_inventory(order)
    shop.payments.process_payment(order)
    shop.inventory.update_inventory(order)
    shop.notifications.send_confirmation(order)


def rules_and_sentences(violations: list[Violation]) -> list[tuple[str, str]]:
    return [(violation.rule, violation.sentence) for violation in violations]


@pytest.fixture
def clean_shop(shop: Shop) -> Shop:
    complete(shop, ORDER)
    with pytest.raises(PaymentDeclined):
        shop.payments.process_payment(DECLINED)
    return shop


def test_a_clean_shop_has_no_violation(clean_shop: Shop) -> None:
    printed = {"1": Status.COMPLETED, "2": Status.REJECTED}

    assert audit([ORDER, DECLINED], read_ledger(clean_shop), printed, runs=1) == []
    assert judge_files(clean_shop) == []


def test_every_planted_violation_is_found(clean_shop: Shop) -> None:
    printed = {"1": Status.COMPLETED, "2": Status.REJECTED}

    assert missed_violations([ORDER, DECLINED], read_ledger(clean_shop), printed) == []


def test_a_planted_violation_that_changes_nothing_would_be_missed(clean_shop: Shop) -> None:
    ledger = read_ledger(clean_shop)

    assert audit([ORDER, DECLINED], replace(ledger, stock=dict(ledger.stock)), {}, runs=1) != []
    assert audit([ORDER, DECLINED], replace(ledger, stock=dict(ledger.stock)), None, runs=1) == []


def test_an_order_that_was_charged_and_left_is_owed_its_money(shop: Shop) -> None:
    shop.inventory.validate_inventory(ORDER)
    shop.payments.process_payment(ORDER)

    assert rules_and_sentences(audit([ORDER], read_ledger(shop))) == [
        ("I3", "charged, never shipped; owed 43.90 USD"),
        ("I5", "4390 cents were kept, 0 earned"),
    ]


def test_an_order_that_nobody_touched_is_forgotten(shop: Shop) -> None:
    assert rules_and_sentences(audit([ORDER], read_ledger(shop))) == [
        ("I1", "forgotten, nothing held; last tried: nothing")
    ]


def test_an_order_that_was_cancelled_in_time_is_not_forgotten(shop: Shop) -> None:
    shop.inventory.validate_inventory(ORDER)

    assert [violation.rule for violation in audit([ORDER], read_ledger(shop))] == ["I1"]
    assert audit([ORDER], read_ledger(shop), {"1": Status.CANCELLED}) == []


def test_a_second_charge_is_a_violation(tmp_path: Path) -> None:
    shop = Shop(tmp_path, keys_enabled=False)
    complete(shop, ORDER)
    shop.payments.process_payment(ORDER)

    violations = audit([ORDER], read_ledger(shop))

    assert ("I2", "charged more than once; owed 43.90 USD") in rules_and_sentences(violations)


def test_an_order_without_mail_or_note_is_a_violation(shop: Shop) -> None:
    shop.payments.process_payment(ORDER)
    shop.inventory.update_inventory(ORDER)

    assert ("I2", "charged, shipped, not mailed") in rules_and_sentences(audit([ORDER], read_ledger(shop)))


def test_a_note_that_no_mail_was_sent_is_enough(shop: Shop) -> None:
    shop.payments.process_payment(ORDER)
    shop.inventory.update_inventory(ORDER)
    shop.notifications.note_unsent(ORDER)

    assert audit([ORDER], read_ledger(shop)) == []


def test_a_refund_after_a_refusal_leaves_the_order_clean(shop: Shop) -> None:
    order = make_order(items=(Item("mug", 101, 100),))
    shop.payments.process_payment(order)
    with pytest.raises(OutOfStock):
        shop.inventory.update_inventory(order)
    shop.payments.refund_payment(order)

    ledger = read_ledger(shop)

    assert accounts_of([order], ledger)["1"].ending is Ending.REFUSED
    assert audit([order], ledger, {"1": Status.REJECTED}) == []


def test_a_confirmation_of_an_order_that_was_undone_is_a_violation(shop: Shop) -> None:
    complete(shop, ORDER)
    shop.payments.refund_payment(ORDER)
    shop.inventory.restore_inventory(ORDER)

    assert [violation.rule for violation in audit([ORDER], read_ledger(shop))] == ["I3"]


def test_more_attempts_than_the_policy_allows_are_a_violation(tmp_path: Path) -> None:
    shop = Shop(tmp_path, parse_faults("process_payment:unavailable*3"))
    for _ in range(3):
        with pytest.raises(Exception, match="unavailable"):
            shop.payments.process_payment(ORDER)
    complete(shop, ORDER)

    assert ("I9", "process_payment: 4 attempts, 3 allowed") in rules_and_sentences(
        audit([ORDER], read_ledger(shop), runs=1)
    )


def run_audit(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "comparison", "audit", *arguments],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_names_what_is_owed_and_exits_1(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop")
    complete(shop, ORDER)
    shop.payments.process_payment(make_order("2"))
    orders = write_orders(tmp_path / "orders.jsonl", ORDER, make_order("2"))

    done = run_audit(str(orders), f"--data={tmp_path / 'shop'}")

    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "2\tI3\tcharged, never shipped; owed 43.90 USD"
    assert "2 violation(s)" in done.stderr


def test_the_command_compares_what_was_printed(tmp_path: Path) -> None:
    complete(Shop(tmp_path / "shop"), ORDER)
    orders = write_orders(tmp_path / "orders.jsonl", ORDER)
    (tmp_path / "said.tsv").write_text("1\tfailed\tso it said\n")

    agreeing = run_audit(str(orders), f"--data={tmp_path / 'shop'}")
    lying = run_audit(str(orders), f"--data={tmp_path / 'shop'}", f"--outcomes={tmp_path / 'said.tsv'}")

    assert (agreeing.returncode, agreeing.stdout) == (0, "")
    assert (lying.returncode, lying.stdout) == (1, "1\tI7\tprinted failed, but charged, shipped, mailed\n")


@pytest.mark.parametrize(
    "arguments", [("nowhere.jsonl",), ("{orders}", "--data=nowhere"), ("{orders}", "--outcomes=no")]
)
def test_the_command_refuses_bad_input_in_one_sentence(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    orders = write_orders(tmp_path / "orders.jsonl", ORDER)

    done = run_audit(*(argument.format(orders=orders) for argument in arguments))

    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
