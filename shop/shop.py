"""The three services over one data directory."""

from __future__ import annotations

from pathlib import Path

from shop import attempts, inventory, keys, notifications, payments
from shop.attempts import Attempts
from shop.catalogue import CUSTOMERS, PRODUCTS
from shop.faults import FaultPlan
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
        self.directory = directory
        plan = faults or FaultPlan()
        idempotency_keys = IdempotencyKeys(keys_enabled)

        self.databases: list[Database] = []

        def service(name: str, schema: str) -> tuple[Database, Attempts, IdempotencyKeys]:
            database = Database(directory / f"{name}.sqlite3", schema + keys.SCHEMA + attempts.SCHEMA)
            self.databases.append(database)
            return database, Attempts(database, plan), idempotency_keys

        self.inventory = Inventory(*service("inventory", inventory.SCHEMA))
        self.payments = Payments(*service("payments", payments.SCHEMA))
        self.notifications = Notifications(*service("notifications", notifications.SCHEMA))
        self._stock_if_empty()

    def close(self) -> None:
        """Close the three databases."""
        for database in self.databases:
            database.close()

    def settle(self, order_id: str) -> None:
        """Undo an order for good: whatever is still under way for it finds a tombstone. Safe to repeat.

        In this order: once the mail is voided, no run can complete the order.

        Raises:
            AlreadyConfirmed: if the order is complete; nothing has changed then.
            ServiceUnavailable: if a service cannot be reached; then settle again.
        """
        self.notifications.void_confirmation(order_id)
        self.inventory.restore_inventory(order_id)
        self.payments.refund_or_void(order_id)

    def reset(self) -> None:
        """Delete all orders and stock the built-in catalogue again."""
        for database in self.databases:
            with database.transaction() as connection:
                for table in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                    connection.execute(f"DELETE FROM {table['name']}")
        self._stock_if_empty()

    def _stock_if_empty(self) -> None:
        self.inventory.add_products_if_none(PRODUCTS)
        self.notifications.add_customers_if_none(CUSTOMERS)
