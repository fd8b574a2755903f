"""How payloads and failures are read and written, where the SDK's own converters are too lenient or tell too much.

The SDK fails the workflow *task* on input that it cannot decode, and tries again for ever, while the workflow looks as
if it ran. And where an `int` is declared it cuts 1.5 to 1, and takes `true` for 1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn

from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.common import RawValue
from temporalio.converter import (
    ActivitySerializationContext,
    DefaultFailureConverter,
    DefaultPayloadConverter,
    PayloadConverter,
    SerializationContext,
    WorkflowSerializationContext,
)
from temporalio.exceptions import ApplicationError

MAX_REASONS, MAX_CHARACTERS = 5, 2_000


class StrictPayloadConverter(DefaultPayloadConverter):
    """Takes what is sent to a workflow as it was sent, or refuses it. What steps get and return it leaves to the SDK.

    A class may read itself: `from_json(bytes)`, which raises ValueError.
    """

    def with_context(self, context: SerializationContext) -> StrictPayloadConverter:
        """Return the converter for the context. Another object for each step would cost a quarter of the CPU."""
        if isinstance(context, WorkflowSerializationContext):
            return _FOR_WORKFLOWS
        is_alone = isinstance(context, ActivitySerializationContext) and not context.workflow_id
        return _FOR_STEPS_ALONE if is_alone else self


class _ForWorkflows(StrictPayloadConverter):
    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        # The SDK gives no hints if there is another number of arguments than declared: `Admission` refuses those.
        hints: Sequence[Any] = type_hints or [None] * len(payloads)
        return [self._read(payload, hint) for payload, hint in zip(payloads, hints, strict=True)]

    def _read(self, payload: Payload, hint: Any) -> Any:  # Any: a type, and a value of it
        try:
            is_json = payload.metadata["encoding"] == b"json/plain"
            if is_json and callable(getattr(hint, "from_json", None)):
                return hint.from_json(payload.data)
            (value,) = super().from_payloads([payload], [hint] if hint else None)
            if (is_dataclass(hint) or hint in (bool, float, int, str)) and not isinstance(value, hint):
                raise TypeError(f"must be {hint.__name__}, not {type(value).__name__}")
            if hint and is_json:
                _refuse_changed(json.loads(payload.data, object_pairs_hook=_object_of), value, type(value).__name__)
            return value
        except Exception as error:  # Converters and classes may raise any.
            if hint is None:
                return Undecodable(payload)
            refuse(error)


class Undecodable(RawValue):
    """What cannot be decoded, where no type is declared. `Admission` refuses it."""


class _ForStepsAlone(StrictPayloadConverter):
    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """Decode nothing: an error here would be retried. `Admission` refuses an activity that was started alone."""
        return [RawValue(payload) for payload in payloads]


_FOR_WORKFLOWS, _FOR_STEPS_ALONE = _ForWorkflows(), _ForStepsAlone()


class PlainFailureConverter(DefaultFailureConverter):
    """Shows a failure that was raised on purpose as its sentence; the SDK adds the worker's stack to each attempt."""

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        """Encode a failure."""
        super().to_failure(exception, payload_converter, failure)
        if isinstance(exception, ApplicationError):
            failure.stack_trace = ""


def refuse(error: BaseException) -> NoReturn:
    """Fail the workflow for good, whatever retry policy it was started with; say why, and what that comes from."""
    reasons, cause = [_text_of(error)], error.__cause__
    while cause and len(reasons) < MAX_REASONS:  # A chain of causes may lead back to where it began.
        reasons, cause = [*reasons, _text_of(cause)], cause.__cause__
    told = ": ".join(text for place, text in enumerate(reasons) if not place or text not in reasons[place - 1])
    # The server takes no message of megabytes, and an error may quote what was sent.
    raise ApplicationError(told[:MAX_CHARACTERS], type=type(error).__name__, non_retryable=True) from None


def _text_of(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # An error of the user's may fail to say what it is.
        return type(error).__name__


def _object_of(members: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: JSON
    """Make a JSON object in which no key stands twice: one reader would take the first, another the last."""
    document: dict[str, Any] = {}
    for name, value in members:
        if name in document:
            raise ValueError(f"{name}: stands twice in the same object")
        document[name] = value
    return document


def _refuse_changed(sent: Any, kept: Any, where: str) -> None:  # Any: JSON, and what the SDK has made of it
    """Refuse a fraction that was cut, and a boolean that was taken for a number, wherever they stand."""
    if is_dataclass(kept) and isinstance(sent, dict):
        for field in fields(kept):
            if field.name in sent:
                _refuse_changed(sent[field.name], getattr(kept, field.name), f"{where}.{field.name}")
    elif isinstance(sent, dict) and isinstance(kept, dict):
        for (name, value), kept_value in zip(sent.items(), kept.values(), strict=False):
            _refuse_changed(value, kept_value, f"{where}.{name}")
    elif isinstance(sent, list) and isinstance(kept, (list, tuple)):
        for index, (value, kept_value) in enumerate(zip(sent, kept, strict=False)):
            _refuse_changed(value, kept_value, f"{where}[{index}]")
    elif isinstance(sent, (float, bool)) and isinstance(kept, (int, float)) and type(sent) is not type(kept):
        raise ValueError(f"{where}: must be {type(kept).__name__}, not {json.dumps(sent)}")
