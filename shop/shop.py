"""The three services over one folder or database."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from shop.catalogue import CUSTOMERS, PRODUCTS
from shop.faults import FaultPlan
from shop.orders import Order
from shop.services import attempts, inventory, keys, notifications, payments, stock
from shop.services.attempts import Attempts
from shop.services.inventory import Inventory
from shop.services.keys import fresh_key, stable_key
from shop.services.notifications import Notifications
from shop.services.payments import Payments
from shop.stores.location import Location
from shop.stores.storage import Database, is_there, open_database

# A program may keep the orders that it has accepted beside the services, in a database of this name.
ORDERS = "orders"


class Shop:
    """Inventory, payments and notifications. Threads may share one; processes may share its location."""

    def __init__(self, location: Location, faults: FaultPlan | None = None, *, keys_enabled: bool = True) -> None:
        """Open the shop in a folder or database; an empty one is stocked with the built-in catalogue.

        Raises:
            StoreUnusable: if it cannot be used.
            ServiceUnavailable: if another program keeps a database locked.
        """
        self.location = location
        self.databases: list[Database] = []

        def service(name: str, schema: str) -> tuple[Database, Attempts, Callable[[Order], str]]:
            database = open_database(location, name, schema + keys.SCHEMA + attempts.SCHEMA)
            self.databases.append(database)
            return database, Attempts(name, database, faults or FaultPlan()), stable_key if keys_enabled else fresh_key

        self.inventory = Inventory(*service("inventory", stock.SCHEMA + inventory.SCHEMA))
        self.payments = Payments(*service("payments", payments.SCHEMA))
        self.notifications = Notifications(*service("notifications", notifications.SCHEMA))
        self._stock_if_empty()

    @property
    def name(self) -> str:
        """Return what to call the shop in logs and in the UI: the same wherever one stands."""
        return str(self.location.resolve() if isinstance(self.location, Path) else self.location)

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
        """Delete all orders and stock the built-in catalogue again.

        Accepted orders go first: one that stayed behind as ended would never be worked on in the empty shop.
        """
        if is_there(self.location, ORDERS):
            with closing(open_database(self.location, ORDERS, "")) as orders:
                orders.clear()
        for database in self.databases:
            database.clear()
        self._stock_if_empty()

    def _stock_if_empty(self) -> None:
        self.inventory.add_products_if_none(PRODUCTS)
        self.notifications.add_customers_if_none(CUSTOMERS)
