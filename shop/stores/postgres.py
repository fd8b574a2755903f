"""PostgreSQL, one schema a service. How much of it survives a power cut is up to the server's settings.

Imported only where a shop is kept there, because it needs psycopg.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, TypeVar

from shop.errors import ConstraintViolated, ReplyLost, ServiceUnavailable, StoreUnusable
from shop.stores.location import PostgresUrl

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.pq import TransactionStatus
    from psycopg.rows import DictRow, dict_row
except ImportError as error:
    reason = f"a shop in PostgreSQL needs a package: pip install 'psycopg[binary]' ({error})"
    raise StoreUnusable(" ".join(reason.split())) from error

# To each service from each process. Six workers take 72 of the 100 connections that a server has by default.
MAX_CONNECTIONS = 4
CONNECT_TIMEOUT_SECONDS = 2  # less is not possible
# How long the server may be silent beyond the deadline of a call: it needs time to say that a lock is held.
GRACE_SECONDS = 0.25
# A process that is stopped, or whose machine is gone, keeps the locks of its transaction no longer than this.
MAX_IDLE_SECONDS = 10

# What SQLite's tables have by themselves.
ROWID = "\n    , rowid BIGINT GENERATED ALWAYS AS IDENTITY\n);"
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = ?"

T = TypeVar("T")
C = TypeVar("C", bound="psycopg.Connection[DictRow]")


class PostgresDatabase:
    """One schema and a few connections, each used by one thread at a time."""

    clock = "EXTRACT(EPOCH FROM clock_timestamp())"

    def __init__(self, location: PostgresUrl, service: str, schema: str, timeout_seconds: float) -> None:
        """Open the schema of a service; make it, with the tables in `schema`, if it has none.

        Raises:
            StoreUnusable: if that is not possible.
        """
        self._location, self._service = location, service
        self._timeout_seconds = timeout_seconds
        self._idle: list[_Connection] = []
        self._free = threading.Semaphore(MAX_CONNECTIONS)
        if not is_there(location, service):
            self._make(schema)

    @contextmanager
    def transaction(self, order_id: str | None = None, deadline: float | None = None) -> Iterator[_Statements]:
        """Give a connection inside one transaction, as `Database` does."""
        deadline = deadline or time.monotonic() + self._timeout_seconds
        if not self._free.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise ServiceUnavailable("the database answers: it is busy, and stays so")
        connection = None
        try:
            connection = self._begin(order_id, deadline)
            yield _Statements(connection)
            _commit(connection)
        except (psycopg.IntegrityError, psycopg.DataError) as error:
            raise ConstraintViolated(f"the database refuses: {_reason(error)}") from error
        except psycopg.Error as error:
            raise ServiceUnavailable(f"the database answers: {_reason(error)}") from error
        finally:
            if connection:
                self._put_back(connection)
            self._free.release()

    def clear(self) -> None:
        """Delete all rows."""
        with self.transaction() as connection:
            for table in connection.execute(TABLES, (self._service,)).fetchall():
                connection.execute(f"DELETE FROM {table['tablename']}")

    def close(self) -> None:
        """Close the connections that no thread uses."""
        while self._idle:
            self._idle.pop().close()

    def _make(self, schema: str) -> None:
        """Make the schema, unless another process was quicker; the transaction waits for that one."""
        try:
            with self.transaction() as connection:
                if not connection.execute(TABLES, (self._service,)).fetchone():
                    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {self._service}")
                    connection.execute(schema.replace("\n);", ROWID))
        except (ServiceUnavailable, ReplyLost) as error:
            raise StoreUnusable(f"{self._location}: {error}") from error

    def _begin(self, order_id: str | None, deadline: float) -> _Connection:
        """Begin a transaction that holds its locks.

        On a connection that was lost while nobody used it nothing has happened yet: the next one is tried.
        """
        while True:
            try:
                connection, is_fresh = self._idle.pop(), False
            except IndexError:
                connection, is_fresh = _connect(_Connection, self._location, self._service), True
            connection.deadline = deadline
            milliseconds_left = max(1, int(1000 * (deadline - time.monotonic())))  # 0 would be for ever
            try:
                connection.execute(
                    # Each statement sees what was committed before it: those after a lock see what it waited for.
                    "BEGIN ISOLATION LEVEL READ COMMITTED;"
                    f"SET LOCAL lock_timeout = {milliseconds_left};{_locks(self._service, order_id)}"
                )
                return connection
            except psycopg.Error:
                self._put_back(connection)
                if is_fresh or not connection.closed or time.monotonic() > deadline:
                    raise

    def _put_back(self, connection: _Connection) -> None:
        """Keep a connection for the next transaction, unless it is lost, or nobody knows what the server does on it."""
        with suppress(psycopg.Error):
            if connection.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                connection.execute("ROLLBACK")
        if connection.info.transaction_status == TransactionStatus.IDLE:
            self._idle.append(connection)
        else:
            connection.close()


class _Connection(psycopg.Connection[DictRow]):
    """A connection whose server may be silent until the deadline of the call. psycopg itself waits for ever."""

    deadline: float | None = None  # while it is being made

    def wait(self, gen: Generator[Any, Any, T], interval: float = 0.1, timeout: float | None = None) -> T:
        left = max(0.0, self.deadline - time.monotonic()) if self.deadline else CONNECT_TIMEOUT_SECONDS
        return super().wait(gen, interval, timeout or left + GRACE_SECONDS)


class _Statements:
    """Takes the SQL of the services."""

    def __init__(self, connection: psycopg.Connection[DictRow]) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] | None = None, /) -> psycopg.Cursor[DictRow]:
        return self._connection.execute(_translated(sql) if parameters else sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> None:
        self._connection.cursor().executemany(_translated(sql), rows)


def _connect(kind: type[C], location: PostgresUrl, service: str) -> C:
    try:
        conninfo_to_dict(location.secret)
    except psycopg.Error:  # Its message may hold the password.
        raise psycopg.OperationalError("the URL has a setting that is unknown, or a %XX that is none") from None
    connection = kind.connect(
        location.secret, autocommit=True, row_factory=dict_row, connect_timeout=CONNECT_TIMEOUT_SECONDS
    )
    connection.execute(f"SET search_path = {service}; SET idle_in_transaction_session_timeout = '{MAX_IDLE_SECONDS}s'")
    return connection


def _locks(service: str, order_id: str | None) -> str:
    """Return the statements that wait for the other transactions of the order, or for all of the service.

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


