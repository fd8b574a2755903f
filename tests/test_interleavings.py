"""Every interleaving of the runs of one order: any number one after the other, two at a time, `settle` among them.

The services are the real ones, and so is the flow of both versions and of `settle`: each is stopped at every call that
nobody has answered yet, and run again from its start with one answer more. At any moment a call may be answered, given
up or cancelled, a run may die and be started again, somebody else may take the last piece, and a call that was ever
made may take effect (again): that is a lost reply, a late effect and a repeat in one.
"""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias, cast

import pytest
from conftest import make_order
from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError

import order_processor
import workflows
from activities import OrderActivities
from shop.errors import OrderConflict, OrderVoided, PermanentError, Refusal, ReplyLost, ShopError
from shop.faults import STEPS
from shop.ledger import Ledger, read_ledger
from shop.orders import Item, Order, Status
from shop.services.notifications import AlreadyConfirmed
from shop.shop import Shop

ORDER = make_order("contested", items=(Item("last-one", 1, 90_00),))
RIVAL = make_order("rival", items=ORDER.items)
RIVALS_CALL = "a rival takes the last one"
MEMORY = Path("/dev/shm")  # many transactions, none of which has to survive


@dataclass(frozen=True)
class Answer:
    """What a run hears of a call: a value or an error."""

    value: object = None
    error: type[BaseException] | None = None


DONE, TRANSACTION, YES, NO = Answer(), Answer("txn_1"), Answer(True), Answer(False)
# The kinds of errors that a run can tell apart.
ERRORS = (OrderConflict, OrderVoided, Refusal, PermanentError, AlreadyConfirmed)
CONFLICT, VOIDED, REFUSED, IMPOSSIBLE, CONFIRMED = (Answer(error=error) for error in ERRORS)
GIVEN_UP, CANCELLED = Answer(error=ReplyLost), Answer(error=asyncio.CancelledError)
UNASKED = {"is given up": GIVEN_UP, "is cancelled": CANCELLED}
# All that the services may answer; below, the calls of `settle`.
ANSWERS = {
    "validate_inventory": (DONE, CONFLICT, VOIDED, REFUSED, IMPOSSIBLE),
    "process_payment": (TRANSACTION, CONFLICT, VOIDED, REFUSED, IMPOSSIBLE),
    "update_inventory": (DONE, CONFLICT, VOIDED, REFUSED, IMPOSSIBLE),
    "send_confirmation": (DONE, CONFLICT, VOIDED, REFUSED, IMPOSSIBLE),
    "note_unsent": (DONE, CONFLICT, VOIDED),
    "void_charge": (DONE, TRANSACTION, CONFLICT),
    "void_sale": (NO, YES, CONFLICT),
    "refund_payment": (DONE, CONFLICT),
    "void_confirmation": (DONE, CONFIRMED),
    "restore_inventory": (DONE,),
    "refund_or_void": (DONE,),
}
SETTLED = "settled"
Word: TypeAlias = "Status | str"
"""What people are told when a run has ended."""


class Call(BaseException):
    """Stops a run at a call that has no answer yet."""

    def __init__(self, step: str, *, may_be_given_up: bool = True) -> None:
        super().__init__(step)
        self.step, self.may_be_given_up = step, may_be_given_up


class Answers:
    """Stands for the shop: gives the answers that are known, in their order."""

    def __init__(self, answers: tuple[Answer, ...]) -> None:
        self.inventory = self.payments = self.notifications = self
        self._answers, self._given_up = iter(answers), ""

    def __getattr__(self, step: str) -> Callable[[Order], object]:
        def call(order: Order) -> object:
            if step == self._given_up:
                raise ReplyLost("no reply to the next attempt either")
            answer = next(self._answers, None)
            if answer is None:
                raise Call(step)
            if answer is GIVEN_UP:
                self._given_up = step
            if answer.error:
                raise answer.error(f"{step}: as it was answered")
            return answer.value

        call.__name__ = step
        return call


Version: TypeAlias = Callable[[tuple[Answer, ...]], Word]
"""Runs as far as the answers reach; raises `Call` if they do not reach to its end."""


def run_script(answers: tuple[Answer, ...]) -> Status:
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(order_processor, "INITIAL_INTERVAL_SECONDS", 0.0)
        return order_processor.process_order(as_shop(answers), ORDER).status


