"""The script made durable, by hand: its `process_order`, behind a table of orders.

    python -m examples.durable_loop accept ORDERS [--data DIR]
    python -m examples.durable_loop work [--data DIR] [--faults SPEC]

`accept` answers when an order is stored, so its input cannot be lost; later, it answers how the order ended. `work`
takes one open order after the other until none is open; start as many as you like, and start one again when it dies.
What it still lacks stands in docs/fairness.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TypeVar

from order_processor import HalfDone, confirm_order, not_completed, process_order, void_unless_sold
from shop.errors import ServiceUnavailable, ShopError, StoreUnusable, TransientError
from shop.orders import Order, Outcome, Status
from shop.parsing import load_orders
from shop.shop import ORDERS, Shop
from shop.stores.storage import Database, open_database
from shop.terminal.options import add_shop_arguments, read_shop_options
from shop.terminal.streams import Results, run_program

# How long an order waits after its process died; the same for all processes.
LEASE_SECONDS = 5.0
POLL_SECONDS = 0.5
# An order that has killed so many processes is ended without its steps; if that kills as many again, it is left alone.
MAXIMUM_DEATHS = 5

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    order_id     TEXT PRIMARY KEY,
    document     TEXT NOT NULL,
    status       TEXT,                                -- how it ended
    detail       TEXT,
    claims       INTEGER NOT NULL DEFAULT 0,          -- runs that began; the number of the last is the fencing token
    returns      INTEGER NOT NULL DEFAULT 0,          -- runs that came back, however late; the others died
    leased_until DOUBLE PRECISION NOT NULL DEFAULT 0  -- by the database's clock: machines may disagree
);
"""

T = TypeVar("T")
logger = logging.getLogger("durable_loop")


@dataclass(frozen=True)
class Claim:
    """One run of an order. It may end the order until there is a claim with a higher number."""

    order: Order
    number: int
    deaths: int


