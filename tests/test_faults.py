"""Fault plans: how they are written, which attempts they strike, and what a struck attempt does to the shop."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import make_order

from comparison.stage.processes import wait_until
from shop.errors import ReplyLost, ServiceUnavailable
from shop.faults import RANDOM_KINDS, STEPS, InvalidFaultSpec, parse_faults
from shop.ledger import Ledger, read_ledger
from shop.orders import Order
from shop.shop import Shop
from shop.stores import storage

SERVICE_OF = {
    "validate_inventory": "inventory",
    "process_payment": "payments",
    "update_inventory": "inventory",
    "send_confirmation": "notifications",
    "void_charge": "payments",
    "void_sale": "inventory",
    "refund_payment": "payments",
    "note_unsent": "notifications",
}
STEPS_WITH_EFFECT = [step for step in STEPS if step != "validate_inventory"]


def kinds(spec: str, step: str, attempts: int, order_id: str = "1") -> list[str]:
    plan = parse_faults(spec)
    return [plan.fault_for(step, order_id, attempt).kind for attempt in range(1, attempts + 1)]


def call(shop: Shop, step: str, order: Order) -> None:
    method: Callable[[Order], object] = getattr(getattr(shop, SERVICE_OF[step]), step)
    method(order)


def call_in_a_process(data: Path, step: str, spec: str, order: Order) -> int:
    """Make one call in a process of its own; return its exit status, or the signal that killed it, negated."""
    child = os.fork()
    if child == 0:
        try:
            call(Shop(data, parse_faults(spec)), step, order)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def shop_with(data: Path, spec: str = "") -> Iterator[Shop]:
    shop = Shop(data, parse_faults(spec))
    try:
        yield shop
    finally:
        shop.close()


def prepare(data: Path, step: str, order: Order) -> None:
    """Open the shop; charge what `step` refunds: without it there would be no effect to see."""
    with shop_with(data) as shop:
        if step == "refund_payment":
            shop.payments.process_payment(order)


def effects_in(ledger: Ledger) -> Ledger:
    return replace(ledger, attempts=())


def tried(ledger: Ledger, step: str, order_id: str) -> list[str]:
    return [attempt.outcome for attempt in ledger.attempts if (attempt.step, attempt.order_id) == (step, order_id)]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", ["none", "none", "none"]),
        ("process_payment:unavailable", ["unavailable", "none", "none"]),
        ("process_payment:lost_reply*2", ["lost_reply", "lost_reply", "none"]),
        ("process_payment:crash_after*1,process_payment:crash_before", ["crash_after", "crash_before", "none"]),
        (
            "process_payment:lost_reply,update_inventory:slow(1)*9,process_payment:unavailable*2",
            ["lost_reply", "unavailable", "unavailable", "none"],
        ),
        ("process_payment:unavailable,process_payment:lost_reply*inf", ["unavailable", *["lost_reply"] * 9]),
        ("update_inventory:unavailable*inf", ["none", "none"]),
    ],
)
def test_faults_of_a_step_follow_one_another_in_the_order_written(spec: str, expected: list[str]) -> None:
    assert kinds(spec, "process_payment", len(expected)) == expected


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        *(
            (spec, "must read STEP:FAULT")
            for spec in (
                "process_payment",
                "process_payment:explode",
                "process_payment:Unavailable",
                "process_payment:unavailable*-1",
                "process_payment:unavailable*0",
                "process_payment:unavailable*1.5",
                "process_payment:unavailable(1)",
                "process_payment:slow",
                "process_payment:slow(inf)",
                "process_payment:slow(99999999999)",
                "process_payment:slow(1.2.3)",
                "process_payment:unavailable,",
                "process_payment:unavailable,random(0.1,7)",
            )
        ),
        ("ship_parcel:unavailable", "the step must be one of validate_inventory, .*void_charge, .*note_unsent"),
        ("void_confirmation:unavailable", "the step must be one of"),
        *(
            (spec, r"must read random\(RATE,SEED\)")
            for spec in (
                "random",
                "random(1.1,7)",
                "random(nan,7)",
                "random(0.1.2,7)",
                "random(0.1,x)",
                "random(0.1,7)*2",
            )
        ),
        ("random(0.1," + "9" * 5_000 + ")", r"must read random\(RATE,SEED\)"),
    ],
)
def test_a_plan_that_cannot_be_read_is_refused(spec: str, reason: str) -> None:
    with pytest.raises(InvalidFaultSpec, match=reason):
        parse_faults(spec)


@pytest.mark.parametrize("step", STEPS)
def test_random_faults_strike_every_step_at_about_their_rate_and_are_of_four_kinds(step: str) -> None:
    drawn = kinds("random(0.3,7)", step, 5_000)

    # Four standard deviations: of 5,000 draws at 0.3 0.026, of about 1,500 draws at a quarter 0.045.
    struck = len(drawn) - drawn.count("none")
    assert struck / len(drawn) == pytest.approx(0.3, abs=0.026)
    assert set(drawn) == {"none", "unavailable", "lost_reply", "crash_before", "crash_after"}
    for kind in RANDOM_KINDS:
        assert drawn.count(kind) / struck == pytest.approx(0.25, abs=0.045)


def test_random_faults_are_drawn_from_seed_order_step_and_attempt_alone() -> None:
    drawn = kinds("random(0.5,7)", "process_payment", 100)

    assert kinds("random(0.5,7)", "process_payment", 100) == drawn
    assert kinds("random(0.5,8)", "process_payment", 100) != drawn
    assert kinds("random(0.5,7)", "process_payment", 100, order_id="2") != drawn
    assert kinds("random(0.5,7)", "update_inventory", 100) != drawn
    # Spelled out, because another process has to draw the same.
    assert kinds("random(0.5,7)", "process_payment", 6) == [
        "crash_before",
        "crash_before",
        "none",
        "crash_before",
        "none",
        "none",
    ]


@pytest.mark.parametrize("step", STEPS)
def test_unavailable_refuses_before_any_effect_and_lost_reply_hides_one_to_which_a_repeat_adds_nothing(
    tmp_path: Path, step: str
) -> None:
    order = make_order()
    prepare(tmp_path, step, order)
    before = effects_in(read_ledger(tmp_path))

    with shop_with(tmp_path, f"{step}:unavailable,{step}:lost_reply") as shop:
        with pytest.raises(ServiceUnavailable):
            call(shop, step, order)
        refused = effects_in(read_ledger(tmp_path))
        with pytest.raises(ReplyLost):
            call(shop, step, order)
        struck = effects_in(read_ledger(tmp_path))
        call(shop, step, order)

    after = read_ledger(tmp_path)
    assert refused == before
    assert (struck != before) == (step in STEPS_WITH_EFFECT)
    assert effects_in(after) == struck
    assert tried(after, step, "1") == ["ServiceUnavailable", "ReplyLost", "ok"]


def test_slow_waits_before_an_effect_that_then_happens_and_no_thread_is_made_for_it(tmp_path: Path) -> None:
    with shop_with(tmp_path, "process_payment:slow(0.2)") as shop:
        threads, begin = threading.active_count(), time.monotonic()
        call(shop, "process_payment", make_order())

    assert time.monotonic() - begin >= 0.2
    assert threading.active_count() == threads
    assert tried(read_ledger(tmp_path), "process_payment", "1") == ["ok"]


@pytest.mark.parametrize("step", ["validate_inventory", "process_payment", "void_sale"])
async def test_a_call_that_is_too_slow_is_given_up_in_time_and_lands_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(storage, "CALL_TIMEOUT_SECONDS", 0.2)
    prepare(tmp_path, step, make_order())
    before = read_ledger(tmp_path)
    with shop_with(tmp_path, f"{step}:slow(0.5)") as shop:
        begin = time.monotonic()
        with pytest.raises(ReplyLost, match="no reply within 0.2 s"):
            call(shop, step, make_order())
        waited_seconds, given_up = time.monotonic() - begin, read_ledger(tmp_path)
        await wait_until(lambda: tried(read_ledger(tmp_path), step, "1") == ["ok"], "the call lands")

    landed = read_ledger(tmp_path)
    assert 0.2 <= waited_seconds < 0.5
    assert tried(given_up, step, "1") == ["started"]
    assert effects_in(given_up) == effects_in(before)
    assert (effects_in(landed) != effects_in(before)) == (step in STEPS_WITH_EFFECT)


async def test_a_call_that_lands_late_and_is_refused_says_so_in_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "CALL_TIMEOUT_SECONDS", 0.1)
    with shop_with(tmp_path, "process_payment:slow(0.3)") as shop:
        with pytest.raises(ReplyLost):
            call(shop, "process_payment", make_order())
        call(shop, "void_charge", make_order())
        await wait_until(lambda: tried(read_ledger(tmp_path), "process_payment", "1") != ["started"], "the call lands")

    assert tried(read_ledger(tmp_path), "process_payment", "1") == ["OrderVoided"]
    assert read_ledger(tmp_path).charges == ()


def test_waiting_for_a_lock_is_part_of_the_time_after_which_a_slow_call_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "CALL_TIMEOUT_SECONDS", 1.0)
    with shop_with(tmp_path, "process_payment:slow(0.8)") as shop:
        holder = sqlite3.connect(tmp_path / "payments.sqlite3", isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN IMMEDIATE")
        threading.Timer(0.5, holder.rollback).start()
        begin = time.monotonic()
        with pytest.raises(ReplyLost):
            call(shop, "process_payment", make_order())

        assert time.monotonic() - begin < 1.2
    holder.close()


def test_a_client_gives_up_after_three_seconds() -> None:
    assert storage.CALL_TIMEOUT_SECONDS == 3.0


def test_a_call_for_which_there_is_no_thread_was_never_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with shop_with(tmp_path, "process_payment:slow(60)") as shop:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(ServiceUnavailable, match="not sent: can't start new thread"):
            call(shop, "process_payment", make_order())

    assert tried(read_ledger(tmp_path), "process_payment", "1") == ["ServiceUnavailable"]
    assert read_ledger(tmp_path).charges == ()


def test_a_call_over_a_network_holds_no_transaction_and_is_told_its_deadline(shop: Shop) -> None:
    def send(deadline: float) -> str:
        with shop.payments.database.transaction("1", deadline):  # would wait for itself
            return f"{deadline - time.monotonic():.1f}"

    assert 2.5 < float(shop.payments.attempts.call("process_payment", "1", send)) <= 3.0
    assert tried(read_ledger(shop.location), "process_payment", "1") == ["ok"]


@pytest.mark.parametrize("step", STEPS_WITH_EFFECT)
def test_a_crash_kills_the_process_before_or_after_the_effect_and_the_plan_goes_on_after_a_restart(
    tmp_path: Path, step: str
) -> None:
    prepare(tmp_path, step, make_order())
    seen = [effects_in(read_ledger(tmp_path))]
    statuses = []

    for _ in range(3):
        statuses.append(call_in_a_process(tmp_path, step, f"{step}:crash_before,{step}:crash_after", make_order()))
        seen.append(effects_in(read_ledger(tmp_path)))

    before, crashed_before, crashed_after, repeated = seen
    assert statuses == [-9, -9, 0]
    assert crashed_before == before
    assert crashed_after != before
    assert repeated == crashed_after
    assert tried(read_ledger(tmp_path), step, "1") == ["started", "started", "ok"]


def test_a_plan_strikes_every_order_anew(tmp_path: Path) -> None:
    with shop_with(tmp_path, "process_payment:unavailable") as shop:
        for order in (make_order("1"), make_order("2")):
            with pytest.raises(ServiceUnavailable):
                call(shop, "process_payment", order)
            call(shop, "process_payment", order)

    ledger = read_ledger(tmp_path)
    assert (
        tried(ledger, "process_payment", "1") == tried(ledger, "process_payment", "2") == ["ServiceUnavailable", "ok"]
    )
