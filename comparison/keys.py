"""The key experiment: what a repeat does when the shop knows no idempotency keys."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from comparison.scenarios import SCENARIOS
from comparison.stage.folders import in_own_folder
from comparison.stage.processes import Server
from comparison.stage.runner import Cell, run_scenarios

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
    with_keys = [SCENARIOS[name] for name in NAMES]
    without = [replace(scenario, name=f"{scenario.name}-without-keys", keys="off") for scenario in with_keys]
    server = Server(directory / "server")
    await server.start()
    rows = await run_scenarios([*with_keys, *without], directory, server)
    print(f"{'':<32}{'keys':<6}{'script':<22}Temporal")
    is_as_expected = True
    for row in rows:
        print(f"{row.scenario.title:<32}{row.scenario.keys:<6}{_charges(row.rerun):<22}{_charges(row.temporal)}")
        expected_charges = 1 if row.scenario.keys == "on" else 2
        is_as_expected &= row.rerun.charges == row.temporal.charges == expected_charges
    print(LESSON)
    return is_as_expected


def _charges(cell: Cell) -> str:
    return f"{cell.charges} charge{'' if cell.charges == 1 else 's'}, {cell.kept_cents / 100:.2f}"
