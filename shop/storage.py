"""SQLite, one file a service. Survives `kill -9` at any moment; a power cut may cost the last transactions.

That is what `journal_mode=WAL` with `synchronous=NORMAL` promises: https://www.sqlite.org/pragma.html#pragma_synchronous
"""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shop.errors import ServiceUnavailable

# Half of the 10 s that an attempt may take: a lock that is held longer becomes a clear "unavailable", not a time-out.
BUSY_TIMEOUT_SECONDS = 5.0


class DataDirectoryUnusable(Exception):
    """The data directory cannot be made, read or written; the message says why."""


class Database:
    """One file, one connection, used by one thread at a time. Threads and processes may share the file."""

    def __init__(self, path: Path, schema: str) -> None:
        """Open the file; make it, with `schema`, if it is not there.

        Raises:
            DataDirectoryUnusable: if that is not possible.
        """
        self._one_thread = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _one_process(path.parent / ".lock"):
                path.touch(mode=0o600)  # also in a directory that is not ours alone
                self._connection = sqlite3.connect(
                    path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
                )
                self._connection.row_factory = sqlite3.Row
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = NORMAL")
                self._connection.executescript(schema)
        except (OSError, sqlite3.Error) as error:
            raise DataDirectoryUnusable(f"{path}: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give a connection inside one transaction: committed at the end, rolled back on any error.

        Raises:
            ServiceUnavailable: if the file is locked for too long, or the disk is full; nothing has changed then.
        """
        with self._one_thread:
            try:
                # IMMEDIATE takes the write lock first: a transaction that reads and then writes would not wait for it.
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                finally:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
            except sqlite3.OperationalError as error:
                raise ServiceUnavailable(f"the database answers: {error}") from error

    def close(self) -> None:
        """Close the connection."""
        with self._one_thread:
            self._connection.close()


@contextmanager
def _one_process(lock: Path) -> Iterator[None]:
    """Hold a file lock: two that set `journal_mode` on a fresh file at once fail, whatever the busy time-out."""
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
