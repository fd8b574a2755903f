"""Reads orders: from a file, from JSON, from whatever a client sent. What breaks a rule is named, with the rule."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from shop.orders import (
    CURRENCY,
    IDENTIFIER,
    MAX_ITEMS,
    MAX_QUANTITY,
    MAX_TOTAL_CENTS,
    MAX_UNIT_PRICE_CENTS,
    PAYMENT_TOKEN,
    SAMPLE_ORDER,
    InvalidOrder,
    Item,
    Order,
)

# 1,000 items of the longest fields take about 150 kB.
MAX_LINE_BYTES = 5_000_000


def load_orders(path: str | None) -> list[Order]:
    """Read an order file, `-` for standard input; the sample order if none is named.

    Raises:
        OSError: if the file cannot be read.
        InvalidOrder: as `read_orders` does, with the file's name.
    """
    if path is None:
        return [SAMPLE_ORDER]
    try:
        if path == "-":
            return read_orders(_lines(sys.stdin.buffer) if sys.stdin else ())
        with Path(path).open("rb") as file:
            return read_orders(_lines(file))
    except InvalidOrder as error:
        raise InvalidOrder(f"{path}: {error}") from error


def read_orders(lines: Iterable[bytes]) -> list[Order]:
    """Read a JSON Lines file; blank lines are skipped.

    Raises:
        InvalidOrder: at the first line that is no order or repeats an order id, or if there is no order at all.
    """
    first_line_of: dict[str, int] = {}
    orders = []
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LINE_BYTES:
            raise InvalidOrder(f"line {number}: order: is longer than {MAX_LINE_BYTES} bytes")
        if not line.strip():
            continue
        try:
            order = parse_order(parse_json(line))
        except InvalidOrder as error:
            raise InvalidOrder(f"line {number}: {error}") from error
        if order.order_id in first_line_of:
            earlier = first_line_of[order.order_id]
            raise InvalidOrder(f"line {number}: order_id: {order.order_id} stands in line {earlier}, too")
        first_line_of[order.order_id] = number
        orders.append(order)
    if not orders:
        raise InvalidOrder("there is no order in it")
    return orders


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines, and of one that is too long no more than tells so: it may be larger than the memory."""
    return iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")


def parse_order(document: object) -> Order:
    """Make an order of a decoded JSON object. Unknown fields are ignored: an older worker accepts a newer order.

    Raises:
        InvalidOrder: if a field is missing or breaks its rule.
    """
    if not isinstance(document, dict):
        raise InvalidOrder(f"order: must be a JSON object, not {_shown(document)}")
    items = _field(document, "items")
    if not isinstance(items, (list, tuple)) or not 1 <= len(items) <= MAX_ITEMS:
        raise InvalidOrder(f"items: must be a list of 1 to {MAX_ITEMS} lines, not {_shown(items)}")
    order = Order(
        order_id=_text(document, "order_id", IDENTIFIER),
        customer_id=_text(document, "customer_id", IDENTIFIER),
        currency=_text(document, "currency", CURRENCY),
        payment_token=_text(document, "payment_token", PAYMENT_TOKEN),
        items=tuple(_parse_item(item, f"items[{index}]") for index, item in enumerate(items)),
    )
    if len({item.sku for item in order.items}) < len(order.items):
        raise InvalidOrder("items: the same sku stands in two lines")
    if order.total_cents > MAX_TOTAL_CENTS:
        raise InvalidOrder(f"items: the total is over {MAX_TOTAL_CENTS} cents")
    return order


def parse_json(text: bytes) -> object:
    """Decode UTF-8 JSON, with or without the byte order mark that some editors put before it.

    Raises:
        InvalidOrder: also for what `json` reports in other ways: a bad encoding, a number of thousands of digits,
            nesting that is too deep.
    """
    try:
        document: object = json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidOrder("order: is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise InvalidOrder(f"order: is not JSON that can be read ({_shortened(str(error))})") from error
    return document


def _parse_item(document: object, where: str) -> Item:
    if not isinstance(document, dict):
        raise InvalidOrder(f"{where}: must be a JSON object, not {_shown(document)}")
    return Item(
        sku=_text(document, "sku", IDENTIFIER, where),
        quantity=_integer(document, "quantity", 1, MAX_QUANTITY, where),
        unit_price_cents=_integer(document, "unit_price_cents", 0, MAX_UNIT_PRICE_CENTS, where),
    )


def _field(document: dict[str, object], name: str, where: str = "") -> object:
    if name not in document:
        raise InvalidOrder(f"{_path(where, name)}: is missing")
    return document[name]


def _text(document: dict[str, object], name: str, rule: re.Pattern[str], where: str = "") -> str:
    value = _field(document, name, where)
    if not isinstance(value, str) or not rule.fullmatch(value):
        raise InvalidOrder(f"{_path(where, name)}: must match {rule.pattern}, not {_shown(value)}")
    return value


def _integer(document: dict[str, object], name: str, least: int, most: int, where: str) -> int:
    value = _field(document, name, where)
    # JSON's true is an int to Python, and 1.0 is equal to 1: neither is a quantity.
    if type(value) is not int or not least <= value <= most:
        raise InvalidOrder(f"{_path(where, name)}: must be a whole number from {least} to {most}, not {_shown(value)}")
    return value


def _path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _shown(value: object) -> str:
    if isinstance(value, (list, dict)):
        return f"a JSON {'list' if isinstance(value, list) else 'object'} of {len(value)}"
    return _shortened(json.dumps(value))


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
