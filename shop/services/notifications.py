"""The notification service: confirmations to customers, and the note of those that could not be sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shop.catalogue import Customer
from shop.errors import UnknownCustomer
from shop.orders import Order
from shop.services.attempts import Attempts
from shop.services.keys import leave_tombstone, refuse_voided, rows_of
from shop.stores.storage import Connection, Database

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
    sent            INTEGER NOT NULL  -- 0: a note that it could not be sent
);
CREATE INDEX IF NOT EXISTS confirmations_by_order ON confirmations (order_id);
"""


class AlreadyConfirmed(Exception):
    """The order was completed; it cannot be voided any more."""


@dataclass(frozen=True)
class Notifications:
    """Mails customers. Every call is safe to repeat, and raises what `Attempts.call` does.

    A call for an order that was settled raises `OrderVoided`; if its id belongs to another order, `OrderConflict`.
    """

    database: Database
    attempts: Attempts
    key_for: Callable[[Order], str]

    def send_confirmation(self, order: Order) -> None:
        """Mail the customer, once.

        Raises:
            UnknownCustomer: there is nobody to mail.
        """

        def send(connection: Connection) -> None:
            _refuse_other(connection, order)
            if not connection.execute("SELECT 1 FROM customers WHERE customer_id = ?", (order.customer_id,)).fetchone():
                raise UnknownCustomer(f"{order.customer_id}: no such customer")
            _record(connection, order, self.key_for(order), sent=True)

        self.attempts.attempt("send_confirmation", order.order_id, send)

    def note_unsent(self, order: Order) -> None:
        """Note that no confirmation could be sent, for somebody to look at. Never unsends one."""

        def note(connection: Connection) -> None:
            _refuse_other(connection, order)
            _record(connection, order, order.order_id, sent=False)

        self.attempts.attempt("note_unsent", order.order_id, note)

    def void_confirmation(self, order_id: str) -> None:
        """Make sure that an order is never confirmed. For `python -m shop settle` alone.

        Raises:
            AlreadyConfirmed: if it was, or if it was noted that it could not be; nothing has changed then.
        """

        def void(connection: Connection) -> None:
            if connection.execute("SELECT 1 FROM confirmations WHERE order_id = ?", (order_id,)).fetchone():
                raise AlreadyConfirmed(f"order {order_id} is complete; nothing is owed")
            leave_tombstone(connection, order_id, digest=None)

        self.attempts.attempt("void_confirmation", order_id, void)

    def add_customers_if_none(self, customers: Iterable[Customer]) -> None:
        """Fill a customer list that is empty; several processes may try at once."""
        with self.database.transaction() as connection:
            if not connection.execute("SELECT 1 FROM customers").fetchone():
                _insert_customers(connection, customers)

    def replace_customers(self, customers: Iterable[Customer]) -> None:
        """Replace all customers."""
        with self.database.transaction() as connection:
            connection.execute("DELETE FROM customers")
            _insert_customers(connection, customers)


def _refuse_other(connection: Connection, order: Order) -> None:
    rows_of(connection, "confirmations", order)
    refuse_voided(connection, order)


def _record(connection: Connection, order: Order, key: str, *, sent: bool) -> None:
    # A mail that was sent replaces the note; a note never replaces the mail.
    connection.execute(
        "INSERT INTO confirmations (idempotency_key, order_id, customer_id, digest, sent) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (idempotency_key) DO UPDATE SET sent = 1 WHERE excluded.sent = 1",
        (key, order.order_id, order.customer_id, order.digest, int(sent)),
    )


def _insert_customers(connection: Connection, customers: Iterable[Customer]) -> None:
    connection.executemany(
        "INSERT INTO customers (customer_id, name, email) VALUES (?, ?, ?)",
        [(customer.customer_id, customer.name, customer.email) for customer in customers],
    )
