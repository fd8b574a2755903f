"""One workflow for one order: attaches to it if it runs or ran, whoever started it; starts anew what was cut short."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError

from shop.orders import Order, Outcome

# Any: the type of the workflow, which only the starter knows.
Handle: TypeAlias = WorkflowHandle[Any, Outcome]

# What closes a workflow without an end of its order: to start the order again takes it to its end.
UNFINISHED = (WorkflowExecutionStatus.TERMINATED, WorkflowExecutionStatus.TIMED_OUT)


class OrderIdTaken(Exception):
    """Another order with this id runs or ran."""


async def start_once(
    client: Client,
    order: Order,
    workflow_id: str,
    workflow_type: str,
    start: Callable[[WorkflowIDReusePolicy], Awaitable[Handle]],
) -> tuple[Handle, WorkflowExecutionStatus | None]:
    """Start the workflow of an order. If it runs, or ran to its end and is remembered, return that one.

    Returns:
        One run of the workflow, and its status when we found it; None if it was started here.

    Raises:
        OrderIdTaken: if it runs or ran with other content; it is left alone.
        RPCError: if the server is away or refuses.
    """
    reuse_policy = WorkflowIDReusePolicy.REJECT_DUPLICATE
    while True:
        try:
            return await start(reuse_policy), None
        except WorkflowAlreadyStartedError:
            found = await client.get_workflow_handle(workflow_id).describe()
        handle: Handle = client.get_workflow_handle(workflow_id, run_id=found.run_id, result_type=Outcome)
        if await _input_of(client, handle, workflow_type) != order:
            raise OrderIdTaken("an order with the same id and other content runs or ran; it was left alone")
        if found.status not in UNFINISHED:
            return handle, found.status
        reuse_policy = WorkflowIDReusePolicy.ALLOW_DUPLICATE


async def is_replaced(client: Client, handle: Handle) -> bool:
    """Tell whether another run has taken the place of this one: after a reset, for example."""
    return (await client.get_workflow_handle(handle.id).describe()).run_id != handle.result_run_id


async def _input_of(client: Client, handle: Handle, workflow_type: str) -> Order | None:
    """Return the order that a workflow was started with; None if it was something else."""
    async for event in handle.fetch_history_events(page_size=1):
        started = event.workflow_execution_started_event_attributes
        try:
            if started.workflow_type.name == workflow_type:
                (order,) = await client.data_converter.decode(started.input.payloads, [Order])
                return cast(Order, order)  # the converter's promise for that hint
        except ApplicationError:
            pass
        break
    return None
