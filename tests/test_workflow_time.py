"""What takes hours or a day, in seconds: the server of these tests skips the time in which nothing happens."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Stage, make_order
from temporalio import activity
from temporalio.api.enums.v1 import EventType, IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor
from test_cancellation import (
    Handle,
    Hold,
    PlanOfEachOrder,
    assert_done_once,
    assert_nothing_held,
    attempts_of,
    end_of,
    serve,
)

from comparison.processes import wait_until
from connection import OrderPayloadConverter
from run_worker import register_order_status
from run_workflow import start_or_attach, wait_for_outcome
from shop.faults import parse_faults
from shop.ledger import Ledger, read_ledger
from shop.orders import Item, Order, Outcome, Status
from shop.shop import Shop
from workflows import ORDER_STATUS

TEST_SERVER = Path(sys.executable).parent / "temporal-test-server"
# Of real time: what is here to show is that hours of the server's time pass in it.
MAX_TEST_SECONDS = 60.0


@dataclass(frozen=True)
class AttemptTimes(Interceptor):
    """Notes when each attempt starts, on the server's clock: the ledger has it on ours."""

    of: dict[str, list[datetime]] = field(default_factory=dict)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        times = self.of

        class NoteTime(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # Any: as the SDK declares it
                info = activity.info()
                times.setdefault(info.activity_type, []).append(info.started_time)
                return await super().execute_activity(input)

        return NoteTime(next)

    def pauses(self, step: str) -> list[int]:
        """Return the whole seconds between the attempts."""
        times = self.of[step]
        return [int((later - earlier).total_seconds()) for earlier, later in zip(times, times[1:], strict=False)]


@dataclass(frozen=True)
class Run:
    """How an order ended, and how long that took on the server's clock."""

    outcome: Outcome
    took: timedelta
    ledger: Ledger
    times: AttemptTimes


RunOrder = Callable[..., Awaitable[Run]]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """Run a server that skips time, for one test."""
    async with await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=str(TEST_SERVER),
        data_converter=replace(DataConverter.default, payload_converter_class=OrderPayloadConverter),
    ) as environment:
        # An order hangs on a server that does not know the attribute.
        await environment.client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=environment.client.namespace,
                search_attributes={ORDER_STATUS.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD},
            )
        )
        yield environment.client


@pytest.fixture
def run(client: Client, tmp_path: Path) -> RunOrder:
    async def run_order(order: Order, faults: str = "") -> Run:
        shop, times = Shop(tmp_path / "shop", parse_faults(faults)), AttemptTimes()
        async with serve(client, shop, interceptors=[times]):
            handle = await start_or_attach(client, order)
            outcome = await asyncio.wait_for(wait_for_outcome(handle, order), MAX_TEST_SECONDS)
        ledger = read_ledger(shop)
        shop.close()
        return Run(outcome, await duration(handle), ledger, times)

    return run_order


async def duration(handle: Handle) -> timedelta:
    """Return the time from the first event of a workflow to its last."""
    events = (await handle.fetch_history()).events
    assert events[0].event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    return events[-1].event_time.ToDatetime() - events[0].event_time.ToDatetime()


async def test_an_inventory_that_is_down_for_hours_after_the_payment_delays_the_order_and_no_more(
    run: RunOrder,
) -> None:
    order = make_order()

    ran = await run(order, faults="update_inventory:unavailable*150")

    assert ran.outcome.status == Status.COMPLETED
    assert attempts_of(ran.ledger, order, "update_inventory") == ["ServiceUnavailable"] * 150 + ["ok"]
    assert timedelta(hours=2) < ran.took < timedelta(hours=3)
    assert 60 <= max(ran.times.pauses("update_inventory")) < 65
    assert_done_once(ran.ledger, order)


async def test_a_mail_that_cannot_be_sent_for_a_day_is_noted_as_not_sent_and_the_order_completes(
    run: RunOrder,
) -> None:
    order = make_order()

    ran = await run(order, faults="send_confirmation:unavailable*inf")

    assert ran.outcome.status == Status.COMPLETED
    assert "no confirmation was sent: ServiceUnavailable" in ran.outcome.detail
    assert timedelta(hours=23, minutes=58) < ran.took < timedelta(hours=24, minutes=1)
    assert len(attempts_of(ran.ledger, order, "send_confirmation")) > 1_400
    assert_done_once(ran.ledger, order, is_sent=False)


