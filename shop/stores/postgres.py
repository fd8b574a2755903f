"""PostgreSQL, one schema a service. How much of it survives a power cut is up to the server's settings.

Imported only where a shop is kept there, because it needs psycopg.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

from shop.errors import ReplyLost, ServiceUnavailable, StoreUnusable
from shop.stores.location import PostgresUrl
from shop.stores.pool import Connection, Pool, reason_of, shop_errors

# isort: split

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow

# A process that is stopped, or whose machine is gone, keeps the locks of its transaction no longer than this.
MAX_IDLE_SECONDS = 10
# They hold every name: SQL_ASCII stores any bytes. None: a pooler that does not say.
ENCODINGS = ("UTF8", "SQL_ASCII", None)

# What SQLite's tables have by themselves.
ROWID = "\n    , rowid BIGINT GENERATED ALWAYS AS IDENTITY\n);"
# A table, and what belongs to it.
TABLE = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+).*?(?=CREATE TABLE|\Z)", re.DOTALL)
TABLES = """
SELECT tablename, has_table_privilege(format('%I.%I', schemaname, tablename), 'INSERT, UPDATE') AS is_writable
FROM pg_tables WHERE schemaname = ?
"""


class PostgresDatabase:
    """One schema, on connections that the databases of a process share."""

    clock = "EXTRACT(EPOCH FROM clock_timestamp())"

    def __init__(self, location: PostgresUrl, service: str, schema: str, timeout_seconds: float) -> None:
        """Open the schema of a service; make what is missing: the schema itself, and tables of `schema`.

        Raises:
            StoreUnusable: if that is not possible.
        """
        self._service, self._timeout_seconds = service, timeout_seconds
        self._tables = {table[1]: table[0] for table in TABLE.finditer(schema.replace("\n);", ROWID))}
        try:
            self._pool = Pool.join(location, self)
            with self._begun("SELECT 1") as connection:
                connection.refuse_encoding()
                found = connection.tables(service)
            if not self._tables.keys() <= found.keys():
                self._make_missing()
            elif refused := [table for table in self._tables if not found[table]]:
                raise ServiceUnavailable(f"the user may not write to the schema {service} ({', '.join(refused)})")
        except (ServiceUnavailable, ReplyLost) as error:
            self.close()
            raise StoreUnusable(f"{location}: {error}") from error

    def transaction(
        self, order_id: str | None = None, deadline: float | None = None
    ) -> AbstractContextManager[_Statements]:
        """Give a connection inside one transaction, as `Database` does."""
        return self._begun(_locks(self._service, order_id), deadline)

    def clear(self) -> None:
        """Delete all rows."""
        with self.transaction() as connection:
            for table in connection.tables(self._service):
                connection.execute(f"DELETE FROM {table}")

    def close(self) -> None:
        """Close the connections, unless another database uses them."""
        Pool.leave(self)

    @contextmanager
    def _begun(self, query: str, deadline: float | None = None) -> Iterator[_Statements]:
        setting = (
            f"SET LOCAL search_path = {self._service};"
            f"SET LOCAL idle_in_transaction_session_timeout = '{MAX_IDLE_SECONDS}s';"
        )
        with shop_errors():
            connection = self._pool.begin(setting + query, deadline or time.monotonic() + self._timeout_seconds)
            try:
                yield _Statements(connection)
                _commit(connection)
            finally:
                self._pool.put_back(connection)

    def _make_missing(self) -> None:
        """Make what is missing, unless another process was quicker; the transaction waits for that one.

        `IF NOT EXISTS` alone asks for the right to make also what is there.
        """
        with self.transaction() as connection:
            if not connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = ?", (self._service,)).fetchone():
                connection.execute(f"CREATE SCHEMA {self._service}")
            found = connection.tables(self._service)
            for table, statements in self._tables.items():
                if table not in found:
                    connection.execute(statements)


class _Statements:
    """Takes the SQL of the services."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] | None = None, /) -> psycopg.Cursor[DictRow]:
        return self._connection.execute(_translated(sql) if parameters else sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> None:
        self._connection.cursor().executemany(_translated(sql), rows)

    def tables(self, schema: str) -> dict[str, bool]:
        """Return the tables of a schema, and whether the user may write to each."""
        return {row["tablename"]: row["is_writable"] for row in self.execute(TABLES, (schema,))}

    def refuse_encoding(self) -> None:
        """Refuse a database that cannot hold every name."""
        encoding = self._connection.info.parameter_status("server_encoding")
        if encoding not in ENCODINGS:
            raise psycopg.NotSupportedError(f"its encoding is {encoding}, and a shop needs UTF8")


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


def _translated(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")


@contextmanager
def read_only(location: PostgresUrl, service: str) -> Iterator[_Statements]:
    """Give a connection that sees the schema as of one moment, changes nothing, and makes no writer wait.

    Raises:
        ServiceUnavailable: if it cannot be reached or read.
    """
    with shop_errors(), closing(Connection.connect(location.secret)) as connection:
        connection.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = {service}")
        yield _Statements(connection)
        connection.execute("COMMIT")  # A pooler ends the session of a client that leaves in a transaction.


def is_there(location: PostgresUrl, service: str) -> bool:
    """Tell whether the schema of a service has any table.

    Raises:
        StoreUnusable: if the database cannot be reached.
    """
    try:
        with read_only(location, service) as connection:
            return bool(connection.tables(service))
    except ServiceUnavailable as error:
        raise StoreUnusable(f"{location}: {error}") from error
