"""Violations planted into a ledger that has none: a checker that does not find them proves nothing (I8).

Orders that ended in every way, made by the real services, are added to what was judged; then one thing is changed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowExecutionStatus

from comparison.judge.audit import CLOSINGS, Violation, audit
from shop.catalogue import Customer, Product
from shop.errors import ShopError
from shop.faults import parse_faults
from shop.ledger import Attempt, Charge, Confirmation, Ledger, Sale, Stock, Void, read_ledger
from shop.orders import SAMPLE_ORDER, Item, Order, Outcome, Status
from shop.shop import Shop
from workflows import FEW_ATTEMPTS

SKU, CUSTOMER, NOBODYS = "planted-sku", "planted-customer", "planted-nobodys"
DONE, NOTED, DECLINED, FAILED, UNDONE, CANCELLED, SETTLED = (
    f"planted-{name}" for name in ("done", "noted", "declined", "failed", "undone", "cancelled", "settled")
)
PRINTED = {
    DONE: Status.COMPLETED,
    NOTED: Status.COMPLETED,
    DECLINED: Status.REJECTED,
    FAILED: Status.FAILED,
    UNDONE: Status.FAILED,
    CANCELLED: Status.CANCELLED,
    SETTLED: Status.UNKNOWN,
}
# Where the effect of each step is to be seen.
EFFECTS = {
    "process_payment": (DONE, "charges"),
    "update_inventory": (DONE, "sales"),
    "send_confirmation": (DONE, "confirmations"),
    "note_unsent": (NOTED, "confirmations"),
    "void_charge": (DECLINED, "voids"),
    "void_sale": (UNDONE, "voids"),
    "refund_payment": (UNDONE, "charges"),
    "restore_inventory": (SETTLED, "sales"),
    "void_confirmation": (SETTLED, "voids"),
}
TABLES = ("charges", "sales", "confirmations", "voids", "attempts")


@dataclass(frozen=True)
class World:
    """All that the audit is given. The methods return another world, changed in one thing."""

    orders: tuple[Order, ...]
    ledger: Ledger
    outcomes: tuple[Outcome, ...]
    closings: Mapping[str, WorkflowExecutionStatus] | None

    def violations(self) -> set[Violation]:
        """Judge it."""
        return set(audit(self.orders, self.ledger, self.outcomes, runs=1, closings=self.closings))

    def add(self, table: str, order_id: str, row: Charge | Sale | Confirmation | Void | Attempt) -> World:
        """Add a row of an order to a table of the ledger."""
        return self.with_table(table, (*getattr(self.ledger, table), replace(row, order_id=order_id)))

    def drop(self, table: str, order_id: str, step: str = "") -> World:
        """Take away the rows of an order; of the tombstones and attempts those of one step."""
        rows = getattr(self.ledger, table)
        return self.with_table(
            table, tuple(row for row in rows if row.order_id != order_id or (step and row.step != step))
        )

    def change(self, table: str, order_id: str, **changes: object) -> World:
        """Change the rows of an order."""
        rows = getattr(self.ledger, table)
        return self.with_table(
            table, tuple(replace(row, **changes) if row.order_id == order_id else row for row in rows)
        )

    def stock(self, *changed: tuple[str, Stock], without: str = "") -> World:
        """Change the stock."""
        products = (*self.ledger.stock.items(), *changed)
        return self.with_table("stock", {sku: stock for sku, stock in products if sku != without})

    def say(self, order_id: str, *ends: Status, detail: str = "") -> World:
        """Change what was printed of an order; by default the details stay."""
        details = {outcome.order_id: outcome.detail for outcome in self.outcomes}
        said = [Outcome(order_id, end, detail or details.get(order_id, "")) for end in ends]
        return replace(self, outcomes=(*(line for line in self.outcomes if line.order_id != order_id), *said))

    def with_table(self, table: str, rows: Any) -> World:  # Any: of the type that the table has
        """Replace a whole table of the ledger."""
        return replace(self, ledger=replace(self.ledger, **{table: rows}))


@dataclass(frozen=True)
class Plant:
    """A world with one violation: what it is, and the rule and the order with which the audit has to name it."""

    what: str
    rule: str
    order_id: str
    world: World


def missed_violations(orders: Iterable[Order], ledger: Ledger, outcomes: Iterable[Outcome]) -> list[str]:
    """Plant one violation after the other; return those that the audit does not find. Audits about a hundred times."""
    clean = clean_world(orders, ledger, outcomes)
    known = clean.violations()
    missed = []
    for plant in plants(clean):
        found = {(violation.rule, violation.order_id) for violation in plant.world.violations() - known}
        if (plant.rule, plant.order_id) not in found:
            missed.append(plant.what)
    return missed


def plants(clean: World) -> Iterator[Plant]:
    """Yield every kind of violation."""
    for some in (_plants_of_effects, _plants_of_attempts, _plants_of_answers, _plants_of_strangers):
        yield from some(clean)


def _plants_of_effects(clean: World) -> Iterator[Plant]:
    charge, sale = Charge("", "txn_2", 1000, "USD", False), Sale("", SKU, 2, False, "2")
    mail, note = Confirmation("", CUSTOMER, True), Confirmation("", CUSTOMER, False)
    yield Plant("never charged", "I2", DONE, clean.drop("charges", DONE))
    yield Plant("stock never taken", "I3", DONE, clean.drop("sales", DONE))
    yield Plant("not confirmed", "I2", DONE, clean.drop("confirmations", DONE))
    yield Plant("charged twice", "I2", DONE, clean.add("charges", DONE, charge))
    yield Plant("charged twice, once refunded", "I2", DONE, clean.add("charges", DONE, replace(charge, refunded=True)))
    yield Plant("taken twice", "I2", DONE, clean.add("sales", DONE, sale))
    yield Plant("taken twice, once restored", "I2", DONE, clean.add("sales", DONE, replace(sale, restored=True)))
    yield Plant("confirmed twice", "I2", DONE, clean.add("confirmations", DONE, mail))
    yield Plant("another amount", "I2", DONE, clean.change("charges", DONE, amount_cents=999))
    yield Plant("another currency", "I2", DONE, clean.change("charges", DONE, currency="EUR"))
    yield Plant("another quantity", "I2", DONE, clean.change("sales", DONE, quantity=1))
    yield Plant("confirmed to another customer", "I2", DONE, clean.change("confirmations", DONE, customer_id="else"))
    for step in ("void_charge", "void_sale", "void_confirmation"):
        yield Plant(f"completed, and voided by {step}", "I2", DONE, clean.add("voids", DONE, Void("", step)))
    yield Plant("not refunded", "I3", UNDONE, clean.change("charges", UNDONE, refunded=False))
    yield Plant("not restored", "I2", SETTLED, clean.change("sales", SETTLED, restored=False))
    yield Plant("declined, and confirmed", "I3", DECLINED, clean.add("confirmations", DECLINED, mail))
    yield Plant("undone, and noted", "I3", UNDONE, clean.add("confirmations", UNDONE, note))
    yield Plant("no tombstone of the charge", "I1", FAILED, clean.drop("voids", FAILED))
    yield Plant("no tombstone of the sale", "I3", UNDONE, clean.drop("voids", UNDONE))
    yield Plant("stock miscounted", "I4", "-", clean.stock((SKU, Stock(10, 9))))
    yield Plant("more sold than there was", "I4", "-", clean.stock((SKU, Stock(3, -1))))
    yield Plant("sold product vanished", "I4", "-", clean.stock(without=SKU))
    yield Plant("money kept", "I5", "-", clean.change("charges", UNDONE, refunded=False))


def _plants_of_attempts(clean: World) -> Iterator[Plant]:
    for step, (order_id, table) in EFFECTS.items():
        yield Plant(f"an effect without {step}", "I6", order_id, clean.drop("attempts", order_id, step))
        if step not in ("refund_payment", "restore_inventory"):
            yield Plant(f"{step} without its effect", "I6", order_id, clean.drop(table, order_id))
    yield Plant("a refund taken back", "I6", UNDONE, clean.change("charges", UNDONE, refunded=False))
    yield Plant("a restored sale taken back", "I6", SETTLED, clean.change("sales", SETTLED, restored=False))
    yield Plant("a mail unsent", "I6", DONE, clean.change("confirmations", DONE, sent=False))
    for order_id, table in EFFECTS.values():
        if (order_id, table) != (SETTLED, "voids"):
            world = clean.change(table, order_id, digest="0" * 64)
            yield Plant(f"other content in the {table} of {order_id}", "I6", order_id, world)
    for step in ("validate_inventory", "process_payment"):
        too_many = tuple(
            Attempt(step, DONE, number, "ok", 1, "9999") for number in range(FEW_ATTEMPTS.maximum_attempts)
        )
        world = clean.with_table("attempts", (*clean.ledger.attempts, *too_many))
        yield Plant(f"{step} once too often", "I9", DONE, world)


def _plants_of_answers(clean: World) -> Iterator[Plant]:
    done, unclosed = Status.COMPLETED, replace(clean, closings=None)
    not_done = (Status.REJECTED, Status.FAILED, Status.CANCELLED)
    yield Plant("an end that was never printed", "I1", DONE, clean.say(DONE, Status.UNKNOWN))
    yield Plant("another transaction", "I7", DONE, clean.say(DONE, done, detail="txn_2"))
    yield Plant("another transaction, noted", "I7", NOTED, clean.say(NOTED, done, detail="txn_2; no mail was sent"))
    for end in not_done:
        yield Plant(f"completed, and {end.value}", "I7", DONE, unclosed.say(DONE, done, end))
        yield Plant(f"{end.value}, and completed", "I7", DONE, unclosed.say(DONE, end, done))
    for order_id in (DECLINED, FAILED, CANCELLED):
        for end in [end for end in (done, *not_done) if end is not PRINTED[order_id]]:
            yield Plant(f"{order_id}, printed {end.value}", "I7", order_id, clean.say(order_id, end))
            if end is not Status.CANCELLED:  # A cancellation may race any refusal or failure: only the closing tells.
                what = f"{order_id}, printed {end.value}, and its workflow forgotten"
                yield Plant(what, "I7", order_id, unclosed.say(order_id, end))
        for end in (Status.FAILED, Status.CANCELLED):
            world = unclosed.say(order_id, PRINTED[order_id], end)
            if end is PRINTED[order_id]:
                world = world.add("attempts", order_id, Attempt("validate_inventory", "", 9, "started", 1, "9999"))
            yield Plant(f"{order_id}, later printed {end.value}", "I7", order_id, world)


def _plants_of_strangers(clean: World) -> Iterator[Plant]:
    rows: dict[str, Charge | Sale | Confirmation | Void | Attempt] = {
        "charges": Charge("", "txn_3", 0, "USD", True),
        "sales": Sale("", "", 0, False, "3"),
        "confirmations": Confirmation("", CUSTOMER, False),
        "voids": Void("", "void_charge"),
        "attempts": Attempt("validate_inventory", "", 1, "started", 1, "9999"),
    }
    for table, row in rows.items():
        yield Plant(f"{table} of nobody's order", "I6", NOBODYS, clean.add(table, NOBODYS, row))
    yield Plant("a line of nobody's order", "I6", NOBODYS, clean.say(NOBODYS, Status.FAILED))
    world = clean
    for table in TABLES:
        world = world.drop(table, DONE)
    yield Plant("an order that nobody touched", "I1", DONE, world)


def clean_world(orders: Iterable[Order], ledger: Ledger, outcomes: Iterable[Outcome]) -> World:
    """Return what was judged, and beside it an order of every ending."""
    with tempfile.TemporaryDirectory() as directory:
        added = process_orders(Path(directory))
        new = read_ledger(Path(directory))
    tables = {table: getattr(ledger, table) + getattr(new, table) for table in TABLES}
    details = {charge.order_id: charge.transaction_id for charge in new.charges}
    return World(
        (*orders, *added),
        Ledger({**ledger.stock, **new.stock}, **tables),
        (*outcomes, *(Outcome(order_id, end, details.get(order_id, "")) for order_id, end in PRINTED.items())),
        {order_id: CLOSINGS[end] for order_id, end in PRINTED.items() if end in CLOSINGS},
    )


def process_orders(directory: Path) -> list[Order]:
    """Take the orders to their ends, as both versions do, in a shop of their own."""
    sample = replace(SAMPLE_ORDER, customer_id=CUSTOMER, items=(Item(SKU, 2, 500),))
    orders = {order_id: replace(sample, order_id=order_id) for order_id in PRINTED}
    orders[NOTED] = replace(orders[NOTED], customer_id="planted-stranger")
    orders[DECLINED] = replace(orders[DECLINED], payment_token="tok_chargeDeclined")
    outage = "validate_inventory:unavailable*inf,update_inventory:unavailable*inf"
    shop, down = Shop(directory), Shop(directory, parse_faults(outage))
    shop.inventory.replace_products([Product(SKU, "", 10)])
    shop.notifications.replace_customers([Customer(CUSTOMER, "", "")])
    stock, payments, mail, times = shop.inventory, shop.payments, shop.notifications, FEW_ATTEMPTS.maximum_attempts
    begin, void = (stock.validate_inventory, payments.process_payment), payments.void_charge
    steps: dict[str, tuple[Callable[[Order], object], ...]] = {
        DONE: (*begin, stock.update_inventory, mail.send_confirmation),
        NOTED: (*begin, stock.update_inventory, mail.send_confirmation, mail.note_unsent),
        DECLINED: (*begin, void),
        FAILED: (*[down.inventory.validate_inventory] * times, void),
        UNDONE: (*begin, *[down.inventory.update_inventory] * times, void, stock.void_sale, payments.refund_payment),
        CANCELLED: (begin[0], void),
        SETTLED: (*begin, stock.update_inventory, lambda order: shop.settle(order.order_id)),
    }
    for order_id, calls in steps.items():
        for call in calls:
            with suppress(ShopError):
                call(orders[order_id])
    shop.close()
    down.close()
    return list(orders.values())
