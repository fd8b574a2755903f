"""What is done to each version, and how each must end: one list for the table, the tests and the README.

To add a scenario, add it to `GROUPS`; the table, the timeline and the tests take it from there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from comparison.judge.accounts import Ending
from order_processor import MAXIMUM_ATTEMPTS
from shop.faults import Step
from shop.orders import SAMPLE_ORDER, Item, Order
from workflows import ATTEMPT_TIMEOUT

Endings = tuple[Ending, ...]
COMPLETE, REFUSED, UNDONE = (Ending.COMPLETE,), (Ending.REFUSED,), (Ending.UNDONE,)
UNCONFIRMED, ABANDONED, LOST = (Ending.UNCONFIRMED,), (Ending.ABANDONED,), (Ending.STOCK_NOT_TAKEN,)
LEFT_ALONE = frozenset(UNCONFIRMED + ABANDONED + LOST)  # half-done; nobody goes on, if the process is dead


class Disturbance(str, Enum):
    """What the supervisor does while an order is under way, besides restarting a worker that died."""

    NONE = "nothing"
    SUBMIT_TWICE = "give the same input to two processes at once"
    KILL_ONE_OF_TWO = "give the same input to two processes at once, and kill one"
    SUBMIT_AGAIN = "give the same input to a second process while the first is in the step"
    CANCEL = "cancel the order: SIGTERM for the script and the loop's worker, a cancellation for the workflow"
    KILL_ALL = "kill every process: the script; the loop's worker; server, worker and starter"
    RIVAL = "sell the last item to another customer"


@dataclass(frozen=True)
class Scenario:
    """One row of the comparison.

    `faults` strike all alike. A script that was killed stays dead (`script`) until an operator runs the same input
    again (`rerun`); a worker that was killed, of the durable loop or of Temporal, is restarted by its supervisor. The
    loop ends as the script that is run again, except where `loop` says how. The endings are those of the orders,
    sorted. The disturbance comes when the first step of the `faults` is first tried. With `from_stdin` the order comes
    on standard input, as from a web request: nobody has it twice. `keeps_trying` is the step that the workflow is still
    trying when the scenario ends. The shop knows idempotency `keys`, or not.
    """

    name: str
    title: str
    faults: str = ""
    script: Endings = COMPLETE
    temporal: Endings = COMPLETE
    rerun: Endings = COMPLETE
    loop: Endings | None = None
    orders: tuple[Order, ...] = (SAMPLE_ORDER,)
    disturbance: Disturbance = Disturbance.NONE
    from_stdin: bool = False
    keeps_trying: Step | None = None
    keys: str = "on"

    @property
    def endings(self) -> tuple[Endings, ...]:
        """Return how it must end: in the script, in the script if that is run again, in the loop, in the workflow."""
        rerun = self.rerun if LEFT_ALONE.issuperset(self.script) else self.script
        return self.script, rerun, self.loop or rerun, self.temporal


def _last_one(order_id: str) -> Order:
    return replace(SAMPLE_ORDER, order_id=order_id, items=(Item("last-one", 1, 9900),))


RIVAL = _last_one("rival")
DECLINED = replace(SAMPLE_ORDER, payment_token="tok_chargeDeclined")
TOO_MANY = replace(SAMPLE_ORDER, items=(Item("mug", 101, 1250),))
# Lands after the caller, script or workflow, has given the call up.
LATE = f"slow({ATTEMPT_TIMEOUT.total_seconds() + 1:g})"
CHARGED_AND_KILLED = "process_payment:crash_after"
PAYMENT_DOWN_TWICE = "process_payment:unavailable*2"
# Long enough for the supervisor to step in.
SLOW_PAYMENT, SLOW_STOCK = "process_payment:slow(1)", "update_inventory:slow(2.5)"

GROUPS: dict[str, tuple[Scenario, ...]] = {
    "a service fails": (
        Scenario("all-well", "All well"),
        Scenario("declined", "Card declined", script=REFUSED, temporal=REFUSED, orders=(DECLINED,)),
        Scenario("out-of-stock", "Out of stock", script=REFUSED, temporal=REFUSED, orders=(TOO_MANY,)),
        Scenario("payment-down-twice", "Payment down twice", PAYMENT_DOWN_TWICE),
        Scenario("payment-down", "Payment down for good", "process_payment:unavailable*inf", UNDONE, UNDONE),
        Scenario("reply-lost", "Charged, the reply lost", "process_payment:lost_reply"),
    ),
    "the process dies": (
        Scenario("killed-before-charge", "Killed before the charge", "process_payment:crash_before", ABANDONED),
        Scenario("killed-after-charge", "Killed after the charge", CHARGED_AND_KILLED, LOST),
        Scenario(
            "input-gone",
            "Charged, killed, the input gone",
            CHARGED_AND_KILLED,
            LOST,
            rerun=LOST,
            loop=COMPLETE,
            from_stdin=True,
        ),
        Scenario("killed-after-stock", "Killed after the stock was taken", "update_inventory:crash_after", UNCONFIRMED),
        Scenario(
            "killed-in-refund",
            "Killed during the refund",
            "process_payment:slow(2),refund_payment:crash_before",
            LOST,
            REFUSED,
            REFUSED,
            orders=(_last_one("1001"),),
            disturbance=Disturbance.RIVAL,
        ),
        Scenario("all-killed", "Everything killed at once", SLOW_STOCK, LOST, disturbance=Disturbance.KILL_ALL),
        Scenario(
            "poison",
            "Killed whenever it takes the stock",
            "update_inventory:crash_before*inf",
            LOST,
            LOST,
            LOST,
            loop=UNDONE,
            keeps_trying="update_inventory",
        ),
    ),
    "two at once, and late arrivals": (
        Scenario(
            "last-item",
            "Last item wanted by two",
            SLOW_PAYMENT,  # Both look before either has paid: the loser finds out when it has paid.
            COMPLETE + REFUSED,
            COMPLETE + REFUSED,
            orders=(_last_one("1001"), _last_one("1002")),
        ),
        Scenario("submitted-twice", "Same order submitted twice", SLOW_PAYMENT, disturbance=Disturbance.SUBMIT_TWICE),
        Scenario(
            "one-of-two-killed",
            "Submitted twice, one run killed",
            f"{SLOW_PAYMENT}*2",
            disturbance=Disturbance.KILL_ONE_OF_TWO,
        ),
        Scenario(
            "run-again-alive",
            "Run again while the first run is alive",
            SLOW_STOCK,
            disturbance=Disturbance.SUBMIT_AGAIN,
        ),
        Scenario(
            "late-charge", "Charges that land after their time-out", f"process_payment:{LATE}*inf", UNDONE, UNDONE
        ),
    ),
    "a policy differs": (
        Scenario(
            "inventory-down",
            "Stock down, too long for the script",
            f"update_inventory:unavailable*{MAXIMUM_ATTEMPTS + 1}",
            UNDONE,
        ),
        Scenario(
            "mail-down",
            "Mail down for good",
            "send_confirmation:unavailable*inf",
            (Ending.COMPLETE_UNCONFIRMED,),
            UNCONFIRMED,
            keeps_trying="send_confirmation",
        ),
        Scenario(
            "cancelled",
            "Cancelled while it retries a payment",
            PAYMENT_DOWN_TWICE,
            temporal=UNDONE,
            disturbance=Disturbance.CANCEL,
        ),
    ),
}
SCENARIOS = {scenario.name: scenario for scenarios in GROUPS.values() for scenario in scenarios}
