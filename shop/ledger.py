"""Reads what happened from the three databases: the only witness that either version is judged by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar, get_type_hints

from shop.errors import ServiceUnavailable, StoreUnusable
from shop.stores.location import Location
from shop.stores.storage import Connection, file_of, read_only

# Kept to judge by, and left out of the printed ledger.
UNPRINTED = ("digest", "key")

PRODUCTS = "SELECT * FROM products ORDER BY rowid"
SALES = """
SELECT order_id, COALESCE(sku, '') AS sku, COALESCE(quantity, 0) AS quantity, restored, idempotency_key AS key, digest
FROM sales LEFT JOIN sale_items USING (idempotency_key) ORDER BY sales.rowid, sale_items.rowid
"""
CHARGES = "SELECT * FROM charges ORDER BY rowid"
CONFIRMATIONS = "SELECT * FROM confirmations ORDER BY rowid"
VOIDS = "SELECT *, '{}' AS step FROM voids ORDER BY rowid"
ATTEMPTS = "SELECT * FROM attempts ORDER BY rowid"

T = TypeVar("T")


class NoShop(Exception):
    """There is no shop in the folder or database, or one that cannot be read; the message says why."""


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
    key: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Charge:
    """Money taken from a customer, in the smallest unit of its currency."""

    order_id: str
    transaction_id: str
    amount_cents: int
    currency: str
    refunded: bool
    digest: str = ""


@dataclass(frozen=True)
class Confirmation:
    """A mail, or the note that it could not be sent."""

    order_id: str
    customer_id: str
    sent: bool
    digest: str = ""


@dataclass(frozen=True)
class Void:
    """A tombstone, named by the call that leaves it: `void_charge`, `void_sale`, or `void_confirmation` (by `settle`).

    `digest` is None where the content of the order was not known.
    """

    order_id: str
    step: str
    digest: str | None = None


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
    """Everything that happened in one shop. No order of events holds across the three services but `Attempt.at`.

    `sales` are the lines of all sales; a sale without any line has one with the sku "" and the quantity 0.
    """

    stock: dict[str, Stock]
    sales: tuple[Sale, ...]
    charges: tuple[Charge, ...]
    confirmations: tuple[Confirmation, ...]
    voids: tuple[Void, ...]
    attempts: tuple[Attempt, ...]

    def as_document(self) -> dict[str, object]:
        """Return the JSON object that `python -m shop ledger --json` prints."""
        return asdict(self, dict_factory=lambda row: {name: value for name, value in row if name not in UNPRINTED})


def read_ledger(location: Location) -> Ledger:
    """Read all three databases, each as of one moment. Takes no lock that a writer would wait for, changes nothing.

    Raises:
        NoShop: if a database is missing, damaged, or of another program.
    """
    with _reading(location, "inventory") as inventory:
        stock = {row["sku"]: Stock(row["initial"], row["now"]) for row in inventory.execute(PRODUCTS)}
        sales = _rows(inventory, Sale, SALES)
        voids, attempts = _rows(inventory, Void, VOIDS.format("void_sale")), _rows(inventory, Attempt, ATTEMPTS)
    with _reading(location, "payments") as payments:
        charges = _rows(payments, Charge, CHARGES)
        voids += _rows(payments, Void, VOIDS.format("void_charge"))
        attempts += _rows(payments, Attempt, ATTEMPTS)
    with _reading(location, "notifications") as notifications:
        confirmations = _rows(notifications, Confirmation, CONFIRMATIONS)
        voids += _rows(notifications, Void, VOIDS.format("void_confirmation"))
        attempts += _rows(notifications, Attempt, ATTEMPTS)
    by_time = tuple(sorted(attempts, key=lambda attempt: attempt.at))
    return Ledger(stock, sales, charges, confirmations, voids, by_time)


@contextmanager
def _reading(location: Location, service: str) -> Iterator[Connection]:
    try:
        with read_only(location, service) as connection:
            yield connection
    except (ServiceUnavailable, StoreUnusable, LookupError, ValueError) as error:
        where = file_of(location, service) if isinstance(location, Path) else f"{location}, schema {service}"
        raise NoShop(f"{where} cannot be read: {error}") from error


def _rows(connection: Connection, kind: type[T], query: str) -> tuple[T, ...]:
    """Return what a query finds; its columns are named as the fields of `kind`. SQLite has no bool of its own."""
    types = get_type_hints(kind)
    return tuple(
        kind(**{name: bool(row[name]) if types[name] is bool else row[name] for name in types})
        for row in connection.execute(query)
    )
