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
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.testservice.v1 import LockTimeSkippingRequest, UnlockTimeSkippingRequest
from temporalio.api.workflowservice.v1 import PollActivityTaskQueueRequest
from temporalio.client import Client
from temporalio.common import RetryPolicy
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
    start,
    voids_of,
)

from comparison.stage.processes import POLL_SECONDS, wait_until
from plumbing.admission import StrictPayloadConverter
from plumbing.connection import add_search_attribute
from run_workflow import wait_for_outcome
from shop.faults import parse_faults
from shop.ledger import Ledger, read_ledger
from shop.orders import Item, Order, Outcome, Status
from shop.shop import Shop
from workflows import CONFIRMATION_RETRIES, FEW_ATTEMPTS, ORDER_STATUS, TASK_QUEUE, UNTIL_DONE, OrderWorkflow

TEST_SERVER = Path(sys.executable).parent / "temporal-test-server"
# Of real time: what is here to show is that hours of the server's time pass in it.
MAX_TEST_SECONDS = 60.0


@dataclass(frozen=True)
class AttemptTimes(Interceptor):
    """Notes when each attempt starts, on the server's clock, and the number that the server gives it."""

    of: dict[str, list[datetime]] = field(default_factory=dict)
    numbers: dict[str, list[int]] = field(default_factory=dict)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        times, numbers = self.of, self.numbers

        class NoteTime(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # Any: as the SDK declares it
                info = activity.info()
                times.setdefault(info.activity_type, []).append(info.started_time)
                numbers.setdefault(info.activity_type, []).append(info.attempt)
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
async def environment() -> AsyncIterator[WorkflowEnvironment]:
    """Run a server that skips time, for one test."""
    async with await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=str(TEST_SERVER),
        data_converter=replace(DataConverter.default, payload_converter_class=StrictPayloadConverter),
    ) as started:
        # An order hangs on a server that does not know the attribute.
        await started.client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=started.client.namespace,
                search_attributes={ORDER_STATUS.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD},
            )
        )
        yield started


@pytest.fixture
def run(environment: WorkflowEnvironment, tmp_path: Path) -> RunOrder:
    async def run_order(order: Order, faults: str = "") -> Run:
        client, shop, times = environment.client, Shop(tmp_path / "shop", parse_faults(faults)), AttemptTimes()
        async with serve(client, shop, interceptors=[times]):
            handle = await start(client, order)
            outcome = await asyncio.wait_for(wait_for_outcome(client, handle, order), MAX_TEST_SECONDS)
        assert outcome
        ledger = read_ledger(shop.location)
        shop.close()
        return Run(outcome, await duration(handle), ledger, times)

    return run_order


def waits(policy: RetryPolicy, attempts: int) -> list[int]:
    """Return the whole seconds that a policy leaves between so many attempts."""
    longest = policy.maximum_interval or timedelta.max
    doublings = (min(number, 20) for number in range(attempts - 1))  # 2**20 s is longer than the longest pause
    pauses = (policy.initial_interval * policy.backoff_coefficient**number for number in doublings)
    return [int(min(pause, longest).total_seconds()) for pause in pauses]


async def take_step(client: Client, call: Callable[[Order], str | None], order: Order) -> None:
    """Do one step by hand. A worker that leaves would not do: this server goes on to hand tasks to its last poll."""
    task = await client.workflow_service.poll_activity_task_queue(
        PollActivityTaskQueueRequest(
            namespace=client.namespace, task_queue=TaskQueue(name=TASK_QUEUE), identity="by hand"
        )
    )
    assert task.activity_type.name == call.__name__
    await client.get_async_activity_handle(task_token=task.task_token).complete(call(order))


