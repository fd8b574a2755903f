"""AFTER, the steps: one thin method each, which calls the shop and nothing else.

No retry, no time-out, no error handling stands here: the workflow declares them, and Temporal carries them out.

`no_thread_cancel_exception`: a call that outlived its time-out is left to end by itself. By default the SDK raises an
error in its thread, at any line, and nobody could say how much of the effect has happened.
"""

from __future__ import annotations

from dataclasses import dataclass

from temporalio import activity

from shop.orders import Order
from shop.shop import Shop


@dataclass(frozen=True)
class OrderActivities:
    """The steps of an order and their compensations, on one shop. All are safe to repeat."""

    shop: Shop

    @activity.defn(no_thread_cancel_exception=True)
    def validate_inventory(self, order: Order) -> bool:
        """Check whether the stock suffices; return whether an earlier run took it already."""
        return self.shop.inventory.validate_inventory(order)

    @activity.defn(no_thread_cancel_exception=True)
    def process_payment(self, order: Order) -> str:
        """Charge the customer and return the transaction id."""
        return self.shop.payments.process_payment(order)

    @activity.defn(no_thread_cancel_exception=True)
    def update_inventory(self, order: Order) -> None:
        """Take the items from the stock."""
        self.shop.inventory.update_inventory(order)

    @activity.defn(no_thread_cancel_exception=True)
    def send_confirmation(self, order: Order) -> None:
        """Mail the customer."""
        self.shop.notifications.send_confirmation(order)

    @activity.defn(no_thread_cancel_exception=True)
    def note_unsent(self, order: Order) -> None:
        """Note that no confirmation could be sent."""
        self.shop.notifications.note_unsent(order)

    @activity.defn(no_thread_cancel_exception=True)
    def refund_payment(self, order: Order) -> None:
        """Undo `process_payment`, or see to it that it never happens."""
        self.shop.payments.refund_payment(order)

    @activity.defn(no_thread_cancel_exception=True)
    def restore_inventory(self, order: Order) -> None:
        """Undo `update_inventory`, or see to it that it never happens."""
        self.shop.inventory.restore_inventory(order)
