"""SQLite, one file a service. Survives `kill -9` at any moment; a power cut may cost the last transactions.

That is what `journal_mode=WAL` with `synchronous=NORMAL` promises: https://www.sqlite.org/pragma.html#pragma_synchronous
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from shop.errors import ConstraintViolated, ServiceUnavailable, StoreUnusable

LOCK_POLL_SECONDS = 0.05
# Another attempt gets the same answer. An integer that is too large is an OverflowError; a value of a type that cannot
# be stored is one of the last two, depending on the version of Python.
REFUSALS = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, sqlite3.ProgrammingError, sqlite3.InterfaceError)


class SqliteDatabase:
    """One file, one connection, used by one thread at a time. Threads and processes may share the file."""

    clock = "((julianday('now') - 2440587.5) * 86400)"  # `unixepoch('subsec')` needs SQLite 3.42

    def __init__(self, path: Path, schema: str, check: str, timeout_seconds: float) -> None:
        """Open the file; make it, with `schema`, if it is not there.

        Raises:
            StoreUnusable: if that is not possible, or if the statements of `check` fail on it.
        """
        self.path = path
        self._timeout_seconds = timeout_seconds
        self._one_thread = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)  # private, also in a directory that others may read
            self._connection = _connect(str(path), timeout_seconds)
            self._keep_a_log(time.monotonic() + timeout_seconds)
            self._connection.executescript(schema + check)
            self._file = path.stat()
        except (OSError, sqlite3.Error) as error:
            raise StoreUnusable(f"{path}: {error}") from error

    @contextmanager
    def transaction(self, order_id: str | None = None, deadline: float | None = None) -> Iterator[sqlite3.Connection]:
        """Give a connection inside one transaction, as `Database` does. A file has one write lock for all orders."""
        deadline = deadline or time.monotonic() + self._timeout_seconds
        if not self._one_thread.acquire(timeout=_seconds_until(deadline)):
            raise ServiceUnavailable("the database answers: it is busy, and stays so")
        try:
            self._refuse_another_file()
            # One deadline for both locks: the wait for the other threads is not added to the wait for other processes.
            self._connection.execute(f"PRAGMA busy_timeout = {int(1000 * _seconds_until(deadline))}")
            # IMMEDIATE takes the write lock first: a transaction that reads and then writes would not wait for it.
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        except REFUSALS as error:
            raise ConstraintViolated(f"the database refuses: {error}") from error
        except (sqlite3.Error, MemoryError) as error:  # SQLite out of memory is no sqlite3.Error.
            raise ServiceUnavailable(f"the database answers: {str(error) or 'out of memory'}") from error
        finally:
            self._one_thread.release()

    def clear(self) -> None:
        """Delete all rows."""
        with self.transaction() as connection:
            for table in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                connection.execute(f"DELETE FROM {table['name']}")

    def close(self) -> None:
        """Close the connection."""
        with self._one_thread:
            self._connection.close()

    def _keep_a_log(self, deadline: float) -> None:
        """Switch to WAL mode. If two processes do that on a fresh file at once, one fails, whatever its time-out."""
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = NORMAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(LOCK_POLL_SECONDS)

    def _refuse_another_file(self) -> None:
        """Refuse to write to a file that nobody else can see any more."""
        try:
            is_same = os.path.samestat(self.path.stat(), self._file)
        except OSError:
            is_same = False
        if not is_same:
            raise ServiceUnavailable(f"{self.path} was removed or replaced; start this program again")


@contextmanager
def read_only(path: Path, timeout_seconds: float) -> Iterator[sqlite3.Connection]:
    """Give a connection that sees the file as of one moment, changes nothing, and makes no writer wait.

    Raises:
        ServiceUnavailable: if the file is missing, damaged, or not a database.
    """
    try:
        with closing(_open_to_read(path, timeout_seconds)) as connection:
            yield connection
    except (OSError, sqlite3.Error) as error:
        raise ServiceUnavailable(f"the database answers: {error}") from error


def _open_to_read(path: Path, timeout_seconds: float) -> sqlite3.Connection:
    """Open a file as it is now; also for a reader who may write neither to it nor beside it.

    While a shop is open, two files beside it keep writers and readers apart, and every reader may use them. To make
    them takes the right to write; but where they are missing, nobody has the shop open, and the file alone holds all:
    it is copied. https://www.sqlite.org/wal.html#read_only_databases

    Raises:
        ServiceUnavailable: if the shop is opened while it is copied.
    """
    name, log = path.resolve().as_uri(), Path(f"{path}-wal")
    connection = _connect(f"{name}?mode=ro", timeout_seconds, uri=True)
    try:
        connection.execute("BEGIN")
        connection.execute("SELECT 1 FROM sqlite_master")
        return connection
    except sqlite3.Error:
        connection.close()
        if log.exists():
            raise
    before, copy = path.stat(), _connect(":memory:", timeout_seconds)
    with closing(_connect(f"{name}?mode=ro&immutable=1", timeout_seconds, uri=True)) as original:
        original.backup(copy)
    if log.exists() or path.stat().st_mtime_ns != before.st_mtime_ns:
        raise ServiceUnavailable("somebody opened it meanwhile; read it again")
    return copy


def _connect(place: str, timeout_seconds: float, *, uri: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(place, timeout_seconds, isolation_level=None, check_same_thread=False, uri=uri)
    connection.row_factory = sqlite3.Row
    return connection


def _seconds_until(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