@dataclass(frozen=True)
class OrderTable:
    """The orders that were accepted, who works on which, and how they ended."""

    database: Database

    def accept(self, order: Order) -> Outcome | None:
        """Store an order, unless its id is stored already. Return how it ended, if it did."""
        with self.database.transaction(order.order_id) as connection:
            connection.execute(
                "INSERT INTO orders (order_id, document) VALUES (?, ?) ON CONFLICT DO NOTHING",
                (order.order_id, json.dumps(asdict(order))),
            )
            row = connection.execute("SELECT * FROM orders WHERE order_id = ?", (order.order_id,)).fetchone()
        if Order.from_json(row["document"]) != order:
            return Outcome(order.order_id, Status.UNKNOWN, "an order with the same id and other content was accepted")
        return Outcome(order.order_id, Status(row["status"]), row["detail"]) if row["status"] else None

    def claim(self) -> Claim | None:
        """Lease the open order that was run the fewest times, if one is free."""
        now = self.database.clock
        with self.database.transaction() as connection:
            row = connection.execute(
                "SELECT * FROM orders WHERE status IS NULL"
                # A lease that lasts much longer than it may is from before the clock was set back.
                f" AND leased_until NOT BETWEEN {now} AND {now} + ? ORDER BY claims, rowid LIMIT 1",
                (2 * LEASE_SECONDS,),
            ).fetchone()
            if row is None:
                return None
            connection.execute(
                f"UPDATE orders SET claims = claims + 1, leased_until = {now} + ? WHERE order_id = ?",
                (LEASE_SECONDS, row["order_id"]),
            )
        return Claim(Order.from_json(row["document"]), row["claims"] + 1, row["claims"] - row["returns"])

    @contextmanager
    def renewed(self, claim: Claim) -> Iterator[None]:
        """Keep the lease of an order while it is worked on, unless the order was claimed again."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(LEASE_SECONDS / 3):
                with suppress(TransientError), self.database.transaction(claim.order.order_id) as connection:
                    connection.execute(
                        f"UPDATE orders SET leased_until = {self.database.clock} + ? WHERE order_id = ? AND claims = ?",
                        (LEASE_SECONDS, claim.order.order_id, claim.number),
                    )

        threading.Thread(target=renew, daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def give_back(self, claim: Claim, outcome: Outcome) -> bool:
        """Note that a run came back, and how the order ended by it. Tell whether it did. Safe to repeat.

        It did not if it is half-done (run again when its lease has run out), or if there is a later claim.
        """
        is_half_done = outcome.detail.startswith(HalfDone.__name__)  # An outcome names its error first.
        how = (None, None) if is_half_done else (outcome.status.value, outcome.detail)
        with self.database.transaction(claim.order.order_id) as connection:
            connection.execute("UPDATE orders SET returns = returns + 1 WHERE order_id = ?", (claim.order.order_id,))
            changed = connection.execute(
                "UPDATE orders SET status = ?, detail = ? WHERE order_id = ? AND claims = ?",
                (*how, claim.order.order_id, claim.number),
            )
            return not is_half_done and changed.rowcount == 1

    def has_open_orders(self) -> bool:
        """Tell whether any order is left, whoever works on it."""
        with self.database.transaction() as connection:
            return connection.execute("SELECT 1 FROM orders WHERE status IS NULL LIMIT 1").fetchone() is not None


def accept_all(orders: list[Order], table: OrderTable) -> int:
    """Store orders, print where each stands, and return the exit status."""
    results = Results()
    for order in orders:
        if outcome := table.accept(order):
            results.print(outcome)
        else:
            print(f"{order.order_id}\taccepted", flush=True)
    return results.exit_status("durable_loop")


def work(shop: Shop, table: OrderTable, stopping: threading.Event) -> int:
    """Process open orders until none is left, or it is to stop; return the exit status."""
    results = Results()
    while not stopping.is_set() and patiently(table.has_open_orders, stopping):
        claim = patiently(table.claim, stopping)
        if claim is None:  # Others work on what is left, or a lease has to run out.
            stopping.wait(POLL_SECONDS)
            continue
        with table.renewed(claim):
            outcome = run(shop, claim)
            if outcome and patiently(functools.partial(table.give_back, claim, outcome), stopping):
                results.print(outcome)
    return results.exit_status("durable_loop")


def run(shop: Shop, claim: Claim) -> Outcome | None:
    """Run an order once. One that has killed too many processes is ended, or completed if its stock was taken.

    A bug ends this run only: it returns nothing to give back, and so counts as a death.
    """
    order, error = claim.order, ServiceUnavailable(f"{claim.deaths} runs never came back")
    try:
        if claim.deaths < MAXIMUM_DEATHS:
            return process_order(shop, order)
        if claim.deaths >= 2 * MAXIMUM_DEATHS:
            return Outcome(order.order_id, Status.UNKNOWN, str(error))
        return confirm_order(shop, order, void_unless_sold(shop, order, error))
    except ShopError as ended:
        return not_completed(order, ended)
    except Exception:
        logger.exception("order %s: a bug", order.order_id)
        return None


def patiently(call: Callable[[], T], stopping: threading.Event) -> T:
    """Ask the table until it answers: as long as it cannot be reached, a worker waits."""
    while True:
        try:
            return call()
        except TransientError as error:
            logger.warning("the table of orders: %s", error)
            if stopping.wait(POLL_SECONDS):
                raise


def main() -> int:
    """Return the exit status: 0 all settled, 1 some order is not, 2 bad usage, bad input, or no table."""
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
        orders = load_orders(arguments.orders) if arguments.command == "accept" else []
        table = OrderTable(open_database(options.location, ORDERS, SCHEMA))
        if arguments.command == "accept":
            return accept_all(orders, table)
        shop, stopping = options.open(), threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # The order in hand is finished.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` leaves it
                signal.signal(number, lambda *_: stopping.set())
        return work(shop, table, stopping)
    except (OSError, ValueError, StoreUnusable, TransientError) as error:
        print(f"durable_loop: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(run_program("durable_loop", main))
