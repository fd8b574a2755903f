"""The matrix: every state that an order can be left in, every answer that a run can get, both versions.

A run knows nothing but the answers. So the rule is two tables: how the services answer a run that finds the order in a
state, and where each answer leads. That the rule holds when runs meet, die, are given up or cancelled is shown by
`test_interleavings`, which lends the runs and the services.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from test_interleavings import (
    CANCELLED,
    CONFLICT,
    DONE,
    GIVEN_UP,
    IMPOSSIBLE,
    NO,
    ORDER,
    REFUSED,
    TRANSACTION,
    VOIDED,
    YES,
    Answer,
    Call,
    Roads,
    Services,
    Version,
    Word,
    is_true,
    open_services,
    run_script,
    run_workflow,
)

from shop.faults import STEPS
from shop.orders import Item, Order, Status

COMPLETED, REJECTED, FAILED, UNKNOWN = Status.COMPLETED, Status.REJECTED, Status.FAILED, Status.UNKNOWN
OTHER_CONTENT = replace(ORDER, items=(Item("mug", 1, 12_50),))
# What a service refuses, with the word in the end.
REFUSED_ORDERS = {
    replace(ORDER, payment_token="tok_chargeDeclined"): REJECTED,
    replace(ORDER, payment_token="tok_unheardOf"): REJECTED,
    replace(ORDER, items=(Item("unicorn", 1, 1),)): REJECTED,
    replace(ORDER, items=(Item("last-one", 2, 90_00),)): REJECTED,
    replace(ORDER, customer_id="nobody"): COMPLETED,  # noted as not mailed
}

SOLD = ("process_payment", "update_inventory")
# Each state, by the calls that earlier runs, or `settle`, made before they ended or were killed. Then how a run ends
# that finds it and meets no trouble, and how one of another order under the same id does.
STATES: dict[str, tuple[tuple[str, ...], Status, Status]] = {
    "nothing": ((), COMPLETED, COMPLETED),
    "charged": (("process_payment",), COMPLETED, UNKNOWN),
    "taken": (SOLD, COMPLETED, UNKNOWN),
    "confirmed": ((*SOLD, "send_confirmation"), COMPLETED, UNKNOWN),
    "noted": ((*SOLD, "note_unsent"), COMPLETED, UNKNOWN),
    "voided": (("void_charge",), REJECTED, UNKNOWN),
    "unrefunded": (("process_payment", "void_sale"), REJECTED, UNKNOWN),
    "refunded": (("process_payment", "void_sale", "refund_payment"), REJECTED, UNKNOWN),
    "settled": (("void_confirmation", "restore_inventory", "refund_or_void"), REJECTED, REJECTED),
    "charged and settled": (
        ("process_payment", "void_confirmation", "restore_inventory", "refund_or_void"),
        REJECTED,
        UNKNOWN,
    ),
    "taken and settled": ((*SOLD, "void_confirmation", "restore_inventory", "refund_or_void"), REJECTED, UNKNOWN),
    # A `settle` that was killed.
    "settling": (("void_confirmation",), REJECTED, REJECTED),
    "charged, settling": (("process_payment", "void_confirmation"), REJECTED, UNKNOWN),
    "taken, settling": ((*SOLD, "void_confirmation"), REJECTED, UNKNOWN),
    "restored, settling": ((*SOLD, "void_confirmation", "restore_inventory"), REJECTED, UNKNOWN),
}

FORWARD = ("validate_inventory", "process_payment", "update_inventory")
ENDING = ("void_charge", "void_sale", "refund_payment")
ENDED = "ended"  # as what the first error in a forward step says
ENDED_BY = {VOIDED: REJECTED, REFUSED: REJECTED, IMPOSSIBLE: FAILED, GIVEN_UP: FAILED, CANCELLED: Status.CANCELLED}
# Where each answer leads: to another call, or to the word at the end.
ROADS: dict[tuple[str, Answer], Word] = {
    ("validate_inventory", DONE): "process_payment",
    ("process_payment", TRANSACTION): "update_inventory",
    ("update_inventory", DONE): "send_confirmation",
    **{(step, error): "void_charge" for step in FORWARD for error in ENDED_BY},
    ("void_charge", DONE): ENDED,
    ("void_charge", TRANSACTION): "void_sale",
    ("void_sale", NO): "refund_payment",
    ("void_sale", YES): "send_confirmation",
    ("refund_payment", DONE): ENDED,
    ("send_confirmation", DONE): COMPLETED,
    ("send_confirmation", VOIDED): REJECTED,
    ("send_confirmation", REFUSED): REJECTED,
    ("send_confirmation", IMPOSSIBLE): "note_unsent",
    ("send_confirmation", GIVEN_UP): "note_unsent",
    ("note_unsent", DONE): COMPLETED,
    ("note_unsent", VOIDED): REJECTED,
    # A person decides; or, of the script's calls that an order cannot end without: run it again.
    **{(step, CONFLICT): UNKNOWN for step in STEPS},
    **{(step, GIVEN_UP): UNKNOWN for step in (*ENDING, "note_unsent")},
    # It comes too late, or when the order is being ended: the call goes on.
    **{(step, CANCELLED): step for step in (*ENDING, "send_confirmation", "note_unsent")},
}
# Where a version waits for as long as it takes; and nobody can cancel the order of a script.
NEVER: dict[Version, set[tuple[str, Answer]]] = {
    run_script: {(step, CANCELLED) for step in STEPS},
    run_workflow: {(step, GIVEN_UP) for step in ("update_inventory", *ENDING, "note_unsent")},
}


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    with open_services() as opened:
        yield opened


def run_well(version: Version, order: Order, state: int, services: Services) -> tuple[Word, int]:
    """Run an order to its end; return the word, and the state of the shop."""
    answers: tuple[Answer, ...] = ()
    while True:
        try:
            return version(answers), state
        except Call as call:
            state, answer = services.call(state, order, call.step)
            answers += (answer,)


@pytest.mark.parametrize("version", NEVER)
@pytest.mark.parametrize("state", STATES)
def test_an_order_that_is_found_in_a_state_ends_as_the_table_says_and_does_so_again(
    state: str, version: Version, services: Services
) -> None:
    calls, word, word_of_other = STATES[state]
    found = services.call_all(services.start, *calls)

    told, left = run_well(version, ORDER, found, services)
    told_to_other, left_by_other = run_well(version, OTHER_CONTENT, found, services)

    assert (told, told_to_other) == (word, word_of_other)
    assert run_well(version, ORDER, left, services) == (word, left)
    assert word_of_other is not UNKNOWN or left_by_other == found


@pytest.mark.parametrize("version", NEVER)
def test_an_order_that_a_service_refuses_is_rejected_unless_it_is_only_the_mail(
    version: Version, services: Services
) -> None:
    for order, word in REFUSED_ORDERS.items():
        told, left = run_well(version, order, services.start, services)

        assert told == word
        assert is_true(frozenset({told}), services.ledgers[left])


@pytest.mark.parametrize("version", NEVER)
def test_every_answer_leads_where_the_table_says(version: Version) -> None:
    roads, seen = Roads(), set[tuple[str, Answer]]()

    def follow(number: int, reason: Answer | None) -> None:
        place = roads.places[number]
        for answer, leads_to in place.following:
            first_error = reason or (answer if place.step in FORWARD and answer in ENDED_BY else None)
            end = ROADS[place.step, answer]
            if isinstance(leads_to, int):
                assert roads.places[leads_to].step == end
                follow(leads_to, first_error)
            else:
                assert leads_to == (ENDED_BY[first_error] if end == ENDED and first_error else end)
            seen.add((place.step, answer))

    follow(roads.start(version), None)

    assert seen == set(ROADS) - NEVER[version]
