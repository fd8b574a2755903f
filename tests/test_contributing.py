"""Carries CONTRIBUTING.md out on a copy: the walk leads where it says, and what is forgotten is named."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Stage
from test_documents import apply_diff, copy_tree

from comparison.stage.processes import ROOT, Program, Worker, clean_environment
from order_processor import MAXIMUM_ATTEMPTS

DIFF = re.compile(r"^```diff\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STEP, FAULT, SCENARIO = slice(0, 4), slice(4, 5), slice(5, 6)
TIMEOUT_SECONDS = 110
# What `make check` has learned of the packages: from nothing a check takes several times as long.
MYPY_CACHE = f"--cache-dir={ROOT / '.mypy_cache'}"


def apply(directory: Path, part: slice) -> None:
    for diff in DIFF.findall((ROOT / "CONTRIBUTING.md").read_text())[part]:
        apply_diff(directory, diff)


def run(directory: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    copy_tree(tmp_path)
    return tmp_path


def steps_in(directory: Path) -> list[str]:
    printed = run(directory, "-m", "shop", "ledger").stdout
    return re.findall(r"^  [\d:.]+  (\w+) +attempt", printed, re.MULTILINE)


NEW_STEPS = ["validate_inventory", "process_payment", "wrap_gift", "update_inventory", "send_confirmation"]


async def test_a_new_step_is_taken_by_both_versions_and_its_undo_when_the_order_ends(copy: Path, stage: Stage) -> None:
    apply(copy, STEP)
    other = copy / "examples" / "order.jsonl"
    worker = Worker(copy / "worker", stage.settings, copy / "data", "update_inventory:crash_before")
    starter = Program(copy / "starter", stage.settings, "run_workflow.py")
    stage.started += [worker, starter]
    for program in stage.started:
        program.tree = copy

    script = run(copy, "order_processor.py")
    of_the_script = steps_in(copy)
    run(copy, "-m", "shop", "reset", "--yes")
    undone = run(copy, "order_processor.py", "--faults=wrap_gift:unavailable*inf", str(other))
    await worker.start()
    await starter.start()
    await worker.wait(60)
    worker.arguments = worker.arguments[:-1]
    await worker.start()
    status = await starter.wait(TIMEOUT_SECONDS)

    assert (script.returncode, of_the_script) == (0, NEW_STEPS)
    assert (undone.returncode, undone.stdout.split("\t")[1]) == (1, "failed")
    assert (status, starter.lines()[0].split("\t")[1]) == (0, "completed")
    assert [step for step in steps_in(copy) if step == "unwrap_gift"] == ["unwrap_gift"]
    assert [step for step in steps_in(copy) if step == "wrap_gift"] == ["wrap_gift"] * (MAXIMUM_ATTEMPTS + 1)


FORGOTTEN = {
    "shop/faults.py": ('    "wrap_gift",\n', "incompatible type \"Literal['wrap_gift']\""),
    "activities.py": ("def wrap_gift", '"type[OrderActivities]" has no attribute "wrap_gift"'),
    "shop/services/inventory.py": ("def wrap_gift", '"Inventory" has no attribute "wrap_gift"'),
}


def test_a_step_that_is_missing_somewhere_fails_the_check_with_a_sentence(copy: Path) -> None:
    apply(copy, STEP)
    for file, (forgotten, _) in FORGOTTEN.items():
        text = (copy / file).read_text()
        assert forgotten in text
        (copy / file).write_text(text.replace(forgotten, "def other" if "def" in forgotten else ""))

    checked = run(copy, "-m", "mypy", MYPY_CACHE, "shop", "activities.py", "workflows.py", "order_processor.py")

    assert checked.returncode == 1
    for _, sentence in FORGOTTEN.values():
        assert sentence in checked.stdout


def test_a_new_fault_strikes(copy: Path) -> None:
    apply(copy, FAULT)

    script = run(copy, "order_processor.py", "--faults=process_payment:overloaded")

    assert script.returncode == 0
    assert "attempt 1 failed: too many requests" in script.stderr


def test_a_new_scenario_is_run_by_its_name(copy: Path) -> None:
    apply(copy, SCENARIO)

    compared = run(copy, "-m", "comparison", "mail-down-once")

    assert compared.returncode == 0, compared.stderr
    assert compared.stdout.count("send_confirmation: ServiceUnavailable") == 2
