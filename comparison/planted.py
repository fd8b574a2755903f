"""Violations planted into a ledger that has none: a checker that does not find them proves nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from comparison.audit import Ending, accounts_of, audit
from shop.ledger import Ledger, Stock
from shop.orders import Order, Status


def missed_violations(orders: Sequence[Order], ledger: Ledger, printed: Mapping[str, Status]) -> list[str]:
    """Plant one violation after the other into a clean ledger; return the rules that the audit does not find broken.

    Raises:
        StopIteration: if the ledger holds no completed order to tamper with.
    """
    done = next(a for a in accounts_of(orders, ledger).values() if a.ending is Ending.COMPLETE)
    order, charge, sale = done.order, done.charges[0], done.sales[0]
    sku = sale.sku
    more = Stock(ledger.stock[sku].initial, ledger.stock[sku].now + 1)
    dearer = replace(charge, amount_cents=charge.amount_cents + 1)
    planted = {
        "I1": (orders, _without(ledger, order.order_id), printed),
        "I2": (orders, replace(ledger, charges=(*ledger.charges, replace(charge, transaction_id="txn_2"))), printed),
        "I3": (orders, replace(ledger, sales=tuple(s for s in ledger.sales if s.order_id != order.order_id)), printed),
        "I4": (orders, replace(ledger, stock={**ledger.stock, sku: more}), printed),
        "I5": (orders, replace(ledger, charges=tuple(dearer if c is charge else c for c in ledger.charges)), printed),
        "I6": (orders, replace(ledger, charges=(*ledger.charges, replace(charge, order_id="nobodys"))), printed),
        "I7": (orders, ledger, {**printed, order.order_id: Status.REJECTED}),
        "I9": (orders, replace(ledger, attempts=ledger.attempts + done.attempts * 4), printed),
    }
    return [
        rule
        for rule, (placed, tampered, said) in planted.items()
        if rule not in {violation.rule for violation in audit(placed, tampered, said, runs=1)}
    ]


def _without(ledger: Ledger, order_id: str) -> Ledger:
    """Return the ledger of a world in which nobody ever touched the order, and yet it was placed."""
    return replace(
        ledger,
        sales=tuple(row for row in ledger.sales if row.order_id != order_id),
        charges=tuple(row for row in ledger.charges if row.order_id != order_id),
        confirmations=tuple(row for row in ledger.confirmations if row.order_id != order_id),
        attempts=tuple(row for row in ledger.attempts if row.order_id != order_id),
    )
