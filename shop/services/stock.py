"""The stock: how much there is of each product."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shop.catalogue import Product
from shop.errors import OutOfStock, UnknownProduct
from shop.orders import Order
from shop.stores.storage import Connection

SCHEMA = """
CREATE TABLE IF NOT EXISTS products (
    sku     TEXT PRIMARY KEY,
    name    TEXT NOT NULL,
    initial INTEGER NOT NULL CHECK (initial >= 0),
    now     INTEGER NOT NULL CHECK (now >= 0)
);
"""


def refuse_shortage(connection: Connection, order: Order) -> None:
    """Refuse an order that the stock does not suffice for.

    Raises:
        UnknownProduct, OutOfStock: for its first item that is not there.
    """
    for item in order.items:
        product = connection.execute("SELECT now FROM products WHERE sku = ?", (item.sku,)).fetchone()
        if not product:
            raise UnknownProduct(f"{item.sku}: the shop does not sell it")
        if product["now"] < item.quantity:
            raise OutOfStock(f"{item.sku}: {item.quantity} wanted, {product['now']} left")


def change_stock(connection: Connection, units_by_sku: Mapping[str, int]) -> None:
    """Put units into the stock, or take them where the number is negative.

    In the order of the skus: two orders that wait for each other's products would wait for ever.

    Raises:
        OutOfStock: if another order took the units since the stock was looked at.
    """
    for sku, units in sorted(units_by_sku.items()):
        changed = connection.execute(
            "UPDATE products SET now = now + ? WHERE sku = ? AND now + ? >= 0", (units, sku, units)
        )
        if units < 0 and not changed.rowcount:
            raise OutOfStock(f"{sku}: {-units} wanted, and another order took them first")


def insert_products(connection: Connection, products: Iterable[Product]) -> None:
    """Put products on sale."""
    connection.executemany(
        "INSERT INTO products (sku, name, initial, now) VALUES (?, ?, ?, ?)",
        [(product.sku, product.name, product.quantity, product.quantity) for product in products],
    )
