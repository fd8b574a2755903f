"""The order, and the words for how it can end."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

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

    @property
    def total(self) -> str:
        """Return the price for people: `43.90 USD`."""
        return f"{self.total_cents / 100:.2f} {self.currency}"

    @property
    def units(self) -> str:
        """Return the number of units for people: `1 unit`, `3 units`."""
        number = sum(item.quantity for item in self.items)
        return f"{number} unit{'' if number == 1 else 's'}"

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
