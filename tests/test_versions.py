"""What both versions promise, tested once over both: the same orders and faults, judged by the same ledger.

Each version gets all orders at once, in one shop.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from threading import Barrier

import pytest
from conftest import NORTHWIND, make_order, make_stage
from counter import (
    PATIENCE_SECONDS,
    THREADS,
    PlanOfEachOrder,
    assert_done_once,
    assert_nothing_held,
    attempts_of,
    deliver,
    serve,
    voids_of,
)

from comparison.stage.processes import Server
from order_processor import process_order
from plumbing.connection import add_search_attribute
from run_workflow import run_order
from shop.catalogue import CUSTOMERS, PRODUCTS, Product, read_customers, read_products
from shop.errors import OrderVoided
from shop.faults import Fault, FaultPlan, PlannedFault, parse_faults
from shop.ledger import Ledger
from shop.orders import Item, Order, Outcome, Status
from shop.parsing import read_orders
from shop.shop import Shop
from shop.stores.location import Location
from workflows import ORDER_STATUS

DOWN, LOST = "ServiceUnavailable", "ReplyLost"


@dataclass(frozen=True)
class Meet(Fault):
    """Lets an attempt go on when another has come as far."""

    barrier: Barrier = field(default_factory=lambda: Barrier(2))

    def before_effect(self) -> None:
        self.barrier.wait(PATIENCE_SECONDS)


def charge(shop: Shop, order: Order) -> None:
    """Leave what a run leaves that dies after the payment."""
    shop.payments.process_payment(order)


def charge_and_sell_out(shop: Shop, order: Order) -> None:
    charge(shop, order)
    shop.inventory.update_inventory(make_order("rival", items=order.items))


def deliver_another(shop: Shop, order: Order) -> None:
    deliver(shop, other_content(order))


def other_content(order: Order) -> Order:
    return make_order(order.order_id, customer_id="grace")


@dataclass(frozen=True)
class Case:
    """An order, what has happened before, what goes wrong, how it ends, and what was tried on the way."""

    status: Status
    faults: str = ""
    tried: dict[str, list[str]] = field(default_factory=dict)
    changes: dict[str, object] = field(default_factory=dict)
    before: Callable[[Shop, Order], None] = lambda shop, order: None
    is_sent: bool = True


COMPLETED, REJECTED, FAILED = Status.COMPLETED, Status.REJECTED, Status.FAILED
CASES = {
    "plain": Case(COMPLETED),
    "payment-down-twice": Case(
        COMPLETED, "process_payment:unavailable*2", {"process_payment": [DOWN, DOWN, "ok"], "void_charge": []}
    ),
    "payment-down-for-good": Case(
        FAILED, "process_payment:unavailable*inf", {"process_payment": [DOWN] * 3, "void_charge": ["ok"]}
    ),
    "validation-down-for-good": Case(
        FAILED, "validate_inventory:unavailable*inf", {"validate_inventory": [DOWN] * 3, "process_payment": []}
    ),
    "declined": Case(REJECTED, "", {"process_payment": ["PaymentDeclined"]}, {"payment_token": "tok_chargeDeclined"}),
    "unknown-token": Case(
        REJECTED, "", {"process_payment": ["UnknownPaymentToken"]}, {"payment_token": "tok_unheardOf"}
    ),
    "too-many": Case(
        REJECTED,
        "",
        {"validate_inventory": ["OutOfStock"], "process_payment": []},
        {"items": (Item("mug", 10_000, 1250),)},
    ),
    "unknown-product": Case(
        REJECTED, "", {"validate_inventory": ["UnknownProduct"]}, {"items": (Item("unicorn", 1, 1250),)}
    ),
    "reply-lost": Case(COMPLETED, "process_payment:lost_reply", {"process_payment": [LOST, "ok"]}),
    "all-replies-lost": Case(
        FAILED, "process_payment:lost_reply*inf", {"process_payment": [LOST] * 3, "refund_payment": ["ok"]}
    ),
    "mail-down-twice": Case(
        COMPLETED, "send_confirmation:unavailable*2", {"send_confirmation": [DOWN, DOWN, "ok"], "note_unsent": []}
    ),
    "no-address": Case(
        COMPLETED,
        "",
        {"send_confirmation": ["UnknownCustomer"], "note_unsent": ["ok"]},
        {"customer_id": "nobody"},
        is_sent=False,
    ),
    "charged-by-a-run-that-died": Case(COMPLETED, before=charge),
    "charged-and-sold-out": Case(
        REJECTED,
        "",
        {"validate_inventory": ["OutOfStock"], "refund_payment": ["ok"]},
        {"items": (Item("sold-out", 1, 9900),)},
        charge_and_sell_out,
    ),
    "delivered-then-outage": Case(
        COMPLETED,
        "process_payment:unavailable*4",
        {"process_payment": ["ok", DOWN, DOWN, DOWN], "void_sale": ["ok"]},
        before=deliver,
    ),
    "delivered": Case(COMPLETED, before=deliver),
    "delivered-then-no-validation": Case(
        COMPLETED,
        "validate_inventory:unavailable*inf",
        {"validate_inventory": [DOWN] * 3, "void_sale": ["ok"], "refund_payment": []},
        before=deliver,
    ),
    "settled": Case(REJECTED, before=lambda shop, order: shop.settle(order.order_id)),
    "taken-id": Case(Status.UNKNOWN, "", {"void_charge": []}, before=deliver_another),
}
RIVALS = tuple(make_order(order_id, items=(Item("last-one", 1, 9900),)) for order_id in ("rival-1", "rival-2"))


def order_of(name: str) -> Order:
    return make_order(name, **CASES[name].changes)


def northwind_orders() -> list[Order]:
    with (NORTHWIND / "orders.jsonl").open("rb") as file:
        return read_orders(itertools.islice(file, 20))


@dataclass(frozen=True)
class Played:
    """How the orders ended, and one of them when it was run again."""

    outcomes: dict[str, Outcome]
    again: Outcome
    ledger: Ledger
    location: Location


@pytest.fixture(scope="module", params=["manual", "temporal"])
async def played(
    request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Played]:
    stage = await make_stage(server, tmp_path_factory.mktemp(request.param))
    orders = [*map(order_of, CASES), *RIVALS, *northwind_orders()]
    meeting = FaultPlan((PlannedFault("process_payment", Meet(), 1),))
    plans = {name: parse_faults(case.faults) for name, case in CASES.items()}
    plans |= {order.order_id: meeting for order in RIVALS}
    with closing(Shop(stage.data)) as well:
        own = [Product(sku, sku, 1) for sku in ("last-one", "sold-out")]
        known = {product.sku: product for product in (*PRODUCTS, *read_products(NORTHWIND / "stock.csv"), *own)}
        well.inventory.replace_products(list(known.values()))
        well.notifications.replace_customers([*CUSTOMERS, *read_customers(NORTHWIND / "customers.csv")])
        for name, case in CASES.items():
            case.before(well, order_of(name))
    with closing(Shop(stage.data, PlanOfEachOrder(plans=plans))) as shop, ThreadPoolExecutor(THREADS) as threads:
        if request.param == "manual":
            outcomes = list(threads.map(lambda order: process_order(shop, order), orders))
            again = process_order(shop, order_of("plain"))
        else:
            await add_search_attribute(stage.client, ORDER_STATUS)
            async with serve(stage.client, shop):
                outcomes = await asyncio.gather(*(run_order(stage.client, order, wait=True) for order in orders))
                again = await run_order(stage.client, order_of("plain"), wait=True)
        yield Played({outcome.order_id: outcome for outcome in outcomes}, again, stage.ledger(), shop.location)


@pytest.mark.parametrize("name", CASES)
async def test_an_order_ends_in_the_same_way_in_both_versions(name: str, played: Played) -> None:
    case, order, ledger = CASES[name], order_of(name), played.ledger

    assert played.outcomes[name].status is case.status
    assert {step: attempts_of(ledger, order, step) for step in case.tried} == case.tried
    if case.status is COMPLETED:
        assert_done_once(ledger, order, is_sent=case.is_sent)
    elif case.status is Status.UNKNOWN:
        assert_done_once(ledger, other_content(order))
    else:
        assert_nothing_held(ledger, order)
        is_charged = name in {charge.order_id for charge in ledger.charges}
        given_back = f"{order.total} refunded" if is_charged else "nothing was charged"
        assert played.outcomes[name].detail.endswith(f"; {given_back}")


async def test_an_order_that_is_run_again_ends_in_the_same_way_and_is_charged_once(played: Played) -> None:
    assert played.again == played.outcomes["plain"]
    assert_done_once(played.ledger, order_of("plain"))


async def test_of_two_orders_for_the_last_item_one_is_completed_and_the_other_refunded(played: Played) -> None:
    ends = {order: played.outcomes[order.order_id].status for order in RIVALS}

    assert sorted(ends.values()) == [COMPLETED, REJECTED]
    for order, status in ends.items():
        if status is COMPLETED:
            assert_done_once(played.ledger, order)
        else:
            assert attempts_of(played.ledger, order, "refund_payment") == ["ok"]
            assert_nothing_held(played.ledger, order)


@pytest.mark.parametrize("name", ["payment-down-for-good", "validation-down-for-good"])
async def test_an_order_that_was_given_up_before_its_charge_is_never_charged(name: str, played: Played) -> None:
    assert voids_of(played.ledger, order_of(name)) == ["void_charge"]
    with closing(Shop(played.location)) as shop, pytest.raises(OrderVoided):
        shop.payments.process_payment(order_of(name))


async def test_northwind_orders_of_plenty_are_completed_in_both_versions(played: Played) -> None:
    for order in northwind_orders():
        assert played.outcomes[order.order_id].status is COMPLETED
        assert_done_once(played.ledger, order)
