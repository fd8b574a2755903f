"""Every interleaving of two runs of one order: any number of runs one after the other, two at a time.

The services are the real ones, and so is the flow of both versions: `process_order` and `OrderWorkflow.run` are stopped
at each call that nobody has answered yet, and run again from their start with one answer more. At any moment a call may
be answered, given up or cancelled, a run may die and be started again, somebody else may take the last piece, and a
call that was ever made may take effect (again): that is a lost reply, a late effect and a repeat in one.
"""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
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
from shop.errors import ReplyLost, ShopError
from shop.faults import STEPS
from shop.ledger import Ledger, read_ledger
from shop.orders import Item, Order, Status
from shop.shop import Shop

ORDER = make_order("contested", items=(Item("last-one", 1, 90_00),))
RIVAL = make_order("rival", items=ORDER.items)
MEMORY = Path("/dev/shm")  # thousands of transactions, none of which has to survive


@dataclass(frozen=True)
class Answer:
    """What a run hears of a call: a value or an error."""

    value: object = None
    error: type[BaseException] | None = None


GIVEN_UP = Answer(error=ReplyLost)
CANCELLED = Answer(error=asyncio.CancelledError)


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


def run_script(answers: tuple[Answer, ...]) -> Status:
    """Run the script as far as the answers reach.

    Raises:
        Call: if they do not reach to its end.
    """
    return order_processor.process_order(as_shop(answers), ORDER).status


def run_workflow(answers: tuple[Answer, ...]) -> Status:
    """Run the workflow as far as the answers reach; put how it closes into the starter's words.

    Raises:
        Call: if they do not reach to its end.
    """
    steps = OrderActivities(as_shop(answers))

    async def execute_activity(
        step: Callable[[OrderActivities, Order], object], order: Order, *, retry_policy: RetryPolicy, **_: object
    ) -> object:
        try:
            return step(steps, order)
        except Call as call:
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
        patches.setattr(workflow, "upsert_memo", lambda _: None)
        patches.setattr(workflows.OrderWorkflow, "_publish", lambda *_, **__: None)
        try:
            run = loop.create_task(workflows.OrderWorkflow().run(ORDER))
            return loop.run_until_complete(run).status
        except ActivityError:
            return Status.CANCELLED
        except ApplicationError:
            return Status.FAILED
        finally:
            loop.close()


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
            answer = Answer(getattr(service, step)(order))
        except ShopError as error:
            answer = Answer(error=type(error))
        return self._number(), answer

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


class Run(NamedTuple):
    """One of two runs, at the call that follows its answers."""

    go: Callable[[tuple[Answer, ...]], Status]
    answers: tuple[Answer, ...] = ()


class World(NamedTuple):
    """Where everything stands: the shop, the runs, the calls that were ever made, and what people were told."""

    shop: int
    runs: tuple[Run, ...]
    called: frozenset[tuple[Order, str]]
    told: frozenset[Status] = frozenset()


