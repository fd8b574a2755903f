"""Reads what happened from the three databases: the only witness that either version is judged by."""

from __future__ import annotations

import sqlite3
from dataclasses import asdict, dataclass

from shop.shop import Shop


@dataclass(frozen=True)
class Stock:
    """Units of one product: at the start, and left."""

    initial: int
    now: int


@dataclass(frozen=True)
class Sale:
    """One line of an order that was taken from the stock."""

    order_id: str
    sku: str
    quantity: int
    restored: bool


@dataclass(frozen=True)
class Charge:
    """Money taken from a customer, in whole cents."""

    order_id: str
    transaction_id: str
    amount_cents: int
    currency: str
    refunded: bool


@dataclass(frozen=True)
class Confirmation:
    """A mail, or the note that it could not be sent."""

    order_id: str
    customer_id: str
    sent: bool


@dataclass(frozen=True)
class Void:
    """A tombstone: the compensation `step` came before there was anything to undo."""

    order_id: str
    step: str


@dataclass(frozen=True)
class Attempt:
    """One call at a service. `outcome` is `ok`, an error's name, or `started` for one that never came back."""

    step: str
    order_id: str
    attempt: int
    outcome: str
    pid: int
    at: str


@dataclass(frozen=True)
class Ledger:
    """Everything that happened in one shop. No order of events holds across the three services but `Attempt.at`."""

    stock: dict[str, Stock]
    sales: tuple[Sale, ...]
    charges: tuple[Charge, ...]
    confirmations: tuple[Confirmation, ...]
    voids: tuple[Void, ...]
    attempts: tuple[Attempt, ...]

    def as_document(self) -> dict[str, object]:
        """Return the JSON object that `python -m shop ledger --json` prints."""
        return asdict(self)


def read_ledger(shop: Shop) -> Ledger:
    """Read all three databases, each in one transaction.

    Raises:
        ServiceUnavailable: if one stays locked.
    """
    with shop.inventory.database.transaction() as connection:
        stock = {row["sku"]: Stock(row["initial"], row["now"]) for row in connection.execute("SELECT * FROM products")}
        sales = tuple(
            Sale(row["order_id"], row["sku"], row["quantity"], bool(row["restored"]))
            for row in connection.execute("SELECT * FROM sales JOIN sale_items USING (idempotency_key)")
        )
        voids = [Void(row["order_id"], "restore_inventory") for row in connection.execute("SELECT * FROM voids")]
        attempts = _attempts(connection)
    with shop.payments.database.transaction() as connection:
        charges = tuple(
            Charge(row["order_id"], row["transaction_id"], row["amount_cents"], row["currency"], bool(row["refunded"]))
            for row in connection.execute("SELECT * FROM charges")
        )
        voids += [Void(row["order_id"], "refund_payment") for row in connection.execute("SELECT * FROM voids")]
        attempts += _attempts(connection)
    with shop.notifications.database.transaction() as connection:
        confirmations = tuple(
            Confirmation(row["order_id"], row["customer_id"], bool(row["sent"]))
            for row in connection.execute("SELECT * FROM confirmations")
        )
        attempts += _attempts(connection)
    attempts.sort(key=lambda attempt: attempt.at)
    return Ledger(stock, sales, charges, confirmations, tuple(voids), tuple(attempts))


def _attempts(connection: sqlite3.Connection) -> list[Attempt]:
    return [
        Attempt(row["step"], row["order_id"], row["attempt"], row["outcome"], row["pid"], row["at"])
        for row in connection.execute("SELECT * FROM attempts")
    ]
