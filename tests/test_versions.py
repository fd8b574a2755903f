"""What both versions promise, tested once over both: the same orders and faults, judged by the same ledger."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from conftest import Stage, ledger_of, make_order, write_orders

from comparison.processes import Program, clean_environment
from shop.ledger import Ledger
from shop.orders import Item, Order

Run = Callable[..., Awaitable[tuple[int, dict[str, str], Ledger]]]
"""Process orders under a fault plan; return exit status, printed status of each order, and the ledger."""


@pytest.fixture(params=["manual", "temporal"])
def run(request: pytest.FixtureRequest, tmp_path: Path, stage: Stage) -> Run:
    async def run_manual(*orders: Order, faults: str = "") -> tuple[int, dict[str, str], Ledger]:
        script = Program(
            tmp_path / "script",
            clean_environment(),
            "order_processor.py",
            str(write_orders(tmp_path / "orders.jsonl", *orders)),
            f"--data={tmp_path / 'shop'}",
            f"--faults={faults}",
        )
        status = await script.run()
        return status, dict(line.split("\t")[:2] for line in script.lines()), ledger_of(tmp_path / "shop")

    async def run_temporal(*orders: Order, faults: str = "") -> tuple[int, dict[str, str], Ledger]:
        worker = await stage.start_worker(faults)
        status, printed = await stage.run_orders(*orders)
        await worker.stop()
        return status, printed, stage.ledger()

    return run_manual if request.param == "manual" else run_temporal


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
    assert tried(ledger, "process_payment") == ["ServiceUnavailable"] * 3
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
