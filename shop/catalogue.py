"""What a new shop sells and whom it knows, and how another stock is read from CSV files."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shop.orders import IDENTIFIER


@dataclass(frozen=True)
class Product:
    """Something that the shop sells; `quantity` is what it has at the start."""

    sku: str
    name: str
    quantity: int


@dataclass(frozen=True)
class Customer:
    """Somebody to whom a confirmation can be sent."""

    customer_id: str
    name: str
    email: str


PRODUCTS = (
    Product("mug", "Mug, 300 ml", 100),
    Product("coffee-1kg", "Coffee beans, 1 kg", 100),
    Product("grinder", "Hand grinder", 5),
    Product("last-one", "Signed print, the last one", 1),
)
CUSTOMERS = (
    Customer("ada", "Ada", "ada@example.com"),
    Customer("grace", "Grace", "grace@example.com"),
)
MAX_STOCK = 10**9


class InvalidCatalogue(ValueError):
    """A CSV file that cannot be loaded; the message names file, line and reason."""


def read_products(path: Path) -> list[Product]:
    """Read `sku,name,quantity` rows.

    Raises:
        InvalidCatalogue: if the file or a row in it is not usable, or if there is no row.
    """
    products = []
    for where, (sku, name, quantity) in _rows(path, ("sku", "name", "quantity")):
        if not re.fullmatch("[0-9]{1,10}", quantity) or int(quantity) > MAX_STOCK:
            raise InvalidCatalogue(f"{where}: quantity: must be a whole number from 0 to {MAX_STOCK}")
        products.append(Product(sku, name, int(quantity)))
    return products


def read_customers(path: Path) -> list[Customer]:
    """Read `customer_id,name,email` rows.

    Raises:
        InvalidCatalogue: if the file or a row in it is not usable, or if there is no row.
    """
    return [Customer(*fields) for _, fields in _rows(path, ("customer_id", "name", "email"))]


def _rows(path: Path, columns: tuple[str, str, str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each row with the words for where it stands; its first field is an identifier, and unique."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # Excel puts a byte order mark before it
            rows = [(reader.line_num, row) for reader in [csv.reader(file)] for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidCatalogue(f"{path}: {error}") from error
    if not rows or tuple(rows[0][1]) != columns:
        raise InvalidCatalogue(f"{path}: line 1: must read {','.join(columns)}")
    if len(rows) == 1:
        raise InvalidCatalogue(f"{path}: there is no row below the heading")
    seen: set[str] = set()
    for line, row in rows[1:]:
        where = f"{path}: line {line}"
        if len(row) != len(columns):
            raise InvalidCatalogue(f"{where}: must have {len(columns)} fields")
        if not IDENTIFIER.fullmatch(row[0]) or row[0] in seen:
            raise InvalidCatalogue(f"{where}: {columns[0]}: must match {IDENTIFIER.pattern}, and be unique")
        seen.add(row[0])
        yield where, row
