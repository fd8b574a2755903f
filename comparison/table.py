"""The comparison as people read it: a table on the terminal, Markdown for the documents, JSON with every figure."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich import box
from rich.table import Table
from rich.text import Text

from comparison.judge.accounts import Ending
from comparison.scenarios import GROUPS
from comparison.stage.runner import Cell, Row

HEADINGS = ("what happens", "script", "script, run again once", "durable loop", "Temporal")
MIN_WIDTH = 60  # A terminal that is narrower folds the lines.
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
# The same in a word, for a small screen.
SHORT = {
    Ending.COMPLETE: "ok",
    Ending.COMPLETE_UNCONFIRMED: "no mail",
    Ending.REFUSED: "refused",
    Ending.UNDONE: "given up",
}
SHORT_HEADINGS = ("", "script", "run again", "loop", "Temporal")
LEGEND = (
    "ok: paid and delivered. no mail: so, and noted. refused, given up: nothing held.",
    "trying, waits: it goes on. LOST: half-done or not begun, till somebody finds it.",
)
TITLE_WIDTH, CELL_WIDTH = 38, 11
WAITS = "update_inventory"
STILL_TRYING: dict[str, str] = {
    "send_confirmation": "ok: still trying (for a day)",
    WAITS: "waits: still trying, until it is cancelled",
}
COLOURS = {"ok": "green", "the same": "green", "waits": "yellow", "LOST": "red", "WRONG": "red"}


def make_table(rows: Sequence[Row], width: int) -> Table:
    """Return every row in full words; 80 columns are enough. The colours repeat what the words say."""
    width = max(width, MIN_WIDTH)
    cell_width = width // len(HEADINGS) - 2
    title_width = width - (len(HEADINGS) - 1) * (cell_width + 1)  # and a space between two columns
    table = Table(
        *(_hanging(heading, cell_width) for heading in HEADINGS), box=box.SIMPLE_HEAD, show_edge=False, padding=0
    )
    for group, members in _grouped(rows):
        table.add_row(Text(_hanging(group, title_width), "bold"))
        for row in members:
            note = "" if row.is_as_expected else " (NOT AS EXPECTED)"
            cells = [Text(_hanging(words, cell_width), COLOURS[words.partition(":")[0]]) for words in _words(row)]
            table.add_row(_hanging(f"  {row.scenario.title}{note}", title_width), *cells)
    return table


def make_short_table(rows: Sequence[Row]) -> list[Text]:
    """Return lines for a small screen: the rows in which the versions differ, and what the words mean."""
    lines = [_line(SHORT_HEADINGS[0], SHORT_HEADINGS[1:])]
    differing = [row for row in rows if len(set(_short_words(row))) > 1 or not row.is_as_expected]
    for row in differing:
        first, *others = _hanging(row.scenario.title, TITLE_WIDTH - 1).splitlines()
        lines += [_line(first, _short_words(row)), *map(Text, others)]
    rest = len(rows) - len(differing)
    alike = f"{rest} more, alike in all versions: python -m comparison --all"
    return [*lines, *[Text(alike, "dim")] * bool(rest), Text(), *(Text(words, "dim") for words in LEGEND)]


def _line(title: str, words: Sequence[str]) -> Text:
    line = Text(f"{title:<{TITLE_WIDTH}}")
    for word in words:
        colour = {"LOST": "red", "WRONG": "red", "waits": "yellow"}.get(word, "green" if title else "bold")
        line.append(f"{word:<{CELL_WIDTH}}", colour)
    line.rstrip()
    return line


def _short_words(row: Row) -> list[str]:
    cells = (row.script, row.script_rerun or row.script, row.loop, row.temporal)
    return ["; ".join(_short_word(cell, ending) for ending in cell.endings) for cell in cells]


def _short_word(cell: Cell, ending: Ending) -> str:
    if cell.keeps_trying:
        return "waits" if cell.keeps_trying == WAITS else "trying"
    return SHORT.get(ending, "LOST" if ending in WORDS else "WRONG")


def make_markdown(rows: Sequence[Row]) -> str:
    """Return the table as Markdown."""
    lines = [summary(rows), "", f"| {' | '.join(HEADINGS)} |", "|---|---|---|---|---|"]
    for group, members in _grouped(rows):
        lines += [
            f"| **{group}** | | | | |",
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
    loop = sum(row.loop.lost_orders for row in rows)
    temporal = sum(row.temporal.lost_orders for row in rows)
    waiting = sum(row.scenario.keeps_trying == WAITS for row in rows)
    note = f" ({waiting} waits there for a person)" * bool(waiting)
    others = f"{loop} by the durable loop, {temporal} by Temporal{note}"
    return f"Orders lost: {script} by the script, {rerun} by the script run again once, {others}."


def time_to_whole(rows: Sequence[Row]) -> str:
    """Return how long a killed order stays half-done in each version."""
    killed = [row for row in rows if row.script_rerun and not row.scenario.keeps_trying]
    if not killed:
        return ""
    loop, temporal = max(row.loop.seconds for row in killed), max(row.temporal.seconds for row in killed)
    return (
        "A killed order is whole again: script, when somebody runs it again;"
        f" durable loop, within {loop:.0f} s; Temporal, within {temporal:.0f} s."
    )


def _grouped(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    for group, scenarios in GROUPS.items():
        names = {scenario.name for scenario in scenarios}
        if members := [row for row in rows if row.scenario.name in names]:
            yield group, members


def _hanging(text: str, width: int) -> str:
    """Break a text into lines; where it goes on, it stands a little to the right of where it began."""
    indent = len(text) - len(text.lstrip()) + 1
    return textwrap.fill(text, width, subsequent_indent=" " * indent, break_on_hyphens=False)


def _words(row: Row) -> list[str]:
    again = _words_for(row.script_rerun) if row.script_rerun else "the same"
    if row.scenario.from_stdin:
        again = "LOST: there is nothing to run again"
    return [_words_for(row.script), again, _words_for(row.loop), _words_for(row.temporal)]


def _words_for(cell: Cell) -> str:
    if cell.keeps_trying:
        return STILL_TRYING[cell.keeps_trying]
    return "; ".join(WORDS.get(ending, f"WRONG: {ending.value}") for ending in cell.endings)