class Explorer:
    """Finds every world that can come about."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._where = functools.cache(self._find_where)

    def explore(self, *runs: Callable[[tuple[Answer, ...]], Status]) -> Iterator[tuple[World, str]]:
        """Yield every world, each with a shortest way to it."""
        start = World(self.services.start, (), frozenset({(RIVAL, "update_inventory")}))
        for go in runs:
            start = self._begin(start._replace(runs=(*start.runs, Run(go))), len(start.runs))
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
            call = self._where(run)
            assert isinstance(call, Call)
            state, answer = self.services.call(world.shop, ORDER, call.step)
            name = f"{run.go.__name__} {len(run.answers)}: {call.step}"
            yield name, self._hear(world._replace(shop=state), number, answer)
            if call.may_be_given_up:
                yield f"{name} given up", self._hear(world, number, GIVEN_UP)
            if run.go is run_workflow and CANCELLED not in run.answers:
                yield f"{name} cancelled", self._hear(world, number, CANCELLED)
            yield f"{name}: dies", self._begin(world, number)
        for order, step in world.called:
            state, _ = self.services.call(world.shop, order, step)
            if state != world.shop:
                yield f"{order.order_id}: {step} takes effect", world._replace(shop=state)

    def _hear(self, world: World, number: int, answer: Answer) -> World:
        """Let a run have an answer. If it ends, another takes its place."""
        run = Run(world.runs[number].go, (*world.runs[number].answers, answer))
        where = self._where(run)
        if isinstance(where, Call):
            return self._put(world, number, run, where)
        told = world.told if where is Status.UNKNOWN else world.told | {where}
        return self._begin(world._replace(told=told), number)

    def _begin(self, world: World, number: int) -> World:
        run = Run(world.runs[number].go)
        where = self._where(run)
        assert isinstance(where, Call)
        return self._put(world, number, run, where)

    def _put(self, world: World, number: int, run: Run, call: Call) -> World:
        # In one order for all: two runs that have changed places make the same world.
        runs = sorted((*world.runs[:number], run, *world.runs[number + 1 :]), key=hash)
        return world._replace(runs=(*runs,), called=world.called | {(ORDER, call.step)})

    @staticmethod
    def _find_where(run: Run) -> Call | Status:
        try:
            return run.go(run.answers)
        except Call as call:
            return call


def is_true(told: frozenset[Status], ledger: Ledger) -> bool:
    """Tell whether the ledger agrees with all that was said about the order, and the stock with the sales."""
    charges = [charge.refunded for charge in ledger.charges]
    sales = [sale.restored for sale in ledger.sales if sale.order_id == ORDER.order_id]
    is_done = (charges, sales, len(ledger.confirmations)) == ([False], [False], 1)
    holds_nothing = (False not in charges, False not in sales, ledger.confirmations) == (True, True, ())
    stock = ledger.stock["last-one"]
    return (
        stock.now == stock.initial - len(ledger.sales)
        and (is_done or Status.COMPLETED not in told)
        and (holds_nothing or not told - {Status.COMPLETED})
    )


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    monkeypatch.setattr(order_processor, "INITIAL_INTERVAL_SECONDS", 0.0)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        opened = Shop(Path(directory))
        yield Services(opened)
        opened.close()


@dataclass(frozen=True)
class Pair:
    """Two runs at a time; how many worlds they make at least, and all that people can be told in them."""

    runs: tuple[Callable[[tuple[Answer, ...]], Status], ...]
    least_worlds: int
    words: frozenset[Status]


BY_BOTH = frozenset({Status.COMPLETED, Status.REJECTED, Status.FAILED})
PAIRS = {
    "two_scripts": Pair((run_script, run_script), 4_500, BY_BOTH),
    "script_and_workflow": Pair((run_script, run_workflow), 32_000, BY_BOTH | {Status.CANCELLED}),
    # Of one server never at once; but a worker may still work on one that a server forgot when another is started.
    "two_workflows": Pair((run_workflow, run_workflow), 50_000, BY_BOTH | {Status.CANCELLED}),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_all_runs_of_an_order_agree_and_the_ledger_agrees_with_them(pair: Pair, services: Services) -> None:
    worlds = dict(Explorer(services).explore(*pair.runs))

    assert [way for world, way in worlds.items() if not is_true(world.told, services.ledgers[world.shop])] == []
    assert len(worlds) >= pair.least_worlds
    assert frozenset[Status]().union(*(world.told for world in worlds)) == pair.words
    assert {step for world in worlds for _, step in world.called} == set(STEPS)


@dataclass(frozen=True)
class Break:
    """Something without which the rule does not hold: what is put in its place, and a version that notices."""

    name: str
    broken: Callable[..., object]
    run: Callable[[tuple[Answer, ...]], Status] = run_script


def raise_error(_shop: Shop, _order: Order, error: ShopError) -> None:
    raise error


BREAKS = (
    Break("shop.services.payments.leave_tombstone", lambda *_, **__: None),
    Break("shop.services.inventory.leave_tombstone", lambda *_, **__: None),
    Break("shop.services.payments.refuse_voided", lambda *_, **__: None),
    Break("shop.services.inventory.Inventory.void_sale", lambda *_: False),
    Break("order_processor.void_unless_sold", raise_error),
    Break("workflows.shielded", lambda work: work, run_workflow),
)


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.name)
def test_whatever_the_rule_needs_is_missed_when_it_is_taken_out(
    broken: Break, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broken.name, broken.broken)

    worlds = Explorer(services).explore(run_script, broken.run)

    assert not all(is_true(world.told, services.ledgers[world.shop]) for world, _ in worlds)
