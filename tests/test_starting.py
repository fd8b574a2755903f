"""One workflow for one id, whoever started it and however it stands; and what somebody is told who waits for it."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import Stage, make_order
from counter import Hold, attempts_of, end_of, serve, start
from temporalio import workflow
from temporalio.api.enums.v1 import WorkflowExecutionStatus
from temporalio.api.workflowservice.v1 import PauseWorkflowExecutionRequest, UnpauseWorkflowExecutionRequest
from temporalio.client import Client

import plumbing.starting
import plumbing.waiting
from comparison.stage.processes import Server, wait_until
from plumbing.connection import add_search_attribute
from plumbing.starting import IdTaken, start_once
from plumbing.waiting import saying_what_for, what_for
from run_workflow import run_order
from shop.faults import parse_faults
from shop.orders import Order, Outcome, Status
from shop.shop import Shop
from workflows import ORDER_STATUS, TASK_QUEUE

ORDER = make_order()


@workflow.defn
class ParcelsWorkflow:
    @workflow.run
    async def run(self, parcels: list[Order]) -> None:
        """Take any number."""


NOBODY = f"no worker listens on task queue {TASK_QUEUE}, all are busy, or a killed one still holds it"


async def start_by_command(stage: Stage, content: str, *options: str, type: str = "OrderWorkflow") -> None:
    """Start a workflow under the id of the order."""
    names = ("--type", type, "--workflow-id", "order-1", "--task-queue", TASK_QUEUE, "--input", content)
    await stage.temporal("workflow", "start", *names, *options)


@pytest.fixture
async def counter(stage: Stage) -> AsyncIterator[Callable[[str], Shop]]:
    """Give what opens the stage's shop."""
    await add_search_attribute(stage.client, ORDER_STATUS)
    opened: list[Shop] = []

    def open_shop(faults: str = "") -> Shop:
        opened.append(Shop(stage.data, parse_faults(faults)))
        return opened[-1]

    yield open_shop
    for shop in opened:
        shop.close()


async def test_a_list_of_what_another_workflow_takes_is_compared_as_it_was_declared(stage: Stage) -> None:
    async def start(parcels: list[Order]) -> int | None:
        options = {"id": "parcels", "task_queue": "nobody's"}
        return (await start_once(stage.client, ParcelsWorkflow.run, parcels, **options))[1]

    first, again = await start([ORDER]), await start([ORDER])

    assert (first, again) == (None, WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING)
    with pytest.raises(IdTaken, match="other content"):
        await start([ORDER, ORDER])


