"""One workflow for one id: starts it, or attaches to it; starts anew what was cut short; says what it waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import PendingActivityState, PendingWorkflowTaskState
from temporalio.api.enums.v1 import VersioningBehavior as Behaviour
from temporalio.api.enums.v1 import WorkerVersioningMode as Mode
from temporalio.api.enums.v1 import WorkflowExecutionStatus as Status
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    DescribeWorkflowExecutionRequest,
    DescribeWorkflowExecutionResponse,
)
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.converter import WorkflowSerializationContext
from temporalio.exceptions import FailureError, TerminatedError, WorkflowAlreadyStartedError
from temporalio.types import MethodAsyncSingleParam

from plumbing.encryption import KeyMissing

WorkflowT = TypeVar("WorkflowT")
InputT = TypeVar("InputT")
ResultT = TypeVar("ResultT")

# The server's words for it: the SDK's enumeration lacks PAUSED, and so its own `describe` fails on one that is.
PAUSED = Status.WORKFLOW_EXECUTION_STATUS_PAUSED
OPEN = (None, Status.WORKFLOW_EXECUTION_STATUS_RUNNING, PAUSED)
# What closes a workflow without an end of its own: started again, it goes to its end.
CUT_SHORT = (Status.WORKFLOW_EXECUTION_STATUS_TERMINATED, Status.WORKFLOW_EXECUTION_STATUS_TIMED_OUT)
PINNED, VERSIONED = Behaviour.VERSIONING_BEHAVIOR_PINNED, Mode.WORKER_VERSIONING_MODE_VERSIONED
FIRST_SECONDS, NEXT_SECONDS = 10.0, 60.0

logger = logging.getLogger("starting")


class IdTaken(Exception):
    """Something else runs or ran under this workflow id."""


async def start_once(
    client: Client,
    run: MethodAsyncSingleParam[WorkflowT, InputT, ResultT],
    argument: InputT,
    **options: Any,  # of `Client.start_workflow`: `id` and `task_queue` at least
) -> tuple[WorkflowHandle[WorkflowT, ResultT], int | None]:
    """Start a workflow. If it runs, or ran to its end and is remembered, return that one.

    The SDK's `USE_EXISTING` does not compare the input, and starts one that is closed again.

    Returns:
        A handle, and the server's word (`Status`) for how it was found; None if it was started here.

    Raises:
        IdTaken: if it runs or ran with another input, or runs again and again; it is left alone.
        KeyMissing: if its input cannot be read.
        RPCError: if the server refuses.
    """
    options["id_conflict_policy"] = WorkflowIDConflictPolicy.FAIL
    reuse_policy = WorkflowIDReusePolicy.REJECT_DUPLICATE
    while True:
        try:
            return await client.start_workflow(run, argument, id_reuse_policy=reuse_policy, **options), None
        except WorkflowAlreadyStartedError:
            found = (await describe(client, options["id"])).workflow_execution_info
        await _refuse_another(
            client, run, argument, client.get_workflow_handle(options["id"], run_id=found.first_run_id)
        )
        if found.status not in CUT_SHORT:
            handle = client.get_workflow_handle_for(run, options["id"], run_id=found.execution.run_id)
            return handle, int(found.status)
        # Not one that has completed meanwhile, by another starter.
        reuse_policy = WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY


async def _refuse_another(client: Client, run: Any, argument: object, first_run: WorkflowHandle[Any, Any]) -> None:
    event = await anext(first_run.fetch_history_events(page_size=1))
    started = event.workflow_execution_started_event_attributes
    if started.cron_schedule:
        raise IdTaken(f"{first_run.id} runs on a cron schedule, and so has no end; it was left alone")
    # As `Client.start_workflow` finds it; there is no public way.
    declared = workflow._Definition.must_from_run_fn(run)
    context = WorkflowSerializationContext(client.namespace, first_run.id)
    try:
        sent = await client.data_converter.with_context(context).decode(started.input.payloads, declared.arg_types)
    except KeyMissing:
        raise
    except Exception:  # It is no such argument, for which a converter may raise any error.
        sent = []
    if sent != [argument] or started.workflow_type.name != declared.name:
        raise IdTaken(f"{first_run.id} runs or ran with other content; it was left alone")


async def result_of(
    client: Client,
    run: MethodAsyncSingleParam[WorkflowT, InputT, ResultT],
    argument: InputT,
    handle: WorkflowHandle[WorkflowT, ResultT],
) -> ResultT:
    """Wait for the result of a workflow; after a reset, for that of the run that took its place.

    Raises:
        WorkflowFailureError: if it closes in another way.
        IdTaken: if a run with another input took its place.
        RPCError: if the server refuses.
    """
    while True:
        try:
            return await handle.result()
        except WorkflowFailureError as error:
            run_id = (await describe(client, handle.id)).workflow_execution_info.execution.run_id
            if not isinstance(error.cause, TerminatedError) or run_id == handle.result_run_id:
                raise
        handle = client.get_workflow_handle_for(run, handle.id, run_id=run_id)
        await _refuse_another(client, run, argument, handle)


@asynccontextmanager
async def saying_what_for(client: Client, workflow_id: str) -> AsyncIterator[None]:
    """Log what a workflow waits for: after ten seconds, then each minute, until the block is left."""

    async def say() -> None:
        await asyncio.sleep(FIRST_SECONDS)
        while True:
            try:
                reason = await what_for(client, workflow_id)
            except Exception as error:  # It is only a hint.
                reason = f"the server does not tell ({error})"
            logger.info("%s waits: %s", workflow_id, reason)
            await asyncio.sleep(NEXT_SECONDS)

    saying = asyncio.create_task(say())
    try:
        yield
    finally:
        saying.cancel()


async def what_for(client: Client, workflow_id: str) -> str:
    """Return what a workflow waits for, in words.

    Raises:
        RPCError: if the server does not answer.
    """
    found = await describe(client, workflow_id, retry=False)
    if found.workflow_execution_info.status == PAUSED:
        return f"it is paused; let it go on: temporal workflow unpause --workflow-id {workflow_id}"
    task = found.pending_workflow_task
    if task.attempt == 1 and task.state == PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_SCHEDULED:
        return await _nobody(client, found)
    if task.attempt > 1:
        events = (await client.get_workflow_handle(workflow_id).fetch_history()).events
        failures = [event.workflow_task_failed_event_attributes for event in events]
        failed = next((failure for failure in reversed(failures) if failure.HasField("failure")), None)
        return f"its workers fail to run it: {await _message(client, failed.failure) if failed else 'no answer'}"
    steps = []
    for step in found.pending_activities:
        is_waiting = step.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
        reason = "it is paused" if step.paused else await _message(client, step.last_failure) or "no answer yet"
        if is_waiting and not step.HasField("next_attempt_schedule_time"):
            reason = await _nobody(client, found)
        steps.append(f"{step.activity_type.name}, attempt {step.attempt}: {reason}")
    return "; ".join(steps) or "a timer, a signal, or another workflow"


async def _nobody(client: Client, found: DescribeWorkflowExecutionResponse) -> str:
    """Return that no worker takes it, and what helps if that is a matter of versions."""
    queue, versioning = found.execution_config.task_queue, found.workflow_execution_info.versioning_info
    which, advice = "", ""
    if versioning.behavior == PINNED and not versioning.HasField("versioning_override"):
        version = versioning.deployment_version
        which = f" of {version.deployment_name}.{version.build_id}, where it is pinned,"
        advice = "; temporal workflow update-options moves it"
    elif not versioning.behavior:
        request = DescribeTaskQueueRequest(namespace=client.namespace, task_queue=queue)
        told = await client.workflow_service.describe_task_queue(request, retry=False)
        modes = {poller.deployment_options.worker_versioning_mode for poller in told.pollers}
        if modes == {VERSIONED} and not told.versioning_info.current_deployment_version.build_id:
            which = " without a version"
            advice = "; no version is current: temporal worker deployment set-current-version"
    return f"no worker{which} listens on task queue {queue.name}, or all are busy{advice}"


async def _message(client: Client, failure: Failure) -> str:
    error = await client.data_converter.decode_failure(failure)
    return error.message if isinstance(error, FailureError) and failure.message else ""


async def describe(client: Client, workflow_id: str, *, retry: bool = True) -> DescribeWorkflowExecutionResponse:
    """Return what the server knows of the latest run."""
    execution = WorkflowExecution(workflow_id=workflow_id)
    request = DescribeWorkflowExecutionRequest(namespace=client.namespace, execution=execution)
    return await client.workflow_service.describe_workflow_execution(request, retry=retry)
