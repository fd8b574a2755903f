"""What the ledgers say of each order, and what the programs said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import cached_property
from typing import TypeVar

from temporalio.client import WorkflowExecutionStatus

from shop.errors import OrderVoided, Refusal
from shop.ledger import Attempt, Charge, Confirmation, Ledger, Sale, Void
from shop.orders import Item, Order, Outcome, Status

_Row = TypeVar("_Row", Charge, Sale, Confirmation, Void, Attempt, Outcome)


class Ending(str, Enum):
    """What became of an order."""

    COMPLETE = "charged, stock taken, confirmed"
    COMPLETE_UNCONFIRMED = "charged, stock taken, noted as not confirmed"
    UNCONFIRMED = "charged, stock taken, not confirmed"
    STOCK_NOT_TAKEN = "charged, stock never taken"
    OVERCHARGED = "charged more than once"
    UNCHARGED = "stock taken, never charged"
    REFUSED = "refused, nothing held"
    UNDONE = "undone, nothing held"
    ABANDONED = "abandoned, nothing held"
    WRONG = "wrong amount or wrong goods"


WHOLE = (Ending.COMPLETE, Ending.COMPLETE_UNCONFIRMED)


@dataclass(frozen=True)
class Account:
    """All that is known of one order; the rows of each kind are in the order in which they were made.

    `outcomes` are the lines that were printed for it, `closing` is how its workflow closed, if that is known.
    """

    order: Order
    charges: tuple[Charge, ...]
    sales: tuple[Sale, ...]
    confirmations: tuple[Confirmation, ...]
    voids: tuple[Void, ...]
    attempts: tuple[Attempt, ...]
    outcomes: tuple[Outcome, ...] = ()
    closing: WorkflowExecutionStatus | None = None

    def names_of(error: type[Exception]) -> frozenset[str]:
    """Return the name of a class and of all that inherit from it: the outcomes of attempts that raise one."""
    return frozenset({error.__name__}).union(*map(names_of, error.__subclasses__()))


def _by_order(rows: Iterable[_Row]) -> dict[str, list[_Row]]:
    grouped: dict[str, list[_Row]] = {}
    for row in rows:
        grouped.setdefault(row.order_id, []).append(row)
    return grouped
