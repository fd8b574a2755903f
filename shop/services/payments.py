"""The payment service: one charge an order, and its refund."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from shop.errors import PaymentDeclined, UnknownPaymentToken
from shop.orders import Order
from shop.services.attempts import Attempts
from shop.services.keys import is_voided, leave_tombstone, refuse_voided, rows_of
from shop.stores.storage import Connection, Database

# The names follow Stripe's test tokens: https://docs.stripe.com/testing
ACCEPTED_TOKENS = ("tok_visa", "tok_mastercard")
DECLINED_TOKENS = ("tok_chargeDeclined", "tok_chargeDeclinedInsufficientFunds")

SCHEMA = """
CREATE TABLE IF NOT EXISTS charges (
    idempotency_key TEXT NOT NULL UNIQUE,
    order_id        TEXT NOT NULL,
    digest          TEXT NOT NULL,
    transaction_id  TEXT NOT NULL UNIQUE,
    amount_cents    BIGINT NOT NULL CHECK (amount_cents >= 0),
    currency        TEXT NOT NULL,
    refunded        INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS charges_by_order ON charges (order_id);
"""


@dataclass(frozen=True)
class Payments:
    """Charges cards and refunds them. Every call is safe to repeat, and raises what `Attempts.call` does.

    A call for an order whose id belongs to an order with other content raises `OrderConflict`, and changes nothing.
    """

    database: Database
    attempts: Attempts
    key_for: Callable[[Order], str]

    def process_payment(self, order: Order) -> str:
        """Charge the order's total, once, and return the transaction id.

        Raises:
            PaymentDeclined, UnknownPaymentToken: nothing was charged.
            OrderVoided: if the order was ended earlier.
        """

        def charge(connection: Connection) -> str:
            charges = rows_of(connection, "charges", order)
            refuse_voided(connection, order, is_undone=any(earlier["refunded"] for earlier in charges))
            key = self.key_for(order)
            for earlier in charges:
                if earlier["idempotency_key"] == key:
                    return str(earlier["transaction_id"])
            _refuse_token(order.payment_token)
            transaction_id = f"txn_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
            connection.execute(
                "INSERT INTO charges (idempotency_key, order_id, digest, transaction_id, amount_cents, currency)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (key, order.order_id, order.digest, transaction_id, order.total_cents, order.currency),
            )
            return transaction_id

        return self.attempts.attempt("process_payment", order.order_id, charge)

    def void_charge(self, order: Order) -> str | None:
        """Make sure that the order is never charged, unless it was already.

        Returns:
            The transaction id if it was charged, refunded or not: then the inventory decides how the order ends.
        """

        def void(connection: Connection) -> str | None:
            charges = rows_of(connection, "charges", order)
            if charges:
                return str(charges[0]["transaction_id"])
            if not is_voided(connection, order):
                leave_tombstone(connection, order.order_id, order.digest)
            return None

        return self.attempts.attempt("void_charge", order.order_id, void)

    def refund_payment(self, order: Order) -> None:
        """Refund what the order was charged. Only after `void_sale` said that no stock is taken.

        It refunds by order, not by transaction: a caller that got no reply does not know the transaction id.
        """

        def refund(connection: Connection) -> None:
            rows_of(connection, "charges", order)  # refuses to refund another order with the same id
            _refund(connection, order.order_id)

        self.attempts.attempt("refund_payment", order.order_id, refund)

    def refund_or_void(self, order_id: str) -> None:
        """Do what `void_charge` and `refund_payment` do for an order of which the id alone is known. For `settle`."""

        def undo(connection: Connection) -> None:
            if not _refund(connection, order_id):
                leave_tombstone(connection, order_id, digest=None)

        self.attempts.attempt("refund_payment", order_id, undo)


def _refund(connection: Connection, order_id: str) -> int:
    """Refund all charges of an order; return how many there are."""
    refunded = connection.execute("UPDATE charges SET refunded = 1 WHERE order_id = ?", (order_id,))
    return int(refunded.rowcount)


def _refuse_token(payment_token: str) -> None:
    if payment_token in DECLINED_TOKENS:
        raise PaymentDeclined("the bank declined the card")
    if payment_token not in ACCEPTED_TOKENS:
        raise UnknownPaymentToken("no such payment token")  # The token itself stays out of logs and histories.