async def test_an_order_that_another_client_started_is_attached_to(
    stage: Stage, counter: Callable[[str], Shop], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await start_by_command(stage, json.dumps({"a_newer_field": True, **asdict(ORDER)}))
    running = asyncio.create_task(run_order(stage.client, ORDER, wait=True))
    await wait_until(lambda: "order 1: attached to " in caplog.text, "it is attached to")

    async with serve(stage.client, counter("")):
        outcome = await running

    assert outcome.status is Status.COMPLETED
    assert [charge.order_id for charge in stage.ledger().charges] == ["1"]


@pytest.mark.parametrize(
    ("type", "content"),
    [
        ("OtherWorkflow", json.dumps(asdict(ORDER))),
        ("OrderWorkflow", '{"id": 1}'),
        ("OrderWorkflow", json.dumps(asdict(ORDER)).replace('"quantity": 2', '"quantity": 2.0')),
        ("OrderWorkflow", "7"),
    ],
)
async def test_an_id_that_is_taken_by_something_else_is_left_alone(stage: Stage, type: str, content: str) -> None:
    await start_by_command(stage, content, type=type)

    outcome = await run_order(stage.client, ORDER, wait=True)

    assert outcome == Outcome("1", Status.UNKNOWN, "order-1 runs or ran with other content; it was left alone")


async def test_a_start_on_a_cron_schedule_is_not_waited_for_because_it_never_ends(stage: Stage) -> None:
    await start_by_command(stage, json.dumps(asdict(ORDER)), "--cron", "@every 1h")

    outcome = await asyncio.wait_for(run_order(stage.client, ORDER, wait=True), 10)

    assert outcome.status is Status.UNKNOWN
    assert "runs on a cron schedule, and so has no end" in outcome.detail


async def test_other_content_under_the_id_of_an_open_order_is_refused_and_the_order_goes_on(
    stage: Stage, counter: Callable[[str], Shop]
) -> None:
    handle = await start(stage.client, ORDER)

    refused = await run_order(stage.client, replace(ORDER, customer_id="grace"), wait=True)
    async with serve(stage.client, counter("")):
        status, _ = await end_of(stage.client, handle, ORDER)

    assert (refused.status, status) == (Status.UNKNOWN, Status.COMPLETED)
    assert [charge.amount_cents for charge in stage.ledger().charges] == [ORDER.total_cents]


@pytest.mark.parametrize(
    ("token", "faults", "status"),
    [
        ("tok_visa", "", Status.COMPLETED),
        ("tok_chargeDeclined", "", Status.REJECTED),
        ("tok_visa", "process_payment:unavailable*inf", Status.FAILED),
    ],
)
async def test_an_order_that_is_run_again_after_its_end_gives_the_outcome_it_had_waited_for_or_not(
    stage: Stage, counter: Callable[[str], Shop], token: str, faults: str, status: Status
) -> None:
    order = replace(ORDER, payment_token=token)
    async with serve(stage.client, counter(faults)):
        first = await run_order(stage.client, order, wait=True)
        before = stage.ledger()

        again = [await run_order(stage.client, order, wait=wait) for wait in (True, False)]

    assert first.status is status
    assert again == [first, first]
    assert stage.ledger() == before


async def test_the_same_order_started_twice_at_once_is_one_order_with_one_answer(
    stage: Stage, counter: Callable[[str], Shop]
) -> None:
    async with serve(stage.client, counter("")):
        one, other = await asyncio.gather(*(run_order(stage.client, ORDER, wait=True) for _ in range(2)))

    assert one.status is Status.COMPLETED
    assert other == one
    assert [attempt.outcome for attempt in stage.ledger().attempts] == ["ok"] * 4


async def test_who_waits_is_told_what_for_whatever_it_is(stage: Stage, counter: Callable[[str], Shop]) -> None:
    """A worker that never came, a service that is down, a step under way, a worker that has gone."""
    client, workflow_id, told = stage.client, "order-1", list[str]()
    handle = await start(client, ORDER)
    told.append(await what_for(client, workflow_id))
    async with serve(client, counter("update_inventory:unavailable*inf")):
        await wait_until(lambda: len(attempts_of(stage.ledger(), ORDER, "update_inventory")) > 1, "it is tried again")
        told.append(await what_for(client, workflow_id))
    while NOBODY not in (told_last := await what_for(client, workflow_id)):
        await asyncio.sleep(0.1)
    told.append(told_last)
    await handle.terminate()

    assert told[0] == NOBODY
    assert told[1].startswith("update_inventory, attempt ")
    assert told[1].endswith(": the service is unavailable (inventory)")
    assert told[2].endswith(f": {NOBODY}")


async def test_a_step_under_way_is_told_as_such(stage: Stage) -> None:
    hold = Hold(step="validate_inventory")
    await add_search_attribute(stage.client, ORDER_STATUS)
    shop = Shop(stage.data, hold.plan())
    async with serve(stage.client, shop):
        handle = await start(stage.client, ORDER)
        await wait_until(hold.reached.is_set, "it is under way")
        told = await what_for(stage.client, handle.id)
        hold.released.set()
        await end_of(stage.client, handle, ORDER)
    shop.close()

    assert told == "validate_inventory, attempt 1: no answer yet"


async def test_where_the_search_attribute_is_missing_the_starter_says_that_orders_wait_for_it(
    stage: Stage, shop: Shop
) -> None:
    async with serve(stage.client, shop):
        handle = await start(stage.client, ORDER)
        while "OrderStatus" not in (told := await what_for(stage.client, handle.id)):
            await asyncio.sleep(0.2)
        await add_search_attribute(stage.client, ORDER_STATUS)
        status, _ = await end_of(stage.client, handle, ORDER)

    assert told.startswith("its workers fail to run it: ")
    assert status is Status.COMPLETED


async def test_what_is_waited_for_is_said_after_a_while_and_again_and_not_after_the_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(plumbing.waiting, "FIRST_SECONDS", 0.1)
    monkeypatch.setattr(plumbing.waiting, "NEXT_SECONDS", 0.1)
    await start(stage.client, ORDER)

    async with saying_what_for(stage.client, "order-1"):
        await wait_until(lambda: caplog.text.count(f"order-1 waits: {NOBODY}") > 1, "it is said twice")
    said = len(caplog.records)
    await asyncio.sleep(0.5)

    assert len(caplog.records) == said


async def start_pausing_server(directory: Path, *settings: str) -> Server:
    """Start a server on which workflows can be paused."""
    server = Server(directory)
    server.executable = str(Path(sys.executable).parent / "temporal")
    server.arguments = (
        *("server", "start-dev", f"--db-filename={server.database}", f"--port={server.port}"),
        *(f"--ui-port={server.port + 1000}", "--search-attribute=OrderStatus=Keyword"),
        *(f"--dynamic-config-value={setting}" for setting in ("frontend.WorkflowPauseEnabled=true", *settings)),
    )
    await server.start()
    return server


@pytest.fixture(scope="module")
async def pausing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """Run a server on which workflows can be paused."""
    directory = tmp_path_factory.mktemp("pausing")
    server = await start_pausing_server(directory)
    yield Stage(server, "default", await server.client(), directory)
    await server.kill()


async def pause(client: Client, request: PauseWorkflowExecutionRequest | UnpauseWorkflowExecutionRequest) -> None:
    request.namespace, request.workflow_id, request.identity, request.request_id = client.namespace, "order-1", "t", "t"
    if isinstance(request, PauseWorkflowExecutionRequest):
        await client.workflow_service.pause_workflow_execution(request)
    else:
        await client.workflow_service.unpause_workflow_execution(request)


async def test_a_paused_order_is_attached_to_told_as_such_and_goes_on_when_it_is_let_go(pausing: Stage) -> None:
    client = pausing.client
    shop = Shop(pausing.data)
    await start(client, ORDER)
    await pause(client, PauseWorkflowExecutionRequest(reason="by the test"))
    while "paused" not in (told := await what_for(client, "order-1")):
        await asyncio.sleep(0.1)

    left = await run_order(client, ORDER, wait=False)
    other = await run_order(client, replace(ORDER, customer_id="grace"), wait=True)
    waiting = asyncio.create_task(run_order(client, ORDER, wait=True))
    async with serve(client, shop):
        await asyncio.sleep(1)
        is_waiting = not waiting.done()
        await pause(client, UnpauseWorkflowExecutionRequest(reason="by the test"))
        outcome = await asyncio.wait_for(waiting, 30)
    shop.close()

    assert told == "it is paused; let it go on: temporal workflow unpause --workflow-id order-1"
    assert (left.status, other.status, is_waiting) == (Status.STARTED, Status.UNKNOWN, True)
    assert outcome.status is Status.COMPLETED


async def test_an_order_that_another_starter_has_brought_to_its_end_meanwhile_is_not_started_again(
    stage: Stage, counter: Callable[[str], Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two starters find it terminated; one is quicker."""
    client, found_terminated = stage.client, await start(stage.client, ORDER)
    await found_terminated.terminate()
    describe = plumbing.starting.describe
    async with serve(client, counter("")):

        async def describe_late(client: Client, workflow_id: str, *, retry: bool = True) -> object:
            found = await describe(client, workflow_id, retry=retry)
            monkeypatch.setattr(plumbing.starting, "describe", describe)
            await run_order(client, ORDER, wait=True)
            return found

        monkeypatch.setattr(plumbing.starting, "describe", describe_late)
        outcome = await run_order(client, ORDER, wait=True)
        runs = [run.status.name async for run in client.list_workflows("WorkflowId = 'order-1'") if run.status]

    assert outcome.status is Status.COMPLETED
    assert [attempt.outcome for attempt in stage.ledger().attempts] == ["ok"] * 4
    assert runs.count("COMPLETED") == 1


async def test_a_run_with_other_content_that_took_the_place_of_an_order_is_not_taken_for_it(
    stage: Stage, counter: Callable[[str], Shop], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    waiting = asyncio.create_task(run_order(stage.client, ORDER, wait=True))
    await wait_until(lambda: "order 1: started " in caplog.text, "it is open")

    other = json.dumps(asdict(replace(ORDER, customer_id="grace")))
    await start_by_command(stage, other, "--id-conflict-policy", "TerminateExisting")
    async with serve(stage.client, counter("")):
        outcome = await asyncio.wait_for(waiting, 30)

    assert outcome == Outcome("1", Status.UNKNOWN, "order-1 runs or ran with other content; it was left alone")
