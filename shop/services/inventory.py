"""The inventory service: what is in stock, and which order took what."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shop.catalogue import Product
from shop.orders import Order
from shop.services.attempts import Attempts
from shop.services.keys import is_voided, leave_tombstone, refuse_voided, rows_of
from shop.services.stock import change_stock, insert_products, refuse_shortage
from shop.stores.storage import Connection, Database

SCHEMA = """
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


class ShopInUse(Exception):
    """The stock cannot be replaced under orders that were counted on it."""


@dataclass(frozen=True)
class Inventory:
    """Looks at the stock, takes from it, puts back. Every call is safe to repeat, and raises what `Attempts.call` does.

    A call for an order whose id belongs to an order with other content raises `OrderConflict`, and changes nothing.
    """

    database: Database
    attempts: Attempts
    key_for: Callable[[Order], str]

    def validate_inventory(self, order: Order) -> None:
        """Check whether the stock suffices. Changes nothing: another order may still take the last item first.

        What the order itself took earlier counts as available: a finished order that is run again finds what it had.

        Raises:
            UnknownProduct, OutOfStock: if it does not.
            OrderVoided: if the order was ended earlier.
        """

        def look(connection: Connection) -> None:
            sales = rows_of(connection, "sales", order)
            refuse_voided(connection, order, is_undone=any(sale["restored"] for sale in sales))
            if not sales:
                refuse_shortage(connection, order)

        self.attempts.attempt("validate_inventory", order.order_id, look)

    def update_inventory(self, order: Order) -> None:
        """Take the items from the stock, all or none, once.

        Raises:
            UnknownProduct, OutOfStock: nothing was taken.
            OrderVoided: if the order was ended earlier.
        """

        def take(connection: Connection) -> None:
            sales = rows_of(connection, "sales", order)
            refuse_voided(connection, order, is_undone=any(sale["restored"] for sale in sales))
            key = self.key_for(order)
            if key in [sale["idempotency_key"] for sale in sales]:
                return
            refuse_shortage(connection, order)
            connection.execute(
                "INSERT INTO sales (idempotency_key, order_id, digest) VALUES (?, ?, ?)",
                (key, order.order_id, order.digest),
            )
            connection.executemany(
                "INSERT INTO sale_items (idempotency_key, sku, quantity) VALUES (?, ?, ?)",
                [(key, item.sku, item.quantity) for item in order.items],
            )
            change_stock(connection, {item.sku: -item.quantity for item in order.items})

        self.attempts.attempt("update_inventory", order.order_id, take)

    def void_sale(self, order: Order) -> bool:
        """Make sure that the order never takes its stock, unless it has already.

        Returns:
            Whether the stock is taken: then it is too late to end the order.
        """

        def void(connection: Connection) -> bool:
            sales = rows_of(connection, "sales", order)
            if not sales and not is_voided(connection, order):
                leave_tombstone(connection, order.order_id, order.digest)
            return bool(sales) and not any(sale["restored"] for sale in sales)

        return self.attempts.attempt("void_sale", order.order_id, void)

    def restore_inventory(self, order_id: str) -> None:
        """Put back what an order took; if it took nothing, make sure that it never does.

        For `python -m shop settle` alone: neither version puts anything back, because a taken stock is the point of no
        return.
        """

        def restore(connection: Connection) -> None:
            sales = connection.execute("SELECT * FROM sales WHERE order_id = ?", (order_id,)).fetchall()
            if not sales:
                leave_tombstone(connection, order_id, digest=None)
            for sale in sales:
                if not sale["restored"]:
                    _put_back(connection, sale["idempotency_key"])

        self.attempts.attempt("restore_inventory", order_id, restore)

    def add_products_if_none(self, products: Iterable[Product]) -> None:
        """Stock a shop that sells nothing yet; several processes may try at once."""
        with self.database.transaction() as connection:
            if not connection.execute("SELECT 1 FROM products").fetchone():
                insert_products(connection, products)

    def replace_products(self, products: Iterable[Product]) -> None:
        """Replace the whole stock.

        Raises:
            ShopInUse: if an order was ever tried on it; nothing is replaced.
        """
        with self.database.transaction() as connection:
            if connection.execute("SELECT 1 FROM attempts").fetchone():
                raise ShopInUse("orders have been processed on this stock; empty the shop first: python -m shop reset")
            connection.execute("DELETE FROM products")
            insert_products(connection, products)


def _put_back(connection: Connection, key: str) -> None:
    connection.execute("UPDATE sales SET restored = 1 WHERE idempotency_key = ?", (key,))
    items = connection.execute("SELECT sku, quantity FROM sale_items WHERE idempotency_key = ?", (key,)).fetchall()
    change_stock(connection, {item["sku"]: item["quantity"] for item in items})
