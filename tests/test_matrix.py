"""The matrix: every state that an earlier run can leave, every way the next run can go, both versions.

Then pairs: one run is held in a step while another of the same order goes through. All through the real programs: a
script process for each fault plan, and one starter process for all workflows. Their worker, and the starter's part in
the pairs, run in this process, so that each order can bring its own plan. What is right is not written down cell by
cell: `expect` below knows the rule.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from pathlib import Path
from threading import Event
from typing import TypeAlias

import pytest
from conftest import Stage, make_order, make_stage, write_orders
from temporalio.client import Client
from temporalio.worker import Worker
from test_cancellation import Hold, PlanOfEachOrder

from activities import activities_of
from comparison.stage.processes import Program, Server, wait_until
from plumbing.admission import OneOrderInterceptor
from plumbing.connection import TASK_QUEUE, register_search_attribute
from run_workflow import run_order
from shop.catalogue import Product
from shop.errors import OutOfStock
from shop.faults import STEPS, Fault, FaultPlan, PlannedFault, parse_faults
from shop.ledger import Ledger, read_ledger
from shop.orders import Item, Order
from shop.shop import Shop
from shop.stores import storage
from shop.stores.storage import read_only
from workflows import ATTEMPT_TIMEOUT, FEW_ATTEMPTS, ORDER_STATUS, OrderWorkflow, workflow_id_for

pytestmark = pytest.mark.timeout(300)

PATIENCE_SECONDS = 200.0  # for all; on a quiet machine the whole play takes about 40 s
THREADS = 250  # more than steps are ever held at once
MEMORY = Path("/dev/shm")  # thousands of transactions, none of which has to survive
# The waits of a workflow that gives up a step.
GIVING_UP_SECONDS = sum(
    FEW_ATTEMPTS.initial_interval.total_seconds() * FEW_ATTEMPTS.backoff_coefficient**number
    for number in range(FEW_ATTEMPTS.maximum_attempts - 1)
)
# For so long a first run is held: longer than the second takes, shorter than an attempt may take. The scripts here do
# not wait before they try again, and wait for an answer as long as it takes.
HOLD_SECONDS = {"script": GIVING_UP_SECONDS + 9, "workflow": ATTEMPT_TIMEOUT.total_seconds() - 2}
SCRIPT_TIMEOUT_SECONDS = 2 * HOLD_SECONDS["script"]
# The script as it is, but for the waits: no pause between two attempts, and answers that take long.
HURRIED = f"""
import sys
import order_processor
from shop.stores import storage
from shop.terminal.streams import run_program

