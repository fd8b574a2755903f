"""The order as a flow of Prefect: a server keeps its state, a runner starts a process for it, its tasks keep results.

https://docs.prefect.io/v3/how-to-guides/deployment_infra/run-flows-in-local-processes
"""

from __future__ import annotations

import asyncio
from typing import Any

from counter import as_json, from_json, main, open_shop
from prefect import Flow, flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.deployments import run_deployment
from prefect.runner import Runner
from prefect.states import Scheduled
from prefect.tasks import Task

from shop.errors import OrderConflict, PermanentError, Refusal, TransientError
from shop.orders import Order

# A runner looks so often for orders; the default is 10 s.
POLL_SECONDS = 5


async def is_transient(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    return isinstance(await state.aresult(raise_on_failure=False), TransientError)


# The result of a task that is done is not worked out again in the same run of the flow.
few_attempts = task(retries=2, retry_delay_seconds=5, retry_condition_fn=is_transient, persist_result=True)
# There is no "without limit"; this is a day, a minute apart.
until_done = task(retries=1440, retry_delay_seconds=60, retry_condition_fn=is_transient, persist_result=True)


@few_attempts
def validate_inventory(order: Order) -> None:
    open_shop().inventory.validate_inventory(order)


@few_attempts
def process_payment(order: Order) -> str:
    return open_shop().payments.process_payment(order)


@until_done
def update_inventory(order: Order) -> None:
    open_shop().inventory.update_inventory(order)


@until_done
def send_confirmation(order: Order) -> None:
    open_shop().notifications.send_confirmation(order)


@until_done
def void_charge(order: Order) -> str | None:
    return open_shop().payments.void_charge(order)


@until_done
def void_sale(order: Order) -> bool:
    return open_shop().inventory.void_sale(order)


@until_done
def refund_payment(order: Order) -> None:
    open_shop().payments.refund_payment(order)


def run_again(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Do what `prefect flow-run retry` does: the retries of a flow are for errors that it lived to report."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run.id, Scheduled(), force=True)


# The runner calls the hook, in its own process, when that of the flow has died.
@flow(retries=2, on_crashed=[run_again])
def process_order(document: dict[str, Any]) -> str:
    order = from_json(document)
    try:
        validate_inventory(order)
        transaction_id = process_payment(order)
        update_inventory(order)
    except OrderConflict:
        raise
    except (PermanentError, TransientError) as error:
        held = void_charge(order)
        if held is None or not void_sale(order):
            if held is not None:
                refund_payment(order)
            return f"{'rejected' if isinstance(error, Refusal) else 'failed'}: {error}"
        transaction_id = held
    send_confirmation(order)
    return f"completed: {transaction_id}"


async def serve() -> None:
    runner = Runner(limit=32, query_seconds=POLL_SECONDS, pause_on_shutdown=False)
    await runner.aadd_flow(process_order, name="orders")
    print("serving", flush=True)
    await runner.start()


def start(order: Order) -> None:
    parameters = {"document": as_json(order)}
    run_deployment("process-order/orders", parameters=parameters, timeout=0, flow_run_name=order.order_id)


def state(order_id: str) -> str:
    with get_client(sync_client=True) as client:
        named = FlowRunFilter(name=FlowRunFilterName(any_=[order_id]))
        [run] = client.read_flow_runs(flow_run_filter=named)
    return run.state_name or "unknown"


if __name__ == "__main__":
    main(lambda: asyncio.run(serve()), start, state)
