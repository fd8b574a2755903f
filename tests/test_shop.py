"""What the three services promise: calls that are safe to repeat, one end of an order, refusals without effect."""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pytest
from conftest import make_order
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres_server import PostgresServer

import order_processor
from shop import errors
from shop.errors import (
    OrderConflict,
    OrderVoided,
    OutOfStock,
    PaymentDeclined,
    PermanentError,
    ReplyLost,
    ServiceUnavailable,
    ShopError,
    TransientError,
    UnknownCustomer,
    UnknownPaymentToken,
    UnknownProduct,
)
from shop.faults import STEPS, Fault, FaultPlan, PlannedFault, parse_faults
from shop.ledger import Ledger, Void, read_ledger
from shop.orders import Item, Order
from shop.services.notifications import AlreadyConfirmed
from shop.shop import Shop
from shop.stores.location import Location

T = TypeVar("T")
CALLS: dict[str, Callable[[Shop, Order], object]] = {
    "validate_inventory": lambda shop, order: shop.inventory.validate_inventory(order),
    "process_payment": lambda shop, order: shop.payments.process_payment(order),
    "update_inventory": lambda shop, order: shop.inventory.update_inventory(order),
    "send_confirmation": lambda shop, order: shop.notifications.send_confirmation(order),
    "void_charge": lambda shop, order: shop.payments.void_charge(order),
    "void_sale": lambda shop, order: shop.inventory.void_sale(order),
    "refund_payment": lambda shop, order: shop.payments.refund_payment(order),
    "note_unsent": lambda shop, order: shop.notifications.note_unsent(order),
    "settle": lambda shop, order: shop.settle(order.order_id),
}
STEPS_OF = {
    "inventory": ("validate_inventory", "update_inventory", "void_sale"),
    "payments": ("process_payment", "void_charge", "refund_payment"),
    "notifications": ("send_confirmation", "note_unsent"),
}
SOLD = ("validate_inventory", "process_payment", "update_inventory")
REFUNDED = ("validate_inventory", "process_payment", "void_charge", "void_sale", "refund_payment")
# Every state in which an order can be left that nobody confirmed.
UNCONFIRMED = {
    "nothing": (),
    "validated": ("validate_inventory",),
    "charged": ("validate_inventory", "process_payment"),
    "taken": SOLD,
    "voided": ("validate_inventory", "void_charge"),
    "void not finished": REFUNDED[:-1],
    "refunded": REFUNDED,
    "settled": ("settle",),
}
OTHER_CONTENT = {"items": (Item("mug", 3, 1250),)}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Open one shop for all tests, in the one store and in the other: PostgreSQL takes long to make its tables."""
    if request.param == "sqlite":
        with closing(Shop(tmp_path_factory.mktemp("shop"))) as opened:
            yield opened
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        with closing(Shop(postgres.url())) as opened:
            yield opened
        postgres.empty()


@pytest.fixture
def shop(opened: Shop) -> Shop:
    """Give that shop as if nothing had happened in it."""
    opened.reset()
    return opened


@pytest.fixture
def location(shop: Shop) -> Location:
    return shop.location


@dataclass(frozen=True)
class Held(Fault):
    """Keeps an attempt before its effect until the test lets it go: `slow`, without a clock."""

    is_let_go: threading.Event = field(default_factory=threading.Event)

    def before_effect(self) -> None:
        assert self.is_let_go.wait(30)


def do(shop: Shop, order: Order, *steps: str) -> None:
    for step in steps:
        CALLS[step](shop, order)


def effects(shop: Shop) -> Ledger:
    """Return everything that happened but the attempts, which are logged for a refusal, too."""
    return replace(read_ledger(shop.location), attempts=())


def outcomes(shop: Shop, step: str) -> list[str]:
    return [attempt.outcome for attempt in read_ledger(shop.location).attempts if attempt.step == step]


def voids(shop: Shop) -> list[tuple[str, str | None]]:
    return [(void.step, void.digest) for void in read_ledger(shop.location).voids]


def holds_nothing(ledger: Ledger) -> bool:
    return (
        all(charge.refunded for charge in ledger.charges)
        and all(sale.restored for sale in ledger.sales)
        and all(stock.now == stock.initial for stock in ledger.stock.values())
        and ledger.confirmations == ()
    )


def at_once(location: Location, act: Callable[[Shop, int], T]) -> list[T]:
    """Let eight programs do something in the same moment; return what came of each."""
    start = threading.Barrier(8, timeout=30)

    def begin(number: int) -> T:
        with closing(Shop(location)) as opened:
            start.wait()
            return act(opened, number)

    with ThreadPoolExecutor(8) as executor:
        return list(executor.map(begin, range(8)))


def classes_below(error_type: type[ShopError]) -> set[type[ShopError]]:
    below = set(error_type.__subclasses__())
    return below.union(*(classes_below(subclass) for subclass in below))


@pytest.mark.parametrize(
    ("earlier", "step", "has_effect"),
    [
        ((), "validate_inventory", False),
        ((), "process_payment", True),
        ((), "update_inventory", True),
        (SOLD, "send_confirmation", True),
        (SOLD, "note_unsent", True),
        ((), "void_charge", True),
        (("process_payment",), "void_charge", False),
        ((), "void_sale", True),
        (SOLD, "void_sale", False),
        (("process_payment",), "refund_payment", True),
        ((), "refund_payment", False),
        (("void_charge",), "refund_payment", False),
        ((), "settle", True),
        (SOLD, "settle", True),
    ],
)
def test_every_call_is_safe_to_repeat(shop: Shop, earlier: tuple[str, ...], step: str, has_effect: bool) -> None:
    order = make_order()
    do(shop, order, *earlier)
    before = effects(shop)

    do(shop, order, step)
    once = effects(shop)
    do(shop, order, step, step)

    assert effects(shop) == once
    assert (once != before) == has_effect


@pytest.mark.parametrize(
    ("step", "changes", "error"),
    [
        *(
            (step, {"items": items}, error)
            for step in ("validate_inventory", "update_inventory")
            for items, error in (
                ((Item("mug", 1, 1250), Item("unicorn", 1, 1)), UnknownProduct),
                ((Item("mug", 1, 1250), Item("grinder", 6, 1)), OutOfStock),
            )
        ),
        ("process_payment", {"payment_token": "tok_chargeDeclined"}, PaymentDeclined),
        ("process_payment", {"payment_token": "tok_chargeDeclinedInsufficientFunds"}, PaymentDeclined),
        ("process_payment", {"payment_token": "tok_amex"}, UnknownPaymentToken),
        ("process_payment", {"payment_token": "tok_VISA"}, UnknownPaymentToken),
        ("send_confirmation", {"customer_id": "nobody"}, UnknownCustomer),
    ],
)
def test_an_order_that_is_refused_changes_nothing(
    shop: Shop, step: str, changes: dict[str, object], error: type[ShopError]
) -> None:
    before = effects(shop)

    with pytest.raises(error):
        do(shop, make_order("1", **changes), step)

    assert effects(shop) == before
    assert outcomes(shop, step) == [error.__name__]


@pytest.mark.parametrize(
    ("earlier", "step"),
    [
        *(
            (earlier, step)
            for service, owners in {
                "inventory": (("update_inventory",), ("void_sale",), (*SOLD, "settle")),
                "payments": (("process_payment",), ("process_payment", "refund_payment")),
                "notifications": (("send_confirmation",), ("note_unsent",)),
            }.items()
            for earlier in owners
            for step in STEPS_OF[service]
        ),
        (("void_charge",), "process_payment"),
        (("void_charge",), "void_charge"),
    ],
)
def test_the_first_content_under_an_id_owns_it_and_another_is_refused_and_touches_nothing(
    shop: Shop, earlier: tuple[str, ...], step: str
) -> None:
    do(shop, make_order(), *earlier)
    before = effects(shop)

    with pytest.raises(OrderConflict):
        do(shop, make_order("1", **OTHER_CONTENT), step)

    assert effects(shop) == before


def test_what_never_happened_is_voided_by_a_tombstone_that_keeps_the_content(shop: Shop) -> None:
    order = make_order()

    answers = [(shop.payments.void_charge(order), shop.inventory.void_sale(order)) for _ in range(2)]

    assert answers == [(None, False)] * 2
    assert read_ledger(shop.location).voids == (
        Void("1", "void_sale", order.digest),
        Void("1", "void_charge", order.digest),
    )


@pytest.mark.parametrize("later", [(), ("refund_payment",)])
def test_what_is_there_is_not_voided_but_named(shop: Shop, later: tuple[str, ...]) -> None:
    do(shop, make_order(), "process_payment", "update_inventory", *later)

    answers = shop.payments.void_charge(make_order()), shop.inventory.void_sale(make_order())

    ledger = read_ledger(shop.location)
    assert answers == (ledger.charges[0].transaction_id, True)
    assert ledger.voids == ()


@pytest.mark.parametrize(
    ("service", "effect", "void"),
    [("payments", "process_payment", "void_charge"), ("inventory", "update_inventory", "void_sale")],
)
def test_of_an_effect_and_its_void_that_compete_one_wins_and_both_know_which(
    location: Location, service: str, effect: str, void: str
) -> None:
    def act(shop: Shop, number: int) -> tuple[str, object]:
        step = (effect, void)[number % 2]
        try:
            return step, CALLS[step](shop, make_order())
        except OrderVoided:
            return step, OrderVoided

    answers = at_once(location, act)

    ledger = read_ledger(location)
    is_done = bool(ledger.charges if service == "payments" else ledger.sales)
    refused = {answer is OrderVoided for step, answer in answers if step == effect}
    too_late = {bool(answer) for step, answer in answers if step == void}
    assert [bool(ledger.voids), refused] == [not is_done, {not is_done}]
    # A void that came before the effect would have kept it away, so all voids of one order say the same.
    assert too_late == {is_done}


@pytest.mark.parametrize("state", sorted(UNCONFIRMED))
def test_a_settled_order_holds_nothing_and_no_step_revives_it(shop: Shop, state: str) -> None:
    order = make_order()
    do(shop, order, *UNCONFIRMED[state])
    charges = len(read_ledger(shop.location).charges)

    shop.settle("1")
    settled = effects(shop)

    for step in ("validate_inventory", "process_payment", "update_inventory", "send_confirmation", "note_unsent"):
        with pytest.raises(OrderVoided):
            do(shop, order, step)
    do(shop, order, "void_charge", "refund_payment")
    assert shop.inventory.void_sale(order) is False
    if state in ("nothing", "settled"):  # It knows no content, so it refuses each.
        for step in (*SOLD, "send_confirmation", "note_unsent"):
            with pytest.raises(OrderVoided):
                do(shop, make_order("1", **OTHER_CONTENT), step)
    assert holds_nothing(settled)
    assert (effects(shop), len(settled.charges)) == (settled, charges)


@pytest.mark.parametrize("last", ["send_confirmation", "note_unsent"])
def test_an_order_that_was_confirmed_is_not_settled_and_nothing_changes(shop: Shop, last: str) -> None:
    do(shop, make_order(), *SOLD, last)
    before = effects(shop)

    with pytest.raises(AlreadyConfirmed):
        shop.settle("1")

    assert effects(shop) == before


def test_a_tombstone_that_knows_its_content_is_not_forgotten_by_settle(shop: Shop) -> None:
    order = make_order()
    do(shop, order, "void_charge", "void_sale")

    shop.settle("1")

    assert voids(shop) == [("void_sale", order.digest), ("void_charge", order.digest), ("void_confirmation", None)]


@pytest.mark.parametrize(
    ("earlier", "in_flight", "answer"),
    [
        (("validate_inventory",), "process_payment", OrderVoided),
        (("validate_inventory", "process_payment"), "process_payment", OrderVoided),
        (("validate_inventory", "process_payment"), "update_inventory", OrderVoided),
        (SOLD, "update_inventory", OrderVoided),
        (SOLD, "send_confirmation", OrderVoided),
        (SOLD, "note_unsent", OrderVoided),
        ((), "validate_inventory", OrderVoided),
        (("validate_inventory",), "void_charge", None),
        (("validate_inventory", "process_payment"), "void_sale", None),
        (SOLD, "void_sale", None),
        (("process_payment", "void_charge", "void_sale"), "refund_payment", None),
    ],
)
def test_a_step_that_is_in_flight_while_its_order_is_settled_lands_without_effect(
    shop: Shop, earlier: tuple[str, ...], in_flight: str, answer: type[ShopError] | None
) -> None:
    do(shop, make_order(), *earlier)
    number = len(outcomes(shop, in_flight))
    held = Held()
    plan = FaultPlan((PlannedFault(in_flight, Fault(), number), PlannedFault(in_flight, held, 1)))
    worker = Shop(shop.location, plan)

    with ThreadPoolExecutor() as executor:
        late = executor.submit(do, worker, make_order(), in_flight)
        while outcomes(shop, in_flight)[number:] != ["started"]:
            assert not late.done()
        shop.settle("1")
        settled = effects(shop)
        held.is_let_go.set()
        error = late.exception(timeout=30)

    worker.close()
    assert type(error) is (answer or type(None))
    assert outcomes(shop, in_flight)[number] == (answer.__name__ if answer else "ok")
    assert effects(shop) == settled
    assert holds_nothing(settled)


def test_a_finished_order_finds_what_it_had_when_it_is_validated_again(shop: Shop) -> None:
    order = make_order(items=(Item("grinder", 5, 100),))
    do(shop, order, "update_inventory")

    do(shop, order, "validate_inventory")

    with pytest.raises(OutOfStock):
        do(shop, make_order("2", items=(Item("grinder", 1, 100),)), "validate_inventory")


def test_a_charge_is_the_orders_total_and_keeps_its_transaction_id(shop: Shop) -> None:
    order = make_order(currency="EUR", items=(Item("mug", 3, 1250), Item("grinder", 1, 1)))

    transaction_ids = [shop.payments.process_payment(order) for _ in range(2)]
    other = shop.payments.process_payment(make_order("2"))

    charge = read_ledger(shop.location).charges[0]
    assert (charge.amount_cents, charge.currency, charge.refunded) == (3_751, "EUR", False)
    assert transaction_ids == [charge.transaction_id] * 2
    assert other != charge.transaction_id


def test_the_last_item_goes_to_one_of_many_that_compete_for_it(location: Location) -> None:
    def buy(shop: Shop, number: int) -> str:
        try:
            do(shop, make_order(str(number), items=(Item("last-one", 1, 9_900),)), "update_inventory")
            return "sold"
        except OutOfStock:
            return "out of stock"

    answers = at_once(location, buy)

    ledger = read_ledger(location)
    assert sorted(answers) == ["out of stock"] * 7 + ["sold"]
    assert [sale.sku for sale in ledger.sales] == ["last-one"]
    assert ledger.stock["last-one"].now == 0


def test_repeats_that_compete_charge_and_sell_once(shop: Shop) -> None:
    at_once(shop.location, lambda opened, _: do(opened, make_order(), "process_payment", "update_inventory"))

    ledger = read_ledger(shop.location)
    assert [charge.order_id for charge in ledger.charges] == ["1"]
    assert sorted(sale.sku for sale in ledger.sales) == ["coffee-1kg", "mug"]
    assert sorted(attempt.attempt for attempt in ledger.attempts if attempt.step == "process_payment") == [*range(1, 9)]


@pytest.fixture
def keyless(location: Location) -> Iterator[Shop]:
    opened = Shop(location, keys_enabled=False)
    yield opened
    opened.close()


def test_without_keys_a_repeat_charges_and_sells_twice(keyless: Shop) -> None:
    do(keyless, make_order(items=(Item("mug", 2, 1250),)), *["process_payment", "update_inventory"] * 2)

    ledger = read_ledger(keyless.location)
    assert [(charge.amount_cents, charge.refunded) for charge in ledger.charges] == [(2_500, False)] * 2
    assert len({charge.transaction_id for charge in ledger.charges}) == 2
    assert (len(ledger.sales), ledger.stock["mug"].now) == (2, 96)
    keyless.settle("1")
    assert holds_nothing(effects(keyless))


def test_without_keys_a_void_names_the_first_charge_and_a_refund_pays_back_all(keyless: Shop) -> None:
    first, _ = (keyless.payments.process_payment(make_order()) for _ in range(2))

    answer = keyless.payments.void_charge(make_order())
    keyless.payments.refund_payment(make_order())

    assert answer == first
    assert [charge.refunded for charge in read_ledger(keyless.location).charges] == [True, True]


@pytest.mark.parametrize("ended", [("process_payment", "refund_payment"), ("void_charge",), ("settle",)])
def test_without_keys_a_charge_that_comes_after_the_end_is_refused_all_the_same(
    keyless: Shop, ended: tuple[str, ...]
) -> None:
    do(keyless, make_order(), *ended)
    before = effects(keyless)

    with pytest.raises(OrderVoided):
        keyless.payments.process_payment(make_order())

    assert effects(keyless) == before


@pytest.mark.parametrize("steps", [("send_confirmation", "note_unsent"), ("note_unsent", "send_confirmation")])
def test_a_mail_that_was_sent_replaces_the_note_and_is_never_noted_as_unsent(
    shop: Shop, steps: tuple[str, ...]
) -> None:
    do(shop, make_order(), *steps)

    assert [confirmation.sent for confirmation in read_ledger(shop.location).confirmations] == [True]


def test_it_can_be_noted_that_an_unknown_customer_was_not_mailed(shop: Shop) -> None:
    do(shop, make_order(customer_id="nobody"), "note_unsent")

    [confirmation] = read_ledger(shop.location).confirmations
    assert (confirmation.customer_id, confirmation.sent) == ("nobody", False)


def test_every_error_is_either_transient_or_permanent_and_stands_in_the_drawing() -> None:
    error_types = classes_below(ShopError) - {TransientError, PermanentError}

    assert order_processor.HalfDone in error_types
    for error_type in error_types:
        assert issubclass(error_type, TransientError) != issubclass(error_type, PermanentError), error_type
    drawn = re.findall(r"^[│├└─ ]*([A-Z][A-Za-z]+)", errors.__doc__ or "", re.MULTILINE)
    assert {*drawn} - {"What"} == {name for name, _ in inspect.getmembers(errors, inspect.isclass)}


ORDERS = {
    order.order_id: order
    for order in (
        make_order("1", items=(Item("last-one", 1, 9_900),)),
        make_order("2", items=(Item("last-one", 1, 9_900), Item("grinder", 2, 700))),
        make_order("3", items=(Item("grinder", 4, 700), Item("mug", 1, 0))),
        make_order("4", payment_token="tok_chargeDeclined"),
    )
}


planned_faults = st.lists(
    st.builds(
        "{}:{}*{}".format, st.sampled_from(STEPS), st.sampled_from(["unavailable", "lost_reply"]), st.integers(1, 3)
    ),
    max_size=8,
).map(",".join)


# Each example begins with an empty shop.
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    operations=st.lists(st.tuples(st.sampled_from(sorted(ORDERS)), st.sampled_from(sorted(CALLS))), max_size=25),
    faults=planned_faults,
)
def test_stock_and_money_add_up_after_any_operations(
    opened: Shop, operations: list[tuple[str, str]], faults: str
) -> None:
    opened.reset()
    location = opened.location
    done: list[tuple[str, str]] = []
    with closing(Shop(location, parse_faults(faults))) as opened:
        for order_id, step in operations:
            try:
                do(opened, ORDERS[order_id], step)
            except ReplyLost:
                pass  # It happened all the same.
            except (ServiceUnavailable, PermanentError, AlreadyConfirmed):
                continue
            done.append((order_id, step))
        ledger = read_ledger(location)

    for order_id in ORDERS:
        steps = [step for done_for, step in done if done_for == order_id]
        assert_money_adds_up(ledger, order_id, steps)
        assert_no_effect_beside_a_tombstone(ledger, order_id)
    assert_stock_adds_up(ledger)


def assert_money_adds_up(ledger: Ledger, order_id: str, steps: list[str]) -> None:
    expected = []
    if "process_payment" in steps:
        later = steps[steps.index("process_payment") :]
        expected = [(ORDERS[order_id].total_cents, not {"refund_payment", "settle"}.isdisjoint(later))]
    charges = [charge for charge in ledger.charges if charge.order_id == order_id]
    assert [(charge.amount_cents, charge.refunded) for charge in charges] == expected


def assert_no_effect_beside_a_tombstone(ledger: Ledger, order_id: str) -> None:
    effects_by_void = {
        "void_charge": {charge.order_id for charge in ledger.charges},
        "void_sale": {sale.order_id for sale in ledger.sales},
        "void_confirmation": {mail.order_id for mail in ledger.confirmations},
    }
    for step, rows in effects_by_void.items():
        is_voided = (order_id, step) in {(void.order_id, void.step) for void in ledger.voids}
        assert not (is_voided and order_id in rows)


def assert_stock_adds_up(ledger: Ledger) -> None:
    for sku, stock in ledger.stock.items():
        sold = sum(sale.quantity for sale in ledger.sales if sale.sku == sku and not sale.restored)
        assert stock.initial == stock.now + sold
        assert stock.now >= 0
