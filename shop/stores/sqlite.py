"""SQLite, one file a service. Survives `kill -9` at any moment; a power cut may cost the last transactions.

That is what `journal_mode=WAL` with `synchronous=NORMAL` promises: https://www.sqlite.org/pragma.html#pragma_synchronous
"""

from __future__ import annotations

import fcntl
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shop.errors import ServiceUnavailable, StoreUnusable

LOCK_POLL_SECONDS = 0.05


class SqliteDatabase:
    """One file, one connection, used by one thread at a time. Threads and processes may share the file."""

    def __init__(self, path: Path, schema: str, busy_timeout_seconds: float) -> None:
        """Open the file; make it, with `schema`, if it is not there.

        Raises:
            StoreUnusable: if that is not possible.
        """
        self.path = path
        self._busy_timeout_seconds = busy_timeout_seconds
        self._one_thread = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Two processes that set `journal_mode` on a fresh file at once fail, whatever the busy time-out.
            with _one_process(path.parent / ".lock", busy_timeout_seconds):
                path.touch(mode=0o600)  # private, also in a directory that others may read
                self._connection = sqlite3.connect(
                    path, timeout=busy_timeout_seconds, isolation_level=None, check_same_thread=False
                )
                self._connection.row_factory = sqlite3.Row
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = NORMAL")
                self._connection.executescript(schema)
            self._file = _identity_of(path)
        except (OSError, sqlite3.Error) as error:
            raise StoreUnusable(f"{path}: {error}") from error

    @contextmanager
    def transaction(self, order_id: str | None = None) -> Iterator[sqlite3.Connection]:
        """Give a connection inside one transaction: committed at the end, rolled back on any error.

        A file has one write lock: it is the same for all orders.

        Raises:
            ServiceUnavailable: if the file is locked for too long, damaged or gone, or the disk is full; nothing has
                changed then.
        """
        deadline = time.monotonic() + self._busy_timeout_seconds
        if not self._one_thread.acquire(timeout=self._busy_timeout_seconds):
            raise ServiceUnavailable(f"the database is busy for more than {self._busy_timeout_seconds:.0f} s")
        try:
            self._refuse_another_file()
            # One deadline for both locks: the wait for the other threads is not added to the wait for other processes.
            milliseconds_left = max(0, int(1000 * (deadline - time.monotonic())))
            self._connection.execute(f"PRAGMA busy_timeout = {milliseconds_left}")
            # IMMEDIATE takes the write lock first: a transaction that reads and then writes would not wait for it.
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
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

    def _refuse_another_file(self) -> None:
        """Refuse to write to a file that nobody else can see any more."""
        try:
            is_same = _identity_of(self.path) == self._file
        except OSError:
            is_same = False
        if not is_same:
            raise ServiceUnavailable(f"{self.path} was removed or replaced; start this program again")


def _identity_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


@contextmanager
def _one_process(lock: Path, busy_timeout_seconds: float) -> Iterator[None]:
    """Hold a file lock.

    Raises:
        StoreUnusable: if another process holds it for too long.
    """
    deadline = time.monotonic() + busy_timeout_seconds
    with lock.open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise StoreUnusable(
                        f"{lock}: another process holds this lock for more than {busy_timeout_seconds:.0f} s"
                    ) from error
            time.sleep(LOCK_POLL_SECONDS)
        yield


@contextmanager
def read_only(path: Path, busy_timeout_seconds: float) -> Iterator[sqlite3.Connection]:
    """Give a connection that sees the file as of one moment, changes nothing, and makes no writer wait.

    Raises:
        ServiceUnavailable: if the file is missing, damaged, or not a database.
    """
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=busy_timeout_seconds)
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise ServiceUnavailable(f"the database answers: {error}") from error
