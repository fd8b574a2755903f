"""The comparison as a command. That all its cells are as expected is held by test_readme.py, which runs all of it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from comparison.processes import ROOT, Server, clean_environment
from comparison.runner import run_scenario
from comparison.scenarios import SCENARIOS, Scenario
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


def test_json_has_a_cell_for_each_version_and_the_picture_is_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "table.svg"

    done = run_comparison("declined", "killed-before-charge", "--json", f"--picture={picture}")

    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert done.returncode == 0
    assert rows["declined"]["script_rerun"] is None
    assert rows["killed-before-charge"]["script"]["endings"] == ["forgotten, nothing held"]
    assert rows["killed-before-charge"]["temporal"]["attempts"] == 5
    assert picture.read_text().startswith("<svg")


def test_settings_of_the_caller_are_ignored(tmp_path: Path) -> None:
    done = run_comparison(
        "all-well", TEMPORAL_ADDRESS="127.0.0.1:1", SHOP_DATA=str(tmp_path / "his"), SHOP_FAULTS="process_payment:none"
    )

    assert done.returncode == 0
    assert not (tmp_path / "his").exists()


@pytest.mark.parametrize(
    "arguments", [("no-such-row",), ("soak", "--orders", "0"), ("bench", "--orders", "x"), ("--json", "--markdown")]
)
def test_bad_usage_exits_2(arguments: tuple[str, ...]) -> None:
    done = run_comparison(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


async def test_a_cell_that_differs_from_what_is_expected_is_noticed(server: Server, tmp_path: Path) -> None:
    wrong = replace(BY_NAME["declined"], name="declined-wrong", temporal=BY_NAME["all-well"].temporal)

    row = await run_scenario(wrong, tmp_path, server)

    assert not row.is_as_expected
    assert row.script.endings == wrong.script


async def test_a_planned_fault_that_never_strikes_is_noticed(server: Server, tmp_path: Path) -> None:
    idle = replace(BY_NAME["declined"], name="declined-idle", faults="send_confirmation:unavailable")

    row = await run_scenario(idle, tmp_path, server)

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
def test_a_small_soak_has_no_violation() -> None:
    done = run_comparison("soak", "--orders", "200", "--kills", "30", "--seed", "3")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills: 30 " in done.stdout
    assert "violations: 0 in 200 orders" in done.stdout
    assert "planted violations that the audit missed: none" in done.stdout
