"""The comparison as a command. That all cells are as expected is held by test_documents.py, which runs all of them."""

from __future__ import annotations

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

import pytest

from comparison.__main__ import main
from comparison.scenarios import SCENARIOS, Scenario
from comparison.stage.processes import ROOT, Server, clean_environment
from comparison.stage.runner import Row, run_scenarios
from shop.faults import STEPS, parse_faults

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


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


def test_one_scenario_prints_both_versions_on_one_time_axis() -> None:
    printed = run_comparison("declined")

    assert printed.returncode == 0
    for text in ("order_processor.py starts", "run_workflow.py starts", "process_payment: PaymentDeclined"):
        assert text in printed.stdout


def test_processes_may_keep_bytecode_whatever_the_caller_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    assert "PYTHONDONTWRITEBYTECODE" not in clean_environment()


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-row",),
        ("soak", "--orders", "0"),
        ("soak", "--seed", "-1"),
        ("bench", "--orders", "x"),
        ("--json", "--markdown"),
        ("--svg", "x.svg"),
        ("declined", "--svg", "no folder/x.svg"),
        ("bench", "--svg", "no folder/x.svg"),
        ("picture", "no folder/x.png"),
    ],
)
def test_bad_usage_exits_2(
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


def test_bad_usage_of_the_program_is_a_sentence() -> None:
    done = run_comparison("declined", "--svg", "no folder/x.svg")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith("--svg: there is no folder for no folder/x.svg")


async def run_one(scenario: Scenario, directory: Path, server: Server) -> Row:
    (row,) = await run_scenarios([scenario], directory, server)
    return row


async def test_a_cell_that_differs_from_what_is_expected_is_noticed(server: Server, tmp_path: Path) -> None:
    wrong = replace(BY_NAME["declined"], name="declined-wrong", temporal=BY_NAME["all-well"].temporal)

    row = await run_one(wrong, tmp_path, server)

    assert not row.is_as_expected
    assert row.script.endings == wrong.script


async def test_a_planned_fault_that_never_strikes_is_noticed(server: Server, tmp_path: Path) -> None:
    idle = replace(BY_NAME["declined"], name="declined-idle", faults="send_confirmation:unavailable")

    row = await run_one(idle, tmp_path, server)

    assert (row.script.endings, row.temporal.endings) == (idle.script, idle.temporal)
    assert not row.is_as_expected


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_scenario_is_well_formed(scenario: Scenario) -> None:
    planned = parse_faults(scenario.faults).planned

    assert list(BY_NAME).count(scenario.name) == 1
    assert len(scenario.script) == len(scenario.temporal) == len(scenario.orders)
    assert scenario.disturbed_step in ("", *STEPS)
    # The script is run again exactly where it is killed, by a fault or by the supervisor.
    is_killed = any(part.fault.kind.startswith("crash") for part in planned) or scenario.disturbance.name == "KILL_ALL"
    assert (scenario.script_rerun is not None) == is_killed


@pytest.mark.timeout(290)
@pytest.mark.parametrize("version", ["script", "temporal"])
def test_a_small_soak_has_no_violation(version: str) -> None:
    done = run_comparison("soak", f"--version={version}", "--orders", "12", "--kills", "3", "--seed", "3")

    assert done.returncode == 0, done.stdout + done.stderr
    assert " 3 from outside" in done.stdout
    assert "violations: 0 in " in done.stdout
    assert "planted violations that the audit missed: none" in done.stdout


def test_a_soak_of_one_order_without_a_kill_ends() -> None:
    done = run_comparison("soak", "--version", "script", "--orders", "1", "--kills", "0")

    assert done.returncode == 0, done.stdout + done.stderr


# A terminal interrupts the whole group, `timeout` terminates the one process. And somebody may be in a hurry.
@pytest.mark.parametrize(("send", "signal_number"), [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)])
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
