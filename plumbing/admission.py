"""What is refused at the door: orders that break a rule, and workflows that this queue does not serve.

The SDK fails a workflow *task* on input that it cannot decode, and retries that for ever while the order looks as if it
ran. Here such a workflow fails at once, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.common import RawValue
from temporalio.converter import (
    ActivitySerializationContext,
    DefaultFailureConverter,
    DefaultPayloadConverter,
    PayloadConverter,
    SerializationContext,
)
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from shop.errors import ShopError
from shop.orders import InvalidOrder, Order
from shop.parsing import parse_order


class OrderPayloadConverter(DefaultPayloadConverter):
    """Reads orders by the shop's own rules, whoever wrote them.

    The SDK turns a payload that it cannot decode into a failed workflow *task*, which is retried for ever while the
    order looks as if it ran. Here a malformed order fails its workflow at once, with the field and the reason.

    A stricter rule does not fail an order that is under way: the failure contradicts the recorded history, which fails
    the workflow task only, so the order waits for a worker with the rules that it was accepted by.
    """

    def with_context(self, context: SerializationContext) -> OrderPayloadConverter:
        """Check an order where its workflow starts, not again in each step: there it would use up the attempts."""
        return _UNCHECKED if isinstance(context, ActivitySerializationContext) else self

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """Decode payloads; an order is checked. The SDK gives no hints if there is another number of arguments.

        Raises:
            ApplicationError: of type `InvalidOrder`, for what cannot be decoded or breaks a rule.
        """
        if type_hints not in (None, [Order]):
            return super().from_payloads(payloads, type_hints)
        try:
            values = super().from_payloads(payloads)
            return [parse_order(*values)] if type_hints else values
        except (ValueError, TypeError, RuntimeError, KeyError, RecursionError) as error:
            message = str(error) if isinstance(error, InvalidOrder) else f"order: cannot be decoded: {error}"
            raise ApplicationError(message, type=InvalidOrder.__name__) from error


class _UncheckedOrders(OrderPayloadConverter):
    from_payloads = DefaultPayloadConverter.from_payloads


_UNCHECKED = _UncheckedOrders()


class PlainFailureConverter(DefaultFailureConverter):
    """Shows an expected failure as its sentence. A stack trace is kept for what nobody expected."""

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        """Encode a failure."""
        super().to_failure(exception, payload_converter, failure)
        if isinstance(exception, (ApplicationError, ShopError)):
            failure.stack_trace = ""


class OneOrderInterceptor(Interceptor):
    """Fails a workflow that was started without an argument or with several; the SDK would retry it for ever."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """Return the check."""
        return _OneOrderCheck


class _OneOrderCheck(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        if len(input.args) != 1:
            raise ApplicationError(
                f"order: the workflow takes one argument, not {len(input.args)}", type=InvalidOrder.__name__
            )
        return await super().execute_workflow(input)


@workflow.defn(dynamic=True)
class UnknownWorkflow:
    """Fails workflows of any type that the worker does not serve; the SDK would let them wait for ever.

    Right for a queue of one type. Where types are added, let starts wait for a newer worker: leave this class out.
    """

    @workflow.run
    async def run(self, arguments: Sequence[RawValue]) -> None:
        """Refuse a start, but leave a workflow that is under way to a worker that knows its type.

        Raises:
            ApplicationError: of type `UnknownWorkflowType`.
        """
        message = f"workflow type {workflow.info().workflow_type} is unknown to the workers of this queue"
        if workflow.unsafe.is_replaying():
            raise RuntimeError(message)
        raise ApplicationError(message, type="UnknownWorkflowType")
