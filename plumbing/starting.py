"""One workflow for one id: starts it, or attaches to it; starts anew what was cut short."""

from __future__ import annotations

from typing import Any, TypeVar

from temporalio import workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import WorkflowExecutionStatus as Status
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest, DescribeWorkflowExecutionResponse
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.converter import WorkflowSerializationContext
from temporalio.exceptions import TerminatedError, WorkflowAlreadyStartedError
from temporalio.types import MethodAsyncSingleParam

from plumbing.encryption import KeyMissing

WorkflowT = TypeVar("WorkflowT")
InputT = TypeVar("InputT")
ResultT = TypeVar("ResultT")

# The server's words for it: the SDK's enumeration lacks PAUSED, and so its own `describe` fails on one that is.
PAUSED = Status.WORKFLOW_EXECUTION_STATUS_PAUSED
STARTED_HERE = None
OPEN = (STARTED_HERE, Status.WORKFLOW_EXECUTION_STATUS_RUNNING, PAUSED)
# What closes a workflow without an end of its own: started again, it goes to its end.
CUT_SHORT = (Status.WORKFLOW_EXECUTION_STATUS_TERMINATED, Status.WORKFLOW_EXECUTION_STATUS_TIMED_OUT)


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
        A handle, and how it was found: the server's word (`Status`) for it, or `STARTED_HERE`.

    Raises:
        IdTaken: if it runs or ran with another input, or runs again and again; it is left alone.
        KeyMissing: if its input cannot be read.
        RPCError: if the server refuses.
    """
    options["id_conflict_policy"] = WorkflowIDConflictPolicy.FAIL
    reuse_policy = WorkflowIDReusePolicy.REJECT_DUPLICATE
    while True:
        try:
            handle = await client.start_workflow(run, argument, id_reuse_policy=reuse_policy, **options)
            return handle, STARTED_HERE
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
    # As `Client.start_workflow` finds it; there is no public way. (`WorkflowAlreadyStartedError.workflow_type` is what
    # was asked for, whatever its description says.)
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


async def describe(client: Client, workflow_id: str, *, retry: bool = True) -> DescribeWorkflowExecutionResponse:
    """Return what the server knows of the latest run."""
    execution = WorkflowExecution(workflow_id=workflow_id)
    request = DescribeWorkflowExecutionRequest(namespace=client.namespace, execution=execution)
    return await client.workflow_service.describe_workflow_execution(request, retry=retry)