async def skip(environment: WorkflowEnvironment, time: timedelta) -> None:
    """Let time pass although one step is due: by itself the server skips none while something waits for a worker."""
    await environment.client.test_service.unlock_time_skipping(UnlockTimeSkippingRequest())
    await environment.sleep(time)
    await environment.client.test_service.lock_time_skipping(LockTimeSkippingRequest())


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
    assert ran.took > timedelta(hours=2)
    assert max(ran.times.pauses("update_inventory")) - max(waits(UNTIL_DONE, 151)) in range(5)
    assert_done_once(ran.ledger, order)


async def test_a_mail_is_tried_as_often_as_its_policy_says_then_noted_as_not_sent(run: RunOrder) -> None:
    order, attempts = make_order(), CONFIRMATION_RETRIES.maximum_attempts

    ran = await run(order, faults="send_confirmation:unavailable*inf")

    assert ran.outcome.status == Status.COMPLETED
    assert "no confirmation is known to have been sent: ServiceUnavailable" in ran.outcome.detail
    assert attempts_of(ran.ledger, order, "send_confirmation") == ["ServiceUnavailable"] * attempts
    planned = waits(CONFIRMATION_RETRIES, attempts)
    assert ran.times.pauses("send_confirmation")[:6] == planned[:6]
    assert max(ran.times.pauses("send_confirmation")) - max(planned) in range(5)
    assert timedelta(0) < ran.took - timedelta(seconds=sum(planned)) < timedelta(minutes=20)
    assert_done_once(ran.ledger, order, is_sent=False)


async def test_two_days_without_a_worker_use_up_no_attempt_and_the_order_is_mailed(
    environment: WorkflowEnvironment, tmp_path: Path
) -> None:
    order, times = make_order(), AttemptTimes()
    client, shop = environment.client, Shop(tmp_path / "shop", parse_faults("send_confirmation:unavailable*2"))

    async with serve(client):
        handle = await start(client, order)
        for call in (
            shop.inventory.validate_inventory,
            shop.payments.process_payment,
            shop.inventory.update_inventory,
        ):
            await take_step(client, call, order)
        while await handle.query(OrderWorkflow.status) != "send_confirmation":
            await asyncio.sleep(POLL_SECONDS)
        await skip(environment, timedelta(days=2))
        tried_before = attempts_of(read_ledger(shop.location), order, "send_confirmation")
        async with serve(client, shop, workflows=(), interceptors=[times]):
            status, _ = await end_of(client, handle, order)

    ledger = read_ledger(shop.location)
    shop.close()
    assert (tried_before, times.numbers) == ([], {"send_confirmation": [1, 2, 3]})
    assert attempts_of(ledger, order, "send_confirmation") == ["ServiceUnavailable"] * 2 + ["ok"]
    assert status == Status.COMPLETED
    assert await duration(handle) > timedelta(days=2)
    assert_done_once(ledger, order)


async def test_a_mail_that_can_be_sent_after_hours_is_sent(run: RunOrder) -> None:
    order = make_order()

    ran = await run(order, faults="send_confirmation:unavailable*150")

    assert ran.outcome.status == Status.COMPLETED
    assert ran.took > timedelta(hours=2)
    assert_done_once(ran.ledger, order)


async def test_a_payment_that_is_down_for_good_is_given_up_after_the_attempts_and_pauses_of_its_policy(
    run: RunOrder,
) -> None:
    order, attempts = make_order(), FEW_ATTEMPTS.maximum_attempts

    ran = await run(order, faults="process_payment:unavailable*inf")

    assert (ran.outcome.status, ran.outcome.detail.split(":")[0]) == (Status.FAILED, "ServiceUnavailable")
    assert attempts_of(ran.ledger, order, "process_payment") == ["ServiceUnavailable"] * attempts
    assert ran.times.pauses("process_payment") == waits(FEW_ATTEMPTS, attempts)
    assert voids_of(ran.ledger, order) == ["void_charge"]
    assert_nothing_held(ran.ledger, order)


