"""AFTER, the steps: one thin method each, which calls the shop and nothing else.

No retry, no time-out, no error handling stands here: the workflow declares them, and Temporal carries them out.
"""

from __future__ import annotations

from dataclasses import dataclass

from temporalio import activity

from shop.orders import Order
from shop.shop import Shop

# A call that outlived its time-out is left to end by itself. By default the SDK raises an error in its thread, at any
# line: nobody could say then how much of the effect has happened.
step = activity.defn(no_thread_cancel_exception=True)


@dataclass(frozen=True)
class OrderActivities:
    """The steps of an order and their compensations, on one shop. All are safe to repeat."""

    shop: Shop

    @step
    def validate_inventory(self, order: Order) -> None:
        """Look whether the stock suffices."""
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
    def refund_payment(self, order: Order) -> None:
        """Undo `process_payment`, or see to it that it never happens."""
        self.shop.payments.refund_payment(order)

    @step
    def restore_inventory(self, order: Order) -> None:
        """Undo `update_inventory`, or see to it that it never happens."""
        self.shop.inventory.restore_inventory(order)