order_processor.INITIAL_INTERVAL_SECONDS, storage.CALL_TIMEOUT_SECONDS = 0.0, {SCRIPT_TIMEOUT_SECONDS}
sys.exit(run_program("order_processor", order_processor.main))
"""

FORWARD = ("validate_inventory", "process_payment", "update_inventory")
VOIDS = ("void_charge", "void_sale", "refund_payment")
SERVICES = {
    "inventory": ("validate_inventory", "update_inventory", "void_sale"),
    "payments": ("process_payment", "void_charge", "refund_payment"),
    "notifications": ("send_confirmation", "note_unsent"),
}

# Each state, by the calls that an earlier run of either version, or `settle`, made before it ended or was killed.
STATES: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "charged": ("process_payment",),
    "unrefunded": ("process_payment", "void_sale"),
    "refunded": ("process_payment", "void_sale", "refund_payment"),
    "taken": ("process_payment", "update_inventory"),
    "confirmed": ("process_payment", "update_inventory", "send_confirmation"),
    "noted": ("process_payment", "update_inventory", "note_unsent"),
    "voided": ("void_charge",),
    "settled": ("settle",),
    "charged_settled": ("process_payment", "settle"),
    "taken_settled": ("process_payment", "update_inventory", "settle"),
    "settling": ("void_confirmation",),
    "charged_settling": ("process_payment", "void_confirmation"),
    "taken_settling": ("process_payment", "update_inventory", "void_confirmation"),
    "taken_unsettled": ("process_payment", "update_inventory", "void_confirmation", "restore_inventory"),
}
# A `settle` that was killed after its first or second call. It is to be repeated; until then something may be held.
UNSETTLED = ("settling", "charged_settling", "taken_settling", "taken_unsettled")


class Trouble(str, Enum):
    """What meets a run in one step."""

    REFUSED = "refused"  # sold out, declined, nobody to mail
    DOWN = "down"  # the service is unavailable until the order was given up, or until it is lifted
    LOST = "lost"  # one reply is lost
    LOST_FOR_GOOD = "all_lost"  # every reply is lost until the order was given up, or until it is lifted
    CANCELLED_BEFORE = "cancelled"  # in the step, before its effect; which comes late
    CANCELLED_AFTER = "cancelled_after"  # in the step, after its effect


Troubles: TypeAlias = tuple[tuple[str, Trouble], ...]
CANCELLED = (Trouble.CANCELLED_BEFORE, Trouble.CANCELLED_AFTER)
FOR_GOOD = (Trouble.DOWN, Trouble.LOST_FOR_GOOD)
AFTER_EFFECT = (Trouble.LOST, Trouble.LOST_FOR_GOOD, Trouble.CANCELLED_AFTER)


@dataclass(frozen=True)
class Way:
    """How a run goes: the trouble in each step, the last of which the way is named after."""

    troubles: Troubles = ()
    has_other_content: bool = False

    def __str__(self) -> str:
        if self.troubles:
            step, trouble = self.troubles[-1]
            return f"{trouble.value}-{step}"
        return "other_content" if self.has_other_content else "well"

    def trouble_in(self, step: str) -> Trouble | None:
        return dict(self.troubles).get(step)

    @property
    def spec(self) -> str:
        """Return the fault plan of a script that goes this way."""
        faults = {
            Trouble.DOWN: "unavailable*inf",
            Trouble.LOST: "lost_reply",
            Trouble.LOST_FOR_GOOD: "lost_reply*inf",
        }
        parts = [f"{step}:{faults[trouble]}" for step, trouble in self.troubles if trouble in faults]
        if self.trouble_in("update_inventory") is Trouble.REFUSED:
            parts.append(f"process_payment:slow({HOLD_SECONDS['script']})")  # meanwhile somebody takes the last piece
        return ",".join(parts)


# What brings a run to a step that a good run never gets to.
TRIGGERS = dict.fromkeys(VOIDS, (("validate_inventory", Trouble.DOWN),)) | {
    "note_unsent": (("send_confirmation", Trouble.REFUSED),)
}
WAYS = (
    Way(),
    Way(has_other_content=True),
    *(Way((*TRIGGERS.get(step, ()), (step, trouble))) for step in STEPS for trouble in Trouble),
)


@dataclass(frozen=True)
class Held:
    """What the ledgers hold of one order. A void that knows no content, because `settle` left it, ends in `*`."""

    charge: str = ""
    sale: str = ""
    mail: str = ""
    voids: frozenset[str] = frozenset()

    def has_void(self, step: str) -> bool:
        return bool(self.voids & {step, f"{step}*"})

    def void(self, step: str) -> Held:
        return self if self.has_void(step) else replace(self, voids=self.voids | {step})


NO_HOLDING = Held()


@dataclass(frozen=True)
class End:
    """How an order ended, and where it waited for a service before that, and what it held then."""

    answer: str
    held: Held
    waits_at: str = ""
    held_meanwhile: Held | None = None


# The rule, once more: small, and independent of the programs.


@dataclass
class Course:
    """The shop of the rule, and what has happened in it."""

    held: Held
    reached: set[str] = field(default_factory=set)
    struck: set[str] = field(default_factory=set)
    late: list[str] = field(default_factory=list)
    waits_at: str = ""
    held_meanwhile: Held | None = None

    def call(self, step: str, way: Way) -> str:
        """Let a step take effect; return the answer in one word."""
        self.held, answer = effect_of(step, self.held, way)
        return answer

    def wait(self, step: str) -> None:
        """Wait for the service of a step until the trouble with it is over."""
        self.waits_at, self.held_meanwhile = step, self.held


def effect_of(step: str, held: Held, way: Way) -> tuple[Held, str]:
    """Return what an order holds after a step, and what the service says to it."""
    is_refused = way.trouble_in(step) is Trouble.REFUSED
    is_sold_out = is_refused or way.trouble_in("validate_inventory") is Trouble.REFUSED
    if way.has_other_content and is_known(step, held):
        return held, "conflict"
    if step in ("validate_inventory", "update_inventory"):
        if held.sale == "restored" or held.has_void("void_sale"):
            return held, "voided"
        if held.sale == "taken":
            return held, "ok"
        if is_sold_out:
            return held, "refused"
        return (replace(held, sale="taken") if step == "update_inventory" else held), "ok"
    if step == "process_payment":
        if held.charge == "refunded" or held.has_void("void_charge"):
            return held, "voided"
        if is_refused and not held.charge:
            return held, "refused"
        return replace(held, charge="charged"), "ok"
    if step in ("send_confirmation", "note_unsent"):
        if held.has_void("void_confirmation"):
            return held, "voided"
        if is_refused:
            return held, "refused"
        return replace(held, mail="sent" if step == "send_confirmation" else held.mail or "noted"), "ok"
    if step == "void_charge":
        return (held, "go on") if held.charge else (held.void(step), "over")
    if step == "void_sale":
        return (held, "too late") if held.sale == "taken" else (held if held.sale else held.void(step), "go on")
    return replace(held, charge="refunded"), "over"


def is_known(step: str, held: Held) -> bool:
    """Tell whether the service of a step knows the content of the order."""
    if step in SERVICES["payments"]:
        return bool(held.charge) or "void_charge" in held.voids
    if step in SERVICES["inventory"]:
        return bool(held.sale) or "void_sale" in held.voids
    return bool(held.mail)


def has_patience(version: str, step: str) -> bool:
    """Tell whether a version waits for a service in a step for as long as it takes (or for a day of attempts)."""
    return version == "workflow" and step not in ("validate_inventory", "process_payment")


def attempt(version: str, step: str, way: Way, course: Course) -> Generator[str, None, str]:
    """Take one step, with all its attempts; stop before its effect. Return what the run gets to know of it."""
    trouble = way.trouble_in(step)
    course.reached.add(step)
    yield step
    if trouble is Trouble.CANCELLED_BEFORE and step in FORWARD:
        course.struck.add(step)
        course.late.append(step)
        return "cancelled"
    if trouble is Trouble.DOWN:
        course.struck.add(step)
        if not has_patience(version, step):
            return "failed"
        course.wait(step)
    answer = course.call(step, way)
    if trouble in AFTER_EFFECT and answer in ("conflict", "refused", "voided"):
        return answer  # There is no effect whose reply could be lost.
    course.struck.add(step)
    if trouble is Trouble.CANCELLED_AFTER and step in FORWARD:
        return "cancelled"
    if trouble is Trouble.LOST_FOR_GOOD:
        if not has_patience(version, step):
            return "failed"
        course.wait(step)
    return course.call(step, way) if trouble in (Trouble.LOST, Trouble.LOST_FOR_GOOD) else answer


def run(version: str, way: Way, course: Course) -> Generator[str, None, str]:
    """Take an order through its steps as the rule says; stop before each effect. Return the word at the end."""
    for step in FORWARD:
        answer = yield from attempt(version, step, way, course)
        if answer == "conflict":
            return "unknown"
        if answer != "ok":
            word = "rejected" if answer in ("refused", "voided") else answer
            for void in VOIDS:
                answer = yield from attempt(version, void, way, course)
                if answer in ("failed", "conflict"):
                    return "unknown"
                if answer == "over":
                    return word
                if answer == "too late":
                    break
            break
    answer = yield from attempt(version, "send_confirmation", way, course)
    if answer in ("failed", "refused"):
        answer = yield from attempt(version, "note_unsent", way, course)
    return {"ok": "completed", "voided": "rejected", "conflict": "unknown", "failed": "unknown"}[answer]


def end(going: Generator[str, None, str]) -> str:
    """Let a run go to its end; return its word."""
    while True:
        try:
            next(going)
        except StopIteration as stop:
            return str(stop.value)


@cache
def held_in(state: str) -> Held:
    """Return what the rule says that the calls of a state leave."""
    held = NO_HOLDING
    for call in STATES[state]:
        if call in STEPS:
            held, _ = effect_of(call, held, Way())
        if call in ("void_confirmation", "settle"):
            held = held.void("void_confirmation*")
        if call in ("restore_inventory", "settle"):
            held = replace(held, sale="restored") if held.sale else held.void("void_sale*")
        if call == "settle":
            held = replace(held, charge="refunded") if held.charge else held.void("void_charge*")
    return held


def expect(version: str, state: str, way: Way) -> tuple[End, Course]:
    """Return how an order must end that is found in a state and goes a way."""
    course = Course(held_in(state))
    answer = end(run(version, way, course))
    for step in course.late:
        course.call(step, way)
    return End(answer, course.held, course.waits_at, course.held_meanwhile), course


# The cells


NOBODY_CANCELS = "a script's order cannot be cancelled"
ONLY_CONFLICTS = "a void, a refund or a note is refused to other content alone, which is a way of its own"
ACCEPTED_ONCE = "a card that was charged is not declined, and a customer who was mailed is known"
NO_CONTENT = "no service knows another content of the order"
ENDS_BEFORE = "the run ends without this step"
NO_EFFECT = "the step is refused, so there is no effect after which something could happen"


@dataclass(frozen=True)
class Cell:
    """One order: the version that processes it, what an earlier run left, and how the run goes."""

    version: str
    state: str
    way: Way

    @property
    def order_id(self) -> str:
        return f"{self.version}.{self.state}.{self.way}"

    @property
    def first_content(self) -> Order:
        """Return the order as it was first made. Each has a piece of its own, the last one."""
        token, customer = "tok_visa", "ada"
        if self.way.trouble_in("process_payment") is Trouble.REFUSED:
            token = "tok_chargeDeclined"
        if self.way.trouble_in("send_confirmation") is Trouble.REFUSED:
            customer = "nobody"
        items = (Item(self.order_id, 1, 90_00),)
        return make_order(self.order_id, customer_id=customer, payment_token=token, items=items)

    @property
    def order(self) -> Order:
        """Return the order as it is run."""
        items = (Item(self.order_id, 1, 10_00),)
        return replace(self.first_content, items=items) if self.way.has_other_content else self.first_content

    @property
    def expected(self) -> End:
        return expect(self.version, self.state, self.way)[0]

    @property
    def why_not(self) -> str:
        """Return why there can be no such order; empty if there can."""
        if not self.way.troubles:
            is_unknown = self.way.has_other_content and not any(is_known(s, held_in(self.state)) for s in STEPS)
            return NO_CONTENT if is_unknown else ""
        step, trouble = self.way.troubles[-1]
        if trouble in CANCELLED and self.version == "script":
            return NOBODY_CANCELS
        if trouble is Trouble.REFUSED and step in TRIGGERS:
            return ONLY_CONFLICTS
        held = held_in(self.state)
        accepted = {"process_payment": bool(held.charge), "send_confirmation": held.mail == "sent"}
        if any(accepted.get(s) and t is Trouble.REFUSED for s, t in self.way.troubles):
            return ACCEPTED_ONCE
        _, course = expect(self.version, self.state, self.way)
        if step not in course.reached:
            return ENDS_BEFORE
        return "" if step in course.struck else NO_EFFECT


ALL_CELLS = [Cell(version, state, way) for version in ("script", "workflow") for state in STATES for way in WAYS]
CELLS = [cell for cell in ALL_CELLS if not cell.why_not]


def group(version: str, way: Way) -> list[Cell]:
    return [cell for cell in CELLS if (cell.version, cell.way) == (version, way)]


GROUPS = [(version, way) for version in ("script", "workflow") for way in WAYS if group(version, way)]


# The pairs


@dataclass(frozen=True)
class Pair:
    """Two runs of one order: while the first is held in a step, before its effect, the second goes through.

    Temporal runs no two workflows of one order at once. So the first of two is terminated while its step is held; the
    effect of the step comes when the second has ended.
    """

    first: str
    first_way: Way
    held_in: str
    second: str
    second_way: Way
    turn: int = 0

    @property
    def order(self) -> Order:
        return replace(Cell(self.first, "", self.first_way).first_content, order_id=self.order_id, items=self.items)

    @property
    def order_id(self) -> str:
        return f"pair-{PAIRS.index(replace(self, turn=0))}.{self.turn}"

    @property
    def items(self) -> tuple[Item, ...]:
        return (Item(self.order_id, 1, 90_00),)

    def first_part(self) -> tuple[str, str, str]:
        """Return what decides where the first run is held: pairs that have it in common can play together."""
        return self.first, self.held_in, self.first_way.spec

    @property
    def is_terminated(self) -> bool:
        return self.first == self.second == "workflow"

    @property
    def expected(self) -> tuple[str, str, Held]:
        """Return the answers of both runs, and what the order holds in the end."""
        course = Course(NO_HOLDING)
        first = run(self.first, self.first_way, course)
        while next(first) != self.held_in:
            pass
        second_answer = end(run(self.second, self.second_way, course))
        if not self.is_terminated:
            return end(first), second_answer, course.held
        course.call(self.held_in, self.first_way)
        return "unknown", second_answer, course.held


def all_pairs() -> Iterator[Pair]:
    """Yield the pairs: each way to each step, a second run that goes well, and one that ends the order if it can."""
    declined = (("validate_inventory", Trouble.DOWN),)
    unpaid = (("process_payment", Trouble.LOST_FOR_GOOD),)
    unmailed = (("send_confirmation", Trouble.REFUSED),)
    held_ways: list[tuple[Troubles, str]] = [((), step) for step in (*FORWARD, "send_confirmation")]
    held_ways += [(declined, "void_charge"), *((unpaid, step) for step in VOIDS), (unmailed, "note_unsent")]
    for first, second, (troubles, held_in), fault in itertools.product(
        ("script", "workflow"), ("script", "workflow"), held_ways, ((), declined)
    ):
        content = unmailed if troubles == unmailed else ()
        pair = Pair(first, Way(troubles), held_in, second, Way((*content, *fault)))
        if not (pair.is_terminated and fault):  # one plan for both runs: it cannot spare the first
            yield pair


PAIRS = [*all_pairs()]
# A first run cannot be held for longer than an attempt may take. Where the second took longer, the pair plays again.
TURNS = 3


# The play


@dataclass(frozen=True)
class Outage(Fault):
    """Strikes until it is lifted; tells when an attempt that it struck was followed by another."""

    tried: Event = field(default_factory=Event)
    tried_again: Event = field(default_factory=Event)
    lifted: Event = field(default_factory=Event)

    def before_effect(self) -> None:
        (self.tried_again if self.tried.is_set() else self.tried).set()
        if not self.lifted.is_set():
            super().before_effect()

    def after_effect(self) -> None:
        if not self.lifted.is_set():
            super().after_effect()


@dataclass
class Play:
    """One shop, one server, one worker, and what came of all orders."""

    stage: Stage
    shop: Shop
    plans: dict[str, FaultPlan]
    holds: dict[str, Hold] = field(default_factory=dict)
    outages: dict[str, Outage] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    waits: dict[str, tuple[str, Held]] = field(default_factory=dict)
    pair_answers: dict[Pair, tuple[str, str]] = field(default_factory=dict)

    async def go(self) -> None:
        """Play all cells side by side, then all pairs; wait for effects that come late."""
        workflows = [cell for cell in CELLS if cell.version == "workflow"]
        # Way by way, because those of one way wait for one another; first those that take longest.
        workflows.sort(key=lambda cell: (cell.order_id not in {**self.holds, **self.outages}, WAYS.index(cell.way)))
        starter = self.program([cell.order for cell in workflows], "run_workflow.py", "--concurrency=100")
        await starter.start()
        following = asyncio.create_task(self.follow(starter))
        await asyncio.gather(
            *(self.play_scripts(way) if version == "script" else self.play_workflows(way) for version, way in GROUPS)
        )
        await starter.wait(PATIENCE_SECONDS)
        await following
        for turn in range(TURNS):
            pairs = [replace(pair, turn=turn) for pair in PAIRS if not self.pair_played(pair)]
            pairs.sort(key=Pair.first_part)
            groups = [[*group] for _, group in itertools.groupby(pairs, Pair.first_part)]
            await asyncio.gather(*(self.play_pairs(group) for group in groups))
        await self.wait_until(self.are_all_calls_back, "late calls end")

    def set_up(self) -> None:
        """Make the earlier runs, and forget their attempts, so that the plans strike the next run."""
        orders = [cell.first_content for cell in CELLS] + [
            replace(pair, turn=turn).order for pair in PAIRS for turn in range(TURNS)
        ]
        self.shop.inventory.replace_products(Product(order.order_id, "piece", 1) for order in orders)
        for cell in CELLS:
            for call in STATES[cell.state]:
                self.call(call, cell.first_content)
            if cell.way.trouble_in("validate_inventory") is Trouble.REFUSED:
                self.sell_out(cell)
            if cell.version == "workflow":
                self.plan(cell.order_id, cell.way)
        for database in self.shop.databases:
            with database.transaction() as connection:
                connection.execute("DELETE FROM attempts")

    def call(self, name: str, order: Order) -> None:
        """Call a service, or a part of `settle`, which knows the order by its id."""
        services = (self.shop, self.shop.inventory, self.shop.payments, self.shop.notifications)
        (service,) = [service for service in services if hasattr(service, name)]
        getattr(service, name)(order if name in STEPS else order.order_id)

    def sell_out(self, cell: Cell) -> None:
        """Let somebody else take the last piece, if it is there."""
        with suppress(OutOfStock):
            self.shop.inventory.update_inventory(replace(cell.order, order_id=f"rival-{CELLS.index(cell)}"))

    def plan(self, order_id: str, way: Way) -> None:
        """Put what meets a workflow where its steps find it."""
        planned = [*parse_faults(way.spec if way.trouble_in("update_inventory") is not Trouble.REFUSED else "").planned]
        for step, trouble in way.troubles:
            if trouble in FOR_GOOD and has_patience("workflow", step):
                kind = "unavailable" if trouble is Trouble.DOWN else "lost_reply"
                self.outages[order_id] = Outage(kind)
                planned = [part for part in planned if part.step != step]
                planned.append(PlannedFault(step, self.outages[order_id], math.inf))
            elif trouble in CANCELLED:
                self.hold(order_id, step, planned, is_after_effect=trouble is Trouble.CANCELLED_AFTER)
            elif (step, trouble) == ("update_inventory", Trouble.REFUSED):
                self.hold(order_id, "process_payment", planned)
        self.plans[order_id] = FaultPlan(tuple(planned))

    def hold(self, order_id: str, step: str, planned: list[PlannedFault], *, is_after_effect: bool = False) -> None:
        self.holds[order_id] = Hold(step=step, is_after_effect=is_after_effect)
        planned.append(PlannedFault(step, self.holds[order_id], 1))

    async def play_scripts(self, way: Way) -> None:
        """Run one script over all states."""
        cells = group("script", way)
        script = self.script([cell.order for cell in cells], way.spec)
        await script.start()
        if way.trouble_in("update_inventory") is Trouble.REFUSED:
            orders = {cell.order_id for cell in cells}
            await self.wait_until(
                lambda: orders == self.orders_at("process_payment", orders) or not script.is_running, "all are to pay"
            )
            for cell in cells:
                self.sell_out(cell)
        await script.wait(PATIENCE_SECONDS)
        self.answers |= answers_of(script)

    async def play_workflows(self, way: Way) -> None:
        """Do what has to be done from outside to the workflows that go one way."""
        cells = group("workflow", way)
        if any(cell.order_id in self.outages for cell in cells):
            await self.lift_outages(cells)
        elif way.trouble_in("update_inventory") is Trouble.REFUSED:
            await asyncio.gather(*(self.sell_out_while_held(cell) for cell in cells))
        elif any(cell.order_id in self.holds for cell in cells):
            await asyncio.gather(*(self.cancel(cell) for cell in cells))
        await self.wait_until(lambda: all(cell.order_id in self.answers for cell in cells), f"{way}: all end")

    async def lift_outages(self, cells: list[Cell]) -> None:
        """See where the orders wait and what they hold; then let them go on."""
        for cell in cells:
            await self.wait_for(self.outages[cell.order_id].tried_again, cell)
        holdings = holdings_of(read_ledger(self.stage.data))
        for cell in cells:
            handle = self.stage.client.get_workflow_handle(workflow_id_for(cell.order_id))
            status = await handle.query(OrderWorkflow.status)
            self.waits[cell.order_id] = (status, holdings.get(cell.order_id, NO_HOLDING))
            self.outages[cell.order_id].lifted.set()

    async def cancel(self, cell: Cell) -> None:
        """Cancel a workflow that is held; let its step go on when that can change nothing any more."""
        handle = self.stage.client.get_workflow_handle(workflow_id_for(cell.order_id))
        await self.wait_for(self.holds[cell.order_id].reached, cell)
        await handle.cancel()
        if self.holds[cell.order_id].step in FORWARD:
            await self.wait_until(lambda: cell.order_id in self.answers, f"{cell.order_id} ends while it is held")
        else:
            await handle.query(OrderWorkflow.status)  # answered after the cancellation was taken note of
        self.holds[cell.order_id].released.set()

    async def sell_out_while_held(self, cell: Cell) -> None:
        await self.wait_for(self.holds[cell.order_id].reached, cell)
        self.sell_out(cell)
        self.holds[cell.order_id].released.set()

    async def wait_for(self, event: Event, cell: Cell) -> None:
        """Wait for what must happen to an order, or for its end: then the tests find what is wrong."""
        await self.wait_until(lambda: event.is_set() or cell.order_id in self.answers, f"{cell.order_id} comes to wait")

    async def play_pairs(self, pairs: list[Pair]) -> None:
        """Hold the first runs, let the second runs go through, let the first runs go on."""
        held_in, handles = pairs[0].held_in, self.stage.client.get_workflow_handle
        firsts = self.first_runs(pairs)
        orders = {pair.order_id for pair in pairs}
        await self.wait_until(
            lambda: orders == self.orders_at(held_in, orders) or all(first.done() for first in firsts.values()),
            "all first runs are held, or have ended: then the tests find that they never were",
        )
        too_late = time.monotonic() + HOLD_SECONDS[pairs[0].first]
        for pair in pairs:
            if pair.is_terminated:
                await handles(workflow_id_for(pair.order_id)).terminate()
                await firsts[pair.order_id]
        seconds = self.second_runs(pairs)
        await asyncio.gather(*seconds.values())
        overtaken = self.orders_at(held_in, orders, "started") if time.monotonic() < too_late else set()
        for pair in pairs:
            if pair.order_id in self.holds:
                self.holds[pair.order_id].released.set()
        await asyncio.gather(*firsts.values())
        for pair in pairs:
            if pair.order_id in overtaken:
                self.pair_answers[pair] = (firsts[pair.order_id].result(), seconds[pair.order_id].result())

    def first_runs(self, pairs: list[Pair]) -> dict[str, asyncio.Task[str]]:
        """Start the first runs; return a task for the answer of each."""
        way, held_in = pairs[0].first_way, pairs[0].held_in
        if pairs[0].first == "script":
            return self.run_script(pairs, f"{way.spec},{held_in}:slow({HOLD_SECONDS['script']})".strip(","))
        for pair in pairs:
            planned = [*parse_faults(way.spec.replace("*inf", f"*{FEW_ATTEMPTS.maximum_attempts}")).planned]
            self.hold(pair.order_id, held_in, planned)
            self.plans[pair.order_id] = FaultPlan(tuple(planned))
        return self.run_workflows(pairs)

    def second_runs(self, pairs: list[Pair]) -> dict[str, asyncio.Task[str]]:
        """Start the second runs; return a task for the answer of each."""
        workflows = [pair for pair in pairs if pair.second == "workflow"]
        for pair in workflows:
            if pair.first == "script":
                self.plan(pair.order_id, pair.second_way)
        runs = self.run_workflows(workflows)
        for pair in pairs:
            if pair.second == "script":
                runs |= self.run_script([pair], pair.second_way.spec)
        return runs

    def run_workflows(self, pairs: list[Pair]) -> dict[str, asyncio.Task[str]]:
        async def run(order: Order) -> str:
            return (await run_order(self.stage.client, order, wait=True)).status.value

        return {pair.order_id: asyncio.create_task(run(pair.order)) for pair in pairs}

    def run_script(self, pairs: list[Pair], spec: str) -> dict[str, asyncio.Task[str]]:
        script = self.script([pair.order for pair in pairs], spec)
        ending = asyncio.create_task(script.run(PATIENCE_SECONDS))

        async def answer(order_id: str) -> str:
            await asyncio.shield(ending)
            return answers_of(script)[order_id]

        return {pair.order_id: asyncio.create_task(answer(pair.order_id)) for pair in pairs}

    def pair_played(self, pair: Pair) -> Pair | None:
        """Return the pair with the turn in which its second run overtook the first; None if there is none yet."""
        turns = [replace(pair, turn=turn) for turn in range(TURNS)]
        return next((turn for turn in turns if turn in self.pair_answers), None)

    def script(self, orders: list[Order], spec: str) -> Program:
        options = (f"--data={self.stage.data}", f"--faults={spec}", f"--concurrency={len(orders)}")
        return self.program(orders, "-c", HURRIED, *options)

    def program(self, orders: list[Order], *arguments: str) -> Program:
        name = self.stage.directory / f"program-{len(self.stage.started)}"
        path = write_orders(name.with_suffix(".jsonl"), *orders)
        self.stage.started.append(Program(name, self.stage.settings, *arguments, str(path)))
        return self.stage.started[-1]

    async def follow(self, starter: Program) -> None:
        """Keep the answers up to date while the starter runs."""
        while starter.is_running:
            await asyncio.sleep(0.05)
            self.answers |= answers_of(starter)
        self.answers |= answers_of(starter)

    def orders_at(self, step: str, order_ids: set[str], outcome: str = "%") -> set[str]:
        """Return those of the orders for which there is an attempt at a step, or one with this outcome."""
        (service,) = [service for service, steps in SERVICES.items() if step in steps]
        query = f"""SELECT order_id FROM attempts
            WHERE step = ? AND outcome LIKE ? AND order_id IN ({", ".join("?" * len(order_ids))})"""
        with read_only(self.stage.data, service) as connection:
            return {row["order_id"] for row in connection.execute(query, (step, outcome, *order_ids))}

    def are_all_calls_back(self) -> bool:
        return all(attempt.outcome != "started" for attempt in read_ledger(self.stage.data).attempts)

    @staticmethod
    async def wait_until(condition: Callable[[], bool], what: str) -> None:
        await wait_until(condition, what, PATIENCE_SECONDS)

    def end_of(self, cell: Cell, holdings: dict[str, Held]) -> End:
        held = holdings.get(cell.order_id, NO_HOLDING)
        return End(self.answers[cell.order_id], held, *self.waits.get(cell.order_id, ("", None)))


def answers_of(program: Program) -> dict[str, str]:
    """Return what a program has printed of each order."""
    return {line.split("\t")[0]: line.split("\t")[1] for line in program.lines()}


def holdings_of(ledger: Ledger) -> dict[str, Held]:
    """Return what each order holds. Two charges, sales or mails of one order show as `charged, charged`."""
    rows: dict[str, dict[str, list[str]]] = {}

    def add(order_id: str, kind: str, word: str) -> None:
        rows.setdefault(order_id, {"charge": [], "sale": [], "mail": [], "voids": []})[kind].append(word)

    for charge in ledger.charges:
        add(charge.order_id, "charge", "refunded" if charge.refunded else "charged")
    for sale in ledger.sales:
        add(sale.order_id, "sale", "restored" if sale.restored else "taken")
    for mail in ledger.confirmations:
        add(mail.order_id, "mail", "sent" if mail.sent else "noted")
    for void in ledger.voids:
        add(void.order_id, "voids", void.step if void.digest else f"{void.step}*")
    return {
        order_id: Held(", ".join(of["charge"]), ", ".join(of["sale"]), ", ".join(of["mail"]), frozenset(of["voids"]))
        for order_id, of in rows.items()
    }


@dataclass(frozen=True)
class Played:
    """What came of it: the play, the ledger, and what each order holds; again after `settle` was repeated."""

    play: Play
    ledger: Ledger
    holdings: dict[str, Held]
    settled_holdings: dict[str, Held]


@asynccontextmanager
async def serve(client: Client, shop: Shop) -> AsyncIterator[None]:
    """Run a worker in this process, with as many threads as there are steps to be held."""
    with ThreadPoolExecutor(THREADS) as threads:
        async with Worker(
            client,
            task_queue=TASK_QUEUE,
            workflows=[OrderWorkflow],
            activities=activities_of(shop),
            interceptors=[OneOrderInterceptor()],
            activity_executor=threads,
            max_concurrent_activities=THREADS,
        ):
            yield


@pytest.fixture(scope="module")
async def played(server: Server) -> AsyncIterator[Played]:
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(storage, "CALL_TIMEOUT_SECONDS", SCRIPT_TIMEOUT_SECONDS)
        stage = await make_stage(server, Path(directory))
        plans: dict[str, FaultPlan] = {}
        shop = Shop(stage.data, PlanOfEachOrder(plans=plans))
        play = Play(stage, shop, plans)
        await register_search_attribute(stage.client, ORDER_STATUS)
        try:
            play.set_up()
            async with serve(stage.client, shop):
                try:
                    await play.go()
                finally:
                    for event in [hold.released for hold in play.holds.values()]:
                        event.set()
            ledger = read_ledger(stage.data)
            for cell in CELLS:
                if cell.state in UNSETTLED:
                    shop.settle(cell.order_id)
            yield Played(play, ledger, holdings_of(ledger), holdings_of(read_ledger(stage.data)))
        finally:
            for program in stage.started:
                await program.kill() if program.is_running else None
            shop.close()


@pytest.mark.parametrize(("version", "way"), GROUPS, ids=lambda value: str(value))
def test_each_order_ends_as_the_rule_says(version: str, way: Way, played: Played) -> None:
    cells = group(version, way)

    ends = {cell.state: played.play.end_of(cell, played.holdings) for cell in cells}

    assert ends == {cell.state: cell.expected for cell in cells}


@pytest.mark.parametrize("first_part", sorted({pair.first_part() for pair in PAIRS}), ids="-".join)
def test_two_runs_of_an_order_at_once_end_as_the_rule_says(first_part: tuple[str, ...], played: Played) -> None:
    pairs = [pair for pair in PAIRS if pair.first_part() == first_part]

    turns = [played.play.pair_played(pair) for pair in pairs]

    assert None not in turns, "the second run took longer than the first can be held"
    assert {
        replace(turn, turn=0): (*played.play.pair_answers[turn], played.holdings.get(turn.order_id, NO_HOLDING))
        for turn in turns
        if turn
    } == {pair: pair.expected for pair in pairs}


def test_every_answer_is_true(played: Played) -> None:
    told = [(cell.order_id, played.play.answers[cell.order_id]) for cell in CELLS]
    told += [(pair.order_id, answer) for pair, answers in played.play.pair_answers.items() for answer in answers]

    untrue = [
        (order_id, answer)
        for order_id, answer in told
        if not is_true(answer, played.settled_holdings.get(order_id, NO_HOLDING))
    ]

    assert untrue == []


def is_true(answer: str, held: Held) -> bool:
    if answer == "completed":
        return (held.charge, held.sale) == ("charged", "taken") and held.mail in ("sent", "noted")
    holds_nothing = held.charge in ("", "refunded") and held.sale in ("", "restored") and not held.mail
    return holds_nothing or answer == "unknown"


def test_the_answers_of_two_runs_agree(played: Played) -> None:
    for first, second in played.play.pair_answers.values():
        assert {first, second} - {"unknown"} in ({"completed"}, {"failed"}, {"rejected"}, {"failed", "rejected"})


def test_amounts_and_stock_agree_with_the_orders(played: Played) -> None:
    ledger = played.ledger

    assert {charge.amount_cents for charge in ledger.charges} == {90_00}
    for sku, stock in ledger.stock.items():
        sold = sum(sale.quantity for sale in ledger.sales if sale.sku == sku and not sale.restored)
        assert (stock.initial, stock.now) == (1, 1 - sold)


def test_cells_that_cannot_be_are_known_with_their_reason() -> None:
    assert Counter(cell.why_not or cell.version for cell in ALL_CELLS) == {
        "script": 271,
        "workflow": 415,
        NOBODY_CANCELS: 240,
        ONLY_CONFLICTS: 120,
        ACCEPTED_ONCE: 32,
        NO_CONTENT: 6,
        ENDS_BEFORE: 366,
        NO_EFFECT: 50,
    }
