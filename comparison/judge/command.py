"""`python -m comparison audit`: judge all orders of a shop, which is only read.

One line a violation: `order_id<TAB>rule<TAB>sentence`. Exit status: 0 no violation, 1 some, 2 not to be judged.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

from comparison.judge.accounts import accounts_of
from comparison.judge.audit import __doc__ as rules
from comparison.judge.audit import audit, judge_files
from shop.errors import ServiceUnavailable
from shop.ledger import NoShop, read_ledger
from shop.orders import Outcome, Status
from shop.parsing import load_orders
from shop.terminal.options import add_shop_arguments, shop_location


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("orders", metavar="ORDERS", help="all orders that were placed in the shop, JSON Lines")
    add_shop_arguments(parser, with_faults=False)
    parser.add_argument("--outcomes", metavar="FILE", help="all that was printed, run after run; to be compared")
    parser.add_argument(
        "--runs", type=_times, metavar="N", help="how often an order was run at most (default: 1 with --outcomes)"
    )
    parser.epilog = rules


def run(arguments: argparse.Namespace) -> int:
    """Judge the shop, and return the exit status."""
    runs = arguments.runs or (1 if arguments.outcomes else None)
    try:
        location = shop_location(arguments, os.environ)
        orders = load_orders(arguments.orders)
        outcomes = read_outcomes(Path(arguments.outcomes)) if arguments.outcomes else None
        ledger, damages = read_ledger(location), judge_files(location)
    except (OSError, ValueError, NoShop, ServiceUnavailable) as error:
        print(f"audit: {error}", file=sys.stderr)
        return 2
    if damages:
        print(f"audit: {location}: {damages[0].sentence}", file=sys.stderr)
        return 2
    violations = audit(orders, ledger, outcomes, runs=runs)
    for violation in violations:
        print(f"{violation.order_id}\t{violation.rule}\t{violation.sentence}")
    endings = Counter(account.ending for account in accounts_of(orders, ledger).values())
    counted = ", ".join(f"{number} {ending.value}" for ending, number in endings.most_common())
    print(f"{endings.total()} orders: {counted}; {len(violations)} violation(s)", file=sys.stderr)
    return 1 if violations else 0


def read_outcomes(path: Path) -> list[Outcome]:
    """Read the lines that a version printed; an order may have several. Blank lines are skipped.

    Raises:
        OSError: if the file cannot be read.
        ValueError: at the first line that is none; the message names file, line and reason.
    """
    outcomes = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            if line.strip():
                outcomes.append(parse_outcome(line))
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}") from error
    return outcomes


def parse_outcome(line: bytes) -> Outcome:
    """Read one line that a version printed.

    Raises:
        ValueError: if it is none; a program that was killed may have left half of its last one.
    """
    try:
        order_id, status, detail = line.decode().rstrip("\r\n").split("\t")
        return Outcome(order_id, Status(status), detail)
    except ValueError as error:  # not UTF-8, another number of fields, or another status
        statuses = ", ".join(status.value for status in Status)
        raise ValueError(
            f"must read order_id<TAB>status<TAB>detail, in UTF-8; a status is one of {statuses}"
        ) from error


def _times(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError("must be a whole number from 1")
    return int(text)