async def test_a_validation_that_is_down_for_good_is_given_up_after_the_attempts_of_its_policy(run: RunOrder) -> None:
    order = make_order()

    ran = await run(order, faults="validate_inventory:unavailable*inf")

    assert ran.outcome.status == Status.FAILED
    assert [attempt.step for attempt in ran.ledger.attempts] == [
        "validate_inventory"
    ] * FEW_ATTEMPTS.maximum_attempts + ["void_charge"]
    assert_nothing_held(ran.ledger, order)


async def test_a_payment_that_only_times_out_is_refunded_because_it_may_have_happened(run: RunOrder) -> None:
    order = make_order()

    ran = await run(order, faults="process_payment:lost_reply*inf")

    assert ran.outcome.status == Status.FAILED
    assert attempts_of(ran.ledger, order, "process_payment") == ["ReplyLost"] * FEW_ATTEMPTS.maximum_attempts
    assert [charge.refunded for charge in ran.ledger.charges] == [True]
    assert_nothing_held(ran.ledger, order)


@pytest.mark.parametrize(
    ("call", "token", "faults", "status"),
    [
        ("void_charge", "tok_chargeDeclined", "", Status.REJECTED),
        ("void_sale", "tok_visa", "process_payment:lost_reply*inf", Status.FAILED),
        ("refund_payment", "tok_visa", "process_payment:lost_reply*inf", Status.FAILED),
    ],
)
async def test_a_call_that_ends_an_order_is_repeated_for_hours_until_it_works(
    call: str, token: str, faults: str, status: Status, run: RunOrder
) -> None:
    order = make_order(payment_token=token)

    ran = await run(order, faults=",".join(filter(None, (faults, f"{call}:unavailable*150"))))

    assert ran.outcome.status == status
    assert attempts_of(ran.ledger, order, call) == ["ServiceUnavailable"] * 150 + ["ok"]
    assert max(ran.times.pauses(call)) - max(waits(UNTIL_DONE, 151)) in range(5)
    assert ran.took > timedelta(hours=2)
    assert_nothing_held(ran.ledger, order)


async def test_a_note_is_repeated_for_hours_until_it_works(run: RunOrder) -> None:
    order = make_order(customer_id="nobody")

    ran = await run(order, faults="note_unsent:unavailable*150")

    assert ran.outcome.status == Status.COMPLETED
    assert attempts_of(ran.ledger, order, "note_unsent") == ["ServiceUnavailable"] * 150 + ["ok"]
    assert ran.took > timedelta(hours=2)
    assert_done_once(ran.ledger, order, is_sent=False)


async def test_an_unknown_customer_is_noted_as_not_mailed_at_once_and_the_order_completes(run: RunOrder) -> None:
    order = make_order(customer_id="nobody")

    ran = await run(order)

    assert ran.outcome.status == Status.COMPLETED
    assert "no confirmation is known to have been sent: UnknownCustomer" in ran.outcome.detail
    assert attempts_of(ran.ledger, order, "send_confirmation") == ["UnknownCustomer"]
    assert_done_once(ran.ledger, order, is_sent=False)


async def test_of_two_who_want_the_last_item_one_gets_it_and_the_other_is_refunded(stage: Stage) -> None:
    # On the real server: the one that skips time is made for one workflow at a time, and skips the other's life.
    orders = [make_order(order_id, items=(Item("last-one", 1, 90_00),)) for order_id in ("1", "2")]
    holds = [Hold(step="process_payment") for _ in orders]
    plans = {order.order_id: hold.plan() for order, hold in zip(orders, holds, strict=True)}
    shop = Shop(stage.data, PlanOfEachOrder(plans=plans))
    await add_search_attribute(stage.client, ORDER_STATUS)

    async with serve(stage.client, shop):
        handles = [await start(stage.client, order) for order in orders]
        await wait_until(lambda: all(hold.reached.is_set() for hold in holds), "both have seen the last one")
        for hold in holds:
            hold.released.set()
        pairs = zip(handles, orders, strict=True)
        ends = await asyncio.gather(*(end_of(stage.client, handle, order) for handle, order in pairs))

    ledger = read_ledger(shop.location)
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
