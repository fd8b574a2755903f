"""The script made durable, by hand: its `process_order`, behind a table of orders.

    python -m examples.durable_loop accept ORDERS [--data DIR]
    python -m examples.durable_loop work [--data DIR] [--faults SPEC]

`accept` answers when an order is stored, so its input cannot be lost. `work` takes one open order after the other until
none is open; start as many as you like, and start one again when it dies. What it still lacks stands in
docs/fairness.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from order_processor import confirm_order, not_completed, process_order, void_unless_sold
from shop.errors import ServiceUnavailable, ShopError, StoreUnusable
from shop.orders import Order, Outcome, Status
from shop.parsing import load_orders
from shop.shop import Shop
from shop.stores.storage import Connection, Database, open_database
from shop.terminal.batch import outcome_of
from shop.terminal.options import add_shop_arguments, read_shop_options
from shop.terminal.streams import Results, run_program

# How long an order waits after its process died. A process that stalls for longer loses the order to another one, and
# both work on it: the shop's keys and tombstones make that harmless.
LEASE_SECONDS = 5.0
POLL_SECONDS = 0.2
# An order that has killed so many processes is ended without them.
MAXIMUM_RUNS = 5

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    order_id     TEXT PRIMARY KEY,
    document     TEXT NOT NULL,
    is_open      INTEGER NOT NULL DEFAULT 1,
    runs         INTEGER NOT NULL DEFAULT 0,
    leased_until REAL NOT NULL DEFAULT 0
);
"""


@dataclass(frozen=True)
class OrderTable:
    """The orders that were accepted, and who works on which."""

    database: Database

    def accept(self, order: Order) -> bool:
        """Store an order, unless its id is stored already. Tell whether what is stored is this order."""
        with self.database.transaction() as connection:
            connection.execute(
                "INSERT INTO orders (order_id, document) VALUES (?, ?) ON CONFLICT DO NOTHING",
                (order.order_id, json.dumps(asdict(order))),
            )
            row = connection.execute("SELECT document FROM orders WHERE order_id = ?", (order.order_id,)).fetchone()
        return Order.from_json(row["document"]) == order

    def claim(self) -> tuple[Order, int] | None:
        """Lease the open order that was run the fewest times; return it and the number of this run."""
        with self.database.transaction() as connection:
            row = connection.execute(
                "SELECT order_id, document, runs FROM orders WHERE is_open = 1 AND leased_until < ?"
                " ORDER BY runs, rowid LIMIT 1",
                (time.time(),),
            ).fetchone()
            if row is None:
                return None
            connection.execute("UPDATE orders SET runs = runs + 1 WHERE order_id = ?", (row["order_id"],))
            self._lease(connection, row["order_id"])
            return Order.from_json(row["document"]), row["runs"] + 1

    @contextmanager
    def renewed(self, order: Order) -> Iterator[None]:
        """Keep the lease of an order while it is worked on."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(LEASE_SECONDS / 3):
                with self.database.transaction() as connection:
                    self._lease(connection, order.order_id)

        threading.Thread(target=renew, daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def close(self, order: Order) -> None:
        """Note that an order has ended."""
        with self.database.transaction() as connection:
            connection.execute("UPDATE orders SET is_open = 0 WHERE order_id = ?", (order.order_id,))

    def has_open_orders(self) -> bool:
        """Tell whether any order is left, whoever works on it."""
        with self.database.transaction() as connection:
            return connection.execute("SELECT 1 FROM orders WHERE is_open = 1 LIMIT 1").fetchone() is not None

    @staticmethod
    def _lease(connection: Connection, order_id: str) -> None:
        connection.execute(
            "UPDATE orders SET leased_until = ? WHERE order_id = ?", (time.time() + LEASE_SECONDS, order_id)
        )


def accept_all(orders: list[Order], table: OrderTable) -> int:
    """Store orders, and return the exit status: 1 if another order has the id of one of them."""
    status = 0
    for order in orders:
        if table.accept(order):
            print(f"{order.order_id}\taccepted", flush=True)
        else:
            print(f"{order.order_id}\tunknown\tan order with the same id and other content was accepted", flush=True)
            status = 1
    return status


def work(shop: Shop, table: OrderTable) -> int:
    """Process open orders until none is left, and return the exit status."""
    results = Results()
    while table.has_open_orders():
        claimed = table.claim()
        if claimed is None:
            time.sleep(POLL_SECONDS)  # Others work on what is left, or a lease has to run out.
            continue
        order, runs = claimed
        with table.renewed(order):
            process = process_order if runs <= MAXIMUM_RUNS else give_up
            outcome = outcome_of(order, functools.partial(process, shop))
        # Left half-done, it is run again when its lease has run out. If giving up fails, too, a person must act.
        if outcome.status is not Status.UNKNOWN or runs > MAXIMUM_RUNS:
            table.close(order)
            results.print(outcome)
    return results.exit_status("durable_loop")


def give_up(shop: Shop, order: Order) -> Outcome:
    """End an order that kills its process, or take it to its end if its stock was taken."""
    error = ServiceUnavailable(f"it was run {MAXIMUM_RUNS} times in vain")
    try:
        return confirm_order(shop, order, void_unless_sold(shop, order, error))
    except ShopError as ended:
        return not_completed(order, ended)


def main() -> int:
    """Return the exit status: 0 all settled, 1 some order is not, 2 bad usage or bad input."""
    parser = argparse.ArgumentParser(prog="python -m examples.durable_loop")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    accept = commands.add_parser("accept", help="store orders, to be processed by `work`")
    accept.add_argument("orders", metavar="ORDERS", help="JSON Lines file, - for standard input")
    for command in (accept, commands.add_parser("work", help="process stored orders until none is open")):
        add_shop_arguments(command, with_faults=command is not accept)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        options = read_shop_options(arguments, os.environ)
        table = OrderTable(open_database(options.location, "orders", SCHEMA))
        if arguments.command == "work":
            return work(options.open(), table)
        return accept_all(load_orders(arguments.orders), table)
    except (OSError, ValueError, StoreUnusable, ServiceUnavailable) as error:
        print(f"durable_loop: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(run_program("durable_loop", main))
