"""What a worker refuses at the door: a workflow that is started with malformed input fails at once, with the reason."""

from __future__ import annotations

import inspect
from typing import Any

from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from plumbing.converters import Undecodable, refuse


class Admission(Interceptor):
    """Fails a workflow that is started with too many or too few arguments, or with one that fails its own `check()`.

    Refuses an activity that is started on its own: nobody has checked its input, and nobody would undo what it does.
    """

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Return the check of an activity."""
        return _StepDoor(next)

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """Return the check of a workflow."""
        return _Door


class _StepDoor(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        if activity.info().workflow_id is None:
            message = "it belongs to a workflow; start that"
            raise ApplicationError(message, type="StepOnItsOwn", non_retryable=True)
        return await super().execute_activity(input)


class _Door(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        _, *declared = inspect.signature(input.run_fn).parameters  # the first is the workflow itself
        # Optional parameters do not help: if one is left out, the SDK decodes none by its type.
        if len(input.args) != len(declared):
            refuse(TypeError(f"takes {len(declared)} argument(s) ({', '.join(declared)}), not {len(input.args)}"))
        if any(isinstance(argument, Undecodable) for argument in input.args):
            refuse(TypeError("an argument cannot be decoded"))
        # A workflow that is replayed was accepted before, perhaps by rules that were less strict.
        if not workflow.unsafe.is_replaying():
            for argument in input.args:
                if callable(getattr(type(argument), "check", None)):
                    try:
                        argument.check()
                    except Exception as error:  # Of malformed input, a check may raise any.
                        refuse(error)
        return await super().execute_workflow(input)
