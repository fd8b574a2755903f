"""`python -m comparison [NAME ...]`: run the scenarios and show what came of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

from rich.console import Console

from comparison.scenarios import SCENARIOS, Scenario
from comparison.stage.folders import in_own_folder, interruption, make_progress, new_file
from comparison.stage.processes import Server
from comparison.stage.runner import Row, run_scenarios
from comparison.table import make_markdown, make_short_table, make_table, summary, time_to_whole
from comparison.timeline import draw_timeline, end_of, print_timeline

# The rows whose workflows are worth a look in the UI: few, for a screen of 24 lines.
TELLING = {"killed-after-charge": "its payment took two attempts"}
WIDTH_WITHOUT_TERMINAL = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCENARIOS))
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--all", action="store_true", help="show every row, and in full words")
    form.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    form.add_argument("--svg", type=new_file, metavar="FILE", help="draw the timeline of one scenario")


def run(arguments: argparse.Namespace) -> int:
    """Run the scenarios; return 0 if every cell is as expected, 1 if not, 2 for an unknown name."""
    unknown = [name for name in arguments.names if name not in SCENARIOS]
    if unknown or (arguments.svg and len(arguments.names) != 1):
        what = f"no scenario {', '.join(unknown)}" if unknown else "--svg draws one scenario: name it"
        print(f"comparison: {what}; there are {', '.join(SCENARIOS)}", file=sys.stderr)
        return 2
    scenarios = [SCENARIOS[name] for name in dict.fromkeys(arguments.names or SCENARIOS)]
    return in_own_folder(lambda directory: _compare(scenarios, directory, arguments))


async def _compare(scenarios: Sequence[Scenario], directory: Path, arguments: argparse.Namespace) -> bool:
    with make_progress() as progress:
        if not progress.disable and len(scenarios) > 1:
            progress.console.print(f"{len(scenarios)} scenarios in all versions: half a minute or so. Ctrl-C ends it.")
        task, at_work = progress.add_task("starting a server", total=len(scenarios)), list[str]()

        def begun(scenario: Scenario) -> None:
            at_work.append(scenario.name)
            progress.update(task, description=f"{len(at_work)} at work; begun: {shorten(scenario.title, 34)}")

        def done(row: Row) -> None:
            at_work.remove(row.scenario.name)
            ends = "; ".join(f"{version}: {end_of(cell)}" for version, cell in row.versions.items())
            progress.console.print(f"[bold]{row.scenario.title}[/]. {ends}", highlight=False)
            progress.advance(task)

        server = Server(directory / "server")
        await server.start()
        rows = await run_scenarios(scenarios, directory, server, begun=begun, done=done)
    report(rows, arguments)
    if sys.stdout.isatty() and not (arguments.markdown or arguments.svg):
        _say_where_to_look(rows, server.ui)
        await interruption().wait()
    return all(row.is_as_expected for row in rows)


def _say_where_to_look(rows: Sequence[Row], ui: str) -> None:
    print("In the UI, as long as the server is up (Ctrl-C ends it):")
    for row in rows:
        if row.scenario.name in TELLING or len(rows) == 1:
            what = TELLING.get(row.scenario.name, "its history")
            print(f"{row.scenario.title}: {what}\n  {ui}/namespaces/{row.scenario.name}/workflows/order-1001")
    if len(rows) > 1:
        print("Next, one of them step by step: python -m comparison killed-after-charge", flush=True)


def report(rows: Sequence[Row], arguments: argparse.Namespace) -> None:
    """Print the rows in the form that was asked for, or draw them; name what is not as expected on standard error."""
    if arguments.svg:
        draw_timeline(rows[0], arguments.svg)
    elif arguments.markdown:
        print(make_markdown(rows))
    elif len(rows) == 1:
        print_timeline(rows[0])
    else:
        console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL, highlight=False)
        with console.capture() as captured:
            for part in [make_table(rows, console.width)] if arguments.all else make_short_table(rows):
                console.print(part)
            console.print(summary(rows), time_to_whole(rows), sep="\n")
        print("\n".join(line.rstrip() for line in captured.get().splitlines()))
    for row in rows:
        if not row.is_as_expected:
            print(f"not as expected: {row}", file=sys.stderr)
