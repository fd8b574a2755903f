"""Versions of the code side by side: which worker an order goes to, when the old one may go, and how to go back."""

from __future__ import annotations

import asyncio
import shutil
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
from conftest import Stage, make_order
from counter import (
    COMPLETED,
    Hold,
    PlanOfEachOrder,
    assert_done_once,
    end_of,
    serve,
    start,
    wait_for_attempt,
)
from temporalio import activity, workflow
from temporalio.api.deployment.v1 import WorkerDeploymentVersion
from temporalio.api.enums.v1 import EventType, TaskQueueType, VersionDrainageStatus, VersioningBehavior
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    DescribeWorkerDeploymentVersionRequest,
    SetWorkerDeploymentCurrentVersionRequest,
    SetWorkerDeploymentRampingVersionRequest,
)
from temporalio.client import WorkflowFailureError, WorkflowHistory
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.worker import WorkerDeploymentConfig
from test_deploys import ChangedWorkflow
from test_run_workflow import end_without_a_server
from test_starting import start_pausing_server

from comparison.stage.processes import ROOT, Worker
from plumbing.connection import add_search_attribute, connect
from plumbing.process import _shorten_expected_failure
from plumbing.starting import describe
from plumbing.versions import read_version
from plumbing.waiting import what_for
from run_worker import main
from run_workflow import run_order
from shop.faults import parse_faults
from shop.orders import Item, Order, Outcome, Status
from shop.shop import Shop
from workflows import ATTEMPT_TIMEOUT, FEW_ATTEMPTS, ORDER_STATUS, TASK_QUEUE, OrderWorkflow, error_type_of

DEPLOYMENT = "orders"
A_SECOND = timedelta(seconds=1)  # after which a workflow task that failed is repeated; by default ten
ONE_MUG = (Item("mug", 1, 12_50),)
STOCK_IS_DOWN = parse_faults("update_inventory:unavailable*inf")
OLD, NEW = make_order("old"), make_order("new")
PATIENCE_SECONDS = 40.0


@pytest.fixture
async def stage(stage: Stage) -> Stage:
    """Give the stage, with the search attribute that a worker would add."""
    await add_search_attribute(stage.client, ORDER_STATUS)
    return stage


def build(build_id: str) -> WorkerDeploymentConfig | None:
    """Return what `run_worker.py --deployment orders --build-id ...` serves as."""
    return read_version(Namespace(deployment=DEPLOYMENT, build_id=build_id))


async def until(stage: Stage, number: int, query: str) -> None:
    """Wait until so many workflows are found."""

    async def count() -> None:
        while (await stage.client.count_workflows(query)).count != number:
            await asyncio.sleep(0.1)

    await asyncio.wait_for(count(), PATIENCE_SECONDS)


async def route(stage: Stage, build_id: str, ramp_percentage: float = 0.0) -> None:
    """Set the current or the ramping version, as soon as the server knows it, and wait until both queues follow."""
    service = stage.client.workflow_service
    current = SetWorkerDeploymentCurrentVersionRequest(
        namespace=stage.namespace, deployment_name=DEPLOYMENT, build_id=build_id
    )
    ramping = SetWorkerDeploymentRampingVersionRequest(
        namespace=stage.namespace, deployment_name=DEPLOYMENT, build_id=build_id, percentage=ramp_percentage
    )
    while True:
        with suppress(RPCError):  # until its worker has polled both queues
            if ramp_percentage:
                await service.set_worker_deployment_ramping_version(ramping)
            else:
                await service.set_worker_deployment_current_version(current)
            break
        await asyncio.sleep(0.1)
    for kind in (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY):
        request = DescribeTaskQueueRequest(
            namespace=stage.namespace, task_queue=TaskQueue(name=TASK_QUEUE), task_queue_type=kind
        )
        while True:
            told = (await service.describe_task_queue(request)).versioning_info
            version = told.ramping_deployment_version if ramp_percentage else told.current_deployment_version
            if version.build_id == build_id:
                break
            await asyncio.sleep(0.05)


