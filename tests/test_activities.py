"""Each step, as Temporal calls it: what it does to the shop, and how it names what the shop says."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from conftest import make_order
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.testing import ActivityEnvironment

from activities import OrderActivities, activities_of, step
from shop.errors import (
    OrderConflict,
    OrderVoided,
    OutOfStock,
    PaymentDeclined,
    ReplyLost,
    ServiceUnavailable,
    ShopError,
    UnknownCustomer,
)
from shop.faults import STEPS
from shop.ledger import Void, read_ledger
from shop.orders import Order
from shop.shop import Shop

ORDER, OTHER = make_order(), make_order("2")
BENIGN, UNSPECIFIED = ApplicationErrorCategory.BENIGN, ApplicationErrorCategory.UNSPECIFIED


def run(shop: Shop, name: str, order: Order = ORDER) -> object:
    """Run a step as the worker does."""
    return ActivityEnvironment().run(getattr(OrderActivities(shop), name), order)


def error_of(error: Exception) -> ApplicationError:
    """Return what the workflow gets to know of an error of the shop."""

    @step
    def refuse(_: OrderActivities, order: Order) -> None:
        raise error

    with pytest.raises(ApplicationError) as raised:
        ActivityEnvironment().run(refuse, OrderActivities.__new__(OrderActivities), ORDER)
    return raised.value


def test_the_four_steps_charge_take_and_mail(shop: Shop) -> None:
    looked = run(shop, "validate_inventory")
    before = read_ledger(shop.location)
    transaction_id = run(shop, "process_payment")
    run(shop, "update_inventory")
    run(shop, "send_confirmation")

    ledger = read_ledger(shop.location)
    assert (looked, before.charges, before.sales, before.voids) == (None, (), (), ())
    assert [(charge.transaction_id, charge.amount_cents) for charge in ledger.charges] == [
        (transaction_id, ORDER.total_cents)
    ]
    assert {(sale.sku, sale.quantity) for sale in ledger.sales} == {("mug", 2), ("coffee-1kg", 1)}
    assert [(mail.customer_id, mail.sent) for mail in ledger.confirmations] == [("ada", True)]


def test_the_calls_that_end_an_order_say_what_it_holds_and_void_what_it_does_not(shop: Shop) -> None:
    transaction_id = run(shop, "process_payment")
    run(shop, "update_inventory")

    charged = run(shop, "void_charge"), run(shop, "void_charge", OTHER)
    sold = run(shop, "void_sale"), run(shop, "void_sale", OTHER)

    assert (charged, sold) == ((transaction_id, None), (True, False))
    assert sorted(read_ledger(shop.location).voids, key=lambda void: void.step) == [
        Void("2", "void_charge", OTHER.digest),
        Void("2", "void_sale", OTHER.digest),
    ]


def test_a_refund_refunds_and_a_note_notes(shop: Shop) -> None:
    run(shop, "process_payment")

    run(shop, "refund_payment")
    run(shop, "note_unsent", OTHER)

    ledger = read_ledger(shop.location)
    assert [charge.refunded for charge in ledger.charges] == [True]
    assert [(mail.order_id, mail.sent) for mail in ledger.confirmations] == [("2", False)]


def test_the_worker_serves_every_step_under_its_own_name_and_nothing_else(shop: Shop) -> None:
    served = [call.__name__ for call in activities_of(shop)]

    assert sorted(served) == sorted(STEPS)


class FraudSuspected(PaymentDeclined):
    """A refusal that a user of this repository adds."""


@pytest.mark.parametrize(
    ("error", "name", "message"),
    [
        (OrderConflict("no"), "OrderConflict", "no"),
        (OrderVoided("no"), "OrderVoided", "no"),
        (OutOfStock("no"), "Refusal", "OutOfStock: no"),
        (FraudSuspected("no"), "Refusal", "FraudSuspected: no"),
        (UnknownCustomer("no"), "PermanentError", "UnknownCustomer: no"),
        (ServiceUnavailable("no"), "ServiceUnavailable", "no"),
        (ReplyLost("no"), "ReplyLost", "no"),
    ],
)
def test_an_error_of_the_shop_has_the_name_that_the_retry_policies_know_and_is_not_final_by_itself(
    error: ShopError, name: str, message: str
) -> None:
    raised = error_of(error)

    assert (raised.type, raised.message, raised.non_retryable) == (name, message, False)


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (OutOfStock("no"), BENIGN),
        (OrderVoided("no"), BENIGN),
        (UnknownCustomer("no"), UNSPECIFIED),
        (OrderConflict("no"), UNSPECIFIED),
        (ServiceUnavailable("no"), UNSPECIFIED),
    ],
)
def test_only_a_business_no_is_benign(error: ShopError, category: ApplicationErrorCategory) -> None:
    assert error_of(error).category is category


def test_a_bug_is_not_taken_for_an_answer_of_the_shop(shop: Shop) -> None:
    shop.payments = None  # type: ignore[assignment]  # the bug

    with pytest.raises(AttributeError):
        run(shop, "process_payment")


def test_each_attempt_is_logged_with_its_order_and_number(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, activity_type="process_payment", attempt=2)

    with caplog.at_level(logging.INFO):
        environment.run(OrderActivities(shop).process_payment, ORDER)

    assert caplog.messages == ["order 1: process_payment: attempt 2"]
