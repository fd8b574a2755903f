"""The comparison as a command. That all cells are as expected is held by test_documents.py, which runs all of them."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from postgres_server import FOLDERS
from proofs import soak
from rich.console import Console

from comparison.__main__ import main
from comparison.drawing import draw_timeline
from comparison.scenarios import SCENARIOS, Endings, Scenario
from comparison.stage.processes import ROOT, Server, clean_environment
from comparison.stage.runner import Cell, Row, run_scenarios
from comparison.table import make_short_table, make_table
from comparison.timeline import print_timeline
from plumbing.connection import NoConnection
from shop.faults import STEPS, parse_faults


def run_comparison(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "comparison", *arguments],
        cwd=ROOT,
        env=clean_environment() | settings,
        capture_output=True,
        text=True,
        timeout=300,
    )


@dataclass(frozen=True)
class AsJson:
    """Two rows, run by a caller who has settings of his own."""

    status: int
    rows: dict[str, Any]  # Any: JSON
    data: Path


@pytest.fixture(scope="module")
def as_json(tmp_path_factory: pytest.TempPathFactory) -> AsJson:
    data = tmp_path_factory.mktemp("callers") / "shop"
    settings = {"TEMPORAL_ADDRESS": "127.0.0.1:1", "SHOP_DATA": str(data), "SHOP_FAULTS": "process_payment:none"}
    done = run_comparison("declined", "killed-before-charge", "--json", **settings)
    return AsJson(done.returncode, {row["name"]: row for row in json.loads(done.stdout)["rows"]}, data)


def test_json_has_a_cell_for_each_version(as_json: AsJson) -> None:
    assert as_json.status == 0
    assert as_json.rows["declined"]["script_rerun"] is None
    assert as_json.rows["killed-before-charge"]["script"]["endings"] == ["abandoned, nothing held"]
    assert len(as_json.rows["killed-before-charge"]["temporal"]["attempts"]) == 5


def test_settings_of_the_caller_are_ignored(as_json: AsJson) -> None:
    assert as_json.status == 0
    assert not as_json.data.exists()


def test_processes_may_keep_bytecode_whatever_the_caller_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    assert "PYTHONDONTWRITEBYTECODE" not in clean_environment()


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-row",),
        ("bench", "--orders", "x"),
        ("--json", "--markdown"),
        ("--svg", "x.svg"),
        ("declined", "--svg", "no folder/x.svg"),
        ("bench", "--svg", "no folder/x.svg"),
    ],
)
def test_bad_usage_exits_2_with_a_sentence(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["comparison", *arguments])

    try:
        status: object = main()
    except SystemExit as stop:
        status = stop.code

    output, errors = capsys.readouterr()
    assert (status, output) == (2, "")
    assert errors


async def run_one(scenario: Scenario, directory: Path, server: Server) -> Row:
    (row,) = await run_scenarios([scenario], directory, server)
    return row


async def test_a_cell_that_differs_from_what_is_expected_is_noticed(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = replace(SCENARIOS["declined"], name="declined-wrong", temporal=SCENARIOS["all-well"].temporal)

    row = await run_one(wrong, tmp_path, server)

    assert not row.is_as_expected
    assert row.script.endings == wrong.script
    # One scenario is printed with both versions on one time axis.
    print_timeline(row)
    printed = capsys.readouterr().out
    for text in ("order_processor.py starts", "run_workflow.py starts", "process_payment: PaymentDeclined"):
        assert text in printed
    # And drawn: a lane a program and a step, to scale, the ends where the words are.
    draw_timeline(row, tmp_path / "drawn.svg")
    drawn = [element.text for element in ElementTree.parse(tmp_path / "drawn.svg").iter() if element.text]
    for text in ("script", "Temporal", "run_worker.py", "process_payment", "PaymentDeclined"):
        assert text in drawn


async def test_a_planned_fault_that_never_strikes_is_noticed(server: Server, tmp_path: Path) -> None:
    idle = replace(SCENARIOS["declined"], name="declined-idle", faults="send_confirmation:unavailable")

    row = await run_one(idle, tmp_path, server)

    assert (row.script.endings, row.temporal.endings) == (idle.script, idle.temporal)
    assert not row.is_as_expected


def cell_of(endings: Endings) -> Cell:
    return Cell(endings, 0, 0, 0, 1.0, faults_fired=True, attempts=(), log=())


def test_eighty_columns_are_enough_for_the_table() -> None:
    rows = []
    for each in SCENARIOS.values():
        rerun = cell_of(each.rerun) if each.rerun else None
        loop = cell_of(each.loop or each.rerun or each.script)
        rows.append(Row(each, cell_of(each.script), rerun, loop, cell_of(each.temporal)))
    console = Console(width=80, record=True, file=io.StringIO())

    console.print(make_table(rows, console.width))
    short = [str(line) for line in make_short_table(rows)]

    # On a small screen, only what differs, and no line is broken by the terminal.
    assert max(map(len, short)) <= 80
    assert any(line.split()[-4:] == ["LOST", "ok", "ok", "ok"] for line in short)
    assert "All well" not in " ".join(short)
    titles = [line[:20].strip() for line in console.export_text().splitlines() if line.startswith("  ")]
    printed = " ".join(titles)
    assert [each.title for each in SCENARIOS.values() if each.title not in printed] == []


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda scenario: scenario.name)
def test_a_scenario_is_well_formed(scenario: Scenario) -> None:
    planned = parse_faults(scenario.faults).planned

    endings = (scenario.script, scenario.rerun, scenario.loop, scenario.temporal)
    assert {len(each) for each in endings if each} == {len(scenario.orders)}
    assert scenario.disturbed_step in STEPS
    # The script is run again exactly where it is killed, by a fault or by the supervisor.
    is_killed = any(part.fault.kind.startswith("crash") for part in planned) or scenario.disturbance.name == "KILL_ALL"
    assert (scenario.rerun is not None) == is_killed


async def test_a_server_hands_out_one_client_which_outlives_a_restart(own_server: Server) -> None:
    client = await own_server.client()
    files = len(os.listdir("/dev/fd"))

    clients = {await own_server.client() for _ in range(50)}
    await own_server.kill()
    await own_server.start()

    assert clients == {client} == {await own_server.client()}
    assert len(os.listdir("/dev/fd")) <= files + 5


async def test_a_server_that_is_killed_again_before_it_serves_is_away(own_server: Server) -> None:
    await own_server.client()
    await own_server.kill()

    with pytest.raises(NoConnection, match="is away"):
        await own_server.client()


def run_soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.proofs.soak", *arguments]
    return subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=300)


@pytest.mark.timeout(290)
@pytest.mark.parametrize(("version", "store"), [("script", "sqlite"), ("durable", "postgres"), ("temporal", "sqlite")])
def test_a_small_soak_has_no_violation(version: str, store: str) -> None:
    if store == "postgres" and not FOLDERS:
        pytest.skip("PostgreSQL is not installed (Debian's package: postgresql)")

    done = run_soak(f"--version={version}", f"--store={store}", "--orders", "12", "--kills", "3", "--seed", "3")

    assert done.returncode == 0, done.stdout + done.stderr
    assert " 3 from outside" in done.stdout
    assert "violations: 0 in " in done.stdout
    assert "planted violations that the audit missed: none" in done.stdout


@pytest.mark.parametrize("arguments", [("--orders", "0"), ("--kills", "-1"), ("--seed", "-1")])
def test_a_soak_refuses_numbers_that_make_no_sense(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["soak", *arguments])

    with pytest.raises(SystemExit, match="2"):
        soak.main()


# A terminal interrupts the whole group; one that is closed hangs up. And somebody may be in a hurry.
@pytest.mark.parametrize(("send", "signal_number"), [(os.killpg, signal.SIGINT), (os.kill, signal.SIGHUP)])
def test_an_interrupt_ends_it_in_a_line_and_leaves_no_process_and_no_folder(
    send: Callable[[int, int], None], signal_number: int, tmp_path: Path
) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "comparison"],
        cwd=ROOT,
        env=clean_environment(TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(tmp_path.glob("comparison-*/*/temporal/worker.err")):
        assert running.poll() is None
        time.sleep(0.05)

    send(running.pid, signal_number)
    time.sleep(0.2)
    send(running.pid, signal_number)
    output, errors = running.communicate(timeout=60)

    assert (running.returncode, output, len(errors.splitlines())) == (130, "", 1), errors
    assert list(tmp_path.iterdir()) == []
    # What was killed may take a moment to go.
    deadline = time.monotonic() + 10
    while is_alive(running.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(running.pid)


def is_alive(group: int) -> bool:
    """Tell whether a process group has a process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