def _commit(connection: _Connection) -> None:
    """Commit.

    Raises:
        ReplyLost: if there is no answer.
    """
    try:
        connection.execute("COMMIT")
    except psycopg.Error as error:
        if connection.info.transaction_status == TransactionStatus.IDLE:  # It was refused, and rolled back.
            raise
        raise ReplyLost(f"the database was lost while it committed: {_reason(error)}") from error


def _translated(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")


def _reason(error: psycopg.Error) -> str:
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return "it is locked, and stays so"
    lines = (error.diag.message_primary or str(error)).splitlines()
    return " ".join(line.strip() for line in lines if not line.startswith("\t"))  # without hints


@contextmanager
def read_only(location: PostgresUrl, service: str) -> Iterator[_Statements]:
    """Give a connection that sees the schema as of one moment, changes nothing, and makes no writer wait.

    Raises:
        ServiceUnavailable: if it cannot be reached or read.
    """
    try:
        with closing(_connect(psycopg.Connection[DictRow], location, service)) as connection:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield _Statements(connection)
    except psycopg.Error as error:
        raise ServiceUnavailable(f"the database answers: {_reason(error)}") from error


def is_there(location: PostgresUrl, service: str) -> bool:
    """Tell whether the schema of a service has any table.

    Raises:
        StoreUnusable: if the database cannot be reached.
    """
    try:
        with read_only(location, service) as connection:
            return connection.execute(TABLES, (service,)).fetchone() is not None
    except ServiceUnavailable as error:
        raise StoreUnusable(f"{location}: {error}") from error
