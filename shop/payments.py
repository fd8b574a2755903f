"""The payment service: one charge an order, and its refund."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from shop.attempts import Attempts
from shop.errors import OrderVoided, PaymentDeclined, UnknownPaymentToken
from shop.keys import IdempotencyKeys, leave_tombstone, refuse_conflict, refuse_voided
from shop.orders import Order
from shop.storage import Database

# The names follow Stripe's test tokens: https://docs.stripe.com/testing
ACCEPTED_TOKENS = ("tok_visa", "tok_mastercard")
DECLINED_TOKENS = ("tok_chargeDeclined", "tok_chargeDeclinedInsufficientFunds")

SCHEMA = """
CREATE TABLE IF NOT EXISTS charges (
    idempotency_key TEXT NOT NULL UNIQUE,
    order_id        TEXT NOT NULL,
    digest          TEXT NOT NULL,
    transaction_id  TEXT NOT NULL UNIQUE,
    amount_cents    INTEGER NOT NULL CHECK (amount_cents >= 0),
    currency        TEXT NOT NULL,
    refunded        INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS charges_by_order ON charges (order_id);
"""


@dataclass(frozen=True)
class Payments:
    """Charges cards and refunds them."""

    database: Database
    attempts: Attempts
    keys: IdempotencyKeys

    def process_payment(self, order: Order) -> str:
        """Charge the order's total and return the transaction id. Safe to repeat: the order's key is charged once.

        Raises:
            PaymentDeclined, UnknownPaymentToken: nothing was charged.
            OrderVoided, OrderConflict: if the order was undone earlier, or its id is taken.
            ServiceUnavailable, ReplyLost: worth another attempt.
        """
        with self.attempts.attempt("process_payment", order.order_id), self.database.transaction() as connection:
            refuse_voided(connection, order)
            key = self.keys.key_for(order.order_id)
            charge = connection.execute("SELECT * FROM charges WHERE idempotency_key = ?", (key,)).fetchone()
            if charge:
                refuse_conflict(order.order_id, order.digest, charge["digest"])
                if charge["refunded"]:
                    raise OrderVoided(f"order {order.order_id} was voided earlier")
                return str(charge["transaction_id"])
            _refuse_token(order.payment_token)
            transaction_id = f"txn_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
            connection.execute(
                "INSERT INTO charges (idempotency_key, order_id, digest, transaction_id, amount_cents, currency)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (key, order.order_id, order.digest, transaction_id, order.total_cents, order.currency),
            )
            return transaction_id

    def refund_payment(self, order: Order) -> None:
        """Refund what the order was charged; if nothing, see to it that nothing ever is. Safe to repeat.

        It refunds by order, not by transaction: a caller that got no reply does not know the transaction id.

        Raises:
            OrderConflict: if the id belongs to an order with other content, which stays as it is.
            ServiceUnavailable, ReplyLost: worth another attempt.
        """
        self.refund(order.order_id, order.digest)

    def refund(self, order_id: str, digest: str) -> None:
        """Do the same for an order that is known by id and digest alone."""
        with self.attempts.attempt("refund_payment", order_id), self.database.transaction() as connection:
            charges = connection.execute("SELECT digest FROM charges WHERE order_id = ?", (order_id,)).fetchall()
            if not charges:
                leave_tombstone(connection, order_id, digest)
            for charge in charges:
                refuse_conflict(order_id, digest, charge["digest"])
            connection.execute("UPDATE charges SET refunded = 1 WHERE order_id = ?", (order_id,))

    def has_charged(self, order: Order) -> bool:
        """Tell whether the order was charged, refunded or not.

        Raises:
            OrderConflict: if another order with this id was.
            ServiceUnavailable: worth another attempt.
        """
        digest = self.digest_of(order.order_id)
        if digest is not None:
            refuse_conflict(order.order_id, order.digest, digest)
        return digest is not None

    def digest_of(self, order_id: str) -> str | None:
        """Return the content digest of the order that was charged under this id."""
        with self.database.transaction() as connection:
            charge = connection.execute("SELECT digest FROM charges WHERE order_id = ?", (order_id,)).fetchone()
        return charge and str(charge["digest"])


def _refuse_token(payment_token: str) -> None:
    if payment_token in DECLINED_TOKENS:
        raise PaymentDeclined("the bank declined the card")
    if payment_token not in ACCEPTED_TOKENS:
        raise UnknownPaymentToken(f"{payment_token}: no such token")
