"""Starts that no starter of ours would make, sent straight to the server: refused in seconds, with the reason."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from decimal import Decimal
from enum import IntEnum
from typing import Any, TypeAlias

import pytest
from conftest import Stage, make_order, make_stage
from counter import serve
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import ActivityFailureError, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ApplicationError

from comparison.stage.processes import Server
from plumbing.connection import add_search_attribute
from run_workflow import run_order
from shop.faults import STEPS
from shop.orders import Status
from shop.shop import Shop
from workflows import ORDER_STATUS, TASK_QUEUE, OrderWorkflow

AnyHandle: TypeAlias = WorkflowHandle[Any, Any]  # Any: workflows of whatever type

LIMIT_SECONDS = 5.0
ORDER = make_order("bad")
DOCUMENT = asdict(ORDER)
ITEM = DOCUMENT["items"][0]


@dataclass(frozen=True)
class Box:
    """Part of the input of another workflow."""

    weight_grams: int
    is_fragile: bool = False


@dataclass(frozen=True)
class Parcel:
    """The input of another workflow: a dataclass like any other, without a reader of its own."""

    parcel_id: str
    boxes: list[Box]
    insured_for: float | None = None
    check: str = "a field, and no method"


@workflow.defn(sandboxed=False)  # else each run imports this module, and pytest, again
class ParcelWorkflow:
    """Another workflow on the same worker."""

    @workflow.run
    async def run(self, parcel: Parcel, priority: int) -> int:
        return sum(box.weight_grams for box in parcel.boxes) * priority


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@dataclass(frozen=True)
class Letter:
    """The input of a third workflow, with a check that does not foresee everything."""

    address: str | None = None

    def check(self) -> None:
        if len(self.address) > 20:  # type: ignore[arg-type]  # a TypeError for None
            error = ValueError("address: must have at most 20 characters")
            raise error from error
        if self.address == "long":
            raise ValueError("address: is long " * 200_000)
        if self.address == "mute":
            raise Mute


@workflow.defn(sandboxed=False)
class LetterWorkflow:
    """A third workflow on the same worker."""

    @workflow.run
    async def run(self, letter: Letter) -> str | None:
        return letter.address


class Colour(IntEnum):
    RED = 1


@dataclass(frozen=True)
class Everything:
    """The input of a fourth workflow: fields of many kinds."""

    numbers: list[int] = field(default_factory=list)
    named: dict[str, int] = field(default_factory=dict)
    some: set[int] = field(default_factory=set)
    pair: tuple[int, ...] = ()
    box: Box | None = None
    colour: Colour | None = None
    count: int | None = None
    price: float | None = None
    patience: timedelta = timedelta(days=1)
    total: Decimal = Decimal("1.5")

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", self.count or 0)


@workflow.defn(sandboxed=False)
class EverythingWorkflow:
    """A fourth workflow on the same worker."""

    @workflow.run
    async def run(self, everything: Everything | None) -> str:
        return "taken"


@workflow.defn(sandboxed=False)
class UntypedWorkflow:
    """A workflow that does not say what it takes."""

    @workflow.run
    async def run(self, anything) -> str:  # type: ignore[no-untyped-def]  # on purpose
        return "taken"


def payload(content: bytes, encoding: bytes = b"json/plain", **metadata: bytes) -> Payload:
    return Payload(metadata={"encoding": encoding, **metadata}, data=content)


def as_json(document: object) -> Payload:
    return payload(json.dumps(document).encode())


def order_with(**changes: object) -> Payload:
    return as_json({**DOCUMENT, **changes})


def order_with_quantity(text: str) -> Payload:
    return payload(json.dumps({**DOCUMENT, "items": [{**ITEM, "quantity": "?"}]}).replace('"?"', text).encode())


def parcel_with(boxes: object, **changes: object) -> Payload:
    return as_json({"parcel_id": "p", "boxes": boxes, **changes})


GOOD, ONE = as_json(DOCUMENT), as_json(1)
BROKEN = payload(b'{"order_id": ')

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
    "NaN for a quantity": ([order_with_quantity("NaN")], "is not JSON"),
    "a key twice": ([payload(json.dumps(DOCUMENT)[:-1].encode() + b', "currency": "EUR"}')], "currency"),
    "30 digits": ([order_with_quantity("9" * 30)], "items[0].quantity: must be a whole number"),
    "5,000 digits": ([order_with_quantity("9" * 5_000)], ""),
    "null": ([as_json(None)], "order: must be a JSON object, not null"),
    "a list": ([as_json([DOCUMENT])], "order: must be a JSON object, not a JSON list of 1"),
    "a string": ([as_json("bad")], 'order: must be a JSON object, not "bad"'),
    "a number": ([as_json(7)], "order: must be a JSON object, not 7"),
    "a boolean": ([as_json(True)], "order: must be a JSON object, not true"),
    "no argument": ([], "takes 1 argument(s) (order), not 0"),
    "two arguments": ([GOOD, as_json("urgent")], "takes 1 argument(s) (order), not 2"),
    "two orders": ([GOOD, GOOD], "takes 1 argument(s) (order), not 2"),
    "two arguments, one broken": ([GOOD, BROKEN], "takes 1 argument(s) (order), not 2"),
    "two broken arguments": ([BROKEN, BROKEN], "takes 1 argument(s) (order), not 2"),
    "broken JSON": ([BROKEN], ""),
    "no content": ([payload(b"")], ""),
    "not UTF-8": ([payload(b'{"order_id": "\xff"}')], ""),
    "deep nesting": ([payload(b"[" * 100_000)], ""),
    "deep nesting in an extra field": ([payload(b'{"extra": ' + b'{"a":' * 50_000)], ""),
    "an unknown encoding": ([payload(b"{}", b"json/strange")], ""),
    "an encoding that is no text": ([payload(b"{}", b"\xff")], ""),
    "no encoding": ([Payload(data=b"{}")], ""),
    "binary/null": ([payload(b"", b"binary/null")], "must be Order, not NoneType"),
    "binary/plain": ([payload(b"{}", b"binary/plain")], "must be Order, not bytes"),
    "a protobuf of no known type": ([payload(b"{}", b"json/protobuf", messageType=b"no.such.Type")], ""),
    "a protobuf without a type": ([payload(b"{}", b"json/protobuf")], ""),
    "a broken protobuf": (
        [payload(b"\xff", b"binary/protobuf", messageType=b"temporal.api.common.v1.Payload")],
        "",
    ),
    "a broken JSON protobuf": (
        [payload(b'{"x": ', b"json/protobuf", messageType=b"temporal.api.common.v1.Payload")],
        "",
    ),
    "a protobuf": ([payload(b"", b"binary/protobuf", messageType=b"temporal.api.common.v1.Payload")], "must be Order"),
}


WEIGHT = "Parcel.boxes[0].weight_grams"
BAD_PARCELS: dict[str, tuple[list[Payload], str]] = {
    "a fraction": ([parcel_with([{"weight_grams": 1.5}]), ONE], f"{WEIGHT}: must be int, not 1.5"),
    "a whole number with a point": ([parcel_with([{"weight_grams": 2.0}]), ONE], f"{WEIGHT}: must be int, not 2.0"),
    "true for a number": ([parcel_with([{"weight_grams": True}]), ONE], f"{WEIGHT}: must be int, not true"),
    "a number for a boolean": ([parcel_with([{"weight_grams": 1, "is_fragile": 1}]), ONE], "was <class 'int'>"),
    "text for a number": ([parcel_with([{"weight_grams": "7"}]), ONE], "was <class 'str'>"),
    "a field that lacks": ([as_json({"parcel_id": "p"}), ONE], "boxes"),
    "a key twice": ([payload(b'{"parcel_id": "p", "boxes": [], "parcel_id": "q"}'), ONE], "twice in the same object"),
    "null": ([as_json(None), ONE], "NoneType"),
    "binary/null": ([payload(b"", b"binary/null"), ONE], "must be Parcel, not NoneType"),
    "broken JSON": ([BROKEN, ONE], "could not be converted"),
    "one argument": ([parcel_with([])], "takes 2 argument(s) (parcel, priority), not 1"),
    "a fraction for the second argument": ([parcel_with([]), as_json(1.5)], "int: must be int, not 1.5"),
    "null for the second argument": ([parcel_with([]), payload(b"", b"binary/null")], "must be int, not NoneType"),
    "three arguments": ([parcel_with([]), ONE, ONE], "takes 2 argument(s) (parcel, priority), not 3"),
}


WORKFLOWS = (OrderWorkflow, ParcelWorkflow, LetterWorkflow, EverythingWorkflow, UntypedWorkflow)


@pytest.fixture(scope="module")
async def served(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """Serve two types of workflows from this process."""
    stage = await make_stage(server, tmp_path_factory.mktemp("admission"))
    await add_search_attribute(stage.client, ORDER_STATUS)
    shop = Shop(stage.data)
    async with serve(stage.client, shop, workflows=WORKFLOWS):
        yield stage
    shop.close()


async def start(
    stage: Stage, arguments: list[Payload], workflow_type: str, workflow_id: str, retries: RetryPolicy | None = None
) -> AnyHandle:
    handle: AnyHandle = await stage.client.start_workflow(
        workflow_type,
        args=[RawValue(argument) for argument in arguments],
        id=workflow_id,
        task_queue=TASK_QUEUE,
        retry_policy=retries,
    )
    return handle


async def assert_refused(stage: Stage, handle: AnyHandle, reason: str) -> str | None:
    """Wait until the server has closed the workflow as failed, for that reason; check that nothing happened.

    Returns:
        The type of the error.
    """
    with pytest.raises(WorkflowFailureError) as failure:
        await asyncio.wait_for(handle.result(), LIMIT_SECONDS)
    cause = failure.value.cause
    assert isinstance(cause, ApplicationError)
    assert reason in cause.message
    assert cause.message
    assert (await handle.describe()).status == WorkflowExecutionStatus.FAILED
    assert_nothing_happened(stage)
    return cause.type


def assert_nothing_happened(stage: Stage) -> None:
    ledger = stage.ledger()
    assert (ledger.attempts, ledger.sales, ledger.charges, ledger.confirmations, ledger.voids) == ((), (), (), (), ())
    assert all(stock.now == stock.initial for stock in ledger.stock.values())


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
async def test_an_order_that_breaks_a_rule_fails_at_once_with_field_and_reason(case: str, served: Stage) -> None:
    arguments, reason = BAD_ARGUMENTS[case]

    # A retry policy of another client's does not bring it back.
    handle = await start(served, arguments, "OrderWorkflow", f"order-bad {case}", RetryPolicy())

    await assert_refused(served, handle, reason)


@pytest.mark.parametrize("case", BAD_PARCELS)
async def test_the_input_of_any_other_workflow_is_taken_as_it_was_sent_or_refused(case: str, served: Stage) -> None:
    arguments, reason = BAD_PARCELS[case]

    handle = await start(served, arguments, "ParcelWorkflow", f"parcel {case}")

    await assert_refused(served, handle, reason)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "NoneType"),
        ({"address": "x" * 21}, "at most 20"),
        ({"address": "long"}, "is long"),
        ({"address": "mute"}, "Mute"),
    ],
)
async def test_input_that_fails_its_own_check_is_refused_whatever_the_check_raises(
    document: object, reason: str, served: Stage
) -> None:
    handle = await start(served, [as_json(document)], "LetterWorkflow", f"letter {reason}")

    await assert_refused(served, handle, reason)


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({"numbers": [1, 1.5]}, "Everything.numbers[1]: must be int, not 1.5"),
        ({"named": {"a": True}}, "Everything.named.a: must be int, not true"),
        ({"pair": [1.5]}, "Everything.pair[0]: must be int, not 1.5"),
        ({"box": {"weight_grams": 1.5}}, "Everything.box.weight_grams: must be int, not 1.5"),
        ({"count": 1.5}, "Everything.count: must be int, not 1.5"),
        ({"price": True}, "Everything.price: must be float, not true"),
    ],
)
async def test_a_number_that_is_none_is_named_wherever_it_stands(document: object, where: str, served: Stage) -> None:
    handle = await start(served, [as_json(document)], "EverythingWorkflow", f"everything {where}")

    await assert_refused(served, handle, where)


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"count": None},
        {"price": 7, "colour": 1, "some": [3, 1, 2], "named": {"b": 1, "a": 2}, "pair": [1, 2], "box": None},
        {"numbers": [], "unknown": {"numbers": [1.5]}},
    ],
)
async def test_good_input_of_any_kind_is_taken(document: object, served: Stage) -> None:
    handle = await start(served, [as_json(document)], "EverythingWorkflow", f"good {document}")

    assert await asyncio.wait_for(handle.result(), LIMIT_SECONDS) == "taken"


async def test_what_cannot_be_decoded_is_refused_also_where_no_type_is_declared(served: Stage) -> None:
    handle = await start(served, [BROKEN], "UntypedWorkflow", "untyped")

    await assert_refused(served, handle, "an argument cannot be decoded")


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        ([parcel_with([{"weight_grams": 2, "a field of a newer client": 1.5}]), ONE], 2),
        ([parcel_with([{"weight_grams": 2, "is_fragile": True}], insured_for=7), as_json(3)], 6),
        ([parcel_with([], insured_for=None), ONE], 0),
    ],
)
async def test_good_input_of_another_workflow_is_taken(arguments: list[Payload], result: int, served: Stage) -> None:
    handle = await start(served, arguments, "ParcelWorkflow", f"good {result}")

    assert await asyncio.wait_for(handle.result(), LIMIT_SECONDS) == result


async def test_a_good_order_under_a_foreign_workflow_id_fails_at_once(served: Stage) -> None:
    handle = await start(served, [GOOD], "OrderWorkflow", "order-other", RetryPolicy())

    error_type = await assert_refused(served, handle, "order_id: order bad must run as workflow order-bad")

    assert error_type == "ForeignWorkflowId"


async def test_a_bad_start_from_another_client_fails_at_once(served: Stage) -> None:
    workflow_id = "order-from-the-command-line"
    names = ("--type", "OrderWorkflow", "--workflow-id", workflow_id, "--task-queue", TASK_QUEUE)

    await served.temporal("workflow", "start", *names, "--input", '{"order_id": "7"}')

    error_type = await assert_refused(served, served.client.get_workflow_handle(workflow_id), "is missing")
    assert error_type == "InvalidOrder"


@pytest.mark.parametrize("arguments", [[GOOD], [], [BROKEN], [GOOD, BROKEN]], ids=["good", "none", "broken", "two"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_step_that_is_started_on_its_own_is_refused_for_good_whatever_it_is_given(
    step: str, arguments: list[Payload], served: Stage
) -> None:
    with pytest.raises(ActivityFailureError) as failure:
        await served.client.execute_activity(
            step,
            args=[RawValue(argument) for argument in arguments],
            id=f"{step} {arguments}"[:200],
            task_queue=TASK_QUEUE,
            start_to_close_timeout=timedelta(seconds=5),
            schedule_to_close_timeout=timedelta(seconds=5),
        )

    cause = failure.value.cause
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.non_retryable) == ("StepOnItsOwn", True)
    assert_nothing_happened(served)


async def test_a_workflow_type_that_this_worker_does_not_know_stays_open_for_one_that_does(stage: Stage) -> None:
    await add_search_attribute(stage.client, ORDER_STATUS)
    async with serve(stage.client):
        handle = await start(stage, [parcel_with([{"weight_grams": 5}]), ONE], "ParcelWorkflow", "parcel-early")
        history = handle.fetch_history_events(wait_new_event=True)
        failures = (event async for event in history if event.HasField("workflow_task_failed_event_attributes"))
        failure = (await asyncio.wait_for(anext(failures), LIMIT_SECONDS)).workflow_task_failed_event_attributes
        status = (await handle.describe()).status

    async with serve(stage.client, workflows=[OrderWorkflow, ParcelWorkflow]):
        result = await asyncio.wait_for(handle.result(), 30)

    assert "ParcelWorkflow is not registered" in failure.failure.message
    assert status == WorkflowExecutionStatus.RUNNING
    assert result == 5


async def test_a_good_order_is_taken_by_the_worker_that_refused_the_others(stage: Stage) -> None:
    await stage.start_worker()
    bad = await start(stage, [BROKEN], "OrderWorkflow", "order-bad")
    await assert_refused(stage, bad, "")

    outcome = await run_order(stage.client, make_order(), wait=True)

    assert outcome.status == Status.COMPLETED
