"""What is done to both versions, and how each must end: one list for the table, the tests and the README.

To add a scenario, add it to `SCENARIOS`; the table, the timeline and the tests take it from there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from comparison.judge.audit import Ending
from order_processor import MAXIMUM_ATTEMPTS
from shop.faults import Step
from shop.orders import SAMPLE_ORDER, Item, Order
from shop.stores.storage import CALL_TIMEOUT_SECONDS

COMPLETE, REFUSED, UNDONE = (Ending.COMPLETE,), (Ending.REFUSED,), (Ending.UNDONE,)


class Group(str, Enum):
    """Under which heading a scenario stands."""

    SERVICE = "a service fails"
    PROCESS = "the process dies"
    TWO = "two at once, and late arrivals"
    POLICY = "a policy differs"


class Disturbance(str, Enum):
    """What the supervisor does while an order is under way, besides restarting a worker that died."""

    NONE = "nothing"
    SUBMIT_TWICE = "give the same input to two processes at once"
    KILL_ONE_OF_TWO = "give the same input to two processes at once, and kill one"
    SUBMIT_AGAIN = "give the same input to a second process while the first is in the step"
    CANCEL = "cancel the order: SIGTERM for the script, a cancellation for the workflow"
    KILL_ALL = "kill every process: the script; server, worker and starter"
    RIVAL = "sell the last item to another customer"


@dataclass(frozen=True)
class Scenario:
    """One row of the comparison.

    `faults` strike both versions alike. A script that was killed stays dead (`script`) until an operator runs the same
    input again (`script_rerun`); a worker that was killed is restarted by its supervisor. The endings are those of the
    orders, sorted. With `from_stdin` the order comes on standard input, as from a web request: nobody has it twice.
    `keeps_trying` is the step that the workflow is still trying when the scenario ends.
    """

    name: str
    title: str
    group: Group
    script: tuple[Ending, ...]
    temporal: tuple[Ending, ...]
    script_rerun: tuple[Ending, ...] | None = None
    faults: str = ""
    orders: tuple[Order, ...] = (SAMPLE_ORDER,)
    disturbance: Disturbance = Disturbance.NONE
    disturbed_step: str = "process_payment"
    from_stdin: bool = False
    keeps_trying: Step | None = None


def _last_one(order_id: str) -> Order:
    return replace(SAMPLE_ORDER, order_id=order_id, items=(Item("last-one", 1, 9900),))


RIVAL = _last_one("rival")
DECLINED = replace(SAMPLE_ORDER, payment_token="tok_chargeDeclined")
TOO_MANY = replace(SAMPLE_ORDER, items=(Item("mug", 101, 1250),))
LOST = (Ending.STOCK_NOT_TAKEN,)

SCENARIOS = (
    Scenario("all-well", "All well", Group.SERVICE, COMPLETE, COMPLETE),
    Scenario("declined", "Card declined", Group.SERVICE, REFUSED, REFUSED, orders=(DECLINED,)),
    Scenario("out-of-stock", "Out of stock", Group.SERVICE, REFUSED, REFUSED, orders=(TOO_MANY,)),
    Scenario(
        "payment-down-twice",
        "Payment down twice",
        Group.SERVICE,
        COMPLETE,
        COMPLETE,
        faults="process_payment:unavailable*2",
    ),
    Scenario(
        "payment-down",
        "Payment down for good",
        Group.SERVICE,
        UNDONE,
        UNDONE,
        faults="process_payment:unavailable*inf",
    ),
    Scenario(
        "reply-lost", "Charged, the reply lost", Group.SERVICE, COMPLETE, COMPLETE, faults="process_payment:lost_reply"
    ),
    Scenario(
        "killed-before-charge",
        "Killed before the charge",
        Group.PROCESS,
        (Ending.ABANDONED,),
        COMPLETE,
        COMPLETE,
        faults="process_payment:crash_before",
    ),
    Scenario(
        "killed-after-charge",
        "Killed after the charge",
        Group.PROCESS,
        LOST,
        COMPLETE,
        COMPLETE,
        faults="process_payment:crash_after",
    ),
    Scenario(
        "input-gone",
        "Killed after the charge, the input gone",
        Group.PROCESS,
        LOST,
        COMPLETE,
        LOST,
        faults="process_payment:crash_after",
        from_stdin=True,
    ),
    Scenario(
        "killed-after-stock",
        "Killed after the stock was taken",
        Group.PROCESS,
        (Ending.UNCONFIRMED,),
        COMPLETE,
        COMPLETE,
        faults="update_inventory:crash_after",
    ),
    Scenario(
        "killed-in-refund",
        "Killed during the refund",
        Group.PROCESS,
        LOST,
        REFUSED,
        REFUSED,
        faults="process_payment:slow(3),refund_payment:crash_before",
        orders=(_last_one("1001"),),
        disturbance=Disturbance.RIVAL,
    ),
    Scenario(
        "all-killed",
        "Everything killed at once",
        Group.PROCESS,
        LOST,
        COMPLETE,
        COMPLETE,
        faults="update_inventory:slow(4)",
        disturbance=Disturbance.KILL_ALL,
        disturbed_step="update_inventory",
    ),
    Scenario(
        "poison",
        "Killed whenever it takes the stock",
        Group.PROCESS,
        LOST,
        LOST,
        LOST,
        faults="update_inventory:crash_before*inf",
        keeps_trying="update_inventory",
    ),
    Scenario(
        "last-item",
        "Last item wanted by two",
        Group.TWO,
        (Ending.COMPLETE, Ending.REFUSED),
        (Ending.COMPLETE, Ending.REFUSED),
        # Both look before either has paid: the loser finds out when it has paid.
        faults="process_payment:slow(2)",
        orders=(_last_one("1001"), _last_one("1002")),
    ),
    Scenario(
        "submitted-twice",
        "Same order submitted twice",
        Group.TWO,
        COMPLETE,
        COMPLETE,
        faults="process_payment:slow(1)",
        disturbance=Disturbance.SUBMIT_TWICE,
    ),
    Scenario(
        "one-of-two-killed",
        "Submitted twice, one run killed",
        Group.TWO,
        COMPLETE,
        COMPLETE,
        faults="process_payment:slow(2)*2",
        disturbance=Disturbance.KILL_ONE_OF_TWO,
    ),
    Scenario(
        "run-again-alive",
        "Run again while the first run is alive",
        Group.TWO,
        COMPLETE,
        COMPLETE,
        faults="update_inventory:slow(12)",
        disturbance=Disturbance.SUBMIT_AGAIN,
        disturbed_step="update_inventory",
    ),
    Scenario(
        "late-charge",
        "Charges that land after their time-out",
        Group.TWO,
        UNDONE,
        UNDONE,
        faults=f"process_payment:slow({CALL_TIMEOUT_SECONDS + 2:g})*inf",
    ),
    Scenario(
        "inventory-down",
        "Inventory down after the charge, too long for the script",
        Group.POLICY,
        UNDONE,
        COMPLETE,
        faults=f"update_inventory:unavailable*{MAXIMUM_ATTEMPTS + 1}",
    ),
    Scenario(
        "mail-down",
        "Mail down for good",
        Group.POLICY,
        (Ending.COMPLETE_UNCONFIRMED,),
        (Ending.UNCONFIRMED,),
        faults="send_confirmation:unavailable*inf",
        keeps_trying="send_confirmation",
    ),
    Scenario(
        "cancelled",
        "Cancelled while the payment is retried",
        Group.POLICY,
        COMPLETE,
        UNDONE,
        faults="process_payment:unavailable*2",
        disturbance=Disturbance.CANCEL,
    ),
)
