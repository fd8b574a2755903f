"""Says what a workflow waits for, so that nobody who waits for it does so in silence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temporalio.api.enums.v1 import PendingActivityState, PendingWorkflowTaskState
from temporalio.api.enums.v1 import VersioningBehavior as Behaviour
from temporalio.api.enums.v1 import WorkerVersioningMode as Mode
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, DescribeWorkflowExecutionResponse
from temporalio.client import Client
from temporalio.exceptions import FailureError

from plumbing.starting import PAUSED, describe

PINNED, VERSIONED = Behaviour.VERSIONING_BEHAVIOR_PINNED, Mode.WORKER_VERSIONING_MODE_VERSIONED
FIRST_SECONDS, NEXT_SECONDS = 10.0, 60.0

logger = logging.getLogger("waiting")


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
    return f"no worker{which} listens on task queue {queue.name}, all are busy, or a killed one still holds it{advice}"


async def _message(client: Client, failure: Failure) -> str:
    error = await client.data_converter.decode_failure(failure)
    return error.message if isinstance(error, FailureError) and failure.message else ""
