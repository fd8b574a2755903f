"""Each step, as Temporal calls it: what it does to the shop, and that it hides nothing that the shop says."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ledger_of, make_order
from temporalio.testing import ActivityEnvironment

from activities import OrderActivities
from shop.errors import (
    OrderConflict,
    OrderVoided,
    OutOfStock,
    PaymentDeclined,
    ReplyLost,
    ServiceUnavailable,
    ShopError,
    UnknownCustomer,
    UnknownPaymentToken,
    UnknownProduct,
)
from shop.faults import STEPS, parse_faults
from shop.ledger import Ledger, read_ledger
from shop.orders import Item, Order
from shop.shop import Shop

ORDER = make_order()


def run(shop: Shop, step: str, order: Order = ORDER) -> object:
    """Run a step as the worker does."""
    return ActivityEnvironment().run(getattr(OrderActivities(shop), step), order)


def effects(ledger: Ledger) -> tuple[object, ...]:
    """Return the ledger without the attempts."""
    return ledger.stock, ledger.sales, ledger.charges, ledger.confirmations, ledger.voids


def test_validate_inventory_looks_and_changes_nothing(shop: Shop) -> None:
    before = read_ledger(shop)

    run(shop, "validate_inventory")

    after = read_ledger(shop)
    assert effects(after) == effects(before)
    assert [(attempt.step, attempt.outcome) for attempt in after.attempts] == [("validate_inventory", "ok")]


def test_process_payment_charges_the_total_and_returns_the_transaction_id(shop: Shop) -> None:
    transaction_id = run(shop, "process_payment")

    (charge,) = read_ledger(shop).charges
    assert (charge.transaction_id, charge.amount_cents, charge.currency) == (transaction_id, ORDER.total_cents, "USD")
    assert not charge.refunded


def test_update_inventory_takes_each_item(shop: Shop) -> None:
    run(shop, "update_inventory")

    ledger = read_ledger(shop)
    assert {(sale.sku, sale.quantity, sale.restored) for sale in ledger.sales} == {
        ("mug", 2, False),
        ("coffee-1kg", 1, False),
    }
    assert (ledger.stock["mug"].now, ledger.stock["coffee-1kg"].now) == (98, 99)


def test_send_confirmation_mails_the_customer(shop: Shop) -> None:
    run(shop, "send_confirmation")

    assert [(mail.customer_id, mail.sent) for mail in read_ledger(shop).confirmations] == [("ada", True)]


def test_note_unsent_notes_that_no_mail_was_sent(shop: Shop) -> None:
    run(shop, "note_unsent")

    assert [(mail.customer_id, mail.sent) for mail in read_ledger(shop).confirmations] == [("ada", False)]


def test_refund_payment_refunds_the_charge(shop: Shop) -> None:
    run(shop, "process_payment")

    run(shop, "refund_payment")

    assert [charge.refunded for charge in read_ledger(shop).charges] == [True]


def test_restore_inventory_puts_the_items_back(shop: Shop) -> None:
    run(shop, "update_inventory")

    run(shop, "restore_inventory")

    ledger = read_ledger(shop)
    assert [sale.restored for sale in ledger.sales] == [True, True]
    assert all(stock.now == stock.initial for stock in ledger.stock.values())


@pytest.mark.parametrize("step", STEPS)
def test_a_service_that_is_down_is_not_hidden_and_nothing_changes(step: str, tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", parse_faults(f"{step}:unavailable"))
    before = read_ledger(shop)

    with pytest.raises(ServiceUnavailable):
        run(shop, step)

    after = read_ledger(shop)
    shop.close()
    assert effects(after) == effects(before)
    assert [(attempt.step, attempt.outcome) for attempt in after.attempts] == [(step, "ServiceUnavailable")]


def test_a_lost_reply_is_not_hidden_and_the_charge_stands(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", parse_faults("process_payment:lost_reply"))

    with pytest.raises(ReplyLost):
        run(shop, "process_payment")

    shop.close()
    assert [charge.refunded for charge in ledger_of(tmp_path / "shop").charges] == [False]


@pytest.mark.parametrize(
    ("step", "order", "error"),
    [
        ("validate_inventory", make_order(items=(Item("unicorn", 1, 1250),)), UnknownProduct),
        ("validate_inventory", make_order(items=(Item("mug", 101, 1250),)), OutOfStock),
        ("process_payment", make_order(payment_token="tok_chargeDeclined"), PaymentDeclined),
        ("process_payment", make_order(payment_token="tok_nobody_knows"), UnknownPaymentToken),
        ("update_inventory", make_order(items=(Item("mug", 101, 1250),)), OutOfStock),
        ("send_confirmation", make_order(customer_id="nobody"), UnknownCustomer),
    ],
)
def test_a_no_of_the_shop_is_not_hidden_and_nothing_changes(
    step: str, order: Order, error: type[ShopError], shop: Shop
) -> None:
    before = read_ledger(shop)

    with pytest.raises(error):
        run(shop, step, order)

    assert effects(read_ledger(shop)) == effects(before)


def test_a_charge_that_comes_after_its_refund_is_refused(shop: Shop) -> None:
    run(shop, "refund_payment")

    with pytest.raises(OrderVoided):
        run(shop, "process_payment")

    assert read_ledger(shop).charges == ()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("process_payment", "process_payment"),
        ("process_payment", "refund_payment"),
        ("update_inventory", "validate_inventory"),
        ("update_inventory", "update_inventory"),
        ("update_inventory", "restore_inventory"),
        ("send_confirmation", "send_confirmation"),
        ("send_confirmation", "note_unsent"),
    ],
)
def test_an_order_with_the_id_of_another_is_refused_and_nothing_changes(first: str, second: str, shop: Shop) -> None:
    run(shop, first)
    before = read_ledger(shop)

    with pytest.raises(OrderConflict):
        run(shop, second, make_order(customer_id="grace"))

    assert effects(read_ledger(shop)) == effects(before)