def moved_to(build_id: str) -> tuple[str, ...]:
    """Return the options that move an order to a version, where its own behaviour, pinned, takes over again."""
    target = ("--versioning-override-deployment-name", DEPLOYMENT, "--versioning-override-build-id", build_id)
    return "--versioning-override-behavior", "one_time", *target


async def pinned_to(stage: Stage, order: Order) -> str:
    """Return the build that an order is pinned to; nothing if it is not."""
    info = (await describe(stage.client, f"order-{order.order_id}")).workflow_execution_info.versioning_info
    is_pinned = info.behavior == VersioningBehavior.VERSIONING_BEHAVIOR_PINNED
    return info.deployment_version.build_id if is_pinned else ""


async def has_paused(stage: Stage, order: Order) -> bool:
    """Tell whether an order took the pause of `ChangedWorkflow`."""
    events = (await stage.client.get_workflow_handle(f"order-{order.order_id}").fetch_history()).events
    return any(event.event_type == EventType.EVENT_TYPE_TIMER_FIRED for event in events)


def patched(history: WorkflowHistory) -> bool:
    """Tell whether an order took the new branch of a patch."""
    return any(event.event_type == EventType.EVENT_TYPE_MARKER_RECORDED for event in history.events)


async def told(stage: Stage, order: Order, words: str) -> str:
    """Return what somebody who waits for the order is told, once these words are in it."""

    async def ask() -> str:
        while words not in (answer := await what_for(stage.client, f"order-{order.order_id}")):
            await asyncio.sleep(0.1)
        return answer

    return await asyncio.wait_for(ask(), PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--deployment=orders"], "--build-id is missing: a version needs both"),
        (["--build-id=v1"], "--deployment is missing: a version needs both"),
        (["--deployment=", "--build-id=v1"], "--deployment must match [A-Za-z0-9][A-Za-z0-9_-]{0,63}, not ''"),
        (["--deployment=orders.eu", "--build-id=v1"], "--deployment must match"),
        (["--deployment=__orders", "--build-id=v1"], "--deployment must match"),
        (["--deployment=orders", "--build-id="], "--build-id must match"),
        (["--deployment=orders", "--build-id=v 1"], "--build-id must match"),
        (["--deployment=orders", "--build-id=v1\n"], "--build-id must match"),
        (["--deployment=orders", f"--build-id={'v' * 65}"], "--build-id must match"),
    ],
)
def test_half_a_version_or_an_odd_name_is_bad_usage_before_anything_is_opened_or_connected_to(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    status = end_without_a_server(monkeypatch, main, f"--data={tmp_path / 'shop'}", *arguments)

    output, errors = capfd.readouterr()
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith(f"run_worker: {sentence}")
    assert not (tmp_path / "shop").exists()


async def test_a_worker_says_which_version_it_serves_and_pins_its_orders_to_it(stage: Stage) -> None:
    worker = Worker(stage.directory / "worker", stage.settings, stage.data)
    worker.arguments += ("--deployment=orders", "--build-id=2026.11.29-5a91bcb")
    stage.started.append(worker)
    await worker.start()
    await route(stage, "2026.11.29-5a91bcb")

    outcome = await run_order(stage.client, NEW, wait=True)

    assert f"serving task queue {TASK_QUEUE} as orders.2026.11.29-5a91bcb for the shop" in worker.errors.read_text()
    assert outcome.status is Status.COMPLETED
    assert await pinned_to(stage, NEW) == "2026.11.29-5a91bcb"


async def test_an_order_ends_with_the_build_that_began_it_while_the_next_build_takes_the_new_ones(
    stage: Stage,
) -> None:
    """The next build takes another step first, without a patch."""
    hold = Hold(step="process_payment")
    of_the_first = 'TemporalWorkerDeploymentVersion="orders:v1" AND CloseTime IS NULL'
    with closing(Shop(stage.data, PlanOfEachOrder(plans={"old": hold.plan()}))) as shop:
        async with serve(stage.client, shop, version=build("v1")):
            await route(stage, "v1")
            old = await start(stage.client, OLD)
            await asyncio.to_thread(hold.reached.wait, PATIENCE_SECONDS)
            async with serve(stage.client, shop, [ChangedWorkflow], version=build("v2")):
                await route(stage, "v2")
                new_ends = await end_of(stage.client, await start(stage.client, NEW), NEW)
                await until(stage, 1, of_the_first)
                hold.released.set()
                old_ends = await end_of(stage.client, old, OLD)
                await until(stage, 0, of_the_first)

    assert (old_ends, new_ends) == (COMPLETED, COMPLETED)
    assert (await pinned_to(stage, OLD), await pinned_to(stage, NEW)) == ("v1", "v2")
    assert (await has_paused(stage, OLD), await has_paused(stage, NEW)) == (False, True)


async def test_a_ramp_gives_some_of_the_new_orders_to_the_next_build(stage: Stage, shop: Shop) -> None:
    taken_by, numbers = set[str](), count()
    async with serve(stage.client, shop, version=build("v1")), serve(stage.client, shop, version=build("v2")):
        await route(stage, "v1")
        await route(stage, "v2", ramp_percentage=50)
        while len(taken_by) < 2:  # which one takes an order, is chance
            order = make_order(str(next(numbers)), items=ONE_MUG)
            assert (await run_order(stage.client, order, wait=True)).status is Status.COMPLETED
            taken_by.add(await pinned_to(stage, order))

    assert taken_by == {"v1", "v2"}


@pytest.mark.parametrize("workflow_type", [OrderWorkflow, ChangedWorkflow])
async def test_the_first_versioned_build_takes_over_orders_that_began_without_and_so_must_fit_them(
    workflow_type: type, stage: Stage
) -> None:
    hold = Hold(step="process_payment")
    with closing(Shop(stage.data, hold.plan())) as shop:
        async with serve(stage.client, shop):
            handle = await start(stage.client, OLD, task_timeout=A_SECOND)
            await asyncio.to_thread(hold.reached.wait, PATIENCE_SECONDS)
            async with serve(stage.client, shop, [workflow_type], version=build("v1")):
                await route(stage, "v1")
                hold.released.set()
                if workflow_type is ChangedWorkflow:
                    await told(stage, OLD, "Nondeterminism")
                    await route(stage, "")
                end = await end_of(stage.client, handle, OLD)

    assert end == COMPLETED
    assert await pinned_to(stage, OLD) == ("v1" if workflow_type is OrderWorkflow else "")


async def test_without_a_current_version_orders_wait_and_who_waits_is_told_so(stage: Stage, shop: Shop) -> None:
    async with serve(stage.client, shop, version=build("v1")):
        handle = await start(stage.client, NEW)
        answer = await told(stage, NEW, "version")
        await route(stage, "v1")
        end = await end_of(stage.client, handle, NEW)

    assert answer == (
        f"no worker without a version listens on task queue {TASK_QUEUE}, all are busy, or a killed one still holds it;"
        " no version is current: temporal worker deployment set-current-version"
    )
    assert end == COMPLETED


async def test_an_order_whose_version_has_no_worker_left_waits_until_it_is_moved(stage: Stage) -> None:
    with closing(Shop(stage.data, STOCK_IS_DOWN)) as shop:
        async with serve(stage.client, shop, version=build("v1")):
            await route(stage, "v1")
            handle = await start(stage.client, OLD)
            await wait_for_attempt(shop, OLD, "update_inventory")
    with closing(Shop(stage.data)) as shop:
        async with serve(stage.client, shop, version=build("v2")):
            await route(stage, "v2")
            answer = await told(stage, OLD, "no worker")
            of_the_first = 'TemporalWorkerDeploymentVersion="orders:v1" AND CloseTime IS NULL'
            await stage.temporal("workflow", "update-options", "--yes", "--query", of_the_first, *moved_to("v2"))
            end = await end_of(stage.client, handle, OLD)

    assert answer.endswith(
        f": no worker of orders.v1, where it is pinned, listens on task queue {TASK_QUEUE}, all are busy,"
        " or a killed one still holds it; temporal workflow update-options moves it"
    )
    assert end == COMPLETED
    assert await pinned_to(stage, OLD) == "v2"
    assert_done_once(stage.ledger(), OLD)


async def test_after_a_roll_back_new_orders_take_the_old_build_and_those_of_the_bad_one_are_begun_again_there(
    stage: Stage,
) -> None:
    """A move alone does not do: the old build cannot follow the history of the other."""
    with closing(Shop(stage.data, PlanOfEachOrder(plans={"old": STOCK_IS_DOWN}))) as shop:
        async with serve(stage.client, shop, [ChangedWorkflow], version=build("bad")):
            await route(stage, "bad")
            handle = await start(stage.client, OLD)
            await wait_for_attempt(shop, OLD, "update_inventory")
    with closing(Shop(stage.data)) as shop:
        async with serve(stage.client, shop, version=build("good")):
            await route(stage, "good")
            new_ends = await end_of(stage.client, await start(stage.client, NEW), NEW)
            await stage.temporal("workflow", "update-options", "-w", handle.id, *moved_to("good"))
            await told(stage, OLD, "Nondeterminism")
            reset = ("workflow", "reset", "-w", handle.id, "--type", "FirstWorkflowTask", "--reason", "roll-back")
            await stage.temporal(*reset, "with-workflow-update-options", *moved_to("good"))
            old_outcome = await run_order(stage.client, OLD, wait=True)

    assert (new_ends, old_outcome.status) == (COMPLETED, Status.COMPLETED)
    assert (await pinned_to(stage, OLD), await pinned_to(stage, NEW)) == ("good", "good")
    assert_done_once(stage.ledger(), OLD)


@pytest.fixture
async def pausing(tmp_path: Path) -> AsyncIterator[Stage]:
    """Run a server on which workflows can be paused, and which looks every second whether a version is drained."""
    name = "matching.wv.VersionDrainageStatus"
    settings = (f'{name}VisibilityGracePeriod="1s"', f'{name}RefreshInterval="1s"')
    server = await start_pausing_server(tmp_path / "server", *settings)
    yield Stage(server, "default", await server.client(), tmp_path)
    await server.kill()


async def test_a_paused_order_is_no_running_one_and_only_a_count_of_all_open_ones_keeps_its_version(
    pausing: Stage,
) -> None:
    """The server calls a version drained that a paused order is pinned to."""
    version = WorkerDeploymentVersion(deployment_name=DEPLOYMENT, build_id="v1")
    described = DescribeWorkerDeploymentVersionRequest(namespace="default", deployment_version=version)
    of_the_first = 'TemporalWorkerDeploymentVersion="orders:v1" AND '
    client = pausing.client
    with closing(Shop(pausing.data, PlanOfEachOrder(plans={"old": STOCK_IS_DOWN}))) as shop:
        async with serve(client, shop, version=build("v1")), serve(client, shop, version=build("v2")):
            await route(pausing, "v1")
            handle = await start(client, OLD)
            await wait_for_attempt(shop, OLD, "update_inventory")
            await pausing.temporal("workflow", "pause", "-w", handle.id)
            await told(pausing, OLD, "it is paused")
            await until(pausing, 1, 'ExecutionStatus="Paused"')
            await route(pausing, "v2")
            drainage = None
            while drainage != VersionDrainageStatus.VERSION_DRAINAGE_STATUS_DRAINED:
                await asyncio.sleep(0.2)
                told_of_it = await client.workflow_service.describe_worker_deployment_version(described)
                drainage = told_of_it.worker_deployment_version_info.drainage_info.status
            counts = [
                (await client.count_workflows(query)).count
                for query in (
                    f'{of_the_first}ExecutionStatus="Running"',
                    f"{of_the_first}CloseTime IS NULL",
                    "CloseTime IS NULL AND TemporalChangeVersion IS NULL",
                )
            ]

    assert counts == [0, 1, 1]


async def test_a_running_worker_takes_a_changed_workflow_from_its_folder_so_each_build_needs_its_own(
    stage: Stage,
) -> None:
    """The SDK's sandbox imports the workflow's module again for each order."""
    tree, first_step = stage.directory / "tree", "await self._retry(Steps.validate_inventory, order, FEW_ATTEMPTS)"
    for package in ("plumbing", "shop"):
        shutil.copytree(ROOT / package, tree / package)
    for program in ROOT.glob("*.py"):
        shutil.copy(program, tree)
    worker = Worker(stage.directory / "worker", stage.settings, stage.data)
    worker.tree = tree
    stage.started.append(worker)
    await worker.start()
    code = (tree / "workflows.py").read_text()

    (tree / "workflows.py").write_text(code.replace(first_step, f"await asyncio.sleep(1); {first_step}"))
    outcome = await run_order(stage.client, NEW, wait=True)

    assert first_step in code
    assert outcome.status is Status.COMPLETED
    assert await has_paused(stage, NEW)


@workflow.defn(name="OrderWorkflow", sandboxed=False)
class GiftWorkflow(OrderWorkflow):
    """Takes a new step first, behind a patch."""

    @workflow.run
    async def run(self, order: Order) -> Outcome:
        if workflow.patched("gifts"):
            await workflow.execute_activity(
                "wrap_gift", order, start_to_close_timeout=ATTEMPT_TIMEOUT, retry_policy=FEW_ATTEMPTS
            )
        return await super().run(order)


@activity.defn
async def wrap_gift(order: Order) -> None:
    """Work at the second attempt: the first is made by the worker that runs the workflow, the next by any."""
    if activity.info().attempt == 1:
        raise ApplicationError("no paper")


@dataclass(frozen=True)
class Rollout:
    """Three workers of the code before a deploy, and one after it; in the second case a deploy has gone before."""

    old_workers_know_the_step: bool
    are_versioned: bool
    loses_orders: bool


@pytest.mark.parametrize(
    "rollout",
    [
        pytest.param(Rollout(False, False, loses_orders=True), id="step-and-workflow-at-once"),
        pytest.param(Rollout(True, False, loses_orders=False), id="step-everywhere-first"),
        pytest.param(Rollout(False, True, loses_orders=False), id="versions"),
    ],
)
async def test_a_new_step_loses_orders_while_workers_that_do_not_know_it_take_its_attempts(
    rollout: Rollout, stage: Stage, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.addFilter(_shorten_expected_failure)
    old_steps = [wrap_gift] if rollout.old_workers_know_the_step else []
    old_version, new_version = (build("v1"), build("v2")) if rollout.are_versioned else (None, None)
    async with AsyncExitStack() as workers:
        for _ in range(3):
            another = await connect(stage.settings)  # the SDK refuses two workers of a build on one connection
            await workers.enter_async_context(serve(another, shop, version=old_version, more_steps=old_steps))
        new = serve(stage.client, shop, [GiftWorkflow], version=new_version, more_steps=[wrap_gift])
        await workers.enter_async_context(new)
        if rollout.are_versioned:
            await route(stage, "v2")
        numbers = count(1)
        wrapped, lost = 0, list[str]()
        # Which worker takes an order, and which an attempt, is chance.
        while not (lost if rollout.loses_orders else wrapped > 3):
            orders = [make_order(str(next(numbers)), items=ONE_MUG) for _ in range(8)]
            handles = [await start(stage.client, order) for order in orders]
            for handle in handles:
                try:
                    await handle.result()
                except WorkflowFailureError as error:
                    assert error_type_of(error.cause) == "NotFoundError"
                    lost.append(handle.id)
            wrapped += sum([patched(await handle.fetch_history()) for handle in handles])

    assert bool(lost) == rollout.loses_orders
    if lost:
        assert f"a step failed: NotFoundError: Activity function wrap_gift for workflow {lost[0]} is not" in caplog.text
        assert "Traceback" not in caplog.text
