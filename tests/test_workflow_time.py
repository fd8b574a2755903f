"""What takes hours or a day, in seconds: the server of these tests skips the time in which nothing happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import make_order
from counter import (
    assert_done_once,
    assert_nothing_held,
    attempts_of,
    end_of,
    serve,
    start,
)
from temporalio import activity, workflow
from temporalio.api.enums.v1 import EventType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.testservice.v1 import LockTimeSkippingRequest, UnlockTimeSkippingRequest
from temporalio.api.workflowservice.v1 import PollActivityTaskQueueRequest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

import workflows
from comparison.stage.processes import POLL_SECONDS
from run_workflow import not_completed
from shop.faults import parse_faults
from shop.ledger import Ledger, read_ledger
from shop.orders import Order, Outcome, Status
from shop.shop import Shop
from workflows import (
    CONFIRMATION_RETRIES,
    FEW_ATTEMPTS,
    TASK_QUEUE,
    UNTIL_DONE,
    UNTIL_UNDONE,
    OrderWorkflow,
)

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
def run(environment: WorkflowEnvironment, tmp_path: Path) -> RunOrder:
    async def run_order(order: Order, faults: str, workflow_type: type = OrderWorkflow) -> Run:
        client, shop, times = environment.client, Shop(tmp_path / "shop", parse_faults(faults)), AttemptTimes()
        async with serve(client, shop, workflows=[workflow_type], interceptors=[times]):
            handle = await start(client, order)
            try:
                outcome = await asyncio.wait_for(handle.result(), MAX_TEST_SECONDS)
            except WorkflowFailureError as error:
                outcome = await not_completed(client, order.order_id, error.cause)
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


async def duration(handle: WorkflowHandle[Any, Any]) -> timedelta:
    """Return the time from the first event of a workflow to its last."""
    events = (await handle.fetch_history()).events
    assert events[0].event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    return events[-1].event_time.ToDatetime() - events[0].event_time.ToDatetime()


async def test_an_inventory_and_a_mail_that_are_down_for_hours_delay_the_order_and_no_more(run: RunOrder) -> None:
    order = make_order()

    ran = await run(order, "update_inventory:unavailable*70,send_confirmation:unavailable*70")

    assert ran.outcome.status == Status.COMPLETED
    assert ran.took > timedelta(hours=2)
    for step, policy in (("update_inventory", UNTIL_DONE), ("send_confirmation", CONFIRMATION_RETRIES)):
        assert attempts_of(ran.ledger, order, step) == ["ServiceUnavailable"] * 70 + ["ok"]
        assert ran.times.pauses(step)[:6] == waits(policy, 71)[:6]
        assert max(ran.times.pauses(step)) - max(waits(policy, 71)) in range(5)
    assert_done_once(ran.ledger, order)


@workflow.defn(name="OrderWorkflow", sandboxed=False)
class UnsandboxedWorkflow(OrderWorkflow):
    """The same, with what the test has patched: in the sandbox it would be loaded anew."""

    @workflow.run
    async def run(self, order: Order) -> Outcome:
        return await super().run(order)


async def test_a_mail_is_tried_as_often_as_its_policy_says_then_noted_as_not_sent(
    run: RunOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = make_order()
    # Its 1,440 attempts would take the test ten seconds of CPU.
    monkeypatch.setattr(workflows, "CONFIRMATION_RETRIES", replace(CONFIRMATION_RETRIES, maximum_attempts=8))

    ran = await run(order, "send_confirmation:unavailable*inf,note_unsent:unavailable*10", UnsandboxedWorkflow)

    assert ran.outcome.status == Status.COMPLETED
    assert "no confirmation is known to have been sent: ServiceUnavailable" in ran.outcome.detail
    assert attempts_of(ran.ledger, order, "send_confirmation") == ["ServiceUnavailable"] * 8
    assert attempts_of(ran.ledger, order, "note_unsent") == ["ServiceUnavailable"] * 10 + ["ok"]
    assert_done_once(ran.ledger, order, is_sent=False)


async def test_a_payment_whose_replies_are_lost_is_given_up_and_the_calls_that_end_the_order_go_on_until_they_work(
    run: RunOrder,
) -> None:
    order, attempts = make_order(), FEW_ATTEMPTS.maximum_attempts
    calls = ("void_charge", "void_sale", "refund_payment")

    ran = await run(order, ",".join(("process_payment:lost_reply*inf", *(f"{call}:unavailable*10" for call in calls))))

    assert ran.outcome.status == Status.FAILED
    assert attempts_of(ran.ledger, order, "process_payment") == ["ReplyLost"] * attempts
    assert ran.times.pauses("process_payment") == waits(FEW_ATTEMPTS, attempts)
    for call in calls:
        assert attempts_of(ran.ledger, order, call) == ["ServiceUnavailable"] * 10 + ["ok"]
        assert max(ran.times.pauses(call)) - max(waits(UNTIL_UNDONE, 11)) in range(5)
    assert [charge.refunded for charge in ran.ledger.charges] == [True]
    assert_nothing_held(ran.ledger, order)


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
