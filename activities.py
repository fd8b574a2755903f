"""AFTER, the steps: one thin method each, which calls the shop and nothing else.

There are no retries and no time-outs here: the workflow declares them, and Temporal carries them out.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from shop.errors import OrderConflict, OrderVoided, PermanentError, Refusal, ShopError
from shop.orders import Order
from shop.shop import Shop

T = TypeVar("T")
Call = Callable[["OrderActivities", Order], T]

# What the workflow's retry policies know by name. An error is given the first of these names that it inherits from.
NAMED = (OrderConflict, OrderVoided, Refusal, PermanentError)

BENIGN = ApplicationErrorCategory.BENIGN

logger = logging.getLogger("activities")


def step(call: Call[T]) -> Call[T]:
    """Make an activity of a method: it logs each attempt, and names the shop's errors for the workflow.

    `no_thread_cancel_exception`: a call that outlives its attempt ends by itself. By default the SDK raises an error in
    its thread, at any line, and nobody could say how much of the effect has happened.
    """

    @activity.defn(name=call.__name__, no_thread_cancel_exception=True)
    @functools.wraps(call)
    def attempt(self: OrderActivities, order: Order) -> T:
        logger.info("order %s: %s: attempt %d", order.order_id, call.__name__, activity.info().attempt)
        try:
            return call(self, order)
        except ShopError as error:
            own_name = type(error).__name__
            name = next((named.__name__ for named in NAMED if isinstance(error, named)), own_name)
            message = str(error) if name == own_name else f"{own_name}: {error}"
            # Benign: an expected "no" is neither logged as an error nor counted as one in the metrics.
            category = BENIGN if isinstance(error, Refusal) else ApplicationErrorCategory.UNSPECIFIED
            raise ApplicationError(message, type=name, category=category) from None

    return attempt


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

    @step
    def note_unsent(self, order: Order) -> None:
        """Note that no confirmation could be sent."""
        self.shop.notifications.note_unsent(order)

    @step
    def void_charge(self, order: Order) -> str | None:
        """Void the charge; return the transaction id if the order was charged before."""
        return self.shop.payments.void_charge(order)

    @step
    def void_sale(self, order: Order) -> bool:
        """Void the sale; return whether the stock was taken before."""
        return self.shop.inventory.void_sale(order)

    @step
    def refund_payment(self, order: Order) -> None:
        """Pay back what the order was charged."""
        self.shop.payments.refund_payment(order)


def activities_of(shop: Shop) -> list[Callable[[Order], object]]:
    """Return all activities, bound to a shop: what a worker serves."""
    steps = OrderActivities(shop)
    return [getattr(steps, name) for name in vars(OrderActivities) if not name.startswith("_")]
