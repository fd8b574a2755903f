"""Look at the shop and set it up: `python -m shop load | ledger | settle | reset`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from shop.catalogue import read_customers, read_products
from shop.errors import ShopError, StoreUnusable
from shop.ledger import NoShop, read_ledger
from shop.orders import IDENTIFIER
from shop.services.inventory import ShopInUse
from shop.services.notifications import AlreadyConfirmed
from shop.shop import Shop
from shop.stores.storage import is_there
from shop.terminal.options import add_shop_arguments, read_shop_options, shop_location
from shop.terminal.report import describe, held_by
from shop.terminal.streams import run_program

# An order id that is one of these, or the beginning of one, has to stand behind `--`.
SETTLE_OPTIONS = ("--data", "--yes", "--help", "-h")


class Refused(Exception):
    """Nobody has confirmed the command."""


def load(arguments: argparse.Namespace) -> None:
    """Replace stock and customers by `stock.csv` and `customers.csv`."""
    directory = Path(arguments.directory)
    products, customers = read_products(directory / "stock.csv"), read_customers(directory / "customers.csv")
    shop = open_shop(arguments)
    shop.inventory.replace_products(products)
    shop.notifications.replace_customers(customers)
    print(f"loaded {len(products)} products and {len(customers)} customers")


def show_ledger(arguments: argparse.Namespace) -> None:
    """Print what happened."""
    location = shop_location(arguments, os.environ)
    if not is_there(location, "inventory"):
        open_shop(arguments).close()  # as every other program: stocked on first use
    ledger = read_ledger(location)
    print(json.dumps(ledger.as_document()) if arguments.json else "\n".join(describe(ledger)))


def settle(arguments: argparse.Namespace) -> None:
    """Undo an order for good, after asking."""
    order_id = arguments.order_id
    if not IDENTIFIER.fullmatch(order_id):
        raise ValueError(f"ORDER_ID: must match {IDENTIFIER.pattern}, not {order_id!r}")
    shop = open_shop(arguments)
    ledger = read_ledger(shop.location)
    if order_id in {mail.order_id for mail in ledger.confirmations}:
        raise AlreadyConfirmed(f"order {order_id} is complete; nothing is owed")
    held = ", ".join(held_by(order_id, ledger)) or "holds nothing"
    print(f"order {order_id}: {held}; to be voided for good", file=sys.stderr)
    print("only for an order that nobody works on: no script, no open workflow", file=sys.stderr)
    confirm("Settle it? [y/N] ", is_confirmed=arguments.yes)
    shop.settle(order_id)
    print(f"order {order_id}: holds no charge and no stock, and never will")


def reset(arguments: argparse.Namespace) -> None:
    """Delete all orders, after asking."""
    shop = open_shop(arguments)
    confirm("This deletes all orders. Sure? [y/N] ", is_confirmed=arguments.yes)
    shop.reset()
    print("the shop is empty, and stocked with the built-in catalogue")


def open_shop(arguments: argparse.Namespace) -> Shop:
    """Open the shop that the options and the environment name; no fault strikes here."""
    return read_shop_options(arguments, os.environ).open()


def confirm(question: str, *, is_confirmed: bool) -> None:
    """Ask on the terminal, unless `--yes` was given.

    Raises:
        Refused: if the answer is not yes, or nobody can be asked.
    """
    if is_confirmed:
        return
    if not (sys.stdin and sys.stdin.isatty()):
        raise Refused("nobody can be asked here; say --yes to mean it; nothing was changed")
    try:
        answer = input(question).strip().lower()
    except (EOFError, KeyboardInterrupt):
        answer = ""
    if answer not in ("y", "yes"):
        raise Refused("nothing was changed")


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; `run` of the result carries out the command."""
    shared = argparse.ArgumentParser(add_help=False)
    add_shop_arguments(shared, with_faults=False)
    asking = argparse.ArgumentParser(add_help=False)
    asking.add_argument("--yes", action="store_true", help="do not ask")
    parser = argparse.ArgumentParser(prog="python -m shop", description="The shop that both versions act on.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    load_parser = commands.add_parser("load", parents=[shared], help="replace stock and customers by CSV files")
    load_parser.add_argument("directory", metavar="DIR", help="holds stock.csv and customers.csv")
    load_parser.set_defaults(run=load)
    ledger_parser = commands.add_parser("ledger", parents=[shared], help="print what happened")
    ledger_parser.add_argument("--json", action="store_true", help="as JSON")
    ledger_parser.set_defaults(run=show_ledger)
    settle_parser = commands.add_parser("settle", parents=[shared, asking], help="undo an order for good")
    settle_parser.add_argument("order_id", metavar="ORDER_ID")
    settle_parser.set_defaults(run=settle)
    reset_parser = commands.add_parser("reset", parents=[shared, asking], help="delete all orders")
    reset_parser.set_defaults(run=reset)
    return parser.parse_args(behind_dashes(argv) if argv[:1] == ["settle"] else argv)


def behind_dashes(argv: Sequence[str]) -> Sequence[str]:
    """Put an order id that begins with a dash behind `--`: argparse would take it for an option."""
    ids = [argument for argument in argv if argument.startswith("-") and IDENTIFIER.fullmatch(argument)]
    ids = [order_id for order_id in ids if not any(option.startswith(order_id) for option in SETTLE_OPTIONS)]
    if "--" in argv or not ids:
        return argv
    return [*(argument for argument in argv if argument not in ids), "--", *ids]


def main() -> int:
    """Run one command; return the exit status: 0 done, 1 refused or not possible now, 2 bad usage or bad input."""
    arguments = parse_arguments(sys.argv[1:])
    try:
        arguments.run(arguments)
    except (ValueError, StoreUnusable, NoShop) as error:
        print(f"shop: {error}", file=sys.stderr)
        return 2
    except (Refused, ShopInUse, AlreadyConfirmed, ShopError) as error:
        print(f"shop: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_program("shop", main))
