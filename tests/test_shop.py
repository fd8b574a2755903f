"""What the three services promise: effects that are safe to repeat, and refusals that change nothing."""

from __future__ import annotations

import inspect
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ledger_of, make_order
from hypothesis import given, settings
from hypothesis import strategies as st

import order_processor
from shop import errors
from shop.errors import (
    PERMANENT_ERRORS,
    REFUSALS,
    OrderConflict,
    OrderVoided,
    OutOfStock,
    PaymentDeclined,
    PermanentError,
    Refusal,
    ReplyLost,
    ServiceUnavailable,
    ShopError,
    TransientError,
    UnknownCustomer,
    UnknownPaymentToken,
    UnknownProduct,
)
from shop.faults import parse_faults
from shop.ledger import Ledger, Void, read_ledger
from shop.orders import Item, Order
from shop.shop import Shop

CALLS: dict[str, Callable[[Shop, Order], object]] = {
    "validate_inventory": lambda shop, order: shop.inventory.validate_inventory(order),
    "process_payment": lambda shop, order: shop.payments.process_payment(order),
    "update_inventory": lambda shop, order: shop.inventory.update_inventory(order),
    "send_confirmation": lambda shop, order: shop.notifications.send_confirmation(order),
    "note_unsent": lambda shop, order: shop.notifications.note_unsent(order),
    "refund_payment": lambda shop, order: shop.payments.refund_payment(order),
    "restore_inventory": lambda shop, order: shop.inventory.restore_inventory(order),
}
SOLD = ("validate_inventory", "process_payment", "update_inventory")
OTHER_CONTENT = {"items": (Item("mug", 3, 1250),)}


def do(shop: Shop, order: Order, *steps: str) -> None:
    for step in steps:
        CALLS[step](shop, order)


def effects(shop: Shop) -> Ledger:
    """Return everything that happened but the attempts, which are logged for a refusal, too."""
    return replace(read_ledger(shop), attempts=())


def last_outcome(shop: Shop, step: str) -> str:
    return [attempt.outcome for attempt in read_ledger(shop).attempts if attempt.step == step][-1]


def classes_below(error_type: type[ShopError]) -> set[type[ShopError]]:
    below = set(error_type.__subclasses__())
    return below.union(*(classes_below(subclass) for subclass in below))


@pytest.mark.parametrize(
    ("earlier", "step"),
    [
        ((), "validate_inventory"),
        ((), "process_payment"),
        ((), "update_inventory"),
        (SOLD, "send_confirmation"),
        (SOLD, "note_unsent"),
        (SOLD, "refund_payment"),
        (SOLD, "restore_inventory"),
        ((), "refund_payment"),
        ((), "restore_inventory"),
    ],
)
def test_every_effect_is_safe_to_repeat(shop: Shop, earlier: tuple[str, ...], step: str) -> None:
    order = make_order()
    do(shop, order, *earlier)
    before = effects(shop)

    do(shop, order, step)
    once = effects(shop)
    do(shop, order, step, step)

    assert effects(shop) == once
    assert (once == before) == (step == "validate_inventory")


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
    assert last_outcome(shop, step) == error.__name__


@pytest.mark.parametrize(
    ("earlier", "step"),
    [
        (("update_inventory",), "validate_inventory"),
        (("process_payment",), "process_payment"),
        (("update_inventory",), "update_inventory"),
        (("send_confirmation",), "send_confirmation"),
        (("note_unsent",), "send_confirmation"),
        (("send_confirmation",), "note_unsent"),
        (("process_payment",), "refund_payment"),
        (("update_inventory",), "restore_inventory"),
        (("process_payment", "refund_payment"), "process_payment"),
        (("process_payment", "refund_payment"), "refund_payment"),
        (("update_inventory", "restore_inventory"), "validate_inventory"),
        (("update_inventory", "restore_inventory"), "update_inventory"),
        (("update_inventory", "restore_inventory"), "restore_inventory"),
        (("refund_payment",), "process_payment"),
        (("refund_payment",), "refund_payment"),
        (("restore_inventory",), "validate_inventory"),
        (("restore_inventory",), "update_inventory"),
        (("restore_inventory",), "restore_inventory"),
    ],
)
def test_an_order_whose_id_is_taken_by_other_content_is_refused_and_touches_nothing(
    shop: Shop, earlier: tuple[str, ...], step: str
) -> None:
    do(shop, make_order(), *earlier)
    before = effects(shop)

    with pytest.raises(OrderConflict):
        do(shop, make_order("1", **OTHER_CONTENT), step)

    assert effects(shop) == before


