"""The matrix: every state that an earlier run can leave, every way the next run can go, both versions.

Then pairs: one run is held in a step while another of the same order goes through. The script's function and the
starter's, with a real server and a worker in this process, so that each run can bring its own trouble: it meets the run
between the caller and the shop. The waits before another attempt are short. What is right is not written down cell by
cell: `expect` below knows the rule.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import Enum
from functools import cache
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import TypeAlias, cast

import pytest
from conftest import Stage, make_order, make_stage
from temporalio.client import WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

import order_processor
import workflows
from activities import activities_of
from comparison.stage.processes import Server, wait_until
from order_processor import process_order
from plumbing.admission import Admission
from plumbing.connection import add_search_attribute
from run_workflow import run_order
from shop.catalogue import Product
from shop.errors import OutOfStock, ReplyLost, ServiceUnavailable
from shop.faults import STEPS
from shop.ledger import Ledger, read_ledger
from shop.orders import Item, Order, Outcome
from shop.shop import Shop
from workflows import ORDER_STATUS, TASK_QUEUE, OrderWorkflow, workflow_id_for

pytestmark = pytest.mark.timeout(300)

PATIENCE_SECONDS = 120.0  # of an order; on a quiet machine the whole play takes about 20 s
SIDE_BY_SIDE, THREADS = 30, 250  # more than steps are ever held at once
MEMORY = Path("/dev/shm")  # thousands of transactions, none of which has to survive

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

    @property
    def is_cancelled(self) -> bool:
        return bool(self.troubles) and self.troubles[-1][1] in CANCELLED

    def trouble_in(self, step: str) -> Trouble | None:
        return dict(self.troubles).get(step)


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
    answers: list[tuple[str, str]] = field(default_factory=list)
    reached: set[str] = field(default_factory=set)
    struck: set[str] = field(default_factory=set)
    late: list[str] = field(default_factory=list)
    waits_at: str = ""
    held_meanwhile: Held | None = None

    def call(self, step: str, way: Way) -> str:
        """Let a step take effect; return the answer in one word."""
        self.held, answer = effect_of(step, self.held, way)
        self.answers.append((step, answer))
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
    def answers(self) -> tuple[tuple[str, str], ...]:
        return tuple(expect(self.version, self.state, self.way)[1].answers)

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
ALL_PLAYABLE = [cell for cell in ALL_CELLS if not cell.why_not]
# A run knows nothing but the answers, and test_interleavings gives it all that there can be. Here, on a real server, a
# workflow goes each way to each last answer once; a script goes each way from each state.
CELLS = list({(c.way, c.answers[-1:]) if c.version == "workflow" else c: c for c in reversed(ALL_PLAYABLE)}.values())
GROUPS = list(dict.fromkeys((cell.version, cell.way) for cell in CELLS))


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

    def __str__(self) -> str:
        first, second = f"{self.first}.{self.first_way}-in-{self.held_in}", f"{self.second}.{self.second_way}"
        return f"{first}-and-{second}"

    @property
    def order(self) -> Order:
        order_id = f"pair-{PAIRS.index(self)}"
        items = (Item(order_id, 1, 90_00),)
        return replace(Cell(self.first, "", self.first_way).first_content, order_id=order_id, items=items)

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
    """Yield the pairs: each way to each step, a second run that goes well, and one that ends the order if it can.

    Where a workflow takes part, one of the two in turn: test_interleavings has all.
    """
    declined = (("validate_inventory", Trouble.DOWN),)
    unpaid = (("process_payment", Trouble.LOST_FOR_GOOD),)
    unmailed = (("send_confirmation", Trouble.REFUSED),)
    held_ways: list[tuple[Troubles, str]] = [((), step) for step in (*FORWARD, "send_confirmation")]
    held_ways += [(declined, "void_charge"), *((unpaid, step) for step in VOIDS), (unmailed, "note_unsent")]
    for number, (first, second, (troubles, held_in), fault) in enumerate(
        itertools.product(("script", "workflow"), ("script", "workflow"), held_ways, ((), declined))
    ):
        content = unmailed if troubles == unmailed else ()
        if first == second == "script" or number % 4 in (0, 3):
            yield Pair(first, Way(troubles), held_in, second, Way((*content, *fault)))


PAIRS = [*all_pairs()]


# The play


@dataclass
class Run:
    """What meets one run between it and the shop: the trouble of its way; in a pair, a hold."""

    version: str
    way: Way
    held_in: str = ""
    sell_out: Callable[[], None] = lambda: None
    tried: Counter[str] = field(default_factory=Counter)
    reached: Event = field(default_factory=Event)
    released: Event = field(default_factory=Event)

    def meet(self, step: str, call: Callable[[Order], object], order: Order) -> object:
        """Make one attempt at a step."""
        trouble = self.way.trouble_in(step)
        self.tried[step] += 1
        is_first = self.tried[step] == 1
        if is_first and (step == self.held_in or trouble is Trouble.CANCELLED_BEFORE):
            self.wait()
        if is_first and (step, trouble) == ("update_inventory", Trouble.REFUSED):
            self.sell_out()
        is_over = False
        if trouble in FOR_GOOD and not is_first and has_patience(self.version, step):
            self.wait()
            is_over = True
        if trouble is Trouble.DOWN and not is_over:
            raise ServiceUnavailable("the service is unavailable")
        answer = call(order)
        if trouble is Trouble.LOST_FOR_GOOD and not is_over or trouble is Trouble.LOST and is_first:
            raise ReplyLost("no reply")
        if trouble is Trouble.CANCELLED_AFTER and is_first:
            self.wait()
        return answer

    def wait(self) -> None:
        self.reached.set()
        assert self.released.wait(PATIENCE_SECONDS), "the test never let this attempt go"


class Troubled:
    """A service of the shop, as the run of each order meets it."""

    def __init__(self, service: object, run_of: Callable[[Order], Run]) -> None:
        self.service, self.run_of = service, run_of

    def __getattr__(self, step: str) -> Callable[[Order], object]:
        call = getattr(self.service, step)
        return functools.wraps(call)(lambda order: self.run_of(order).meet(step, call, order))


def troubled(shop: Shop, run_of: Callable[[Order], Run]) -> Shop:
    services = {name: Troubled(getattr(shop, name), run_of) for name in SERVICES}
    return cast(Shop, SimpleNamespace(**services))  # has all that the versions know of a shop


@dataclass
class Play:
    """One shop, one server, one worker, and what came of all orders."""

    stage: Stage
    shop: Shop
    threads: ThreadPoolExecutor
    runs: dict[str, Run] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    waits: dict[str, tuple[str, Held]] = field(default_factory=dict)
    pair_answers: dict[Pair, tuple[str, str]] = field(default_factory=dict)

    async def go(self) -> None:
        """Play all cells and pairs, some side by side, and those that wait for a service all at once."""
        slots = asyncio.Semaphore(SIDE_BY_SIDE)

        async def in_a_slot(playing: Awaitable[None]) -> None:
            async with slots:
                await playing

        waiting = [cell for cell in CELLS if cell.expected.waits_at]
        await self.play_waiting(waiting)
        others = [self.play(cell) for cell in CELLS if cell not in waiting]
        await asyncio.gather(*map(in_a_slot, [*others, *map(self.play_pair, PAIRS)]))

    def set_up(self) -> None:
        """Make the earlier runs."""
        orders = [cell.first_content for cell in CELLS] + [pair.order for pair in PAIRS]
        self.shop.inventory.replace_products(Product(order.order_id, "piece", 1) for order in orders)
        for cell in CELLS:
            for call in STATES[cell.state]:
                self.call(call, cell.first_content)
            if cell.way.trouble_in("validate_inventory") is Trouble.REFUSED:
                self.sell_out(cell)

    def call(self, name: str, order: Order) -> None:
        """Call a service, or a part of `settle`, which knows the order by its id."""
        services = (self.shop, self.shop.inventory, self.shop.payments, self.shop.notifications)
        (service,) = [service for service in services if hasattr(service, name)]
        getattr(service, name)(order if name in STEPS else order.order_id)

    def sell_out(self, cell: Cell) -> None:
        """Let somebody else take the last piece, if it is there."""
        with suppress(OutOfStock):
            self.shop.inventory.update_inventory(replace(cell.order, order_id=f"rival-{CELLS.index(cell)}"))

    def start(self, version: str, order: Order, run: Run) -> asyncio.Future[Outcome]:
        """Start a run of an order."""
        if version == "workflow":
            self.runs[order.order_id] = run
            return asyncio.ensure_future(run_order(self.stage.client, order, wait=True))
        shop = troubled(self.shop, lambda order: run)
        return asyncio.get_running_loop().run_in_executor(self.threads, process_order, shop, order)

    def start_cell(self, cell: Cell) -> tuple[Run, asyncio.Future[Outcome]]:
        run = Run(cell.version, cell.way, sell_out=functools.partial(self.sell_out, cell))
        return run, self.start(cell.version, cell.order, run)

    def handle(self, order_id: str) -> WorkflowHandle[OrderWorkflow, Outcome]:
        return self.stage.client.get_workflow_handle_for(OrderWorkflow.run, workflow_id_for(order_id))

    async def play_waiting(self, cells: list[Cell]) -> None:
        """See where orders wait for a service and what they hold; then let them go on."""
        runs = {cell: self.start_cell(cell) for cell in cells}
        for run, ending in runs.values():
            await reached(run, ending)
        holdings = holdings_of(read_ledger(self.stage.data))
        for cell, (run, ending) in runs.items():
            status = await self.handle(cell.order_id).query(OrderWorkflow.status)
            self.waits[cell.order_id] = (status, holdings.get(cell.order_id, NO_HOLDING))
            run.released.set()
            self.answers[cell.order_id] = (await ending).status.value

    async def play(self, cell: Cell) -> None:
        run, ending = self.start_cell(cell)
        if cell.way.is_cancelled:
            handle = self.handle(cell.order_id)
            await reached(run, ending)
            await handle.cancel()
            if cell.way.troubles[-1][0] in FORWARD:
                await ending  # while it is held: the effect comes late
            else:
                await handle.query(OrderWorkflow.status)  # answered after the cancellation was taken note of
            run.released.set()
        self.answers[cell.order_id] = (await ending).status.value

    async def play_pair(self, pair: Pair) -> None:
        """Hold the first run, let the second go through, let the first go on."""
        run = Run(pair.first, pair.first_way, pair.held_in)
        first = self.start(pair.first, pair.order, run)
        await reached(run, first)
        if pair.is_terminated:
            await self.handle(pair.order.order_id).terminate()
            await first
        second = await self.start(pair.second, pair.order, Run(pair.second, pair.second_way))
        is_held = not run.released.is_set() and run.tried[pair.held_in] == 1
        run.released.set()
        if is_held:
            self.pair_answers[pair] = ((await first).status.value, second.status.value)

    def end_of(self, cell: Cell, holdings: dict[str, Held]) -> End:
        held = holdings.get(cell.order_id, NO_HOLDING)
        return End(self.answers[cell.order_id], held, *self.waits.get(cell.order_id, ("", None)))


async def reached(run: Run, ending: asyncio.Future[Outcome]) -> None:
    """Wait until a run is held, or has ended: then the tests find that it never was."""
    await wait_until(lambda: run.reached.is_set() or ending.done(), "a run is held", PATIENCE_SECONDS)


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


@pytest.fixture(scope="module")
def no_waits() -> Iterator[None]:
    """Shorten the waits before another attempt, and lengthen what an attempt may take: here it is held."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_processor, "INITIAL_INTERVAL_SECONDS", 0.0)
        patch.setattr(order_processor, "ATTEMPT_TIMEOUT_SECONDS", PATIENCE_SECONDS, raising=False)
        patch.setattr(workflows, "ATTEMPT_TIMEOUT", timedelta(seconds=PATIENCE_SECONDS))
        for name, policy in list(vars(workflows).items()):
            if isinstance(policy, RetryPolicy):
                patch.setattr(workflows, name, replace(policy, initial_interval=timedelta(milliseconds=10)))
        yield


