"""Judges orders by the ledgers alone, never by what a program says of itself.

Each check has the number of the rule it holds:

    I1  nothing lost      every order came to an end
    I2  completed         one charge of the right amount, stock taken once, one confirmation or a note of its absence
    I3  not completed     no charge kept, no stock kept, no confirmation
    I4  stock             initial = now + sold, and never below 0
    I5  money             charges kept = the totals of the completed orders
    I6  no orphans        nothing happened to an order that nobody placed
    I7  agreement         what was printed is what the ledgers say
    I9  bounded           no more attempts than the policy allows; databases are intact
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TypeVar

from shop.errors import REFUSALS, OrderVoided
from shop.ledger import Attempt, Charge, Confirmation, Ledger, Sale
from shop.orders import Order, Status
from shop.shop import Shop

_Row = TypeVar("_Row", Charge, Sale, Confirmation, Attempt)

ATTEMPT_LIMITS = {"validate_inventory": 3, "process_payment": 3}
"""Attempts that both versions allow one run of an order; the other steps differ."""


class Ending(str, Enum):
    """What became of an order, in the words of its customer."""

    COMPLETE = "charged, shipped, mailed"
    COMPLETE_UNMAILED = "charged, shipped, noted that no mail was sent"
    UNMAILED = "charged, shipped, not mailed"
    UNSHIPPED = "charged, never shipped"
    OVERCHARGED = "charged more than once"
    UNCHARGED = "shipped, never charged"
    REFUSED = "refused, nothing held"
    UNDONE = "undone, nothing held"
    FORGOTTEN = "forgotten, nothing held"
    WRONG = "wrong amount or wrong goods"


CLEAN = (Ending.REFUSED, Ending.UNDONE)
WHOLE = (Ending.COMPLETE, Ending.COMPLETE_UNMAILED)


@dataclass(frozen=True)
class Account:
    """All that the ledgers say of one order."""

    order: Order
    charges: tuple[Charge, ...]
    sales: tuple[Sale, ...]
    confirmations: tuple[Confirmation, ...]
    attempts: tuple[Attempt, ...]

    @property
    def kept_charges(self) -> tuple[Charge, ...]:
        """Return the charges that were not refunded."""
        return tuple(charge for charge in self.charges if not charge.refunded)

    @property
    def kept_cents(self) -> int:
        """Return the net charge."""
        return sum(charge.amount_cents for charge in self.kept_charges)

    @property
    def kept_units(self) -> Counter[str]:
        """Return the net stock taken, by sku."""
        units: Counter[str] = Counter()
        for sale in self.sales:
            if not sale.restored:
                units[sale.sku] += sale.quantity
        return units

    @property
    def owed_cents(self) -> int:
        """Return what the customer is owed: every cent charged beyond the goods that left the stock."""
        return self.kept_cents - (self.order.total_cents if self.kept_units else 0)

    @property
    def seconds(self) -> float:
        """Return the time from the first attempt to the last."""
        times = [datetime.fromisoformat(attempt.at) for attempt in self.attempts]
        return (max(times) - min(times)).total_seconds() if times else 0.0

    @property
    def ending(self) -> Ending:
        """Put the account into words."""
        if len(self.kept_charges) > 1:
            return Ending.OVERCHARGED
        if self.kept_charges and not self.kept_units:
            return Ending.UNSHIPPED
        if self.kept_units and not self.kept_charges:
            return Ending.UNCHARGED
        if self.kept_charges:
            return self._ending_of_a_sale()
        # Nothing is held. Somebody must have decided that: the business with a no, or a version with an undo.
        outcomes = {attempt.outcome for attempt in self.attempts}
        if outcomes.intersection(REFUSALS) - {OrderVoided.__name__}:
            return Ending.REFUSED
        if any(attempt.step == "refund_payment" and attempt.outcome == "ok" for attempt in self.attempts):
            return Ending.UNDONE
        if OrderVoided.__name__ in outcomes:
            return Ending.REFUSED
        gave_up = sum(attempt.step == "validate_inventory" for attempt in self.attempts) >= 3
        return Ending.UNDONE if gave_up and "ok" not in outcomes else Ending.FORGOTTEN

    def _ending_of_a_sale(self) -> Ending:
        wanted = Counter({item.sku: item.quantity for item in self.order.items})
        charge = self.kept_charges[0]
        if (charge.amount_cents, charge.currency) != (self.order.total_cents, self.order.currency):
            return Ending.WRONG
        if self.kept_units != wanted or len(self.confirmations) > 1:
            return Ending.WRONG
        if not self.confirmations:
            return Ending.UNMAILED
        return Ending.COMPLETE if self.confirmations[0].sent else Ending.COMPLETE_UNMAILED


@dataclass(frozen=True)
class Violation:
    """One broken rule: which, of which order if of one, and what is wrong."""

    rule: str
    order_id: str
    sentence: str


def accounts_of(orders: Iterable[Order], ledger: Ledger) -> dict[str, Account]:
    """Return the account of each order."""
    charges, sales = _by_order(ledger.charges), _by_order(ledger.sales)
    confirmations, attempts = _by_order(ledger.confirmations), _by_order(ledger.attempts)
    return {
        order.order_id: Account(
            order,
            tuple(charges.get(order.order_id, ())),
            tuple(sales.get(order.order_id, ())),
            tuple(confirmations.get(order.order_id, ())),
            tuple(attempts.get(order.order_id, ())),
        )
        for order in orders
    }


def audit(
    orders: Iterable[Order], ledger: Ledger, printed: Mapping[str, Status] | None = None, *, runs: int | None = None
) -> list[Violation]:
    """Return every broken rule.

    Args:
        orders: all orders that were placed in this shop.
        ledger: what happened.
        printed: the outcome that a version printed for each order, if that is to be checked (I7).
        runs: how often each order was run at most, if the number of attempts is to be checked (I9).
    """
    accounts = accounts_of(orders, ledger)
    violations = [
        violation
        for account in accounts.values()
        for violation in _judge(account, (printed or {}).get(account.order.order_id))
    ]
    violations += _judge_stock(ledger)
    violations += _judge_money(accounts.values())
    violations += _judge_orphans(accounts, ledger)
    if printed is not None:
        violations += _judge_agreement(accounts, printed)
    if runs is not None:
        violations += _judge_attempts(ledger, runs)
    return violations


def judge_files(shop: Shop) -> list[Violation]:
    """Return a violation for each database that SQLite finds damaged."""
    violations = []
    for name, database in zip(("inventory", "payments", "notifications"), shop.databases, strict=True):
        with database.transaction() as connection:
            (answer,) = connection.execute("PRAGMA integrity_check").fetchone()
        if answer != "ok":
            violations.append(Violation("I9", "-", f"{name}.sqlite3 is damaged: {answer}"))
    return violations


def _judge(account: Account, printed: Status | None) -> list[Violation]:
    order, ending = account.order, account.ending
    if ending is Ending.FORGOTTEN and printed in (Status.REJECTED, Status.FAILED, Status.CANCELLED):
        return []  # It was decided before anything had to be undone, and somebody was told.
    if ending in WHOLE:
        return []
    if ending in CLEAN:
        if account.confirmations:
            return [Violation("I3", order.order_id, f"{ending.value}, and yet a confirmation was sent or noted")]
        return []
    if ending is Ending.FORGOTTEN:
        tried = account.attempts[-1].step if account.attempts else "nothing"
        return [Violation("I1", order.order_id, f"{ending.value}; last tried: {tried}")]
    owed = f"; owed {account.owed_cents / 100:.2f} {order.currency}" if account.owed_cents > 0 else ""
    return [Violation("I2" if account.kept_units else "I3", order.order_id, f"{ending.value}{owed}")]


def _judge_stock(ledger: Ledger) -> list[Violation]:
    sold: Counter[str] = Counter()
    for sale in ledger.sales:
        if not sale.restored:
            sold[sale.sku] += sale.quantity
    return [
        Violation("I4", "-", f"{sku}: {stock.initial} at first, {stock.now} left, {sold[sku]} sold")
        for sku, stock in ledger.stock.items()
        if stock.now < 0 or stock.initial != stock.now + sold[sku]
    ] + [Violation("I4", "-", f"{sku}: sold, but never in stock") for sku in sold if sku not in ledger.stock]


def _judge_money(accounts: Iterable[Account]) -> list[Violation]:
    accounts = list(accounts)
    kept = sum(account.kept_cents for account in accounts)
    earned = sum(account.order.total_cents for account in accounts if account.ending in WHOLE)
    return [] if kept == earned else [Violation("I5", "-", f"{kept} cents were kept, {earned} earned")]


def _judge_orphans(accounts: Mapping[str, Account], ledger: Ledger) -> list[Violation]:
    rows: tuple[Charge | Sale | Confirmation, ...] = (*ledger.charges, *ledger.sales, *ledger.confirmations)
    orphans = Counter((row.order_id, type(row).__name__.lower()) for row in rows if row.order_id not in accounts)
    return [
        Violation("I6", order_id, f"{number} {kind} row(s), no order") for (order_id, kind), number in orphans.items()
    ]


def _judge_agreement(accounts: Mapping[str, Account], printed: Mapping[str, Status]) -> list[Violation]:
    violations = []
    for order_id, account in accounts.items():
        status = printed.get(order_id)
        if status is None or status in (Status.UNKNOWN, Status.STARTED):
            violations.append(Violation("I1", order_id, f"its outcome was never printed ({status and status.value})"))
        elif (status is Status.COMPLETED) != (account.ending in WHOLE):
            violations.append(Violation("I7", order_id, f"printed {status.value}, but {account.ending.value}"))
    return violations


def _judge_attempts(ledger: Ledger, runs: int) -> list[Violation]:
    numbers = Counter((attempt.step, attempt.order_id) for attempt in ledger.attempts)
    return [
        Violation("I9", order_id, f"{step}: {number} attempts, {ATTEMPT_LIMITS[step] * runs} allowed")
        for (step, order_id), number in numbers.items()
        if number > ATTEMPT_LIMITS.get(step, number) * runs
    ]


def _by_order(rows: Iterable[_Row]) -> dict[str, list[_Row]]:
    grouped: dict[str, list[_Row]] = {}
    for row in rows:
        grouped.setdefault(row.order_id, []).append(row)
    return grouped
