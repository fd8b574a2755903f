"""The benchmark: how figures are made of what was measured, and one small run of everything."""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from proofs.ablation import CHANGES, Change
from rich.progress import Progress

from comparison.cost import bench
from comparison.cost.bench import NotCompleted, seconds_of, usage_of
from comparison.cost.figures import (
    SHOWN,
    Figures,
    Flight,
    Round,
    draw,
    make_text,
    ratios_of,
    spread,
)
from comparison.cost.subjects import (
    AGAIN,
    FLOOR,
    SCRIPT,
    SLOW_SCRIPT,
    SLOW_WORKFLOW,
    STOCK,
    WORKFLOW,
    Subject,
    make_script,
)
from comparison.stage.folders import make_progress
from comparison.stage.processes import ROOT, kill_all
from run_server import SETTINGS
from shop.ledger import read_ledger
from shop.orders import Order, Outcome, Status

PAGE = ROOT / "docs" / "cost.md"
SUBJECTS = (SCRIPT, WORKFLOW, AGAIN, FLOOR, STOCK, SLOW_SCRIPT, SLOW_WORKFLOW)


def make_round(orders_per_second: float = 20.0, p50_ms: float = 50.0, cpu_ms: float = 90.0) -> Round:
    flight = make_flight(64, 64 / orders_per_second, cpu_ms)
    return Round(**vars(flight), p50_ms=p50_ms, p95_ms=2 * p50_ms)


def make_flight(orders: int, seconds: float, cpu_ms: float = 90.0) -> Flight:
    return Flight(orders, seconds, cpu_ms / 2, cpu_ms / 3, cpu_ms / 6, server_mb=200.0, worker_mb=80.0)


def make_figures(*flights: Flight, **rounds: list[Round]) -> Figures:
    return Figures(
        rounds={name: rounds.get(name, [make_round(), make_round()]) for name in SUBJECTS},
        flights=list(flights) or [make_flight(10, 1.5), make_flight(100, 6.0)],
        recovery_seconds=6.1,
    )


def ratio_of(figures: Figures, name: str) -> tuple[float, ...]:
    return dict(ratios_of(figures))[name]


def test_what_an_order_more_takes_is_the_rise_from_the_flight_before() -> None:
    *_, small, middle, large = (
        make_text(make_figures(make_flight(10, 1.0), make_flight(110, 6.0), make_flight(1110, 106.0)))
        .partition("\n\nworkflow / itself")[0]
        .splitlines()
    )

    assert [line.split()[2:4] for line in (small, middle, large)] == [["1.0", "90"], ["6.0", "50"], ["106.0", "100"]]


@pytest.mark.parametrize(
    ("name", "changed", "to", "ratio"),
    [
        ("workflow / empty steps: orders/s", FLOOR, make_round(orders_per_second=40.0), 0.5),
        ("workflow / empty steps: CPU", WORKFLOW, make_round(cpu_ms=180.0), 2.0),
        ("workflow / default server: orders/s", WORKFLOW, make_round(orders_per_second=40.0), 2.0),
        ("workflow / default server: p50", STOCK, make_round(p50_ms=200.0), 0.25),
        ("slow shop, workflow / script: orders/s", SLOW_SCRIPT, make_round(orders_per_second=80.0), 0.25),
        ("workflow / itself: p50", AGAIN, make_round(p50_ms=100.0), 2.0),
    ],
)
def test_each_ratio_compares_what_it_names_round_by_round(name: str, changed: str, to: Round, ratio: float) -> None:
    figures = make_figures(**{changed: [make_round(), to]})

    assert ratio_of(figures, name) == pytest.approx((1.0, ratio))


def test_many_orders_are_held_against_fewer_where_both_were_run() -> None:
    flights = [make_flight(n, 0.05 * n) for n in (100, 500, 1000)] + [make_flight(5000, 265.0)]
    name = "an order more, at 5000 / at 500"

    assert ratio_of(make_figures(*flights), name) == pytest.approx((1.075,))
    assert name not in make_text(make_figures(*flights[:-1]))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((19.94, 19.11, 20.25), "19.9 (19.1-20.2)"),
        ((250.4,), "250"),
        ((0.0,), "0.00"),
        ((99.96, 9.996), "55.0 (10.0-100)"),
    ],
)
def test_a_median_has_its_range_and_three_digits(values: tuple[float, ...], text: str) -> None:
    assert spread(values) == text


def test_a_process_has_used_time_and_memory() -> None:
    assert min(usage_of(os.getpid())) > 0


