"""The comparison as people read it: a table on the terminal, Markdown for the documents, JSON with every figure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich import box
from rich.table import Table
from rich.text import Text

from comparison.judge.accounts import Ending
from comparison.scenarios import GROUPS
from comparison.stage.runner import Cell, Row

HEADINGS = ("what happens", "script", "script, run again once", "Temporal")
# Marked `ok`: the order is as the customer wants it, or holds nothing. The others wait for a person to find them.
WORDS = {
    Ending.COMPLETE: "ok: completed",
    Ending.COMPLETE_UNCONFIRMED: "ok: completed, mail noted as unsent",
    Ending.REFUSED: "ok: refused, nothing held",
    Ending.UNDONE: "ok: given up, nothing held",
    Ending.ABANDONED: "LOST: abandoned",
    Ending.STOCK_NOT_TAKEN: "LOST: charged, stock not taken",
    Ending.UNCONFIRMED: "LOST: stock taken, not confirmed",
}
WAITS = "update_inventory"
STILL_TRYING: dict[str, str] = {
    "send_confirmation": "ok: still trying (for a day)",
    WAITS: "waits: still trying, until it is cancelled",
}
COLOURS = {"ok": "green", "the same": "green", "waits": "yellow", "LOST": "red", "WRONG": "red"}


def make_table(rows: Sequence[Row]) -> Table:
    """Return the table for a terminal. The colours repeat what the words say."""
    table = Table(
        *HEADINGS, title=summary(rows), caption=time_to_whole(rows), box=box.SIMPLE_HEAD, title_justify="left"
    )
    for group, members in _grouped(rows):
        table.add_row(Text(group, "bold"))
        for row in members:
            note = "" if row.is_as_expected else " (NOT AS EXPECTED)"
            cells = [Text(words, COLOURS[words.partition(":")[0]]) for words in _words(row)]
            table.add_row(f"  {row.scenario.title}{note}", *cells)
    return table


def make_markdown(rows: Sequence[Row]) -> str:
    """Return the table as Markdown."""
    lines = [summary(rows), "", f"| {' | '.join(HEADINGS)} |", "|---|---|---|---|"]
    for group, members in _grouped(rows):
        lines += [
            f"| **{group}** | | | |",
            *(f"| {' | '.join([row.scenario.title, *_words(row)])} |" for row in members),
        ]
    return "\n".join([*lines, "", time_to_whole(rows)])


def make_json(rows: Sequence[Row]) -> str:
    """Return everything as JSON: `rows`, each with `name`, `title`, `as_expected` and a cell for each version."""

    def as_json(row: Row) -> dict[str, object]:
        scenario = {"name": row.scenario.name, "title": row.scenario.title, "as_expected": row.is_as_expected}
        return scenario | {name: value for name, value in asdict(row).items() if name != "scenario"}

    return json.dumps({"rows": [as_json(row) for row in rows]}, indent=1)


def summary(rows: Sequence[Row]) -> str:
    """Return the result in one sentence."""
    script = sum(row.script.lost_orders for row in rows)
    rerun = sum((row.script_rerun or row.script).lost_orders for row in rows)
    temporal = sum(row.temporal.lost_orders for row in rows)
    waiting = sum(row.scenario.keeps_trying == WAITS for row in rows)
    note = f" ({waiting} waits there for a person)" * bool(waiting)
    return f"Orders lost: {script} by the script, {rerun} by the script run again once, {temporal} by Temporal{note}."


def time_to_whole(rows: Sequence[Row]) -> str:
    """Return how long a killed order stays half-done in each version."""
    seconds = [row.temporal.seconds for row in rows if row.script_rerun and not row.scenario.keeps_trying]
    if not seconds:
        return ""
    return f"A killed order is whole again: script, when somebody runs it again; Temporal, within {max(seconds):.0f} s."


def _grouped(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    for group, scenarios in GROUPS.items():
        names = {scenario.name for scenario in scenarios}
        if members := [row for row in rows if row.scenario.name in names]:
            yield group, members


def _words(row: Row) -> list[str]:
    again = _words_for(row.script_rerun) if row.script_rerun else "the same"
    if row.scenario.from_stdin:
        again = "LOST: there is nothing to run again"
    return [_words_for(row.script), again, _words_for(row.temporal)]


def _words_for(cell: Cell) -> str:
    if cell.keeps_trying:
        return STILL_TRYING[cell.keeps_trying]
    return "; ".join(WORDS.get(ending, f"WRONG: {ending.value}") for ending in cell.endings)