@pytest.fixture(scope="module")
async def played(server: Server, no_waits: None) -> AsyncIterator[Played]:
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory,
        ThreadPoolExecutor(SIDE_BY_SIDE) as scripts,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        stage = await make_stage(server, Path(directory))
        shop = Shop(stage.data)
        play = Play(stage, shop, scripts)
        play.set_up()
        await add_search_attribute(stage.client, ORDER_STATUS)
        async with Worker(
            stage.client,
            task_queue=TASK_QUEUE,
            workflows=[OrderWorkflow],
            activities=activities_of(troubled(shop, lambda order: play.runs[order.order_id])),
            interceptors=[Admission()],
            workflow_runner=UnsandboxedWorkflowRunner(),  # the sandbox would load the policies anew
            activity_executor=threads,
            max_concurrent_activities=THREADS,
        ):
            await play.go()
        ledger = read_ledger(stage.data)
        for cell in CELLS:
            if cell.state in UNSETTLED:
                shop.settle(cell.order_id)
        yield Played(play, ledger, holdings_of(ledger), holdings_of(read_ledger(stage.data)))
        shop.close()


@pytest.mark.parametrize(("version", "way"), GROUPS, ids=lambda value: str(value))
def test_each_order_ends_as_the_rule_says(version: str, way: Way, played: Played) -> None:
    cells = [cell for cell in CELLS if (cell.version, cell.way) == (version, way)]

    ends = {cell.state: played.play.end_of(cell, played.holdings) for cell in cells}

    assert ends == {cell.state: cell.expected for cell in cells}


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_two_runs_of_an_order_at_once_end_as_the_rule_says(pair: Pair, played: Played) -> None:
    held = played.holdings.get(pair.order.order_id, NO_HOLDING)

    assert (*played.play.pair_answers[pair], held) == pair.expected


def test_every_answer_is_true(played: Played) -> None:
    told = [(cell.order_id, played.play.answers[cell.order_id]) for cell in CELLS]
    told += [(pair.order.order_id, answer) for pair, told in played.play.pair_answers.items() for answer in told]

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
