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

ORDER, OTHER, REFUNDED = make_order(), make_order("2"), make_order("3")
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


def test_each_step_does_what_its_name_says_and_returns_what_the_order_goes_on_by(shop: Shop) -> None:
    looked, untouched = run(shop, "validate_inventory"), read_ledger(shop.location)
    transaction_id, *rest = (run(shop, name) for name in ("process_payment", "update_inventory", "send_confirmation"))
    too_late = run(shop, "void_charge"), run(shop, "void_sale")
    paid = run(shop, "process_payment", REFUNDED)
    ended = run(shop, "void_charge", REFUNDED), run(shop, "void_sale", REFUNDED), run(shop, "refund_payment", REFUNDED)
    never = run(shop, "void_charge", OTHER), run(shop, "note_unsent", OTHER)

    ledger = read_ledger(shop.location)
    assert (looked, rest, untouched.charges, untouched.sales, untouched.voids) == (None, [None, None], (), (), ())
    assert (too_late, ended, never) == ((transaction_id, True), (paid, False, None), (None, None))
    assert [(charge.transaction_id, charge.refunded) for charge in ledger.charges] == [
        (transaction_id, False),
        (paid, True),
    ]
    assert {(sale.order_id, sale.sku, sale.quantity) for sale in ledger.sales} == {
        ("1", "mug", 2),
        ("1", "coffee-1kg", 1),
    }
    assert [(mail.order_id, mail.sent) for mail in ledger.confirmations] == [("1", True), ("2", False)]
    assert {*ledger.voids} == {Void("2", "void_charge", OTHER.digest), Void("3", "void_sale", REFUNDED.digest)}


def test_the_worker_serves_every_step_under_its_own_name_and_nothing_else(shop: Shop) -> None:
    served = [call.__name__ for call in activities_of(shop)]

    assert sorted(served) == sorted(STEPS)


class FraudSuspected(PaymentDeclined):
    """A refusal that a user of this repository adds."""


@pytest.mark.parametrize(
    ("error", "name", "message", "category"),
    [
        (OrderConflict("no"), "OrderConflict", "no", UNSPECIFIED),
        (OrderVoided("no"), "OrderVoided", "no", BENIGN),
        (OutOfStock("no"), "Refusal", "OutOfStock: no", BENIGN),
        (FraudSuspected("no"), "Refusal", "FraudSuspected: no", BENIGN),
        (UnknownCustomer("no"), "PermanentError", "UnknownCustomer: no", UNSPECIFIED),
        (ServiceUnavailable("no"), "ServiceUnavailable", "no", UNSPECIFIED),
        (ReplyLost("no"), "ReplyLost", "no", UNSPECIFIED),
    ],
)
def test_an_error_of_the_shop_has_the_name_that_the_retry_policies_know_and_only_a_business_no_is_benign(
    error: ShopError, name: str, message: str, category: ApplicationErrorCategory
) -> None:
    raised = error_of(error)

    assert (raised.type, raised.message, raised.category, raised.non_retryable) == (name, message, category, False)


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
