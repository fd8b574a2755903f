"""Workflows that no starter of ours would start, sent straight to the server: refused in seconds, with the reason."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from conftest import Stage, make_order, make_stage
from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from comparison.stage.processes import Server
from run_workflow import run_order
from shop.orders import Status
from workflows import TASK_QUEUE

AnyHandle: TypeAlias = WorkflowHandle[Any, Any]  # Any: workflows of whatever type

TEMPORAL = Path(sys.executable).parent / "temporal"
LIMIT_SECONDS = 5.0
ORDER = make_order("bad")
DOCUMENT = asdict(ORDER)
ITEM = DOCUMENT["items"][0]


def payload(content: bytes, encoding: bytes = b"json/plain", **metadata: bytes) -> Payload:
    return Payload(metadata={"encoding": encoding, **metadata}, data=content)


def as_json(document: object) -> Payload:
    return payload(json.dumps(document).encode())


def order_with(**changes: object) -> Payload:
    return as_json({**DOCUMENT, **changes})


def order_with_quantity(text: str) -> Payload:
    return payload(json.dumps({**DOCUMENT, "items": [{**ITEM, "quantity": "?"}]}).replace('"?"', text).encode())


GOOD = as_json(DOCUMENT)
BROKEN = payload(b'{"order_id": ')
UNDECODABLE = "order: cannot be decoded"

BAD_ARGUMENTS: dict[str, tuple[list[Payload], str]] = {
    **{
        f"without {name}": ([as_json({key: DOCUMENT[key] for key in DOCUMENT if key != name})], f"{name}: is missing")
        for name in DOCUMENT
    },
    **{
        f"an item without {name}": (
            [order_with(items=[{key: ITEM[key] for key in ITEM if key != name}])],
            f"items[0].{name}: is missing",
        )
        for name in ITEM
    },
    "an empty object": ([as_json({})], "is missing"),
    "a number for an id": ([order_with(order_id=7)], "order_id: must match"),
    "an id with a line end": ([order_with(order_id="bad\n")], "order_id: must match"),
    "half a surrogate pair": ([order_with(customer_id="\ud800")], "customer_id: must match"),
    "an object for items": ([order_with(items={})], "items: must be a list of 1 to 1000 lines, not a JSON object"),
    "no items": ([order_with(items=[])], "items: must be a list of 1 to 1000 lines, not a JSON list of 0"),
    "a null item": ([order_with(items=[None])], "items[0]: must be a JSON object, not null"),
    "one sku twice": ([order_with(items=[ITEM, ITEM])], "items: the same sku stands in two lines"),
    "text for a quantity": ([order_with_quantity('"2"')], "items[0].quantity: must be a whole number"),
    "true for a quantity": ([order_with_quantity("true")], "items[0].quantity: must be a whole number"),
    "a fraction for a quantity": ([order_with_quantity("1.0")], "items[0].quantity: must be a whole number"),
    "NaN for a quantity": ([order_with_quantity("NaN")], "items[0].quantity: must be a whole number"),
    "30 digits": ([order_with_quantity("9" * 30)], "items[0].quantity: must be a whole number"),
    "5,000 digits": ([order_with_quantity("9" * 5_000)], UNDECODABLE),
    "null": ([as_json(None)], "order: must be a JSON object, not null"),
    "a list": ([as_json([DOCUMENT])], "order: must be a JSON object, not a JSON list of 1"),
    "a string": ([as_json("bad")], 'order: must be a JSON object, not "bad"'),
    "a number": ([as_json(7)], "order: must be a JSON object, not 7"),
    "a boolean": ([as_json(True)], "order: must be a JSON object, not true"),
    "no argument": ([], "order: the workflow takes one argument, not 0"),
    "two arguments": ([GOOD, as_json("urgent")], "order: the workflow takes one argument, not 2"),
    "two orders": ([GOOD, GOOD], "order: the workflow takes one argument, not 2"),
    "two arguments, one broken": ([GOOD, BROKEN], "order: "),
    "two broken arguments": ([BROKEN, BROKEN], "order: "),
    "broken JSON": ([BROKEN], UNDECODABLE),
    "no content": ([payload(b"")], UNDECODABLE),
    "not UTF-8": ([payload(b'{"order_id": "\xff"}')], UNDECODABLE),
    "deep nesting": ([payload(b"[" * 100_000)], UNDECODABLE),
    "deep nesting in an extra field": ([payload(b'{"extra": ' + b'{"a":' * 50_000)], UNDECODABLE),
    "an unknown encoding": ([payload(b"{}", b"json/strange")], UNDECODABLE),
    "an encoding that is no text": ([payload(b"{}", b"\xff")], UNDECODABLE),
    "no encoding": ([Payload(data=b"{}")], UNDECODABLE),
    "binary/null": ([payload(b"", b"binary/null")], "order: must be a JSON object, not null"),
    "binary/plain": ([payload(b"{}", b"binary/plain")], "order: "),
    "a protobuf of no known type": ([payload(b"{}", b"json/protobuf", messageType=b"no.such.Type")], UNDECODABLE),
    "a protobuf without a type": ([payload(b"{}", b"json/protobuf")], UNDECODABLE),
    "a broken protobuf": (
        [payload(b"\xff", b"binary/protobuf", messageType=b"temporal.api.common.v1.Payload")],
        UNDECODABLE,
    ),
    "a broken JSON protobuf": (
        [payload(b'{"x": ', b"json/protobuf", messageType=b"temporal.api.common.v1.Payload")],
        UNDECODABLE,
    ),
    "a protobuf": ([payload(b"", b"binary/protobuf", messageType=b"temporal.api.common.v1.Payload")], "order: "),
}


@pytest.fixture(scope="module")
async def served(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    stage = await make_stage(server, tmp_path_factory.mktemp("bad-starts"))
    worker = await stage.start_worker()
    yield stage
    await worker.kill()


async def start(stage: Stage, arguments: list[Payload], workflow_type: str, workflow_id: str) -> AnyHandle:
    return await stage.client.start_workflow(
        workflow_type, args=[RawValue(argument) for argument in arguments], id=workflow_id, task_queue=TASK_QUEUE
    )


async def assert_refused(stage: Stage, handle: AnyHandle, error_type: str, reason: str) -> None:
    """Wait until the server has closed the workflow as failed, for that reason; check that nothing happened."""
    with pytest.raises(WorkflowFailureError) as failure:
        await asyncio.wait_for(handle.result(), LIMIT_SECONDS)
    cause = failure.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == error_type
    assert reason in cause.message
    assert (await handle.describe()).status == WorkflowExecutionStatus.FAILED
    assert_nothing_happened(stage)


def assert_nothing_happened(stage: Stage) -> None:
    ledger = stage.ledger()
    assert (ledger.attempts, ledger.sales, ledger.charges, ledger.confirmations, ledger.voids) == ((), (), (), (), ())
    assert all(stock.now == stock.initial for stock in ledger.stock.values())


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
async def test_an_order_that_breaks_a_rule_fails_at_once_with_field_and_reason(case: str, served: Stage) -> None:
    arguments, reason = BAD_ARGUMENTS[case]

    handle = await start(served, arguments, "OrderWorkflow", f"order-bad {case}")

    await assert_refused(served, handle, "InvalidOrder", reason)


@pytest.mark.parametrize("arguments", [[GOOD], [], [BROKEN], [GOOD, BROKEN]], ids=["good", "none", "broken", "two"])
async def test_an_unknown_workflow_type_fails_at_once_and_is_named(arguments: list[Payload], served: Stage) -> None:
    handle = await start(served, arguments, "OrderWorkflw", f"typo-{len(arguments)}-{arguments == [GOOD]}")

    await assert_refused(served, handle, "UnknownWorkflowType", "workflow type OrderWorkflw is unknown")


async def test_a_good_order_under_a_foreign_workflow_id_fails_at_once(served: Stage) -> None:
    handle = await start(served, [GOOD], "OrderWorkflow", "order-other")

    await assert_refused(
        served, handle, "ForeignWorkflowId", "order_id: order bad must run as workflow order-bad, not order-other"
    )


@pytest.mark.parametrize(
    ("workflow_type", "error_type", "reason"),
    [
        ("OrderWorkflow", "InvalidOrder", "items: is missing"),
        ("orderWorkflow", "UnknownWorkflowType", "workflow type orderWorkflow is unknown"),
    ],
)
async def test_a_bad_start_from_another_client_fails_at_once(
    workflow_type: str, error_type: str, reason: str, served: Stage
) -> None:
    workflow_id = f"order-from-the-command-line-{workflow_type}"
    process = await asyncio.create_subprocess_exec(
        TEMPORAL,
        *("workflow", "start", "--type", workflow_type, "--workflow-id", workflow_id, "--task-queue", TASK_QUEUE),
        *("--input", '{"order_id": "7"}', "--address", served.server.address, "--namespace", served.namespace),
        env=served.settings,
        stdout=asyncio.subprocess.DEVNULL,
    )

    exit_status = await asyncio.wait_for(process.wait(), LIMIT_SECONDS)

    assert exit_status == 0
    await assert_refused(served, served.client.get_workflow_handle(workflow_id), error_type, reason)


async def test_a_good_order_is_taken_by_the_worker_that_refused_the_others(stage: Stage) -> None:
    await stage.start_worker()
    bad = await start(stage, [BROKEN], "OrderWorkflow", "order-bad")
    await assert_refused(stage, bad, "InvalidOrder", UNDECODABLE)

    outcome = await run_order(stage.client, make_order(), wait=True)

    assert outcome.status == Status.COMPLETED
