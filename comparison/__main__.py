"""Run the comparison: `python -m comparison [NAME ...]`, or `keys`, `audit`, `soak`, `bench`, `picture`."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from comparison.audit import WHOLE, accounts_of, audit, judge_files
from comparison.audit import __doc__ as audit_rules
from comparison.bench import run_bench
from comparison.keys import run_keys
from comparison.picture import take_picture
from comparison.runner import Row, run_scenarios, running_server
from comparison.scenarios import SCENARIOS, Scenario
from comparison.soak import run_soak
from comparison.table import make_json, make_markdown, make_table, save_picture
from connection import leave_with
from shop.ledger import read_ledger
from shop.orders import Status, load_orders
from shop.shop import Shop


async def compare(scenarios: Sequence[Scenario], directory: Path, arguments: argparse.Namespace) -> bool:
    """Run scenarios and print the table; tell whether every cell is as expected."""
    with make_progress() as progress:
        task = progress.add_task("scenarios", total=len(scenarios))

        def show(row: Row) -> None:
            progress.update(task, advance=1, description=row.scenario.title)

        async with running_server(directory / "server") as server:
            rows = await run_scenarios(scenarios, directory, server, show=show)
            progress.stop()
            report(rows, arguments)
            if sys.stdout.isatty() and not (arguments.json or arguments.markdown or arguments.picture):
                print(f"Look at the workflows at {server.ui}, one namespace per scenario. Ctrl-C ends.", flush=True)
                await until_interrupted()
    return all(row.is_as_expected for row in rows)


def report(rows: Sequence[Row], arguments: argparse.Namespace) -> None:
    """Print the rows in the form that was asked for."""
    if arguments.picture:
        save_picture(rows, Path(arguments.picture))
    if arguments.json:
        print(make_json(rows))
    elif arguments.markdown:
        print(make_markdown(rows))
    else:
        Console(width=None if sys.stdout.isatty() else 130).print(make_table(rows))
    for row in rows:
        if not row.is_as_expected:
            print(f"not as expected: {row}", file=sys.stderr)


async def until_interrupted() -> None:
    """Wait for Ctrl-C or SIGTERM."""
    stopping = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, stopping.set)
    await stopping.wait()


def make_progress() -> Progress:
    """Return a progress bar on standard error, drawn only on a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def main_compare(argv: Sequence[str]) -> int:
    """Run the scenarios."""
    parser = argparse.ArgumentParser(
        prog="python -m comparison",
        description="Run the same faults and kills through both versions.",
        epilog="Also: python -m comparison keys | audit | soak | bench | picture, each with --help.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(scenario.name for scenario in SCENARIOS))
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    form.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--picture", metavar="FILE", help="write the table as an SVG picture, too")
    arguments = parser.parse_args(argv)
    by_name = {scenario.name: scenario for scenario in SCENARIOS}
    unknown = [name for name in arguments.names if name not in by_name]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(by_name)}")
    scenarios = [by_name[name] for name in dict.fromkeys(arguments.names)] or list(SCENARIOS)
    return in_own_folder(lambda directory: compare(scenarios, directory, arguments))


