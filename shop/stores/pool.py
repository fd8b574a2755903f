"""The connections of a process to PostgreSQL, shared by its databases; and what its errors mean to a shop.

Nothing depends on what was set for a session: a pooler may stand before the server, also one that gives each
transaction another session. Imported only where a shop is kept there, because it needs psycopg.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar
from weakref import WeakSet

from shop.errors import ConstraintViolated, ServiceUnavailable, StoreUnusable
from shop.stores.location import PostgresUrl

try:
    import psycopg
    from psycopg import errors
    from psycopg.pq import TransactionStatus
    from psycopg.rows import DictRow, dict_row
    from psycopg_pool import ConnectionPool, PoolTimeout
except ImportError as error:
    reason = f"a shop in PostgreSQL needs two packages: pip install 'psycopg[binary]' psycopg_pool ({error})"
    raise StoreUnusable(" ".join(reason.split())) from error

CONNECT_TIMEOUT_SECONDS = 2  # less is not possible
# How long the server may be silent beyond the deadline of a call: it needs time to say that a lock is held.
GRACE_SECONDS = 0.25
# For so long a lost connection is made again, as long as a call waits for it; after that the next call begins anew.
RECONNECT_SECONDS = 3.0
# A connection that was not needed for so long is closed: other processes may have too few.
UNUSED_SECONDS = 30.0

SETTINGS: dict[str, Any] = {  # Any: as psycopg takes them
    "autocommit": True,  # it begins no transaction of its own
    "row_factory": dict_row,
    "prepare_threshold": None,  # a prepared statement belongs to a session
    "client_encoding": "UTF8",  # whatever the role or the environment says: SQL_ASCII would give bytes
    "connect_timeout": CONNECT_TIMEOUT_SECONDS,
}
SESSION_AGE = """
SELECT date_part('epoch', clock_timestamp() - backend_start) AS seconds
FROM pg_stat_activity WHERE pid = pg_backend_pid()
"""
# Another attempt gets the same answer.
REFUSALS = (psycopg.IntegrityError, psycopg.DataError, errors.DatatypeMismatch)
# The connection is closed, or nobody knows what the server does on it.
LOST = (TransactionStatus.ACTIVE, TransactionStatus.UNKNOWN)

T = TypeVar("T")


class Connection(psycopg.Connection[DictRow]):
    """Takes the SQL of the services, and waits for its server until the deadline of a call. psycopg waits for ever."""

    failures: ClassVar[dict[str, str]] = {}  # why the last one could not be made: a pool tells that to its log only
    made_at = 0.0
    deadline: float | None = None

    @classmethod
    def connect(cls, conninfo: str = "", **settings: Any) -> Connection:  # Any: as psycopg takes them
        """Connect as psycopg does, wait for a session, and say nothing of a password."""
        begun_at = time.monotonic()  # What is set for a session, it learns at its beginning.
        try:
            connection = super().connect(conninfo, **SETTINGS, **settings)
            connection.made_at = begun_at
            connection._wait_for_session()
        except psycopg.Error as error:
            if type(error) is psycopg.ProgrammingError:  # psycopg's own; its message may hold the password.
                error = psycopg.OperationalError("the URL has a setting that is unknown, or a %XX that is none")
            cls.failures[conninfo] = reason_of(error)
            raise error from None
        cls.failures.pop(conninfo, None)
        return connection

    # Any: as psycopg takes them
    def execute(self, query: Any, params: Any = None, **options: Any) -> psycopg.Cursor[DictRow]:
        """Run one statement, or several without parameters."""
        return super().execute(_translated(query) if params else query, params, **options)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> None:
        """Run one statement for each of `rows`."""
        self.cursor().executemany(_translated(sql), rows)

    def wait(self, gen: Generator[Any, Any, T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait for the server as psycopg does, until the deadline."""
        if self.deadline is not None:
            timeout = timeout or max(0.0, self.deadline - time.monotonic()) + GRACE_SECONDS
        return super().wait(gen, interval, timeout)

    def end_session(self) -> None:
        """Close the connection in mid-transaction: a pooler does not give its session to anybody else then.

        The session may be older than the connection, if it is a pooler's.
        """
        for row in self.execute(SESSION_AGE):
            self.made_at = time.monotonic() - row["seconds"]
        self.close()

    def _wait_for_session(self) -> None:
        """Send a first statement: a pooler accepts every client, and lets that wait for a session."""
        self.deadline = time.monotonic() + CONNECT_TIMEOUT_SECONDS
        try:
            self.execute("")
        except psycopg.Error:
            self.close()
            raise
        self.deadline = None