async def test_a_mail_that_can_be_sent_after_hours_is_sent(run: RunOrder) -> None:
    order = make_order()

    ran = await run(order, faults="send_confirmation:unavailable*150")

    assert ran.outcome.status == Status.COMPLETED
    assert ran.took > timedelta(hours=2)
    assert_done_once(ran.ledger, order)


async def test_a_payment_that_is_down_for_good_is_given_up_after_three_attempts_1_and_2_seconds_apart(
    run: RunOrder,
) -> None:
    order = make_order()

    ran = await run(order, faults="process_payment:unavailable*inf")

    assert (ran.outcome.status, ran.outcome.detail.split(":")[0]) == (Status.FAILED, "ServiceUnavailable")
    assert attempts_of(ran.ledger, order, "process_payment") == ["ServiceUnavailable"] * 3
    assert ran.times.pauses("process_payment") == [1, 2]
    assert [(void.order_id, void.step) for void in ran.ledger.voids] == [(order.order_id, "refund_payment")]
    assert_nothing_held(ran.ledger, order)


async def test_a_validation_that_is_down_for_good_is_given_up_after_three_attempts(run: RunOrder) -> None:
    order = make_order()

    ran = await run(order, faults="validate_inventory:unavailable*inf")

    assert ran.outcome.status == Status.FAILED
    assert [attempt.step for attempt in ran.ledger.attempts] == ["validate_inventory"] * 3
    assert_nothing_held(ran.ledger, order)


async def test_a_payment_that_only_times_out_is_refunded_because_it_may_have_happened(run: RunOrder) -> None:
    order = make_order()

    ran = await run(order, faults="process_payment:lost_reply*3")

    assert ran.outcome.status == Status.FAILED
    assert attempts_of(ran.ledger, order, "process_payment") == ["ReplyLost"] * 3
    assert [charge.refunded for charge in ran.ledger.charges] == [True]
    assert_nothing_held(ran.ledger, order)


async def test_a_refund_that_is_down_for_hours_is_paid_in_the_end(run: RunOrder) -> None:
    order = make_order()

    ran = await run(order, faults="process_payment:lost_reply*3,refund_payment:unavailable*150")

    assert ran.outcome.status == Status.FAILED
    assert attempts_of(ran.ledger, order, "refund_payment") == ["ServiceUnavailable"] * 150 + ["ok"]
    assert ran.took > timedelta(hours=2)
    assert [charge.refunded for charge in ran.ledger.charges] == [True]
    assert_nothing_held(ran.ledger, order)


async def test_an_unknown_customer_is_noted_as_not_mailed_at_once_and_the_order_completes(run: RunOrder) -> None:
    order = make_order(customer_id="nobody")

    ran = await run(order)

    assert ran.outcome.status == Status.COMPLETED
    assert "no confirmation was sent: UnknownCustomer" in ran.outcome.detail
    assert attempts_of(ran.ledger, order, "send_confirmation") == ["UnknownCustomer"]
    assert_done_once(ran.ledger, order, is_sent=False)


async def test_of_two_who_want_the_last_item_one_gets_it_and_the_other_is_refunded(stage: Stage) -> None:
    # On the real server: the one that skips time is made for one workflow at a time, and skips the other's life.
    orders = [make_order(order_id, items=(Item("last-one", 1, 90_00),)) for order_id in ("1", "2")]
    holds = [Hold(step="process_payment") for _ in orders]
    plans = {order.order_id: hold.plan() for order, hold in zip(orders, holds, strict=True)}
    shop = Shop(stage.data, PlanOfEachOrder(plans=plans))
    await register_order_status(stage.client)

    async with serve(stage.client, shop):
        handles = [await start_or_attach(stage.client, order) for order in orders]
        await wait_until(lambda: all(hold.reached.is_set() for hold in holds), "both have seen the last one")
        for hold in holds:
            hold.released.set()
        ends = await asyncio.gather(*(end_of(handle, order) for handle, order in zip(handles, orders, strict=True)))

    ledger = read_ledger(shop)
    shop.close()
    assert {status for status, _ in ends} == {Status.COMPLETED, Status.REJECTED}
    for order, (status, _) in zip(orders, ends, strict=True):
        if status == Status.COMPLETED:
            assert_done_once(ledger, order)
        else:
            assert attempts_of(ledger, order, "update_inventory") == ["OutOfStock"]
            assert [charge.refunded for charge in ledger.charges if charge.order_id == order.order_id] == [True]
            assert_nothing_held(ledger, order)
    assert ledger.stock["last-one"].now == 0