@pytest.mark.parametrize(
    ("undo", "step"),
    [
        ("refund_payment", "process_payment"),
        ("restore_inventory", "update_inventory"),
        ("restore_inventory", "validate_inventory"),
    ],
)
def test_an_effect_that_comes_after_its_undo_is_refused(shop: Shop, undo: str, step: str) -> None:
    order = make_order()
    before = effects(shop)
    do(shop, order, undo)

    with pytest.raises(OrderVoided):
        do(shop, order, step)

    assert effects(shop) == replace(before, voids=(Void("1", undo),))
    assert last_outcome(shop, step) == "OrderVoided"


@pytest.mark.parametrize("step", ["validate_inventory", "process_payment", "update_inventory"])
def test_an_order_that_was_undone_stays_undone_after_a_restart(tmp_path: Path, shop: Shop, step: str) -> None:
    order = make_order()
    do(shop, order, *SOLD, "restore_inventory", "refund_payment")
    before = effects(shop)
    restarted = Shop(tmp_path / "shop")

    with pytest.raises(OrderVoided):
        do(restarted, order, step)

    restarted.close()
    assert effects(shop) == before
    assert [charge.refunded for charge in before.charges] == [True]
    assert {sale.restored for sale in before.sales} == {True}
    assert all(stock.now == stock.initial for stock in before.stock.values())
    assert before.voids == ()


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

    charge = read_ledger(shop).charges[0]
    assert (charge.amount_cents, charge.currency, charge.refunded) == (3_751, "EUR", False)
    assert transaction_ids == [charge.transaction_id] * 2
    assert other != charge.transaction_id


def test_the_last_item_goes_to_one_of_many_that_compete_for_it(tmp_path: Path) -> None:
    start = threading.Barrier(8, timeout=30)

    def buy(order_id: str) -> str:
        opened = Shop(tmp_path)
        start.wait()
        try:
            do(opened, make_order(order_id, items=(Item("last-one", 1, 9_900),)), "update_inventory")
            return "sold"
        except OutOfStock:
            return "out of stock"
        finally:
            opened.close()

    with ThreadPoolExecutor(max_workers=8) as executor:
        answers = list(executor.map(buy, map(str, range(8))))

    ledger = ledger_of(tmp_path)
    assert sorted(answers) == ["out of stock"] * 7 + ["sold"]
    assert [sale.sku for sale in ledger.sales] == ["last-one"]
    assert ledger.stock["last-one"].now == 0


def test_repeats_that_compete_charge_and_sell_once(shop: Shop) -> None:
    order = make_order()

    with ThreadPoolExecutor(max_workers=8) as executor:
        for pending in [executor.submit(do, shop, order, "process_payment", "update_inventory") for _ in range(8)]:
            pending.result()

    ledger = read_ledger(shop)
    assert [charge.order_id for charge in ledger.charges] == ["1"]
    assert sorted(sale.sku for sale in ledger.sales) == ["coffee-1kg", "mug"]
    assert sorted(attempt.attempt for attempt in ledger.attempts if attempt.step == "process_payment") == [*range(1, 9)]


def test_without_keys_a_repeat_charges_and_sells_twice_and_one_undo_takes_back_both(tmp_path: Path) -> None:
    order = make_order(items=(Item("mug", 2, 1250),))
    keyless = Shop(tmp_path, keys_enabled=False)

    do(keyless, order, "process_payment", "process_payment", "update_inventory", "update_inventory")
    twice = read_ledger(keyless)
    do(keyless, order, "refund_payment", "restore_inventory")
    undone = read_ledger(keyless)

    keyless.close()
    assert [(charge.amount_cents, charge.refunded) for charge in twice.charges] == [(2_500, False)] * 2
    assert (len(twice.sales), twice.stock["mug"].now) == (2, 96)
    assert [charge.refunded for charge in undone.charges] == [True, True]
    assert undone.stock["mug"].now == 100


def test_a_mail_that_was_sent_is_never_noted_as_unsent(shop: Shop) -> None:
    order = make_order()
    do(shop, order, "send_confirmation")

    do(shop, order, "note_unsent")

    assert [confirmation.sent for confirmation in read_ledger(shop).confirmations] == [True]


