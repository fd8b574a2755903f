"""Look at the shop and set it up: `python -m shop load | ledger | settle | reset`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from shop.catalogue import read_customers, read_products
from shop.errors import TransientError
from shop.inventory import ShopInUse
from shop.ledger import Ledger, NoShop, read_ledger
from shop.notifications import AlreadyConfirmed
from shop.options import add_shop_arguments, data_directory, read_shop_options
from shop.shop import Shop
from shop.storage import DataDirectoryUnusable
from shop.streams import run_program


class Refused(Exception):
    """The command cannot be carried out; the message says why and what to do."""


def load(arguments: argparse.Namespace) -> None:
    """Replace stock and customers by `stock.csv` and `customers.csv`."""
    directory = Path(arguments.directory)
    products, customers = read_products(directory / "stock.csv"), read_customers(directory / "customers.csv")
    shop = open_shop(arguments)
    try:
        shop.inventory.replace_products(products)
    except ShopInUse as error:
        raise Refused(f"{error}; empty the shop first: python -m shop reset") from error
    shop.notifications.replace_customers(customers)
    print(f"loaded {len(products)} products and {len(customers)} customers")


def show_ledger(arguments: argparse.Namespace) -> None:
    """Print what happened."""
    directory = data_directory(arguments, os.environ)
    if not os.path.exists(directory / "inventory.sqlite3"):  # unlike `Path.exists`, it raises nothing
        open_shop(arguments).close()  # as every other program: stocked on first use
    ledger = read_ledger(directory)
    print(json.dumps(ledger.as_document()) if arguments.json else "\n".join(describe(ledger)))


def settle(arguments: argparse.Namespace) -> None:
    """Undo an order for good, after asking."""
    shop, order_id = open_shop(arguments), arguments.order_id
    held = [*held_by(order_id, read_ledger(shop.directory))]
    print(f"order {order_id}: {', '.join(held) or 'holds nothing'}; to be voided for good", file=sys.stderr)
    print("only for an order that nobody works on: no script, no open workflow", file=sys.stderr)
    confirm("Settle it? [y/N] ", is_confirmed=arguments.yes)
    try:
        shop.settle(order_id)
    except AlreadyConfirmed as error:
        raise Refused(str(error)) from error
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


def held_by(order_id: str, ledger: Ledger) -> list[str]:
    """Return what an order still holds, in words."""
    charges = [row for row in ledger.charges if row.order_id == order_id and not row.refunded]
    sales = [row for row in ledger.sales if row.order_id == order_id and not row.restored]
    return [f"refund {row.amount_cents / 100:.2f} {row.currency}" for row in charges] + [
        f"put back {row.quantity} x {row.sku}" for row in sales
    ]


def describe(ledger: Ledger) -> list[str]:
    """Return the ledger for people: a block an order, then the stock that moved."""
    blocks: dict[str, list[str]] = {}

    def add(order_id: str, line: str) -> None:
        blocks.setdefault(order_id, [f"order {order_id}"]).append(f"  {line}")

    for attempt in ledger.attempts:
        add(
            attempt.order_id,
            f"{attempt.at[11:23]}  {attempt.step:<18}  attempt {attempt.attempt}  {attempt.outcome}",
        )
    for charge in ledger.charges:
        refunded = ", refunded" if charge.refunded else ""
        add(charge.order_id, f"charge   {charge.amount_cents / 100:.2f} {charge.currency}{refunded}")
    for sale in ledger.sales:
        add(sale.order_id, f"stock    {sale.quantity} x {sale.sku}{', restored' if sale.restored else ''}")
    for mail in ledger.confirmations:
        add(mail.order_id, f"mail     to {mail.customer_id}: {'sent' if mail.sent else 'noted as not sent'}")
    for void in ledger.voids:
        add(void.order_id, f"void     {void.step}")
    moved = [
        f"  {sku}: {stock.initial} -> {stock.now}" for sku, stock in ledger.stock.items() if stock.now != stock.initial
    ]
    lines = [line for block in blocks.values() for line in block]
    return [*lines, "stock that moved", *(moved or ["  none"]), "(times are UTC)"]


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; `run` of the result carries out the command."""
    parser = argparse.ArgumentParser(prog="python -m shop", description="The shop that both versions act on.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    load_parser = commands.add_parser("load", help="replace stock and customers by stock.csv and customers.csv")
    load_parser.add_argument("directory", metavar="DIR")
    load_parser.set_defaults(run=load)
    ledger_parser = commands.add_parser("ledger", help="print what happened")
    ledger_parser.add_argument("--json", action="store_true", help="as JSON")
    ledger_parser.set_defaults(run=show_ledger)
    settle_parser = commands.add_parser("settle", help="undo an order for good")
    settle_parser.add_argument("order_id", metavar="ORDER_ID")
    settle_parser.set_defaults(run=settle)
    reset_parser = commands.add_parser("reset", help="delete all orders")
    reset_parser.set_defaults(run=reset)
    for command_parser in (settle_parser, reset_parser):
        command_parser.add_argument("--yes", action="store_true", help="do not ask")
    for command_parser in (load_parser, ledger_parser, settle_parser, reset_parser):
        add_shop_arguments(command_parser, with_faults=False)
    return parser.parse_args(argv)


def main() -> int:
    """Run one command; return the exit status: 0 done, 1 refused or not possible now, 2 bad usage or bad input."""
    arguments = parse_arguments()
    try:
        arguments.run(arguments)
    except (ValueError, DataDirectoryUnusable, NoShop) as error:
        print(f"shop: {error}", file=sys.stderr)
        return 2
    except (Refused, TransientError) as error:
        print(f"shop: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_program("shop", main))
