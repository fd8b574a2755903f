"""Look at the shop and set it up: `python -m shop load | ledger | settle | reset`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from shop.catalogue import InvalidCatalogue, read_customers, read_products
from shop.errors import TransientError
from shop.inventory import ShopInUse
from shop.ledger import Ledger, read_ledger
from shop.shop import Shop, add_shop_arguments, read_shop_options
from shop.storage import DataDirectoryUnusable


class Refused(Exception):
    """The command cannot be carried out; the message says why and what to do."""


def run(shop: Shop, arguments: argparse.Namespace) -> None:
    """Carry out one command.

    Raises:
        Refused: and nothing has changed.
    """
    if arguments.command == "load":
        load(shop, Path(arguments.directory))
    elif arguments.command == "ledger":
        ledger = read_ledger(shop)
        print(json.dumps(ledger.as_document()) if arguments.json else describe(ledger))
    elif arguments.command == "settle":
        settle(shop, arguments.order_id)
    else:
        reset(shop, is_confirmed=arguments.yes)


def load(shop: Shop, directory: Path) -> None:
    """Replace stock and customers by the CSV files in `directory`."""
    products, customers = read_products(directory / "stock.csv"), read_customers(directory / "customers.csv")
    try:
        shop.inventory.replace_stock(products)
    except ShopInUse as error:
        raise Refused(f"{error}; empty the shop first: python -m shop reset") from error
    shop.notifications.replace_customers(customers)
    print(f"loaded {len(products)} products and {len(customers)} customers")


def settle(shop: Shop, order_id: str) -> None:
    """Refund and restore what an order still holds. Only for one that nobody works on any more."""
    if shop.notifications.digest_of(order_id):
        raise Refused(f"order {order_id} is complete; nothing is owed")
    if not shop.settle(order_id):
        raise Refused(f"order {order_id} was never charged and took no stock")
    print(f"order {order_id}: holds no charge and no stock any more")


def reset(shop: Shop, *, is_confirmed: bool) -> None:
    """Empty the shop, after asking."""
    if not is_confirmed and not (sys.stdin and sys.stdin.isatty()):
        raise Refused("this forgets all orders; say --yes to mean it")
    if not is_confirmed and ask("This forgets all orders. Sure? [y/N] ") not in ("y", "yes"):
        raise Refused("nothing was changed")
    shop.reset()
    print("the shop is empty, and stocked with the built-in catalogue")


def ask(question: str) -> str:
    """Return what the user types; nothing, for Ctrl-D and Ctrl-C."""
    try:
        return input(question).strip().lower()
    except (EOFError, KeyboardInterrupt):
        return ""


def describe(ledger: Ledger) -> str:
    """Return the ledger for people: a block an order, then the stock that moved."""
    blocks = []
    for order_id in dict.fromkeys(attempt.order_id for attempt in ledger.attempts):
        lines = [f"order {order_id}"]
        lines += [
            f"  {attempt.at[11:23]}  {attempt.step:<18}  attempt {attempt.attempt}  {attempt.outcome}"
            for attempt in ledger.attempts
            if attempt.order_id == order_id
        ]
        lines += [
            f"  charge   {charge.amount_cents / 100:.2f} {charge.currency}{', refunded' if charge.refunded else ''}"
            for charge in ledger.charges
            if charge.order_id == order_id
        ]
        lines += [
            f"  stock    {sale.quantity} x {sale.sku}{', restored' if sale.restored else ''}"
            for sale in ledger.sales
            if sale.order_id == order_id
        ]
        lines += [
            f"  mail     to {confirmation.customer_id}: {'sent' if confirmation.sent else 'noted as not sent'}"
            for confirmation in ledger.confirmations
            if confirmation.order_id == order_id
        ]
        lines += [f"  void     {void.step}" for void in ledger.voids if void.order_id == order_id]
        blocks.append("\n".join(lines))
    moved = [
        f"  {sku}: {stock.initial} -> {stock.now}" for sku, stock in ledger.stock.items() if stock.now != stock.initial
    ]
    return "\n".join([*blocks, "stock that moved", *(moved or ["  none"]), "(times are UTC)"])


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the four commands."""
    parser = argparse.ArgumentParser(prog="python -m shop", description="The shop that both versions act on.")
    commands = parser.add_subparsers(dest="command", required=True)
    load_parser = commands.add_parser("load", help="replace stock and customers by stock.csv and customers.csv")
    load_parser.add_argument("directory", metavar="DIR")
    ledger_parser = commands.add_parser("ledger", help="print what happened")
    ledger_parser.add_argument("--json", action="store_true")
    settle_parser = commands.add_parser("settle", help="refund and restore what an order still holds")
    settle_parser.add_argument("order_id", metavar="ORDER_ID")
    reset_parser = commands.add_parser("reset", help="forget all orders")
    reset_parser.add_argument("--yes", action="store_true", help="do not ask")
    for command_parser in (load_parser, ledger_parser, settle_parser, reset_parser):
        add_shop_arguments(command_parser, with_faults=False)
    return parser


def main() -> int:
    """Run one command; return the exit status: 0 done, 1 refused or unusable, 2 bad usage or bad input."""
    parser = make_parser()
    arguments = parser.parse_args()
    try:
        shop = read_shop_options(arguments, os.environ).open()
        try:
            run(shop, arguments)
            sys.stdout.flush()
        finally:
            shop.close()
    except BrokenPipeError:
        # `| head` has read enough. Python flushes once more at its end, and must not find the broken pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, InvalidCatalogue) as error:
        print(f"shop: {error}", file=sys.stderr)
        return 2
    except (Refused, DataDirectoryUnusable, TransientError) as error:
        print(f"shop: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
