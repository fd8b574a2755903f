"""Reads files of orders, one JSON object a line. The first line that breaks a rule refuses the whole file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from shop.orders import SAMPLE_ORDER, InvalidOrder, Order

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
        with open(path, "rb") as file:
            return read_orders(_lines(file))
    except InvalidOrder as error:
        raise InvalidOrder(f"{path}: {error}") from error


def read_orders(lines: Iterable[bytes]) -> list[Order]:
    """Read a JSON Lines file; blank lines are skipped.

    Raises:
        InvalidOrder: at the first line that is no order or repeats an order id, or if there is no order at all.
    """
    line_of: dict[str, int] = {}
    orders = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            if len(line) > MAX_LINE_BYTES:
                raise InvalidOrder(f"order: is longer than {MAX_LINE_BYTES} bytes")
            order = Order.from_json(line)
            order.check()
            if order.order_id in line_of:
                raise InvalidOrder(f"order_id: {order.order_id} stands in line {line_of[order.order_id]}, too")
        except InvalidOrder as error:
            raise InvalidOrder(f"line {number}: {error}") from error
        line_of[order.order_id] = number
        orders.append(order)
    if not orders:
        raise InvalidOrder("there is no order in it")
    return orders


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines, and of one that is too long no more than tells so: it may be larger than the memory."""
    return iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")