def test_a_mail_that_is_sent_after_all_replaces_the_note(shop: Shop) -> None:
    order = make_order()
    do(shop, order, "note_unsent")

    do(shop, order, "send_confirmation")

    assert [confirmation.sent for confirmation in read_ledger(shop).confirmations] == [True]


def test_it_can_be_noted_that_an_unknown_customer_was_not_mailed(shop: Shop) -> None:
    do(shop, make_order(customer_id="nobody"), "note_unsent")

    [confirmation] = read_ledger(shop).confirmations
    assert (confirmation.customer_id, confirmation.sent) == ("nobody", False)


def test_every_error_is_either_transient_or_permanent_and_stands_in_the_drawing() -> None:
    error_types = classes_below(ShopError) - {TransientError, PermanentError}

    assert order_processor.AttemptTimedOut in error_types
    for error_type in error_types:
        assert issubclass(error_type, TransientError) != issubclass(error_type, PermanentError), error_type
    for name, _ in inspect.getmembers(errors, inspect.isclass):
        assert f" {name} " in f" {errors.__doc__} ".replace("\n", " "), name


@pytest.mark.parametrize(("names", "error_type"), [(PERMANENT_ERRORS, PermanentError), (REFUSALS, Refusal)])
def test_the_names_that_retry_policies_match_are_complete(names: tuple[str, ...], error_type: type[ShopError]) -> None:
    assert sorted(names) == sorted(subclass.__name__ for subclass in classes_below(error_type))


ORDERS = {
    order.order_id: order
    for order in (
        make_order("1", items=(Item("last-one", 1, 9_900),)),
        make_order("2", items=(Item("last-one", 1, 9_900), Item("grinder", 2, 700))),
        make_order("3", items=(Item("grinder", 4, 700), Item("mug", 1, 0))),
        make_order("4", payment_token="tok_chargeDeclined"),
    )
}


@settings(max_examples=100, deadline=None)
@given(
    operations=st.lists(st.tuples(st.sampled_from(sorted(ORDERS)), st.sampled_from(sorted(CALLS))), max_size=25),
    seed=st.integers(0, 1_000),
)
def test_stock_and_money_add_up_after_any_operations(operations: list[tuple[str, str]], seed: int) -> None:
    done: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as directory:
        opened = Shop(Path(directory), parse_faults(f"random(0.2,{seed})"))
        for order_id, step in operations:
            try:
                do(opened, ORDERS[order_id], step)
            except ReplyLost:
                pass  # It happened all the same.
            except (ServiceUnavailable, PermanentError):
                continue
            done.append((order_id, step))
        ledger = read_ledger(opened)
        opened.close()

    assert_stock_adds_up(ledger)
    assert_money_adds_up(ledger, done)
    assert_no_orphans(ledger, done)


def assert_stock_adds_up(ledger: Ledger) -> None:
    for sku, stock in ledger.stock.items():
        sold = sum(sale.quantity for sale in ledger.sales if sale.sku == sku and not sale.restored)
        assert stock.initial == stock.now + sold
        assert stock.now >= 0


def assert_money_adds_up(ledger: Ledger, done: list[tuple[str, str]]) -> None:
    charged = {order_id for order_id, step in done if step == "process_payment"}
    refunded = {order_id for order_id, step in done if step == "refund_payment"}
    assert sorted((charge.order_id, charge.amount_cents, charge.refunded) for charge in ledger.charges) == sorted(
        (order_id, ORDERS[order_id].total_cents, order_id in refunded) for order_id in charged
    )


def assert_no_orphans(ledger: Ledger, done: list[tuple[str, str]]) -> None:
    happened = set(done)
    assert {sale.order_id for sale in ledger.sales} == {id for id, step in happened if step == "update_inventory"}
    assert sorted((mail.order_id, mail.sent) for mail in ledger.confirmations) == sorted(
        (order_id, (order_id, "send_confirmation") in happened)
        for order_id in {id for id, step in happened if step in ("send_confirmation", "note_unsent")}
    )
    undone_by = {"refund_payment": "process_payment", "restore_inventory": "update_inventory"}
    assert {(void.order_id, void.step) for void in ledger.voids} == {
        (order_id, step)
        for order_id, step in happened
        if step in undone_by and (order_id, undone_by[step]) not in happened
    }
