"""The key experiment: what a repeat does when the shop knows no idempotency keys."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from comparison.scenarios import SCENARIOS
from comparison.stage.folders import in_own_folder
from comparison.stage.runner import Cell, run_scenarios, running_server

NAMES = ("reply-lost", "killed-after-charge")
LESSON = """\
With keys, one charge. Without, two, in both versions. After a time-out or a crash nobody knows whether the charge was
made. Trying again, by a loop or by Temporal, is safe only if the service recognises the repeat by its key."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no option."""


def run(arguments: argparse.Namespace) -> int:
    """Run the experiment; return 0 if it comes out as expected."""
    return in_own_folder(run_keys)


async def run_keys(directory: Path) -> bool:
    """Run both scenarios with keys on and off, and print the charges.

    Returns:
        Whether the keys alone decide: one charge with them, two without, in either version.
    """
    scenarios = [SCENARIOS[name] for name in NAMES]
    async with running_server(directory / "server") as server:
        with_keys, without_keys = await asyncio.gather(
            run_scenarios(scenarios, directory / "on", server, keys="on"),
            run_scenarios(scenarios, directory / "off", server, keys="off"),
        )
    print(f"{'':<32}{'keys':<6}{'script':<22}Temporal")
    is_as_expected = True
    for keys, rows, expected_charges in (("on", with_keys, 1), ("off", without_keys, 2)):
        for row in rows:
            script = row.script_rerun or row.script
            print(f"{row.scenario.title:<32}{keys:<6}{_charges(script):<22}{_charges(row.temporal)}")
            is_as_expected &= script.charges == row.temporal.charges == expected_charges
    print(LESSON)
    return is_as_expected


def _charges(cell: Cell) -> str:
    return f"{cell.charges} charge{'' if cell.charges == 1 else 's'}, {cell.kept_cents / 100:.2f}"
