"""The order: what it holds, how it is read and checked, and the words for how it can end."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from functools import cached_property
from typing import Any

MAX_ITEMS = 1_000
MAX_TOTAL_CENTS = 10**12
IDENTIFIER = re.compile(r"[A-Za-z0-9._-]{1,64}")
# The rule of each field, in an order or an item: a pattern for a text, a range for a whole number.
RULES: dict[str, re.Pattern[str] | range] = {
    "order_id": IDENTIFIER,
    "customer_id": IDENTIFIER,
    "currency": re.compile(r"[A-Z]{3}"),
    "payment_token": re.compile(r"tok_[A-Za-z0-9_]{1,60}"),
    "sku": IDENTIFIER,
    "quantity": range(1, 1_000_000 + 1),
    "unit_price_cents": range(10**9 + 1),
}

# ISO 4217: a yen has no smaller unit, a dinar has 1,000 fils, Chile's unit of account four decimals; all others two.
WITHOUT_DECIMALS = re.compile("BIF|CLP|DJF|GNF|ISK|JPY|KMF|KRW|PYG|RWF|UGX|UYI|VND|VUV|XAF|XOF|XPF")
WITH_THREE_DECIMALS = re.compile("BHD|IQD|JOD|KWD|LYD|OMR|TND")
WITH_FOUR_DECIMALS = re.compile("CLF|UYW")


class InvalidOrder(ValueError):
    """An order that breaks a rule; the message names the field and the rule."""


@dataclass(frozen=True)
class Item:
    """One line of an order. Money is whole cents: the smallest unit of the order's currency."""

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

    @classmethod
    def from_json(cls, text: bytes | str) -> Order:
        """Read an order as it was sent. Unknown fields are ignored: an older worker accepts a newer order.

        Raises:
            InvalidOrder: if it is no strict JSON (a key twice in one object, NaN, not UTF-8), or not of this shape.
        """
        document = _read_json(text)
        fields_read = _read_fields(cls, document, "")
        items = document.get("items", ()) if isinstance(document, dict) else ()
        if not isinstance(items, list):
            raise _broken("items", items)
        read = (_read_fields(Item, item, f"items[{index}].") for index, item in enumerate(items))
        return cls(**fields_read, items=tuple(Item(**item) for item in read))

    def check(self) -> None:
        """Refuse an order that breaks a rule: where it comes in, and not again while it is under way.

        Raises:
            InvalidOrder: naming the first field that does, and its rule.
        """
        _check_fields(self, "")
        if not 1 <= len(self.items) <= MAX_ITEMS:
            raise _broken("items", self.items)
        for index, item in enumerate(self.items):
            _check_fields(item, f"items[{index}].")
        if len({item.sku for item in self.items}) < len(self.items):
            raise InvalidOrder("items: the same sku stands in two lines")
        if self.total_cents > MAX_TOTAL_CENTS:
            raise InvalidOrder(f"items: the total is over {MAX_TOTAL_CENTS} cents")

    @property
    def total_cents(self) -> int:
        """Return the price of the whole order."""
        return sum(item.quantity * item.unit_price_cents for item in self.items)

    @property
    def total(self) -> str:
        """Return the price for people: `43.90 USD`."""
        return format_money(self.total_cents, self.currency)

    @cached_property
    def digest(self) -> str:
        """Return a fingerprint of the content: equal for equal orders, in any process and any release.

        Never add a field. An order under way was recorded without it, and an older worker does not know it: each would
        take the other's order for another one, and leave it charged.
        """
        content = {
            "order_id": self.order_id,
            "customer_id": self.customer_id,
            "currency": self.currency,
            "payment_token": self.payment_token,
            "items": [
                {"sku": item.sku, "quantity": item.quantity, "unit_price_cents": item.unit_price_cents}
                for item in self.items
            ],
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
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


def format_money(cents: int, currency: str) -> str:
    """Return an amount for people, with the decimals of its currency: `43.90 USD`, `4390 JPY`."""
    rules = {0: WITHOUT_DECIMALS, 3: WITH_THREE_DECIMALS, 4: WITH_FOUR_DECIMALS}
    decimals = next((number for number, currencies in rules.items() if currencies.fullmatch(currency)), 2)
    return f"{cents / 10**decimals:.{decimals}f} {currency}"


def _read_fields(kind: type, document: object, where: str) -> dict[str, Any]:  # Any: text or whole number
    """Return the fields of a class that have a rule, as they stand in a JSON object."""
    if not isinstance(document, dict):
        raise InvalidOrder(f"{where.rstrip('.') or 'order'}: must be a JSON object, not {_shown(document)}")
    values = {}
    for field in fields(kind):
        if field.name in RULES and field.name in document:
            # By type: JSON's true is an int to Python, and 1.0 is equal to 1: neither is a quantity.
            if type(document[field.name]) is not (int if isinstance(RULES[field.name], range) else str):
                raise _broken(field.name, document[field.name], where)
            values[field.name] = document[field.name]
        elif field.default is MISSING and field.name not in document:
            raise InvalidOrder(f"{where}{field.name}: is missing")
    return values


def _check_fields(thing: Order | Item, where: str) -> None:
    for name, rule in RULES.items():
        value = getattr(thing, name, None)
        if value is not None and not (value in rule if isinstance(rule, range) else rule.fullmatch(value)):
            raise _broken(name, value, where)


def _broken(name: str, value: object, where: str = "") -> InvalidOrder:
    rule = RULES.get(name)
    if isinstance(rule, range):
        must = f"be a whole number from {rule[0]} to {rule[-1]}"
    else:
        must = f"match {rule.pattern}" if rule else f"be a list of 1 to {MAX_ITEMS} lines"
    return InvalidOrder(f"{where}{name}: must {must}, not {_shown(value)}")


def _read_json(text: bytes | str) -> object:
    """Decode strict JSON; in bytes a byte order mark may stand before it, as some editors put it there."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        document: object = json.loads(text, object_pairs_hook=_object_of, parse_constant=_refuse_constant)
    except InvalidOrder:
        raise
    except UnicodeDecodeError as error:
        raise InvalidOrder("order: is not UTF-8") from error
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits, and nesting that is too deep
        raise InvalidOrder(f"order: is not JSON that can be read ({_shortened(str(error))})") from error
    return document


def _object_of(members: list[tuple[str, object]]) -> dict[str, object]:
    """Make a JSON object, in which no key stands twice: one reader would take the first, another the last."""
    document: dict[str, object] = {}
    for name, value in members:
        if name in document:
            raise InvalidOrder(f"{_shown(name)[1:-1]}: stands twice in the same object")
        document[name] = value
    return document


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _shown(value: object) -> str:
    if isinstance(value, (list, tuple, dict)):
        return f"a JSON {'object' if isinstance(value, dict) else 'list'} of {len(value)}"
    return _shortened(json.dumps(value))


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