class Pool(ConnectionPool[Connection]):
    """Makes connections when they are needed, so many at most, and lets callers wait for them in turn."""

    # By process, too: one that was forked makes its own.
    _shared: ClassVar[dict[tuple[int, PostgresUrl], Pool]] = {}
    _sharing: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, location: PostgresUrl) -> None:
        """Connect once, to say at once why that is not possible: the pool itself tries for as long as a call waits."""
        logging.getLogger("psycopg").setLevel(logging.ERROR)  # What it warns of is told by the call that fails.
        with shop_errors():
            Connection.connect(location.secret).close()
        super().__init__(
            location.secret,
            connection_class=Connection,
            min_size=0,
            max_size=location.connections,
            open=True,
            max_idle=UNUSED_SECONDS,
            reconnect_timeout=RECONNECT_SECONDS,
        )
        self.users: WeakSet[object] = WeakSet()  # weak: not every program closes its shop

    @classmethod
    def join(cls, location: PostgresUrl, user: object) -> Pool:
        """Return the one pool that this process has for a database.

        Raises:
            ServiceUnavailable: if the database cannot be reached.
        """
        with cls._sharing:
            cls._close_unused()
            key = (os.getpid(), location)
            pool = cls._shared[key] = cls._shared.get(key) or cls(location)
            pool.users.add(user)
            return pool

    @classmethod
    def leave(cls, user: object) -> None:
        """Close the connections that nobody else uses."""
        with cls._sharing:
            for pool in cls._shared.values():
                pool.users.discard(user)
            cls._close_unused()

    @classmethod
    def _close_unused(cls) -> None:
        for key, pool in [*cls._shared.items()]:
            if key[0] == os.getpid() and not pool.users:
                cls._shared.pop(key).close()

    def begin(self, statements: str, deadline: float) -> Connection:
        """Begin a transaction with statements of which the last is a query; return its connection, to be put back.

        On a session that was lost, or became read-only, before this call nothing has happened yet: it is not used
        again, and another one is tried.
        """
        called_at = time.monotonic()
        while True:
            connection = self._take(deadline)
            milliseconds_left = max(1, int(1000 * (deadline - time.monotonic())))  # 0 would be for ever
            try:
                answers = connection.execute(
                    # Each statement sees what was committed before it: those after a lock see what it waited for.
                    f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {milliseconds_left};"
                    f"{statements}, current_setting('transaction_read_only') AS read_only"
                )
                if answers.set_result(-1).fetchall()[0]["read_only"] == "on":
                    connection.end_session()
                    raise errors.ReadOnlySqlTransaction("it is read-only")
                return connection
            except psycopg.Error:
                is_of_old = connection.closed and connection.made_at < called_at
                self.put_back(connection)
                if not is_of_old:
                    raise

    def put_back(self, connection: Connection) -> None:
        """Take a connection back, and roll back what is not committed on it."""
        if connection.pgconn.transaction_status in LOST:  # So are the others, most likely: all are replaced.
            self.drain()
        self.putconn(connection)

    def _take(self, deadline: float) -> Connection:
        try:
            connection = self.getconn(max(0.0, deadline - time.monotonic()))
        except PoolTimeout as error:
            failure = Connection.failures.get(str(self.conninfo), "it is busy, and stays so")
            raise psycopg.OperationalError(failure) from error
        connection.deadline = deadline
        return connection


@contextmanager
def shop_errors() -> Iterator[None]:
    """Tell in one line what the database answers, and by the class whether another attempt can help."""
    try:
        yield
    except psycopg.Error as error:
        # The bare ProgrammingError is psycopg's own, for a value that it cannot send.
        if isinstance(error, REFUSALS) or type(error) is psycopg.ProgrammingError:
            raise ConstraintViolated(f"the database refuses: {reason_of(error)}") from error
        raise ServiceUnavailable(f"the database answers: {reason_of(error)}") from error


def reason_of(error: psycopg.Error) -> str:
    """Return the first sentence of an error."""
    if isinstance(error, errors.LockNotAvailable):
        return "it is locked, and stays so"
    # Where several addresses were tried, the last one comes first, and then a list of all.
    told = (error.diag.message_primary or str(error)).partition("\nMultiple connection attempts failed")[0]
    return " ".join(line.strip() for line in told.splitlines() if not line.startswith("\t"))  # without hints


def _translated(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")
