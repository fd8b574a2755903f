"""AFTER, the steps: one thin method each, which calls the shop and nothing else.

There are no retries and no time-outs here: the workflow declares them, and Temporal carries them out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from shop.errors import OrderConflict, OrderVoided, PermanentError, Refusal
from shop.orders import Order
from shop.shop import Shop

T = TypeVar("T")
Call = Callable[["OrderActivities", Order], T]

KNOWN_BY_NAME: tuple[type[PermanentError], ...] = (OrderConflict, OrderVoided)


def step(call: Call[T], final: tuple[type[PermanentError], ...] = (PermanentError,)) -> Call[T]:
    """Make an activity of a method. The class of the shop's error decides whether another attempt helps.

    After an error of `final` there is none. A refusal is `BENIGN`: an expected "no", not logged as an error, which the
    workflow takes for a rejected order.
    `no_thread_cancel_exception`: a call that outlives its time-out ends by itself. By default the SDK raises an error
    in its thread, at any line, and nobody could say how much of the effect has happened.
    """

    @activity.defn(name=call.__name__, no_thread_cancel_exception=True)
    @functools.wraps(call)
    def attempt(self: OrderActivities, order: Order) -> T:
        try:
            return call(self, order)
        except final as error:
            is_refusal = isinstance(error, Refusal)
            category = ApplicationErrorCategory.BENIGN if is_refusal else ApplicationErrorCategory.UNSPECIFIED
            raise ApplicationError(str(error), type=name_of(error), non_retryable=True, category=category) from error

    return attempt


def ending(call: Call[T]) -> Call[T]:
    """Make an activity of a call that an order cannot end without: whatever refuses it, it is tried again."""
    return step(call, final=KNOWN_BY_NAME)


def name_of(error: PermanentError) -> str:
    """Return the name that the workflow sees; a subclass of an error that it knows by name goes by that name."""
    return next((base for base in KNOWN_BY_NAME if isinstance(error, base)), type(error)).__name__


@dataclass(frozen=True)
class OrderActivities:
    """The steps of an order, and the calls that end one without them. Each is safe to repeat. Public methods only."""

    shop: Shop

    @step
    def validate_inventory(self, order: Order) -> None:
        """Check whether the stock suffices."""
        self.shop.inventory.validate_inventory(order)

    @step
    def process_payment(self, order: Order) -> str:
        """Charge the customer and return the transaction id."""
        return self.shop.payments.process_payment(order)

    @step
    def update_inventory(self, order: Order) -> None:
        """Take the items from the stock."""
        self.shop.inventory.update_inventory(order)

    @step
    def send_confirmation(self, order: Order) -> None:
        """Mail the customer."""
        self.shop.notifications.send_confirmation(order)

    @ending
    def note_unsent(self, order: Order) -> None:
        """Note that no confirmation could be sent."""
        self.shop.notifications.note_unsent(order)

    @ending
    def void_charge(self, order: Order) -> str | None:
        """Void the charge; return the transaction id if the order was charged before."""
        return self.shop.payments.void_charge(order)

    @ending
    def void_sale(self, order: Order) -> bool:
        """Void the sale; return whether the stock was taken before."""
        return self.shop.inventory.void_sale(order)

    @ending
    def refund_payment(self, order: Order) -> None:
        """Pay back what the order was charged."""
        self.shop.payments.refund_payment(order)


def activities_of(shop: Shop) -> list[Callable[[Order], object]]:
    """Return all activities, bound to a shop: what a worker serves."""
    steps = OrderActivities(shop)
    return [getattr(steps, name) for name in vars(OrderActivities) if not name.startswith("_")]
