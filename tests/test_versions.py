"""What both versions promise, tested once over both: the same orders and faults, judged by the same ledger."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import NORTHWIND, Stage, make_order, make_stage, write_orders
from test_cancellation import serve

from comparison.judge.audit import audit
from comparison.stage.processes import Program, clean_environment
from order_processor import (
    BACKOFF_COEFFICIENT,
    INITIAL_INTERVAL_SECONDS,
    MAXIMUM_ATTEMPTS,
    process_order,
)
from plumbing.connection import register_search_attribute
from run_workflow import run_order
from shop.catalogue import read_customers, read_products
from shop.errors import OrderVoided
from shop.faults import parse_faults
from shop.ledger import Ledger
from shop.orders import Item, Order, Outcome, Status
from shop.parsing import read_orders
from shop.shop import Shop
from shop.terminal.streams import Results
from workflows import FEW_ATTEMPTS, ORDER_STATUS

Run = Callable[..., Awaitable[tuple[int, dict[str, str], Ledger]]]
"""Process orders at once under a fault plan; return exit status, printed status of each order, and the ledger."""


@pytest.fixture(params=["manual", "temporal"])
def run(request: pytest.FixtureRequest, stage: Stage) -> Run:
    async def outcomes_of(shop: Shop, orders: tuple[Order, ...]) -> list[Outcome]:
        if request.param == "manual":
            return await asyncio.gather(*(asyncio.to_thread(process_order, shop, order) for order in orders))
        await register_search_attribute(stage.client, ORDER_STATUS)
        async with serve(stage.client, shop):
            return await asyncio.gather(*(run_order(stage.client, order, wait=True) for order in orders))

    async def run(*orders: Order, faults: str = "") -> tuple[int, dict[str, str], Ledger]:
        results = Results()
        with closing(Shop(stage.data, parse_faults(faults))) as shop:
            for outcome in await outcomes_of(shop, orders):
                results.print(outcome)
        printed = {outcome.order_id: outcome.status.value for outcome in results.outcomes}
        return results.exit_status(request.param), printed, stage.ledger()

    return run


def test_both_versions_try_as_often_and_wait_as_long_between_two_attempts_before_they_give_up() -> None:
    assert FEW_ATTEMPTS.maximum_attempts == MAXIMUM_ATTEMPTS
    assert FEW_ATTEMPTS.initial_interval.total_seconds() == INITIAL_INTERVAL_SECONDS
    assert FEW_ATTEMPTS.backoff_coefficient == BACKOFF_COEFFICIENT


def tried(ledger: Ledger, step: str) -> list[str]:
    return [attempt.outcome for attempt in ledger.attempts if attempt.step == step]


def assert_nothing_held(ledger: Ledger) -> None:
    assert [charge for charge in ledger.charges if not charge.refunded] == []
    assert [sale for sale in ledger.sales if not sale.restored] == []
    assert ledger.confirmations == ()
    assert all(stock.now == stock.initial for stock in ledger.stock.values())


def assert_done_once(ledger: Ledger, order: Order, *, sent: bool = True) -> None:
    assert [(charge.amount_cents, charge.refunded) for charge in ledger.charges] == [(order.total_cents, False)]
    assert {(sale.sku, sale.quantity, sale.restored) for sale in ledger.sales} == {
        (item.sku, item.quantity, False) for item in order.items
    }
    assert [confirmation.sent for confirmation in ledger.confirmations] == [sent]


async def test_an_order_is_charged_taken_from_stock_and_confirmed(run: Run) -> None:
    order = make_order()

    status, printed, ledger = await run(order)

    assert (status, printed) == (0, {"1": "completed"})
    assert_done_once(ledger, order)


async def test_a_payment_service_that_is_down_twice_is_tried_three_times(run: Run) -> None:
    order = make_order()

    status, printed, ledger = await run(order, faults="process_payment:unavailable*2")

    assert (status, printed) == (0, {"1": "completed"})
    assert tried(ledger, "process_payment") == ["ServiceUnavailable", "ServiceUnavailable", "ok"]
    assert_done_once(ledger, order)


async def test_a_payment_service_that_is_down_for_good_fails_the_order_and_holds_nothing(run: Run) -> None:
    status, printed, ledger = await run(make_order(), faults="process_payment:unavailable*inf")

    assert (status, printed) == (1, {"1": "failed"})
    assert tried(ledger, "process_payment") == ["ServiceUnavailable"] * MAXIMUM_ATTEMPTS
    assert_nothing_held(ledger)


async def test_a_declined_payment_is_rejected_at_once(run: Run) -> None:
    status, printed, ledger = await run(make_order(payment_token="tok_chargeDeclined"))

    assert (status, printed) == (0, {"1": "rejected"})
    assert tried(ledger, "process_payment") == ["PaymentDeclined"]
    assert_nothing_held(ledger)


async def test_an_order_for_more_than_there_is_is_rejected_before_it_is_charged(run: Run) -> None:
    status, printed, ledger = await run(make_order(items=(Item("mug", 101, 1250),)))

    assert (status, printed) == (0, {"1": "rejected"})
    assert tried(ledger, "process_payment") == []
    assert_nothing_held(ledger)


async def test_an_unknown_product_is_rejected(run: Run) -> None:
    status, printed, ledger = await run(make_order(items=(Item("unicorn", 1, 1250),)))

    assert (status, printed) == (0, {"1": "rejected"})
    assert tried(ledger, "validate_inventory") == ["UnknownProduct"]
    assert_nothing_held(ledger)


async def test_an_unknown_payment_token_is_rejected(run: Run) -> None:
    status, printed, ledger = await run(make_order(payment_token="tok_unheardOf"))

    assert (status, printed) == (0, {"1": "rejected"})
    assert tried(ledger, "process_payment") == ["UnknownPaymentToken"]
    assert_nothing_held(ledger)


async def test_a_charge_whose_reply_is_lost_is_made_once(run: Run) -> None:
    order = make_order()

    status, printed, ledger = await run(order, faults="process_payment:lost_reply")

    assert (status, printed) == (0, {"1": "completed"})
    assert tried(ledger, "process_payment") == ["ReplyLost", "ok"]
    assert_done_once(ledger, order)


async def test_a_charge_whose_replies_are_all_lost_is_refunded(run: Run) -> None:
    status, printed, ledger = await run(make_order(), faults="process_payment:lost_reply*inf")

    assert (status, printed) == (1, {"1": "failed"})
    assert [charge.refunded for charge in ledger.charges] == [True]
    assert_nothing_held(ledger)


async def test_of_two_orders_for_the_last_item_one_is_completed_and_the_other_refunded(run: Run) -> None:
    first, second = (make_order(order_id, items=(Item("last-one", 1, 9900),)) for order_id in ("1", "2"))

    # Both look before either has paid: the loser finds out at `update_inventory`.
    status, printed, ledger = await run(first, second, faults="process_payment:slow(2)")

    assert (status, sorted(printed.values())) == (0, ["completed", "rejected"])
    assert sorted(charge.refunded for charge in ledger.charges) == [False, True]
    assert ledger.stock["last-one"].now == 0
    assert len(ledger.confirmations) == 1


async def test_a_mail_service_that_is_down_for_a_while_does_not_undo_the_order(run: Run) -> None:
    order = make_order()

    status, printed, ledger = await run(order, faults="send_confirmation:unavailable*2")

    assert (status, printed) == (0, {"1": "completed"})
    assert tried(ledger, "send_confirmation") == ["ServiceUnavailable", "ServiceUnavailable", "ok"]
    assert_done_once(ledger, order)


async def test_a_customer_without_an_address_is_noted_and_the_order_completed(run: Run) -> None:
    order = make_order(customer_id="nobody")

    status, printed, ledger = await run(order)

    assert (status, printed) == (0, {"1": "completed"})
    assert_done_once(ledger, order, sent=False)


async def test_an_order_that_is_run_again_is_charged_once(run: Run) -> None:
    order = make_order()
    await run(order)

    status, printed, ledger = await run(order)

    assert (status, printed) == (0, {"1": "completed"})
    assert_done_once(ledger, order)


async def test_an_order_whose_id_is_taken_by_other_content_touches_nothing(run: Run) -> None:
    order = make_order()
    await run(order)

    status, printed, ledger = await run(make_order(items=(Item("grinder", 1, 9900),)))

    assert (status, printed) == (1, {"1": "unknown"})
    assert_done_once(ledger, order)


async def test_an_order_that_was_delivered_is_not_undone_by_a_second_run_in_an_outage(run: Run, stage: Stage) -> None:
    order = make_order()
    await run(order)
    # As after the namespace's retention: Temporal has forgotten the first run, and starts a second one.
    forgetful = await make_stage(stage.server, stage.directory)
    stage.namespace, stage.client = forgetful.namespace, forgetful.client

    status, printed, ledger = await run(order, faults="process_payment:unavailable*4")

    assert (status, printed) == (0, {"1": "completed"})
    assert_done_once(ledger, order)


async def test_an_order_that_was_charged_by_an_unfinished_run_is_taken_to_its_end(run: Run, stage: Stage) -> None:
    order = make_order()
    with closing(Shop(stage.data)) as shop:
        shop.payments.process_payment(order)

    status, printed, ledger = await run(order)

    assert (status, printed) == (0, {"1": "completed"})
    assert_done_once(ledger, order)


async def test_an_order_that_an_unfinished_run_charged_is_refunded_if_its_stock_is_gone(run: Run, stage: Stage) -> None:
    order = make_order(items=(Item("last-one", 1, 9900),))
    with closing(Shop(stage.data)) as shop:
        shop.payments.process_payment(order)
        shop.inventory.update_inventory(make_order("2", items=order.items))

    status, printed, ledger = await run(order)

    assert (status, printed) == (0, {"1": "rejected"})
    assert [charge.refunded for charge in ledger.charges] == [True]
    assert [(void.order_id, void.step) for void in ledger.voids] == [("1", "void_sale")]


async def test_an_order_that_is_given_up_before_its_charge_is_never_charged(run: Run, stage: Stage) -> None:
    status, printed, ledger = await run(make_order(), faults="validate_inventory:unavailable*inf")

    assert (status, printed) == (1, {"1": "failed"})
    assert tried(ledger, "validate_inventory") == ["ServiceUnavailable"] * MAXIMUM_ATTEMPTS
    assert [void.step for void in ledger.voids] == ["void_charge"]
    with closing(Shop(stage.data)) as shop, pytest.raises(OrderVoided):
        shop.payments.process_payment(make_order())


async def test_an_order_that_was_settled_is_rejected_by_every_step(run: Run, stage: Stage) -> None:
    with closing(Shop(stage.data)) as shop:
        shop.settle("1")

    status, printed, ledger = await run(make_order())

    assert (status, printed) == (0, {"1": "rejected"})
    assert_nothing_held(ledger)


@pytest.mark.parametrize("version", ["manual", "temporal"])
async def test_northwind_orders_of_plenty_have_the_same_outcome_in_both_versions(version: str, stage: Stage) -> None:
    load_northwind(stage.data)
    with (NORTHWIND / "orders.jsonl").open("rb") as file:
        orders = read_orders(itertools.islice(file, 40))
    if version == "manual":
        path = write_orders(stage.directory / "orders.jsonl", *orders)
        arguments = ("order_processor.py", str(path), f"--data={stage.data}", "--concurrency=8")
        program = Program(stage.directory / "script", clean_environment(), *arguments)
    else:
        await stage.start_worker()
        program = stage.starter(*orders)

    exit_status = await program.run()

    lines = [line.split("\t") for line in program.lines()]
    outcomes = [Outcome(order_id, Status(status), detail) for order_id, status, detail in lines]
    assert exit_status == 0
    assert {outcome.order_id: outcome.status for outcome in outcomes} == {
        order.order_id: Status.COMPLETED for order in orders
    }
    assert audit(orders, stage.ledger(), outcomes, runs=1) == []


def load_northwind(data: Path) -> None:
    with closing(Shop(data)) as shop:
        shop.inventory.replace_products(read_products(NORTHWIND / "stock.csv"))
        shop.notifications.replace_customers(read_customers(NORTHWIND / "customers.csv"))