def run_workflow(answers: tuple[Answer, ...]) -> Status:
    """Run the workflow; put how it closes into the starter's words."""
    steps = OrderActivities(as_shop(answers))

    async def execute_activity(
        step: Callable[[OrderActivities, Order], object], order: Order, *, retry_policy: RetryPolicy, **_: object
    ) -> object:
        try:
            return step(steps, order)
        except Call as call:
            # A day of attempts ends some time, too.
            raise Call(call.step, may_be_given_up=retry_policy.maximum_attempts > 0) from None
        except ApplicationError as error:
            raise failed_activity() from error
        except asyncio.CancelledError:
            run.cancel()
        try:
            await asyncio.sleep(0)  # Here the cancellation arrives, unless the workflow keeps it from the step.
        except asyncio.CancelledError:
            raise failed_activity() from CancelledError("the order was cancelled")
        return await execute_activity(step, order, retry_policy=retry_policy)

    loop = asyncio.new_event_loop()
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(workflow, "execute_activity_method", execute_activity)
        info = SimpleNamespace(workflow_id=workflows.workflow_id_for(ORDER.order_id), activity_type="", attempt=1)
        for module in (workflow, activity):
            patches.setattr(module, "info", lambda: info)
        for told in ("set_current_details", "upsert_search_attributes", "upsert_memo"):
            patches.setattr(workflow, told, lambda _: None)
        try:
            run = loop.create_task(workflows.OrderWorkflow().run(ORDER))
            return loop.run_until_complete(run).status
        except ActivityError:
            return Status.CANCELLED
        except ApplicationError as error:
            return Status.UNKNOWN if error.type == workflows.CONFLICT else Status.FAILED
        finally:
            loop.close()


def settle(answers: tuple[Answer, ...]) -> Word:
    """Do what an operator does who wants the order undone."""
    try:
        Shop.settle(as_shop(answers), ORDER.order_id)
    except AlreadyConfirmed:
        return Status.UNKNOWN
    return SETTLED


def as_shop(answers: tuple[Answer, ...]) -> Shop:
    return cast(Shop, Answers(answers))  # it has the services that a run calls, and nothing else of a shop


def failed_activity() -> ActivityError:
    return ActivityError(
        "failed",
        scheduled_event_id=0,
        started_event_id=0,
        identity="",
        activity_type="",
        activity_id="",
        retry_state=None,
    )


Rows: TypeAlias = tuple[tuple[tuple[object, ...], ...], ...]


class Services:
    """The real services, set back to any state that they were in. States are numbered."""

    def __init__(self, opened: Shop) -> None:
        self._shop = opened
        self._tables = [
            (database, row["name"])
            for database in opened.databases
            for row in self._rows(database, "sqlite_master")
            if row["type"] == "table" and row["name"] != "attempts"
        ]
        self._numbers: dict[Rows, int] = {}
        self.ledgers: list[Ledger] = []
        self.start = self._number()
        self.call = functools.cache(self._call)

    def _call(self, state: int, order: Order, step: str) -> tuple[int, Answer]:
        """Make one call in a state; return the state that it leaves, and its answer."""
        self._set_back(list(self._numbers)[state])
        services = (self._shop.inventory, self._shop.payments, self._shop.notifications)
        (service,) = [service for service in services if hasattr(service, step)]
        try:
            value = getattr(service, step)(order if step in STEPS else order.order_id)
            answer = TRANSACTION if isinstance(value, str) else Answer(value)
        except (ShopError, AlreadyConfirmed) as error:
            answer = Answer(error=next(kind for kind in ERRORS if isinstance(error, kind)))
        return self._number(), answer

    def call_all(self, state: int, *steps: str) -> int:
        """Make some calls, one after the other; return the state that they leave."""
        for step in steps:
            state, _ = self.call(state, ORDER, step)
        return state

    def _number(self) -> int:
        rows = tuple(
            tuple(sorted((tuple(row) for row in self._rows(database, table)), key=repr))
            for database, table in self._tables
        )
        if rows not in self._numbers:
            self._numbers[rows] = len(self._numbers)
            self.ledgers.append(read_ledger(self._shop.location))
        return self._numbers[rows]

    def _set_back(self, state: Rows) -> None:
        for (database, table), rows in zip(self._tables, state, strict=True):
            with database.transaction() as connection:
                connection.execute(f"DELETE FROM {table}")
                for row in rows:
                    connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)

    @staticmethod
    def _rows(database: Any, table: str) -> list[Any]:  # rows of any table
        with database.transaction() as connection:
            return list(connection.execute(f"SELECT * FROM {table}"))


