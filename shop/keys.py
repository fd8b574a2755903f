"""What makes a repeat harmless: idempotency keys, content digests, and tombstones for orders that were undone."""

from __future__ import annotations

import sqlite3
import uuid
from dataclasses import dataclass

from shop.errors import OrderConflict, OrderVoided
from shop.orders import Order

TOMBSTONES = """
CREATE TABLE IF NOT EXISTS voids (
    order_id TEXT PRIMARY KEY,
    digest   TEXT NOT NULL
);
"""


@dataclass(frozen=True)
class IdempotencyKeys:
    """Makes the key of an effect.

    The key is the order id: not the run and not the attempt, which change when an order is run again. Switched off
    (for one experiment only), every call gets a fresh key, as if the service knew none.
    """

    enabled: bool = True

    def key_for(self, order_id: str) -> str:
        """Return the key under which a service records its effect for this order."""
        return order_id if self.enabled else f"{order_id}/{uuid.uuid4()}"


def refuse_conflict(order_id: str, digest: str, recorded_digest: str) -> None:
    """Refuse an order whose id is taken by other content.

    Raises:
        OrderConflict: if the digests differ.
    """
    if digest != recorded_digest:
        raise OrderConflict(f"order {order_id} was here before with other content; nothing was changed")


def refuse_voided(connection: sqlite3.Connection, order: Order) -> None:
    """Refuse an order that was undone before it was done.

    Raises:
        OrderConflict: if it was another order with the same id.
        OrderVoided: if there is a tombstone.
    """
    row = connection.execute("SELECT digest FROM voids WHERE order_id = ?", (order.order_id,)).fetchone()
    if row:
        refuse_conflict(order.order_id, order.digest, row["digest"])
        raise OrderVoided(f"order {order.order_id} was voided earlier")


def leave_tombstone(connection: sqlite3.Connection, order_id: str, digest: str) -> None:
    """Void an order that has had no effect yet, so that a late attempt has none either. Safe to repeat.

    Raises:
        OrderConflict: if another order with the same id was voided.
    """
    connection.execute(
        "INSERT INTO voids (order_id, digest) VALUES (?, ?) ON CONFLICT (order_id) DO NOTHING", (order_id, digest)
    )
    (recorded,) = connection.execute("SELECT digest FROM voids WHERE order_id = ?", (order_id,)).fetchone()
    refuse_conflict(order_id, digest, recorded)
