"""The three services over one data directory, and the options of every program that opens it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shop import attempts, inventory, keys, notifications, payments
from shop.attempts import Attempts
from shop.catalogue import CUSTOMERS, PRODUCTS
from shop.faults import FaultPlan, InvalidFaultSpec, parse_faults
from shop.inventory import Inventory
from shop.keys import IdempotencyKeys
from shop.notifications import Notifications
from shop.payments import Payments
from shop.storage import Database


class Shop:
    """Inventory, payments and notifications. Threads may share one; processes may share its directory."""

    def __init__(self, directory: Path, faults: FaultPlan | None = None, *, keys_enabled: bool = True) -> None:
        """Open the shop in `directory`; an empty one is stocked with the built-in catalogue.

        Raises:
            DataDirectoryUnusable: if the directory cannot be used.
            ServiceUnavailable: if another program keeps a database locked.
        """
        plan = faults or FaultPlan()
        idempotency_keys = IdempotencyKeys(keys_enabled)

        def service(name: str, schema: str) -> tuple[Database, Attempts, IdempotencyKeys]:
            database = Database(directory / f"{name}.sqlite3", schema + attempts.SCHEMA)
            return database, Attempts(database, plan), idempotency_keys

        self.inventory = Inventory(*service("inventory", inventory.SCHEMA + keys.TOMBSTONES))
        self.payments = Payments(*service("payments", payments.SCHEMA + keys.TOMBSTONES))
        self.notifications = Notifications(*service("notifications", notifications.SCHEMA))
        self.databases = (self.inventory.database, self.payments.database, self.notifications.database)
        self._stock_if_empty()

    def close(self) -> None:
        """Close the three databases."""
        for database in self.databases:
            database.close()

    def settle(self, order_id: str) -> bool:
        """Undo what an order still holds, and void what it does not; tell whether it ever held anything."""
        digest = self.inventory.digest_of(order_id) or self.payments.digest_of(order_id)
        if digest is None:
            return False
        self.inventory.restore(order_id, digest)
        self.payments.refund(order_id, digest)
        return True

    def reset(self) -> None:
        """Forget all orders and stock the built-in catalogue again."""
        for database in self.databases:
            with database.transaction() as connection:
                for table in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                    connection.execute(f"DELETE FROM {table['name']}")
        self._stock_if_empty()

    def _stock_if_empty(self) -> None:
        self.inventory.stock_if_empty(PRODUCTS)
        self.notifications.know_if_empty(CUSTOMERS)


@dataclass(frozen=True)
class ShopOptions:
    """Where the shop is, and what goes wrong in it."""

    directory: Path
    faults: FaultPlan
    keys_enabled: bool

    def open(self) -> Shop:
        """Open the shop.

        Raises:
            DataDirectoryUnusable, ServiceUnavailable: as `Shop` does.
        """
        return Shop(self.directory, self.faults, keys_enabled=self.keys_enabled)


def add_shop_arguments(parser: argparse.ArgumentParser, *, with_faults: bool = True) -> None:
    """Add `--data` and, unless told otherwise, `--faults`."""
    parser.add_argument("--data", metavar="DIR", help="data directory (default: $SHOP_DATA, else ./data)")
    if with_faults:
        parser.add_argument(
            "--faults", metavar="SPEC", help="fault plan, see README (default: $SHOP_FAULTS, else none)"
        )


def read_shop_options(arguments: argparse.Namespace, environment: Mapping[str, str]) -> ShopOptions:
    """Combine the command line with the environment.

    Raises:
        ValueError: if the fault plan or a setting cannot be read; the message says which.
    """
    spec = getattr(arguments, "faults", None)
    try:
        faults = parse_faults(environment.get("SHOP_FAULTS", "") if spec is None else spec)
    except InvalidFaultSpec as error:
        raise ValueError(f"{'--faults' if spec is not None else 'SHOP_FAULTS'}: {error}") from error
    idempotency = environment.get("SHOP_IDEMPOTENCY", "on")
    if idempotency not in ("on", "off"):
        raise ValueError(f"SHOP_IDEMPOTENCY: must be on or off, not {idempotency!r}")
    directory = arguments.data or environment.get("SHOP_DATA") or "data"
    return ShopOptions(Path(directory), faults, idempotency == "on")