class Place(NamedTuple):
    """Where a run stands: at a call, and to which place or word each answer leads."""

    version: Version
    step: str
    following: tuple[tuple[Answer, int | Word], ...]


class Roads:
    """All places of all versions, numbered. Runs that no answer can tell apart from here on are at one place."""

    def __init__(self) -> None:
        self._numbers: dict[Place, int] = {}
        self.places: list[Place] = []
        self.start = functools.cache(self._find_start)

    def _find_start(self, version: Version) -> int:
        start = self.find(version)
        assert isinstance(start, int)
        return start

    def find(self, version: Version, answers: tuple[Answer, ...] = ()) -> int | Word:
        """Return where a run stands after some answers."""
        try:
            return version(answers)
        except Call as call:
            possible = [*ANSWERS[call.step]]
            if call.may_be_given_up and version is not settle:
                possible.append(GIVEN_UP)
            if version is run_workflow and CANCELLED not in answers:
                possible.append(CANCELLED)
            following = tuple((answer, self.find(version, (*answers, answer))) for answer in possible)
            place = Place(version, call.step, following)
        if place not in self._numbers:
            self._numbers[place] = len(self.places)
            self.places.append(place)
        return self._numbers[place]


class World(NamedTuple):
    """Where everything stands: the shop, the runs, the calls that were ever made, and what people were told."""

    shop: int
    runs: tuple[int, ...]
    called: frozenset[str]
    told: frozenset[Word]


class Explorer:
    """Finds every world that can come about when an order is run, and run again."""

    def __init__(self, services: Services) -> None:
        self.services, self.roads = services, Roads()
        self._moves_of = functools.cache(self._find_moves_of)
        self._effect_of = functools.cache(self._find_effect_of)

    def explore(self, *versions: Version) -> Iterator[tuple[World, str]]:
        """Yield every world, each with a shortest way to it."""
        start = World(self.services.start, (), frozenset({RIVALS_CALL}), frozenset())
        for version in versions:
            start = self._put(start, start.runs, self.roads.start(version))
        worlds, left = {start: "start"}, deque([start])
        while left:
            world = left.popleft()
            yield world, worlds[world]
            for what, following in self._moves(world):
                if following not in worlds:
                    worlds[following] = f"{worlds[world]}; {what}"
                    left.append(following)

    def _moves(self, world: World) -> Iterator[tuple[str, World]]:
        for number, run in enumerate(world.runs):
            others = world.runs[:number] + world.runs[number + 1 :]
            for what, shop, following, told in self._moves_of(world.shop, run):
                yield what, self._put(world._replace(shop=shop, told=world.told | told), others, following)
        for call in world.called:
            shop = self._effect_of(world.shop, call)
            if shop != world.shop:
                yield f"{call} takes effect", world._replace(shop=shop)

    def _put(self, world: World, others: tuple[int, ...], run: int) -> World:
        called = world.called | {self.roads.places[run].step}
        # In one order for all: two runs that have changed places make the same world.
        return world._replace(runs=(*sorted((*others, run)),), called=called)

    def _find_effect_of(self, shop: int, call: str) -> int:
        order, step = (RIVAL, "update_inventory") if call == RIVALS_CALL else (ORDER, call)
        return self.services.call(shop, order, step)[0]

    def _find_moves_of(self, shop: int, run: int) -> list[tuple[str, int, int, frozenset[Word]]]:
        """Return what can happen to a run next: the state of the shop, where the run stands then, and what it tells.

        If it ends or dies, another one takes its place.
        """
        version, step, following = self.roads.places[run]
        state, answer = self.services.call(shop, ORDER, step)
        name, start, heard = f"{version.__name__}: {step}", self.roads.start(version), dict(following)
        ends = [("", state, heard[answer])]
        ends += [(f" {what}", shop, heard[unasked]) for what, unasked in UNASKED.items() if unasked in heard]
        moves = [(f"{name} dies", shop, start, frozenset[Word]())]
        for what, after, end in ends:
            if isinstance(end, int):
                moves.append((name + what, after, end, frozenset()))
            else:  # `unknown` claims nothing
                moves.append((name + what, after, start, frozenset({end} - {Status.UNKNOWN})))
        return moves

    def is_true(self, world: World) -> bool:
        """Tell whether the ledger agrees with all that was said; after a `settle` that has begun, when it is done."""
        ledger = self.services.ledgers[world.shop]
        if SETTLED not in world.told and "void_confirmation" in {void.step for void in ledger.voids}:
            ended = self.services.call_all(world.shop, "void_confirmation", "restore_inventory", "refund_or_void")
            ledger = self.services.ledgers[ended]
        return is_true(world.told, ledger)


