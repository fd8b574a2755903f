"""The comparison as people read it: a table on the terminal, short or in full words, and Markdown for the documents."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from comparison.judge.accounts import Ending
from comparison.scenarios import GROUPS
from comparison.stage.runner import Cell, Row

HEADINGS = ("what happens", "script", "script, run again once", "durable loop", "Temporal")
SHORT_HEADINGS = ("", "script", "run again", "loop", "Temporal")
MIN_WIDTH = 60  # A terminal that is narrower folds the lines.
SHORT_TITLE_WIDTH = 37
SHORT, FULL = 0, 1  # a cell in a word, for a small screen, or in full
# Marked `ok`: the order is as the customer wants it, or holds nothing. The others wait for a person to find them.
WORDS = {
    Ending.COMPLETE: ("ok", "ok: completed"),
    Ending.COMPLETE_UNCONFIRMED: ("no mail", "ok: completed, mail noted as unsent"),
    Ending.REFUSED: ("refused", "ok: refused, nothing held"),
    Ending.UNDONE: ("given up", "ok: given up, nothing held"),
    Ending.ABANDONED: ("LOST", "LOST: abandoned"),
    Ending.STOCK_NOT_TAKEN: ("LOST", "LOST: charged, stock not taken"),
    Ending.UNCONFIRMED: ("LOST", "LOST: stock taken, not confirmed"),
}
WAITS = "update_inventory"
STILL_TRYING: dict[str, tuple[str, str]] = {
    "send_confirmation": ("trying", "ok: still trying (for a day)"),
    WAITS: ("waits", "waits: still trying, until it is cancelled"),
}
LEGEND = (
    "ok: paid and delivered. no mail: so, and noted. refused, given up: nothing held.",
    "trying, waits: it goes on. LOST: half-done or not begun, till somebody finds it.",
)
COLOURS = {"waits": "yellow", "LOST": "red", "WRONG": "red"}


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
            cells = [_coloured(_hanging(words, cell_width)) for words in _words(row, FULL)]
            table.add_row(_hanging(f"  {row.scenario.title}{note}", title_width), *cells)
    return table


def make_short_table(rows: Sequence[Row]) -> list[Table | Text]:
    """Return what a small screen has room for: the rows in which the versions differ, and what the words mean."""
    table = Table(*SHORT_HEADINGS, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    differing = [row for row in rows if len(set(_words(row, SHORT))) > 1 or not row.is_as_expected]
    for row in differing:
        table.add_row(_hanging(row.scenario.title, SHORT_TITLE_WIDTH), *map(_coloured, _words(row, SHORT)))
    rest = len(rows) - len(differing)
    alike = [f"{rest} more, alike in all versions: python -m comparison --all"] * bool(rest)
    return [table, *(Text(line, "dim") for line in (*alike, "", *LEGEND))]


def _coloured(words: str) -> Text:
    return Text(words, COLOURS.get(words.partition(":")[0], "green"))


def make_markdown(rows: Sequence[Row]) -> str:
    """Return the table as Markdown."""
    lines = [summary(rows), "", f"| {' | '.join(HEADINGS)} |", "|---|---|---|---|---|"]
    for group, members in _grouped(rows):
        lines.append(f"| **{group}** | | | | |")
        lines += [f"| {' | '.join([row.scenario.title, *_words(row, FULL)])} |" for row in members]
    return "\n".join([*lines, "", time_to_whole(rows)])


def summary(rows: Sequence[Row]) -> str:
    """Return the result in one sentence."""
    script, rerun, loop, temporal = (
        sum(cell.lost_orders for cell in column) for column in zip(*(row.cells for row in rows), strict=True)
    )
    waiting = sum(row.scenario.keeps_trying == WAITS for row in rows)
    note = f" ({waiting} waits there for a person)" * bool(waiting)
    others = f"{loop} by the durable loop, {temporal} by Temporal{note}"
    return f"Orders lost: {script} by the script, {rerun} by the script run again once, {others}."


def time_to_whole(rows: Sequence[Row]) -> str:
    """Return how long a killed order stays half-done in each version."""
    killed = [row for row in rows if row.rerun is not row.script and not row.scenario.keeps_trying]
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


def _words(row: Row, form: int) -> list[str]:
    script, again, loop, temporal = (_words_for(cell, form) for cell in row.cells)
    if form == FULL and row.rerun is row.script:
        again = "the same"
    if form == FULL and row.scenario.from_stdin:
        again = "LOST: there is nothing to run again"
    return [script, again, loop, temporal]


def _words_for(cell: Cell, form: int) -> str:
    if cell.keeps_trying:
        return STILL_TRYING[cell.keeps_trying][form]
    return "; ".join(WORDS.get(ending, ("WRONG", f"WRONG: {ending.value}"))[form] for ending in cell.endings)
