"""Each step, as Temporal calls it: what it does to the shop, and that it hides nothing that the shop says."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import make_order
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.testing import ActivityEnvironment

from activities import OrderActivities, activities_of, ending, step
from shop.errors import Refusal, ReplyLost, ServiceUnavailable
from shop.faults import STEPS, parse_faults
from shop.ledger import Ledger, Void, read_ledger
from shop.orders import Item, Order
from shop.shop import Shop

ORDER = make_order()
EXPECTED, UNEXPECTED = ApplicationErrorCategory.BENIGN, ApplicationErrorCategory.UNSPECIFIED


def run(shop: Shop, name: str, order: Order = ORDER) -> object:
    """Run a step as the worker does."""
    return ActivityEnvironment().run(getattr(OrderActivities(shop), name), order)


def refusal_of(shop: Shop, name: str, order: Order = ORDER) -> tuple[str | None, bool, ApplicationErrorCategory]:
    """Run a step that is refused for good; return what the workflow gets to know of it."""
    with pytest.raises(ApplicationError) as refused:
        run(shop, name, order)
    return refused.value.type, refused.value.non_retryable, refused.value.category


def effects(ledger: Ledger) -> tuple[object, ...]:
    """Return the ledger without the attempts."""
    return ledger.stock, ledger.sales, ledger.charges, ledger.confirmations, ledger.voids


def test_validate_inventory_looks_and_changes_nothing(shop: Shop) -> None:
    before = read_ledger(shop.location)

    run(shop, "validate_inventory")

    after = read_ledger(shop.location)
    assert effects(after) == effects(before)
    assert [(attempt.step, attempt.outcome) for attempt in after.attempts] == [("validate_inventory", "ok")]


def test_process_payment_charges_the_total_and_returns_the_transaction_id(shop: Shop) -> None:
    transaction_id = run(shop, "process_payment")

    (charge,) = read_ledger(shop.location).charges
    assert (charge.transaction_id, charge.amount_cents, charge.currency) == (transaction_id, ORDER.total_cents, "USD")
    assert not charge.refunded


def test_update_inventory_takes_each_item(shop: Shop) -> None:
    run(shop, "update_inventory")

    ledger = read_ledger(shop.location)
    assert {(sale.sku, sale.quantity, sale.restored) for sale in ledger.sales} == {
        ("mug", 2, False),
        ("coffee-1kg", 1, False),
    }
    assert (ledger.stock["mug"].now, ledger.stock["coffee-1kg"].now) == (98, 99)


def test_send_confirmation_mails_the_customer(shop: Shop) -> None:
    run(shop, "send_confirmation")

    assert [(mail.customer_id, mail.sent) for mail in read_ledger(shop.location).confirmations] == [("ada", True)]


def test_note_unsent_notes_that_no_mail_was_sent(shop: Shop) -> None:
    run(shop, "note_unsent")

    assert [(mail.customer_id, mail.sent) for mail in read_ledger(shop.location).confirmations] == [("ada", False)]


def test_refund_payment_refunds_the_charge(shop: Shop) -> None:
    run(shop, "process_payment")

    run(shop, "refund_payment")

    assert [charge.refunded for charge in read_ledger(shop.location).charges] == [True]


def test_void_charge_says_what_was_charged_and_voids_what_was_not(shop: Shop) -> None:
    transaction_id = run(shop, "process_payment")

    answers = run(shop, "void_charge"), run(shop, "void_charge", make_order("2"))

    assert answers == (transaction_id, None)
    assert read_ledger(shop.location).voids == (Void("2", "void_charge", make_order("2").digest),)


def test_void_sale_says_whether_the_stock_is_taken_and_voids_what_is_not(shop: Shop) -> None:
    run(shop, "update_inventory")

    answers = run(shop, "void_sale"), run(shop, "void_sale", make_order("2"))

    assert answers == (True, False)
    assert read_ledger(shop.location).voids == (Void("2", "void_sale", make_order("2").digest),)


def test_the_worker_serves_every_step_under_its_own_name_and_nothing_else(shop: Shop) -> None:
    served = [call.__name__ for call in activities_of(shop)]

    assert sorted(served) == sorted(STEPS)


@pytest.mark.parametrize("name", STEPS)
def test_a_service_that_is_down_is_not_hidden_and_nothing_changes(name: str, tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", parse_faults(f"{name}:unavailable"))
    before = read_ledger(shop.location)

    with pytest.raises(ServiceUnavailable):
        run(shop, name)

    after = read_ledger(shop.location)
    shop.close()
    assert effects(after) == effects(before)
    assert [(attempt.step, attempt.outcome) for attempt in after.attempts] == [(name, "ServiceUnavailable")]


def test_a_lost_reply_is_not_hidden_and_the_charge_stands(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", parse_faults("process_payment:lost_reply"))

    with pytest.raises(ReplyLost):
        run(shop, "process_payment")

    shop.close()
    assert [charge.refunded for charge in read_ledger(tmp_path / "shop").charges] == [False]


@pytest.mark.parametrize(
    ("name", "order", "error", "category"),
    [
        ("validate_inventory", make_order(items=(Item("unicorn", 1, 1250),)), "UnknownProduct", EXPECTED),
        ("validate_inventory", make_order(items=(Item("mug", 101, 1250),)), "OutOfStock", EXPECTED),
        ("process_payment", make_order(payment_token="tok_chargeDeclined"), "PaymentDeclined", EXPECTED),
        ("process_payment", make_order(payment_token="tok_nobody_knows"), "UnknownPaymentToken", EXPECTED),
        ("update_inventory", make_order(items=(Item("mug", 101, 1250),)), "OutOfStock", EXPECTED),
        ("send_confirmation", make_order(customer_id="nobody"), "UnknownCustomer", UNEXPECTED),
    ],
)
def test_a_no_of_the_shop_is_final_and_named_and_nothing_changes(
    name: str, order: Order, error: str, category: ApplicationErrorCategory, shop: Shop
) -> None:
    before = read_ledger(shop.location)

    refusal = refusal_of(shop, name, order)

    assert refusal == (error, True, category)
    assert effects(read_ledger(shop.location)) == effects(before)


def test_a_no_that_somebody_adds_later_is_final_too() -> None:
    class FraudSuspected(Refusal):
        """Something that a user of this repository adds."""

    @step
    def refuse(_: OrderActivities, order: Order) -> None:
        raise FraudSuspected(f"order {order.order_id}: too many mugs")

    with pytest.raises(ApplicationError, match="too many mugs") as refused:
        refuse(OrderActivities.__new__(OrderActivities), ORDER)

    assert (refused.value.type, refused.value.non_retryable) == ("FraudSuspected", True)
    assert refused.value.category is EXPECTED


@pytest.mark.parametrize(("void", "late"), [("void_charge", "process_payment"), ("void_sale", "update_inventory")])
def test_an_effect_that_comes_after_its_void_is_refused(void: str, late: str, shop: Shop) -> None:
    run(shop, void)
    before = read_ledger(shop.location)

    refusal = refusal_of(shop, late)

    assert refusal == ("OrderVoided", True, EXPECTED)
    assert effects(read_ledger(shop.location)) == effects(before)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("process_payment", "process_payment"),
        ("process_payment", "void_charge"),
        ("process_payment", "refund_payment"),
        ("update_inventory", "validate_inventory"),
        ("update_inventory", "update_inventory"),
        ("update_inventory", "void_sale"),
        ("send_confirmation", "send_confirmation"),
        ("send_confirmation", "note_unsent"),
    ],
)
def test_an_order_with_the_id_of_another_is_refused_and_nothing_changes(first: str, second: str, shop: Shop) -> None:
    run(shop, first)
    before = read_ledger(shop.location)

    refusal = refusal_of(shop, second, make_order(customer_id="grace"))

    assert refusal == ("OrderConflict", True, UNEXPECTED)
    assert effects(read_ledger(shop.location)) == effects(before)


def test_a_call_that_an_order_cannot_end_without_is_tried_again_even_if_it_is_refused() -> None:
    class CardExpired(Refusal):
        """What a provider may say to a refund."""

    @ending
    def refuse(_: OrderActivities, order: Order) -> None:
        raise CardExpired(f"order {order.order_id}: no refund")

    with pytest.raises(CardExpired):  # Temporal repeats any error that does not say that it is final.
        refuse(OrderActivities.__new__(OrderActivities), ORDER)


def test_a_call_that_an_order_cannot_end_without_is_not_repeated_for_an_id_of_another(shop: Shop) -> None:
    run(shop, "process_payment")

    refused = refusal_of(shop, "void_charge", make_order(customer_id="grace"))

    assert refused == ("OrderConflict", True, UNEXPECTED)