def main_audit(argv: Sequence[str]) -> int:
    """Judge a shop: 0 no violation, 1 some."""
    parser = argparse.ArgumentParser(
        prog="python -m comparison audit",
        description="Judge all orders of a shop.",
        epilog=audit_rules,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("orders", metavar="ORDERS", help="all orders that were placed, JSON Lines")
    parser.add_argument("--data", default="data", metavar="DIR", help="data directory of the shop (default: ./data)")
    parser.add_argument("--outcomes", metavar="FILE", help="what the version printed, to be compared")
    arguments = parser.parse_args(argv)
    try:
        orders = load_orders(arguments.orders)
        printed = read_outcomes(Path(arguments.outcomes)) if arguments.outcomes else None
        if not Path(arguments.data, "inventory.sqlite3").is_file():
            raise ValueError(f"--data: there is no shop in {arguments.data}")
    except (OSError, ValueError) as error:
        print(f"audit: {error}", file=sys.stderr)
        return 2
    shop = Shop(Path(arguments.data))
    ledger = read_ledger(shop)
    violations = [*audit(orders, ledger, printed), *judge_files(shop)]
    for violation in violations:
        print(f"{violation.order_id}\t{violation.rule}\t{violation.sentence}")
    accounts = accounts_of(orders, ledger).values()
    endings = Counter(account.ending.value for account in accounts)
    earned = sum(account.order.total_cents for account in accounts if account.ending in WHOLE)
    kept = sum(account.kept_cents for account in accounts)
    print(f"{len(orders)} orders: {', '.join(f'{n} {ending}' for ending, n in endings.most_common())}", file=sys.stderr)
    print(
        f"charges kept {kept} cents, completed orders {earned} cents; {len(violations)} violation(s)", file=sys.stderr
    )
    return 1 if violations else 0


def read_outcomes(path: Path) -> dict[str, Status]:
    """Read the lines that a version printed; of several for one order, the last counts.

    Raises:
        OSError, ValueError: if the file is not readable or not of that form.
    """
    return {fields[0]: Status(fields[1]) for fields in (line.split("\t") for line in path.read_text().splitlines())}


def main_keys(argv: Sequence[str]) -> int:
    """Run the key experiment."""
    argparse.ArgumentParser(
        prog="python -m comparison keys",
        description="What becomes of a repeat when the shop knows no idempotency keys.",
    ).parse_args(argv)
    return in_own_folder(run_keys)


def main_soak(argv: Sequence[str]) -> int:
    """Kill at random while orders are in flight, then audit."""
    parser = argparse.ArgumentParser(prog="python -m comparison soak", description=main_soak.__doc__)
    parser.add_argument("--orders", type=int, default=200, metavar="N", help="default: 200")
    parser.add_argument("--kills", type=int, default=30, metavar="K", help="default: 30")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of orders, faults and kills (default: 1)")
    parser.add_argument("--version", choices=("manual", "temporal"), default="temporal", help="manual is the script")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.orders <= 100_000 or not 0 <= arguments.kills <= 100_000:
        parser.error("--orders must be from 1 to 100000, --kills from 0 to 100000")
    return in_own_folder(
        lambda directory: run_soak(
            directory, arguments.orders, arguments.kills, arguments.seed, arguments.version, make_progress()
        )
    )


def main_bench(argv: Sequence[str]) -> int:
    """Measure both versions side by side."""
    parser = argparse.ArgumentParser(prog="python -m comparison bench", description=main_bench.__doc__)
    parser.add_argument("--orders", type=int, default=100, metavar="N", help="for the throughput (default: 100)")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.orders <= 10_000:
        parser.error("--orders must be from 1 to 10000")
    return in_own_folder(lambda directory: run_bench(directory, arguments.orders))


def main_picture(argv: Sequence[str]) -> int:
    """Take the README's picture of the Temporal UI with headless Chromium."""
    parser = argparse.ArgumentParser(prog="python -m comparison picture", description=main_picture.__doc__)
    parser.add_argument("file", metavar="FILE", help="PNG file to write")
    target = Path(parser.parse_args(argv).file)
    return in_own_folder(lambda directory: take_picture(directory, target))


def in_own_folder(run: Callable[[Path], Coroutine[None, None, bool]]) -> int:
    """Run in a fresh folder; keep it only if something was not as expected, and say where it is."""
    directory = Path(tempfile.mkdtemp(prefix="comparison-"))
    try:
        is_as_expected = asyncio.run(run(directory))
    except BaseException:
        print(f"the folder of this run is {directory}", file=sys.stderr)
        raise
    if is_as_expected:
        shutil.rmtree(directory, ignore_errors=True)
        return 0
    print(f"not as expected; the folder of this run is {directory}", file=sys.stderr)
    return 1


COMMANDS = {
    "keys": main_keys,
    "audit": main_audit,
    "soak": main_soak,
    "bench": main_bench,
    "picture": main_picture,
}


def main() -> int:
    """Return the exit status: 0 as expected, 1 not, 2 bad usage."""
    argv = sys.argv[1:]
    if argv and argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:])
    return main_compare(argv)


if __name__ == "__main__":
    leave_with(main)
