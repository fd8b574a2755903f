"""The counter at which the programs of this folder meet the shop: the sample order, and three commands."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any

from shop.orders import SAMPLE_ORDER, Order
from shop.shop import Shop
from shop.terminal.options import add_shop_arguments, read_shop_options


def open_shop() -> Shop:
    """Open the shop that `SHOP_DATA` and `SHOP_FAULTS` name."""
    parser = argparse.ArgumentParser()
    add_shop_arguments(parser)
    return read_shop_options(parser.parse_args([]), os.environ).open()


def order_for(order_id: str) -> Order:
    """Return the sample order under another id."""
    return dataclasses.replace(SAMPLE_ORDER, order_id=order_id)


def as_json(order: Order) -> dict[str, Any]:  # Any: JSON
    """Return an order as an engine keeps it that keeps JSON."""
    return dataclasses.asdict(order)


def from_json(document: dict[str, Any]) -> Order:  # Any: JSON
    """Read what `as_json` made."""
    return Order.from_json(json.dumps(document))


def main(work: Callable[[], None], start: Callable[[Order], None], state: Callable[[str], str]) -> None:
    """Carry out `work`, `start ORDER_ID...` or `state ORDER_ID`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("work", "start", "state"))
    parser.add_argument("order_ids", nargs="*")
    arguments = parser.parse_args()
    if arguments.command == "work":
        work()
    for order_id in arguments.order_ids:
        if arguments.command == "start":
            start(order_for(order_id))
            print("started")
        else:
            print(state(order_id))
