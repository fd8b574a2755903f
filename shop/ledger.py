"""Reads what happened from the three databases: the only witness that either version is judged by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from shop.errors import ServiceUnavailable, StoreUnusable
from shop.stores.location import Location
from shop.stores.storage import Connection, Row, describe_database, read_only

# Kept to judge by, and left out of the printed ledger.
UNPRINTED = ("digest", "key")


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
        rows = ("sales", "charges", "confirmations", "voids", "attempts")
        stock = {sku: asdict(units) for sku, units in self.stock.items()}
        return {"stock": stock, **{name: [_printed(row) for row in getattr(self, name)] for name in rows}}


def read_ledger(location: Location) -> Ledger:
    """Read all three databases, each as of one moment. Takes no lock that a writer would wait for, changes nothing.

    Raises:
        NoShop: if a database is missing, damaged, or of another program.
    """
    with _reading(location, "inventory") as inventory:
        stock = {row["sku"]: Stock(row["initial"], row["now"]) for row in _rows(inventory, "products")}
        lines = "sales LEFT JOIN sale_items USING (idempotency_key)"
        sales = [_sale(row) for row in _rows(inventory, lines, "sales.rowid, sale_items.rowid")]
        voids, attempts = _voids(inventory, "void_sale"), _attempts(inventory)
    with _reading(location, "payments") as payments:
        charges = [_charge(row) for row in _rows(payments, "charges")]
        voids, attempts = voids + _voids(payments, "void_charge"), attempts + _attempts(payments)
    with _reading(location, "notifications") as notifications:
        confirmations = [_confirmation(row) for row in _rows(notifications, "confirmations")]
        voids, attempts = voids + _voids(notifications, "void_confirmation"), attempts + _attempts(notifications)
    attempts.sort(key=lambda attempt: attempt.at)
    return Ledger(stock, tuple(sales), tuple(charges), tuple(confirmations), tuple(voids), tuple(attempts))


@contextmanager
def _reading(location: Location, service: str) -> Iterator[Connection]:
    try:
        with read_only(location, service) as connection:
            yield connection
    except (ServiceUnavailable, StoreUnusable, LookupError, ValueError) as error:
        raise NoShop(f"{describe_database(location, service)} cannot be read: {error}") from error


def _rows(connection: Connection, table: str, order: str = "rowid") -> Iterator[Row]:
    rows: Iterator[Row] = iter(connection.execute(f"SELECT * FROM {table} ORDER BY {order}"))
    return rows


def _sale(row: Row) -> Sale:
    key, digest = row["idempotency_key"], row["digest"]
    return Sale(row["order_id"], row["sku"] or "", row["quantity"] or 0, bool(row["restored"]), key, digest)


def _charge(row: Row) -> Charge:
    refunded, digest = bool(row["refunded"]), row["digest"]
    return Charge(row["order_id"], row["transaction_id"], row["amount_cents"], row["currency"], refunded, digest)


def _confirmation(row: Row) -> Confirmation:
    return Confirmation(row["order_id"], row["customer_id"], bool(row["sent"]), row["digest"])


def _voids(connection: Connection, step: str) -> list[Void]:
    return [Void(row["order_id"], step, row["digest"]) for row in _rows(connection, "voids")]


def _attempts(connection: Connection) -> list[Attempt]:
    columns = ("step", "order_id", "attempt", "outcome", "pid", "at")
    return [Attempt(*(row[column] for column in columns)) for row in _rows(connection, "attempts")]


def _printed(row: Sale | Charge | Confirmation | Void | Attempt) -> dict[str, object]:
    return {name: value for name, value in asdict(row).items() if name not in UNPRINTED}
