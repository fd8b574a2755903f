"""What is done to both versions, and how each must end: one list for the table, the tests and the README."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from comparison.audit import Ending
from shop.orders import SAMPLE_ORDER, Item, Order

COMPLETE, REFUSED, UNDONE = (Ending.COMPLETE,), (Ending.REFUSED,), (Ending.UNDONE,)


class Disturbance(str, Enum):
    """What the supervisor does while an order is under way, besides restarting a worker that died."""

    NONE = "none"
    SUBMIT_TWICE = "the same input is given to two processes at once"
    CANCEL = "the order is cancelled: SIGTERM for the script, a cancellation for the workflow"
    KILL_ALL = "every process is killed: the script; server, worker and starter"
    RIVAL = "another customer takes the last item"


@dataclass(frozen=True)
class Scenario:
    """One row of the comparison.

    `faults` strike both versions alike. A script that was killed stays dead (`script`) until an operator runs the same
    input again (`script_rerun`); a worker that was killed is restarted by its supervisor. The endings are those of the
    orders, sorted by order id, or sorted by ending where a race decides which order gets which.
    """

    name: str
    title: str
    script: tuple[Ending, ...]
    temporal: tuple[Ending, ...]
    script_rerun: tuple[Ending, ...] | None = None
    faults: str = ""
    orders: tuple[Order, ...] = (SAMPLE_ORDER,)
    disturbance: Disturbance = Disturbance.NONE
    disturbed_step: str = ""
    temporal_goes_on: bool = False
    note: str = ""


def _last_one(order_id: str) -> Order:
    return replace(SAMPLE_ORDER, order_id=order_id, items=(Item("last-one", 1, 9900),))


RIVAL = _last_one("rival")

SCENARIOS = (
    Scenario("all-well", "All well", COMPLETE, COMPLETE),
    Scenario("payment-down-twice", "Payment down twice", COMPLETE, COMPLETE, faults="process_payment:unavailable*2"),
    Scenario("payment-down", "Payment down for good", UNDONE, UNDONE, faults="process_payment:unavailable*inf"),
    Scenario(
        "declined",
        "Card declined",
        REFUSED,
        REFUSED,
        orders=(replace(SAMPLE_ORDER, payment_token="tok_chargeDeclined"),),
    ),
    Scenario(
        "out-of-stock",
        "Out of stock",
        REFUSED,
        REFUSED,
        orders=(replace(SAMPLE_ORDER, items=(Item("mug", 101, 1250),)),),
    ),
    Scenario(
        "last-item",
        "Last item wanted by two",
        (Ending.COMPLETE, Ending.REFUSED),
        (Ending.COMPLETE, Ending.REFUSED),
        # Both look before either has paid, so that the loser finds out when it has paid.
        faults="process_payment:slow(2)",
        orders=(_last_one("1001"), _last_one("1002")),
    ),
    Scenario("reply-lost", "Charged, but the reply lost", COMPLETE, COMPLETE, faults="process_payment:lost_reply"),
    Scenario(
        "inventory-down",
        "Inventory down for four attempts, after the charge",
        UNDONE,
        COMPLETE,
        faults="update_inventory:unavailable*4",
        note="a policy: waiting longer, the script could be killed for longer",
    ),
    Scenario(
        "killed-before-charge",
        "Killed before the charge",
        (Ending.FORGOTTEN,),
        COMPLETE,
        COMPLETE,
        faults="process_payment:crash_before",
    ),
    Scenario(
        "killed-after-charge",
        "Killed after the charge",
        (Ending.UNSHIPPED,),
        COMPLETE,
        COMPLETE,
        faults="process_payment:crash_after",
    ),
    Scenario(
        "killed-after-stock",
        "Killed after the stock was taken",
        (Ending.UNMAILED,),
        COMPLETE,
        COMPLETE,
        faults="update_inventory:crash_after",
    ),
    Scenario(
        "killed-in-refund",
        "Killed during the refund",
        (Ending.UNSHIPPED,),
        REFUSED,
        REFUSED,
        faults="process_payment:slow(3),refund_payment:crash_before",
        orders=(_last_one("1001"),),
        disturbance=Disturbance.RIVAL,
        disturbed_step="process_payment",
        note="the second run is refused for want of stock, and has to find out that the first one charged",
    ),
    Scenario(
        "mail-down",
        "Mail down for good",
        (Ending.COMPLETE_UNMAILED,),
        (Ending.UNMAILED,),
        faults="send_confirmation:unavailable*inf",
        temporal_goes_on=True,
        note="the workflow tries for a day, then notes it",
    ),
    Scenario(
        "submitted-twice",
        "Same order submitted twice",
        COMPLETE,
        COMPLETE,
        faults="process_payment:slow(1)",
        disturbance=Disturbance.SUBMIT_TWICE,
    ),
    Scenario(
        "late-charge",
        "Charges that land after their time-out",
        UNDONE,
        UNDONE,
        faults="process_payment:slow(12)*3",
        note="the last one lands after the refund, and is refused: the order was voided",
    ),
    Scenario(
        "cancelled",
        "Cancelled while the payment is retried",
        COMPLETE,
        UNDONE,
        faults="process_payment:unavailable*2",
        disturbance=Disturbance.CANCEL,
        disturbed_step="process_payment",
        note="asked to stop, the script finishes what it has in hand",
    ),
    Scenario(
        "all-killed",
        "Everything killed at once",
        (Ending.UNSHIPPED,),
        COMPLETE,
        COMPLETE,
        faults="update_inventory:slow(4)",
        disturbance=Disturbance.KILL_ALL,
        disturbed_step="update_inventory",
    ),
)
