"""PostgreSQL, one schema a service. How much of it survives a power cut is up to the server's settings.

Imported only where a shop is kept there, because it needs psycopg.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager

from shop.errors import ReplyLost, ServiceUnavailable, StoreUnusable
from shop.stores.location import PostgresUrl
from shop.stores.pool import Connection, Pool, reason_of, shop_errors

# isort: split

import psycopg
from psycopg.pq import TransactionStatus

# A process that is stopped, or whose machine is gone, keeps the locks of its transaction no longer than this.
MAX_IDLE_SECONDS = 10
# They hold every name: SQL_ASCII stores any bytes. None: a pooler that does not say.
ENCODINGS = ("UTF8", "SQL_ASCII", None)

# What SQLite's tables have by themselves.
ROWID = "\n    , rowid BIGINT GENERATED ALWAYS AS IDENTITY\n);"
# A table, and what belongs to it.
TABLE = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+).*?(?=CREATE TABLE|\Z)", re.DOTALL)
# `has_table_privilege` takes several rights as alternatives.
TABLES = """
SELECT tablename, NOT false IN (
    SELECT has_table_privilege(format('%I.%I', schemaname, tablename), privilege)
    FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) AS privilege
) AS is_usable
FROM pg_tables WHERE schemaname = ?
"""


class PostgresDatabase:
    """One schema, on connections that the databases of a process share."""

    clock = "EXTRACT(EPOCH FROM clock_timestamp())"

    def __init__(self, location: PostgresUrl, service: str, schema: str, check: str, timeout_seconds: float) -> None:
        """Open the schema of a service; make what is missing: the schema itself, and tables of `schema`.

        Raises:
            StoreUnusable: if that is not possible, or if the statements of `check` fail on it.
        """
        self._service, self._timeout_seconds = service, timeout_seconds
        try:
            self._pool = Pool.join(location, self)
            self._make_ready(schema, check)
        except (ServiceUnavailable, ReplyLost) as error:
            self.close()
            raise StoreUnusable(f"{location}: {error}") from error

    def transaction(
        self, order_id: str | None = None, deadline: float | None = None
    ) -> AbstractContextManager[Connection]:
        """Give a connection inside one transaction, as `Database` does."""
        return self._begun(_locks(self._service, order_id), deadline)

    def clear(self) -> None:
        """Delete all rows."""
        with self.transaction() as connection:
            for table in _tables(connection, self._service):
                connection.execute(f"DELETE FROM {table}")

    def close(self) -> None:
        """Close the connections, unless another database uses them."""
        Pool.leave(self)

    @contextmanager
    def _begun(self, query: str, deadline: float | None = None) -> Iterator[Connection]:
        setting = (
            f"SET LOCAL search_path = {self._service};"
            f"SET LOCAL idle_in_transaction_session_timeout = '{MAX_IDLE_SECONDS}s';"
        )
        with shop_errors():
            connection = self._pool.begin(setting + query, deadline or time.monotonic() + self._timeout_seconds)
            try:
                yield connection
                _commit(connection)
            finally:
                self._pool.put_back(connection)

    def _make_ready(self, schema: str, check: str) -> None:
        """Make what is missing, and refuse what cannot be used.

        Raises:
            ServiceUnavailable, ReplyLost: if that is not possible.
        """
        tables = {table[1]: table[0] for table in TABLE.finditer(schema.replace("\n);", ROWID))}
        with self._begun("SELECT 1") as connection:
            encoding = connection.info.parameter_status("server_encoding")
            if encoding not in ENCODINGS:
                raise ServiceUnavailable(f"the database answers: its encoding is {encoding}, and a shop needs UTF8")
            is_whole = tables.keys() <= _tables(connection, self._service).keys()
        if not is_whole:
            self._make_missing(tables)
        with self._begun("SELECT 1") as connection:
            found = _tables(connection, self._service)
            if refused := ", ".join(table for table in tables if not found.get(table, True)):  # True: a view
                needed = "SELECT, INSERT and UPDATE are needed"
                raise ServiceUnavailable(f"the user may not write to the schema {self._service} ({refused}): {needed}")
            connection.execute(check)

    def _make_missing(self, tables: dict[str, str]) -> None:
        """Make what is missing, unless another process was quicker; the transaction waits for that one.

        `IF NOT EXISTS` alone asks for the right to make also what is there.
        """
        with self.transaction() as connection:
            if not connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = ?", (self._service,)).fetchone():
                connection.execute(f"CREATE SCHEMA {self._service}")
            found = _tables(connection, self._service)
            for table, statements in tables.items():
                if table not in found:
                    connection.execute(statements)


@contextmanager
def read_only(location: PostgresUrl, service: str) -> Iterator[Connection]:
    """Give a connection that sees the schema as of one moment, changes nothing, and makes no writer wait.

    Raises:
        ServiceUnavailable: if it cannot be reached or read.
    """
    with shop_errors(), closing(Connection.connect(location.secret)) as connection:
        connection.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = {service}")
        _tables(connection, service)  # Refused where the user lacks USAGE: the tables would only not be found.
        yield connection
        connection.execute("COMMIT")  # A pooler ends the session of a client that leaves in a transaction.


def _tables(connection: Connection, schema: str) -> dict[str, bool]:
    """Return the tables of a schema, and whether the user may read and write each."""
    return {row["tablename"]: row["is_usable"] for row in connection.execute(TABLES, (schema,))}


def _locks(service: str, order_id: str | None) -> str:
    """Return the beginning of a query that waits for the other transactions of the order, or for all of the service.

    The locks end with the transaction. https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
    Two orders with the same number wait for each other, which does no harm.
    """
    of_service = zlib.crc32(service.encode())
    if order_id is None:
        return f"SELECT pg_advisory_xact_lock({of_service})"
    of_order = zlib.crc32(order_id.encode())
    return (
        f"SELECT pg_advisory_xact_lock_shared({of_service});"
        f"SELECT pg_advisory_xact_lock({of_service - 2**31}, {of_order - 2**31})"
    )


def _commit(connection: Connection) -> None:
    """Commit.

    Raises:
        ReplyLost: if there is no answer.
    """
    try:
        connection.execute("COMMIT")
    except psycopg.Error as error:
        if connection.info.transaction_status == TransactionStatus.IDLE:  # It was refused, and rolled back.
            raise
        raise ReplyLost(f"the database was lost while it committed: {reason_of(error)}") from error
