"""The notification service: confirmations to customers, and the note of those that could not be sent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shop.attempts import Attempts
from shop.errors import UnknownCustomer
from shop.keys import IdempotencyKeys, refuse_conflict
from shop.orders import Order
from shop.storage import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS customers (
    customer_id TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    email       TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS confirmations (
    idempotency_key TEXT NOT NULL UNIQUE,
    order_id        TEXT NOT NULL,
    customer_id     TEXT NOT NULL,
    digest          TEXT NOT NULL,
    sent            INTEGER NOT NULL
);
"""


Customer = tuple[str, str, str]
"""A row of the customer list: customer_id, name, email."""


@dataclass(frozen=True)
class Notifications:
    """Mails customers."""

    database: Database
    attempts: Attempts
    keys: IdempotencyKeys

    def send_confirmation(self, order: Order) -> None:
        """Mail the customer. Safe to repeat: one mail an order.

        Raises:
            UnknownCustomer: there is nobody to mail.
            OrderConflict: another order with this id was confirmed.
            ServiceUnavailable, ReplyLost: worth another attempt.
        """
        with self.attempts.attempt("send_confirmation", order.order_id):
            self._record(order, is_sent=True)

    def note_unsent(self, order: Order) -> None:
        """Note that no confirmation could be sent, for somebody to look at. Never unsends one. Safe to repeat.

        Raises:
            OrderConflict: another order with this id was confirmed.
            ServiceUnavailable: worth another attempt.
        """
        self._record(order, is_sent=False)

    def has_confirmed(self, order: Order) -> bool:
        """Tell whether the order was brought to its end: confirmed, or noted as not confirmed.

        Raises:
            OrderConflict: if another order with this id was.
            ServiceUnavailable: worth another attempt.
        """
        digest = self.digest_of(order.order_id)
        if digest is not None:
            refuse_conflict(order.order_id, order.digest, digest)
        return digest is not None

    def digest_of(self, order_id: str) -> str | None:
        """Return the content digest of the order that was brought to its end under this id."""
        with self.database.transaction() as connection:
            row = connection.execute("SELECT digest FROM confirmations WHERE order_id = ?", (order_id,)).fetchone()
        return row and str(row["digest"])

    def replace_customers(self, customers: Iterable[Customer]) -> None:
        """Replace all customers."""
        with self.database.transaction() as connection:
            connection.execute("DELETE FROM customers")
            connection.executemany("INSERT INTO customers VALUES (?, ?, ?)", list(customers))

    def know_if_empty(self, customers: Iterable[Customer]) -> None:
        """Fill a customer list that is empty; several processes may try at once."""
        with self.database.transaction() as connection:
            if not connection.execute("SELECT 1 FROM customers").fetchone():
                connection.executemany("INSERT INTO customers VALUES (?, ?, ?)", list(customers))

    def _record(self, order: Order, *, is_sent: bool) -> None:
        key = self.keys.key_for(order.order_id) if is_sent else order.order_id
        with self.database.transaction() as connection:
            known = connection.execute("SELECT 1 FROM customers WHERE customer_id = ?", (order.customer_id,)).fetchone()
            if is_sent and not known:
                raise UnknownCustomer(f"{order.customer_id}: no such customer")
            connection.execute(
                "INSERT INTO confirmations VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (idempotency_key) DO UPDATE SET sent = max(sent, excluded.sent)",
                (key, order.order_id, order.customer_id, order.digest, is_sent),
            )
            (recorded,) = connection.execute(
                "SELECT digest FROM confirmations WHERE idempotency_key = ?", (key,)
            ).fetchone()
            refuse_conflict(order.order_id, order.digest, recorded)
