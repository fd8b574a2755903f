"""What makes a repeat harmless: idempotency keys, content digests, and tombstones for orders that were ended."""

from __future__ import annotations

import uuid

from shop.errors import OrderConflict, OrderVoided
from shop.orders import Order
from shop.stores.storage import Connection, Row

SCHEMA = """
CREATE TABLE IF NOT EXISTS voids (
    order_id TEXT PRIMARY KEY,
    digest   TEXT  -- of the order that was voided; NULL if its content is not known: every content is refused
);
"""


def stable_key(order: Order) -> str:
    """Return the order id, and not the run nor the attempt: those change when an order is run again."""
    return order.order_id


def fresh_key(order: Order) -> str:
    """Return another key for every call, as if the service knew none. For one experiment only."""
    return f"{order.order_id}/{uuid.uuid4()}"


def rows_of(connection: Connection, table: str, order: Order) -> list[Row]:
    """Return what a service has recorded for an order, oldest first: at most one row, unless the keys are off.

    Raises:
        OrderConflict: if it is of another order with the same id.
    """
    rows = connection.execute(f"SELECT * FROM {table} WHERE order_id = ? ORDER BY rowid", (order.order_id,)).fetchall()
    for row in rows:
        refuse_conflict(order, row["digest"])
    return list(rows)


def refuse_conflict(order: Order, recorded_digest: str) -> None:
    """Refuse an order whose id is taken by other content.

    Raises:
        OrderConflict: if the digests differ.
    """
    if order.digest != recorded_digest:
        raise OrderConflict(f"order {order.order_id} was here before with other content; nothing was changed")


def is_voided(connection: Connection, order: Order) -> bool:
    """Tell whether the order has a tombstone, its own or one of unknown content.

    Raises:
        OrderConflict: if another order with the same id has one.
    """
    tombstone = connection.execute("SELECT digest FROM voids WHERE order_id = ?", (order.order_id,)).fetchone()
    if tombstone and tombstone["digest"] is not None:
        refuse_conflict(order, tombstone["digest"])
    return tombstone is not None


def refuse_voided(connection: Connection, order: Order, *, is_undone: bool = False) -> None:
    """Refuse an order that has a tombstone, or whose effect was undone.

    Raises:
        OrderVoided: if so.
        OrderConflict: as `is_voided` does.
    """
    if is_voided(connection, order) or is_undone:
        raise OrderVoided(f"order {order.order_id} was voided earlier")


def leave_tombstone(connection: Connection, order_id: str, digest: str | None) -> None:
    """Void an order that has had no effect, so that a late attempt has none either. Safe to repeat.

    A tombstone that is there already stays as it is.
    """
    connection.execute(
        "INSERT INTO voids (order_id, digest) VALUES (?, ?) ON CONFLICT (order_id) DO NOTHING", (order_id, digest)
    )
