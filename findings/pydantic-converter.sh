#!/usr/bin/env bash
# With the pydantic converter, some models do not survive their own way to the next step.
# temporalio 1.35.0, pydantic 2.14.4, 2026-11-29.
#
# Expected: what a step returns as a valid model the workflow gets as an equal model, or the step fails.
# Seen: a field with an optional default and a `validation_alias` (or a `serialization_alias`) arrives with its
#   default, in silence: it is written under one name and read under the other. `exclude=True` does the same. A
#   computed field and `extra="forbid"`, or an infinite float, make a model that is written and cannot be read. A
#   subclass in a field of its base class loses its fields.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/temporalio-1.35.0-pydantic-2.14.4
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q temporalio==1.35.0 pydantic==2.14.4 &&
        touch "$venv/installed"
} >"$folder/pip" 2>&1 || { cat "$folder/pip"; exit 2; }
unset "${!TEMPORAL_@}"
export HOME=$folder PATH=$venv/bin:$PATH

cat >"$folder/probe.py" <<'PYTHON'
import math
import sys

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, computed_field
from temporalio.contrib.pydantic import pydantic_data_converter

converter = pydantic_data_converter.payload_converter


class Alias(BaseModel):
    quantity: int = Field(1, alias="orderQuantity")


class ValidationAlias(BaseModel):
    quantity: int = Field(1, validation_alias="orderQuantity")


class SerializationAlias(BaseModel):
    quantity: int = Field(1, serialization_alias="orderQuantity")


class Excluded(BaseModel):
    quantity: int = Field(1, exclude=True)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    quantity: int

    @computed_field
    @property
    def is_bulk(self) -> bool:
        return self.quantity > 100


class Limit(BaseModel):
    euros: float


class Item(BaseModel):
    sku: str


class Gift(Item):
    message: str


class Line(BaseModel):
    item: Item


class AnyLine(BaseModel):
    item: SerializeAsAny[Item]


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


mug = Gift(sku="mug", message="for ada")
for model in (
    Alias(orderQuantity=12),
    ValidationAlias(orderQuantity=12),
    SerializationAlias(quantity=12),
    Excluded(quantity=12),
    Strict(quantity=12),
    Limit(euros=math.inf),
    Line(item=mug),
    AnyLine(item=mug),
):
    payloads = converter.to_payloads([model])
    try:
        [arrived] = converter.from_payloads(payloads, [type(model)])
        verdict = "equal" if arrived == model else f"arrives as {arrived!r}"
    except Exception as error:
        verdict = type(error).__name__
    note(f"{model!r}: {payloads[0].data.decode()}: {verdict}")
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
Alias(quantity=12): {"orderQuantity":12}: equal
ValidationAlias(quantity=12): {"quantity":12}: arrives as ValidationAlias(quantity=1)
SerializationAlias(quantity=12): {"orderQuantity":12}: arrives as SerializationAlias(quantity=1)
Excluded(quantity=12): {}: arrives as Excluded(quantity=1)
Strict(quantity=12, is_bulk=False): {"quantity":12,"is_bulk":false}: ValidationError
Limit(euros=inf): {"euros":null}: ValidationError
Line(item=Gift(sku='mug', message='for ada')): {"item":{"sku":"mug"}}: arrives as Line(item=Item(sku='mug'))
AnyLine(item=Gift(sku='mug', message='for ada')): {"item":{"sku":"mug","message":"for ada"}}: arrives as AnyLine(item=Item(sku='mug'))
SEEN
