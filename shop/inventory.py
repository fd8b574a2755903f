"""The inventory service: what is in stock, and which order took what."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from shop.attempts import Attempts
from shop.errors import OrderVoided, OutOfStock, UnknownProduct
from shop.keys import IdempotencyKeys, leave_tombstone, refuse_conflict, refuse_voided
from shop.orders import Item, Order
from shop.storage import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS products (
    sku     TEXT PRIMARY KEY,
    name    TEXT NOT NULL,
    initial INTEGER NOT NULL CHECK (initial >= 0),
    now     INTEGER NOT NULL CHECK (now >= 0)
);
CREATE TABLE IF NOT EXISTS sales (
    idempotency_key TEXT NOT NULL UNIQUE,
    order_id        TEXT NOT NULL,
    digest          TEXT NOT NULL,
    restored        INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS sales_by_order ON sales (order_id);
CREATE TABLE IF NOT EXISTS sale_items (
    idempotency_key TEXT NOT NULL,
    sku             TEXT NOT NULL,
    quantity        INTEGER NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (idempotency_key, sku)
);
"""


Product = tuple[str, str, int]
"""A row of the catalogue: sku, name, quantity."""


class ShopInUse(Exception):
    """The stock cannot be replaced under orders that were counted on it."""


@dataclass(frozen=True)
class Inventory:
    """Looks at the stock, takes from it, and puts back."""

    database: Database
    attempts: Attempts
    keys: IdempotencyKeys

    def validate_inventory(self, order: Order) -> bool:
        """Check whether the stock suffices. Changes nothing: another order may still take the last item first.

        What the order itself took earlier counts as available, so that a finished order finds what it had.

        Returns:
            Whether the order took its items in an earlier run.

        Raises:
            UnknownProduct, OutOfStock: if it does not.
            OrderVoided, OrderConflict: if the order was undone earlier, or its id is taken.
            ServiceUnavailable, ReplyLost: worth another attempt.
        """
        with self.attempts.attempt("validate_inventory", order.order_id), self.database.transaction() as connection:
            refuse_voided(connection, order)
            own_sale = _sale_of(connection, order, order.order_id)
            for item in order.items:
                own = _quantity_in(connection, own_sale, item.sku) if own_sale else 0
                _refuse_shortage(connection, item, own)
            return own_sale is not None

    def update_inventory(self, order: Order) -> None:
        """Take the items from the stock, all or none. Safe to repeat: the order's key is taken once.

        Raises:
            UnknownProduct, OutOfStock: nothing was taken.
            OrderVoided, OrderConflict: if the order was undone earlier, or its id is taken.
            ServiceUnavailable, ReplyLost: worth another attempt.
        """
        with self.attempts.attempt("update_inventory", order.order_id), self.database.transaction() as connection:
            refuse_voided(connection, order)
            key = self.keys.key_for(order.order_id)
            if _sale_of(connection, order, key):
                return
            connection.execute(
                "INSERT INTO sales (idempotency_key, order_id, digest) VALUES (?, ?, ?)",
                (key, order.order_id, order.digest),
            )
            for item in order.items:
                _refuse_shortage(connection, item)
                connection.execute("UPDATE products SET now = now - ? WHERE sku = ?", (item.quantity, item.sku))
                connection.execute("INSERT INTO sale_items VALUES (?, ?, ?)", (key, item.sku, item.quantity))

    def restore_inventory(self, order: Order) -> None:
        """Put back what the order took; if it took nothing, see to it that it never will. Safe to repeat.

        Raises:
            OrderConflict: if the id belongs to an order with other content, which stays as it is.
            ServiceUnavailable, ReplyLost: worth another attempt.
        """
        self.restore(order.order_id, order.digest)

    def restore(self, order_id: str, digest: str) -> None:
        """Do the same for an order that is known by id and digest alone."""
        with self.attempts.attempt("restore_inventory", order_id), self.database.transaction() as connection:
            sales = connection.execute("SELECT * FROM sales WHERE order_id = ?", (order_id,)).fetchall()
            if not sales:
                leave_tombstone(connection, order_id, digest)
            for sale in sales:
                refuse_conflict(order_id, digest, sale["digest"])
                if not sale["restored"]:
                    _put_back(connection, sale["idempotency_key"])

    def digest_of(self, order_id: str) -> str | None:
        """Return the content digest of the order that was sold under this id."""
        with self.database.transaction() as connection:
            sale = connection.execute("SELECT digest FROM sales WHERE order_id = ?", (order_id,)).fetchone()
        return sale and str(sale["digest"])

    def stock_if_empty(self, products: Iterable[Product]) -> None:
        """Stock a shop that sells nothing yet; several processes may try at once."""
        with self.database.transaction() as connection:
            if not connection.execute("SELECT 1 FROM products").fetchone():
                _insert_products(connection, products)

    def replace_stock(self, products: Iterable[Product]) -> None:
        """Replace the whole stock.

        Raises:
            ShopInUse: if an order was ever tried on it; nothing is replaced.
        """
        with self.database.transaction() as connection:
            if connection.execute("SELECT 1 FROM attempts").fetchone():
                raise ShopInUse("orders have been processed on this stock")
            connection.execute("DELETE FROM products")
            _insert_products(connection, products)


def _sale_of(connection: sqlite3.Connection, order: Order, key: str) -> str | None:
    """Return `key` if the order has taken its items under it.

    Raises:
        OrderVoided, OrderConflict: if it put them back, or if another order has the id.
    """
    sale = connection.execute("SELECT * FROM sales WHERE idempotency_key = ?", (key,)).fetchone()
    if not sale:
        return None
    refuse_conflict(order.order_id, order.digest, sale["digest"])
    if sale["restored"]:
        raise OrderVoided(f"order {order.order_id} was voided earlier")
    return key


def _quantity_in(connection: sqlite3.Connection, key: str, sku: str) -> int:
    row = connection.execute(
        "SELECT quantity FROM sale_items WHERE idempotency_key = ? AND sku = ?", (key, sku)
    ).fetchone()
    return int(row["quantity"]) if row else 0


def _refuse_shortage(connection: sqlite3.Connection, item: Item, own: int = 0) -> None:
    product = connection.execute("SELECT now FROM products WHERE sku = ?", (item.sku,)).fetchone()
    if not product:
        raise UnknownProduct(f"{item.sku}: the shop does not sell it")
    if product["now"] + own < item.quantity:
        raise OutOfStock(f"{item.sku}: {item.quantity} wanted, {product['now'] + own} left")


def _insert_products(connection: sqlite3.Connection, products: Iterable[Product]) -> None:
    connection.executemany(
        "INSERT INTO products (sku, name, initial, now) VALUES (?, ?, ?, ?)",
        [(sku, name, quantity, quantity) for sku, name, quantity in products],
    )


def _put_back(connection: sqlite3.Connection, key: str) -> None:
    connection.execute("UPDATE sales SET restored = 1 WHERE idempotency_key = ?", (key,))
    for item in connection.execute("SELECT * FROM sale_items WHERE idempotency_key = ?", (key,)).fetchall():
        connection.execute("UPDATE products SET now = now + ? WHERE sku = ?", (item["quantity"], item["sku"]))