def test_the_text_has_every_row_and_ratio() -> None:
    figures = make_figures(workflow=[make_round(19.0), make_round(21.0)])

    text = make_text(figures)

    assert "20.0 (19.0-21.0)" in text
    assert [name for name in SUBJECTS if name not in text] == [AGAIN]
    assert [name for name, _ in ratios_of(figures) if f"{name:<40}" not in text] == []
    assert max(map(len, text.splitlines())) <= 120


def test_the_picture_has_bars_of_rate_and_cpu_and_of_slow_services(tmp_path: Path) -> None:
    path = tmp_path / "bench.svg"

    draw(make_figures(script=[make_round(250.0), make_round(250.0)]), path)

    picture = ElementTree.parse(path).getroot()
    bars = picture.findall(".//{*}rect[@class='bar']")
    texts = [element.text for element in picture.findall(".//{*}text")]
    assert [int(bar.attrib["width"]) for bar in bars] == [480, 38, 38, 38] + [480] * 4 + [480] * 2
    assert [texts.count(name) for name in SHOWN] == [2] * 4
    assert {"250", "20.0", "90.0"} < set(texts)


async def test_an_order_that_fails_is_no_result() -> None:
    async def fail(order: Order) -> Outcome:
        return Outcome(order.order_id, Status.FAILED, "a reason")

    subject = Subject("subject", fail)

    with pytest.raises(NotCompleted, match="subject: 0\tfailed\ta reason"):
        await seconds_of(subject, subject.place(1))


async def test_an_order_is_complete_by_the_ledgers_alone(tmp_path: Path) -> None:
    subject = make_script(tmp_path, SCRIPT)
    processed, *_ = subject.place(2)

    await seconds_of(subject, [processed])

    assert subject.incomplete() == ["1"]


def test_what_is_not_completed_exits_1_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async def fail(directory: Path, plan: bench.Plan, progress: Progress) -> Figures:
        raise NotCompleted("workflow: 7\tfailed\ta reason")

    monkeypatch.setattr(bench, "take_figures", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    status = bench.run(argparse.Namespace(long=False, svg=None))

    assert status == 1
    assert capsys.readouterr().err.startswith("bench: not completed: workflow: 7\tfailed\ta reason\n")


@pytest.mark.timeout(290)
async def test_a_small_run_measures_every_subject_more_and_more_orders_and_a_kill(tmp_path: Path) -> None:
    plan = bench.Plan(rounds=1, orders=2, alone=2, warm_up=1, sizes=(1, 3))

    try:
        figures = await bench.take_figures(tmp_path, plan, make_progress())
    finally:
        await kill_all(tmp_path)

    assert {name: len(rows) for name, rows in figures.rounds.items()} == dict.fromkeys(SUBJECTS, 1)
    rows = [row for rounds in figures.rounds.values() for row in rounds]
    assert min(min(row.orders_per_second, row.p50_ms, row.starter_cpu_ms) for row in rows) > 0
    assert sum(figures.values(SCRIPT, "server_cpu_ms")) == 0
    assert [flight.orders for flight in figures.flights] == [1, 3]
    assert min(min(flight.server_mb, flight.worker_mb) for flight in figures.flights) > 0
    ledger = read_ledger(tmp_path / "killed" / "shop")
    assert [attempt.outcome for attempt in ledger.attempts if "payment" in attempt.step] == ["started", "ok"]
    assert figures.recovery_seconds > 0


def shape(text: str) -> list[str]:
    """Return what is printed but for its figures."""
    return re.sub(r" +-?\d[\d.]*( \([\d.]+-[\d.]+\))?", " N", text).split()


def shown_of(command: str) -> str:
    (shown,) = re.findall(rf"^\$ python -m {command}\b.*\n([^`]+)```", PAGE.read_text(), re.MULTILINE)
    return str(shown)


def test_the_page_shows_what_the_benchmark_prints() -> None:
    printed = make_text(make_figures(*(make_flight(size, 0.05 * size) for size in bench.LONG_SIZES)))

    assert shape(shown_of("comparison bench")) == shape(printed)


def test_the_page_shows_the_effect_of_each_change() -> None:
    _, *rows = shown_of("tests.proofs.ablation").splitlines()

    assert [row[:34].rstrip() for row in rows] == [change.name for change in CHANGES]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_each_change_changes_something(change: Change, tmp_path: Path) -> None:
    server, tree = change.server(tmp_path), change.tree(tmp_path / "tree")

    is_other_server = bool({*SETTINGS} - {*server.arguments})
    is_other_worker = any(
        (tree / name).read_text() != (ROOT / name).read_text() for name in ("workflows.py", "run_worker.py")
    )
    assert is_other_server == bool(change.settings)
    assert is_other_worker == bool(change.lines)