def is_true(told: frozenset[Word], ledger: Ledger) -> bool:
    """Tell whether the ledger agrees with all that was said about the order, and the stock with the sales."""
    charges = [charge.refunded for charge in ledger.charges]
    sales = [sale.restored for sale in ledger.sales if sale.order_id == ORDER.order_id]
    is_done = (charges, sales, len(ledger.confirmations)) == ([False], [False], 1)
    holds_nothing = (False not in charges, False not in sales, ledger.confirmations) == (True, True, ())
    stock = ledger.stock["last-one"]
    return (
        stock.now == stock.initial - len([sale for sale in ledger.sales if not sale.restored])
        and (is_done or Status.COMPLETED not in told)
        and (holds_nothing or not told - {Status.COMPLETED})
    )


@contextmanager
def open_services() -> Iterator[Services]:
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory,
        closing(Shop(Path(directory))) as opened,
    ):
        yield Services(opened)


@pytest.fixture(scope="module")
def explorer() -> Iterator[Explorer]:
    with open_services() as services:
        yield Explorer(services)


BY_SCRIPT: frozenset[Word] = frozenset({Status.COMPLETED, Status.REJECTED, Status.FAILED})
BY_WORKFLOW = BY_SCRIPT | {Status.CANCELLED}
# Two at a time, and all that people can be told by them.
PAIRS: dict[str, tuple[tuple[Version, Version], frozenset[Word]]] = {
    "two scripts": ((run_script, run_script), BY_SCRIPT),
    "script and workflow": ((run_script, run_workflow), BY_WORKFLOW),
    # Of one server never at once; but a worker may still work on one that a server forgot when another is started.
    "two workflows": ((run_workflow, run_workflow), BY_WORKFLOW),
    "script and settle": ((run_script, settle), BY_SCRIPT | {SETTLED}),
    "workflow and settle": ((run_workflow, settle), BY_WORKFLOW | {SETTLED}),
}


@pytest.mark.parametrize(("versions", "words"), PAIRS.values(), ids=PAIRS)
def test_all_runs_of_an_order_agree_and_the_ledger_agrees_with_them(
    versions: tuple[Version, Version], words: frozenset[Word], explorer: Explorer
) -> None:
    worlds = dict(explorer.explore(*versions))

    assert [way for world, way in worlds.items() if not explorer.is_true(world)] == []
    assert frozenset[Word]().union(*(world.told for world in worlds)) == words
    assert {step for world in worlds for step in world.called} >= set(STEPS)


@dataclass(frozen=True)
class Break:
    """Something without which the rule does not hold: what is put in its place, and a version that notices."""

    name: str
    broken: Callable[..., object]
    run: Version = run_script


def raise_error(_shop: Shop, _order: Order, error: ShopError) -> None:
    raise error


BREAKS = (
    Break("shop.services.payments.leave_tombstone", lambda *_, **__: None),
    Break("shop.services.inventory.leave_tombstone", lambda *_, **__: None),
    Break("shop.services.notifications.leave_tombstone", lambda *_, **__: None, settle),
    Break("shop.services.payments.refuse_voided", lambda *_, **__: None),
    Break("shop.services.inventory.refuse_voided", lambda *_, **__: None, settle),
    Break("shop.services.inventory.Inventory.void_sale", lambda *_: False),
    Break("order_processor.void_unless_sold", raise_error),
    Break("workflows.shielded", lambda work: work, run_workflow),
)


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.name)
def test_whatever_the_rule_needs_is_missed_when_it_is_taken_out(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broken.name, broken.broken)
    with open_services() as services:
        explorer = Explorer(services)

        worlds = explorer.explore(run_script, broken.run)

        assert not all(explorer.is_true(world) for world, _ in worlds)
