"""What a service asks of its database, and which one it gets. Only this module knows that there are two stores.

The SQL of a service is understood by both: `?` stands for a parameter, 0 and 1 for no and yes, and every table has a
`rowid`, which tells the order in which its rows were made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from shop.errors import ServiceUnavailable, StoreUnusable
from shop.stores import sqlite
from shop.stores.location import Location

# How long a caller waits for a service, all its waits for locks and connections included. Less than the 5 s after which
# Temporal gives up an attempt: what the shop knows about a call that hangs ("locked") is told, not just "a time-out".
CALL_TIMEOUT_SECONDS = 3.0

# How a schema is written: each column in a line of its own, in small letters.
TABLE = re.compile(r"^CREATE TABLE IF NOT EXISTS (\w+) \((\n.*?)^\);", re.DOTALL | re.MULTILINE)
COLUMN = re.compile(r"^    ([a-z_]+) ", re.MULTILINE)


Row = Any  # what one row holds, by column: `row["sku"]`; neither library has types for it


class Connection(Protocol):
    """Runs statements inside one transaction, as `sqlite3.Connection` does."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Any:
        """Run one statement; return its cursor, whose rows have no types in either library."""

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> object:
        """Run one statement for each of `rows`."""


class Database(Protocol):
    """The database of one service. Threads may share it; processes may open the same one."""

    @property
    def clock(self) -> str:
        """Return the SQL for the seconds since 1970 by the clock that all who use the database share."""

    def transaction(
        self, order_id: str | None = None, deadline: float | None = None
    ) -> AbstractContextManager[Connection]:
        """Give a connection inside one transaction: committed at the end, rolled back on any error.

        Transactions for the same order wait for each other, and one for no order waits for all of them. What several
        orders share, a product, is changed by statements that are right whoever changes it meanwhile. All waiting ends
        at the deadline, on the clock of `time.monotonic`; by default it is `CALL_TIMEOUT_SECONDS` away.

        Raises:
            ServiceUnavailable: if it is locked for too long, damaged or gone, or the disk is full; nothing has changed.
            ConstraintViolated: if a value breaks a constraint or a type; nothing has changed.
            ReplyLost: if the connection was lost on the commit, whose outcome is unknown then.
        """

    def clear(self) -> None:
        """Delete all rows."""

    def close(self) -> None:
        """Close the connections."""


def open_database(location: Location, service: str, schema: str) -> Database:
    """Open the database of a service; make it, with `schema`, if it is not there.

    Raises:
        StoreUnusable: if that is not possible, or if a column of `schema` is not there; the message says why.
    """
    check = "".join(
        f"SELECT {', '.join(f'{table}.{column}' for column in COLUMN.findall(lines)) or 1} FROM {table} LIMIT 0;"
        for table, lines in TABLE.findall(schema)
    )
    if isinstance(location, Path):
        return sqlite.SqliteDatabase(file_of(location, service), schema, check, CALL_TIMEOUT_SECONDS)
    from shop.stores import postgres  # Needs a package that no other shop needs.

    return postgres.PostgresDatabase(location, service, schema, check, CALL_TIMEOUT_SECONDS)


def read_only(location: Location, service: str) -> AbstractContextManager[Connection]:
    """Give a connection that sees the database as of one moment, changes nothing, and makes no writer wait.

    Raises:
        ServiceUnavailable: if it is missing, damaged, or cannot be reached.
        StoreUnusable: if the package that it needs is missing.
    """
    if isinstance(location, Path):
        return sqlite.read_only(file_of(location, service), CALL_TIMEOUT_SECONDS)
    from shop.stores import postgres

    return postgres.read_only(location, service)


def is_there(location: Location, service: str) -> bool:
    """Tell whether the service's database was made.

    Raises:
        StoreUnusable: if it cannot be told.
    """
    if isinstance(location, Path):
        return os.path.exists(file_of(location, service))  # unlike `Path.exists`, it raises nothing
    try:
        with read_only(location, service) as connection:
            tables = connection.execute("SELECT 1 FROM pg_tables WHERE schemaname = ?", (service,)).fetchall()
    except ServiceUnavailable as error:
        raise StoreUnusable(f"{location}: {error}") from error
    return bool(tables)


def file_of(directory: Path, service: str) -> Path:
    """Return the file that holds the database of a service."""
    return directory / f"{service}.sqlite3"
