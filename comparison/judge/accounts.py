"""What the ledgers say of each order, and what the programs said."""

from __future__ import annotations

from collections import Counter, defaultdict
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
    outcomes: tuple[Outcome, ...]
    closing: WorkflowExecutionStatus | None

    @cached_property
    def kept_charges(self) -> tuple[Charge, ...]:
        """Return the charges that were not refunded."""
        return tuple(charge for charge in self.charges if not charge.refunded)

    @property
    def kept_cents(self) -> int:
        """Return the net charge."""
        return sum(charge.amount_cents for charge in self.kept_charges)

    @cached_property
    def kept_units(self) -> Counter[str]:
        """Return the net stock taken, by sku."""
        return units_of(sale for sale in self.sales if not sale.restored)

    @property
    def owed_cents(self) -> int:
        """Return what the customer is owed: every cent charged beyond the goods that left the stock."""
        return self.kept_cents - (self.order.total_cents if self.kept_units else 0)

    @property
    def seconds(self) -> float:
        """Return the time from the first attempt to the last."""
        times = [datetime.fromisoformat(attempt.at) for attempt in self.attempts]
        return (max(times) - min(times)).total_seconds() if times else 0.0

    @cached_property
    def ended_as(self) -> tuple[Status, ...]:
        """Return the ends that were printed, in order; `unknown` and `started` are none."""
        no_end = (Status.UNKNOWN, Status.STARTED)
        return tuple(outcome.status for outcome in self.outcomes if outcome.status not in no_end)

    @cached_property
    def effects(self) -> frozenset[str]:
        """Return the kinds of effects that are there; a tombstone has the name of the call that leaves it."""
        found = {
            "charge": bool(self.charges),
            "refund": any(charge.refunded for charge in self.charges),
            "sale": any(sale.quantity for sale in self.sales),
            "restored sale": any(sale.restored for sale in self.sales),
            "mail": any(confirmation.sent for confirmation in self.confirmations),
            "note": any(not confirmation.sent for confirmation in self.confirmations),
        }
        return frozenset(kind for kind, is_there in found.items() if is_there) | {void.step for void in self.voids}

    @cached_property
    def refusals(self) -> frozenset[str]:
        """Return the business's noes among the outcomes of the attempts."""
        return frozenset(attempt.outcome for attempt in self.attempts) & names_of(Refusal)

    @property
    def was_refused(self) -> bool:
        """Tell whether the business said no to the order itself: that it is voided says that it had ended before."""
        return bool(self.refusals - {OrderVoided.__name__})

    @cached_property
    def ending(self) -> Ending:
        """Put the account into words."""
        if len(self.kept_charges) > 1:
            return Ending.OVERCHARGED
        if self.kept_charges:
            return self._ending_of_a_sale() if self.kept_units else Ending.STOCK_NOT_TAKEN
        if self.kept_units:
            return Ending.UNCHARGED
        # Nothing is held. But an order that the payment service has not voided may still be charged.
        if not self.charges and "void_charge" not in self.effects:
            return Ending.ABANDONED
        return Ending.REFUSED if self.was_refused else Ending.UNDONE

    def _ending_of_a_sale(self) -> Ending:
        if self.kept_cents != self.order.total_cents or self.kept_units != units_of(self.order.items):
            return Ending.WRONG
        if not self.confirmations:
            return Ending.UNCONFIRMED
        return Ending.COMPLETE if "mail" in self.effects else Ending.COMPLETE_UNCONFIRMED


def accounts_of(
    orders: Iterable[Order],
    ledger: Ledger,
    outcomes: Iterable[Outcome] = (),
    closings: Mapping[str, WorkflowExecutionStatus] | None = None,
) -> dict[str, Account]:
    """Return the account of each order."""
    charges, sales, confirmations = _by_order(ledger.charges), _by_order(ledger.sales), _by_order(ledger.confirmations)
    voids, attempts, lines = _by_order(ledger.voids), _by_order(ledger.attempts), _by_order(outcomes)

    def account_of(order: Order) -> Account:
        key = order.order_id
        effects = (tuple(charges[key]), tuple(sales[key]), tuple(confirmations[key]), tuple(voids[key]))
        return Account(order, *effects, tuple(attempts[key]), tuple(lines[key]), (closings or {}).get(key))

    return {order.order_id: account_of(order) for order in orders}


def units_of(lines: Iterable[Sale | Item]) -> Counter[str]:
    """Return the units by sku."""
    units: Counter[str] = Counter()
    for line in lines:
        units[line.sku] += line.quantity
    return +units  # without the line that stands for a sale of nothing


def names_of(error: type[Exception]) -> frozenset[str]:
    """Return the name of a class and of all that inherit from it: the outcomes of attempts that raise one."""
    return frozenset({error.__name__}).union(*map(names_of, error.__subclasses__()))


def _by_order(rows: Iterable[_Row]) -> defaultdict[str, list[_Row]]:
    grouped: defaultdict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        grouped[row.order_id].append(row)
    return grouped
