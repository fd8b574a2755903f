"""The comparison as people read it: a table on the terminal, Markdown for the README, a picture, JSON."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from comparison.audit import Ending
from comparison.runner import Cell, Row

HEADINGS = ("what happens", "script", "script, run again", "Temporal")
LEGEND = "money kept / units taken / mails sent / attempts / time from the first attempt to the last"
PICTURE_WIDTH = 160

# Good: as the customer wants it, or nothing held. Bad: somebody has to find out and put it right.
GOOD = (Ending.COMPLETE, Ending.COMPLETE_UNMAILED, Ending.REFUSED, Ending.UNDONE)


def make_table(rows: Sequence[Row]) -> Table:
    """Return the table in colour: green where nobody has to look after an order, red where somebody does."""
    table = Table(title="The same faults, the same kills: what the ledgers say", caption=LEGEND, show_lines=True)
    for heading in HEADINGS:
        table.add_column(heading)
    for row in rows:
        cells = (row.script, row.script_rerun, row.temporal)
        table.add_row(_title(row), *[_coloured(cell) if cell else Text("") for cell in cells])
    table.add_section()
    table.add_row("in all", *[_total(cells) for cells in _columns(rows)])
    return table


def make_markdown(rows: Sequence[Row]) -> str:
    """Return the endings as a Markdown table. Times and counts of attempts differ from run to run, so they stay out."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---|---|---|---|"]
    for row in rows:
        cells = [_endings(cell) if cell else "" for cell in (row.script, row.script_rerun, row.temporal)]
        note = f" ({row.scenario.note})" if row.scenario.note else ""
        lines.append(f"| {row.scenario.title}{note} | " + " | ".join(cells) + " |")
    lines.append("| **in all** | " + " | ".join(_total(cells) for cells in _columns(rows)) + " |")
    return "\n".join(lines)


def make_json(rows: Sequence[Row]) -> str:
    """Return everything as JSON: `rows`, each with `name`, `title`, `as_expected` and a cell for each version."""
    return json.dumps(
        {
            "rows": [
                {
                    "name": row.scenario.name,
                    "title": row.scenario.title,
                    "as_expected": row.is_as_expected,
                    "script": asdict(row.script),
                    "script_rerun": row.script_rerun and asdict(row.script_rerun),
                    "temporal": asdict(row.temporal),
                }
                for row in rows
            ]
        },
        indent=1,
    )


def save_picture(rows: Sequence[Row], path: Path) -> None:
    """Write the table as an SVG file."""
    console = Console(record=True, width=PICTURE_WIDTH, file=io.StringIO())
    console.print(make_table(rows))
    # Without its fonts, which a browser would fetch from elsewhere.
    path.write_text(
        re.sub(r"@font-face {.*?}\s*", "", console.export_svg(title="python -m comparison"), flags=re.DOTALL)
    )


def _title(row: Row) -> Text:
    title = Text(row.scenario.title)
    if row.scenario.note:
        title.append(f"\n{row.scenario.note}", "dim")
    if not row.is_as_expected:
        title.append("\nNOT AS EXPECTED", "bold white on red")
    return title


def _coloured(cell: Cell) -> Text:
    is_good = cell.goes_on or all(ending in GOOD for ending in cell.endings)
    text = Text(_endings(cell), "green" if is_good else "bold red")
    text.append(f"\n{_figures(cell)}", "dim")
    return text


def _endings(cell: Cell) -> str:
    return "; ".join(ending.value for ending in cell.endings) + ("; still trying" if cell.goes_on else "")


def _figures(cell: Cell) -> str:
    return f"{cell.kept_cents / 100:.2f} / {cell.units} / {cell.mails} / {cell.attempts} / {cell.seconds:.1f} s"


def _columns(rows: Sequence[Row]) -> tuple[list[Cell], list[Cell], list[Cell]]:
    """Return the cells by column; where the script was not killed, its first run is what stands."""
    return (
        [row.script for row in rows],
        [row.script_rerun or row.script for row in rows],
        [row.temporal for row in rows],
    )


def _total(cells: Sequence[Cell]) -> str:
    lost = sum(cell.lost_orders for cell in cells)
    double = sum(Ending.OVERCHARGED in cell.endings for cell in cells)
    owed = sum(cell.owed_cents for cell in cells)
    return f"orders lost: {lost}, charged twice: {double}, owed to customers: {owed / 100:.2f}"
