"""The order, how one is read from JSON, and the words for how it can end."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path

MAX_ITEMS = 1_000
MAX_QUANTITY = 1_000_000
MAX_UNIT_PRICE_CENTS = 10**9
MAX_TOTAL_CENTS = 10**12

IDENTIFIER = re.compile(r"[A-Za-z0-9._-]{1,64}")
CURRENCY = re.compile(r"[A-Z]{3}")
PAYMENT_TOKEN = re.compile(r"tok_[A-Za-z0-9_]{1,60}")


class InvalidOrder(ValueError):
    """An order that breaks a rule; the message names the field and the rule."""


@dataclass(frozen=True)
class Item:
    """One line of an order. Money is whole cents."""

    sku: str
    quantity: int
    unit_price_cents: int


@dataclass(frozen=True)
class Order:
    """What a customer wants. Holds no card number, name or address: it travels through logs and histories."""

    order_id: str
    customer_id: str
    currency: str
    payment_token: str
    items: tuple[Item, ...]

    @property
    def total_cents(self) -> int:
        """Return the price of the whole order."""
        return sum(item.quantity * item.unit_price_cents for item in self.items)

    @cached_property
    def digest(self) -> str:
        """Return a fingerprint of the content: equal for equal orders, in any process."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


class Status(str, Enum):
    """How an order can end; the same words in both versions."""

    COMPLETED = "completed"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    STARTED = "started"


@dataclass(frozen=True)
class Outcome:
    """How one order ended, and why in one sentence."""

    order_id: str
    status: Status
    detail: str

    def as_line(self) -> str:
        """Return the line that both versions print: `order_id<TAB>status<TAB>detail`."""
        return "\t".join((self.order_id, self.status.value, " ".join(self.detail.split())))

    @property
    def is_settled(self) -> bool:
        """Tell whether nobody has to look after this order: the exit status is 0 when all are."""
        return self.status in (Status.COMPLETED, Status.REJECTED, Status.STARTED)


SAMPLE_ORDER = Order(
    order_id="1001",
    customer_id="ada",
    currency="USD",
    payment_token="tok_visa",
    items=(Item("mug", 2, 1250), Item("coffee-1kg", 1, 1890)),
)


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
            return read_orders(sys.stdin.buffer if sys.stdin else ())
        with Path(path).open("rb") as lines:
            return read_orders(lines)
    except InvalidOrder as error:
        raise InvalidOrder(f"{path}: {error}") from error


def print_outcome(outcome: Outcome) -> None:
    """Print the line of an order. If nobody reads any more (`| head`), the orders and the exit status still count."""
    try:
        print(outcome.as_line(), flush=True)
    except BrokenPipeError:
        # What is left in the buffer would break once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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


def read_orders(lines: Iterable[bytes]) -> list[Order]:
    """Read a JSON Lines file; blank lines are skipped.

    Raises:
        InvalidOrder: at the first line that is no order or repeats an order id, or if there is no order at all.
    """
    first_line_of: dict[str, int] = {}
    orders = []
    for number, line in enumerate(lines, start=1):
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
