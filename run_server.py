"""Start a local Temporal server with its UI, for development: no Docker, no download, state kept in a file.

python run_server.py [--port 7233] [--ui-port 8233] [--db FILE]
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

# Beside this program, wherever you stand: a server with another file would know none of your orders.
DATABASE = Path(__file__).resolve().parent / "data" / "temporal.sqlite3"
# docker-compose.yml repeats these. The server's defaults are slow: WAL saves an fsync a transaction; the poll limit of
# the single shard holds back orders that come one after the other; and its queues drop what they have finished only
# every half a minute, and look through it for each step until then. docs/cost.md has the figures.
SETTINGS = (
    "--search-attribute=OrderStatus=Keyword",
    "--sqlite-pragma=journal_mode=WAL",
    "--sqlite-pragma=synchronous=NORMAL",
    "--dynamic-config-value=history.transferProcessorMaxPollRPS=1000",
    '--dynamic-config-value=history.transferProcessorUpdateAckInterval="2s"',
    '--dynamic-config-value=history.visibilityProcessorUpdateAckInterval="2s"',
    "--ui-disable-news-fetch",
    "--log-level=error",
)


def refuse_taken_port(option: str, port: int) -> None:
    """Leave with status 1 if somebody listens on the port."""
    with socket.socket() as probe:
        # As the server does: the port of one that was killed stays in TIME_WAIT for a while, and is free all the same.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            sys.exit(f"run_server: port {port} cannot be used ({error.strerror}); set another with {option}")


def lock(database: Path) -> None:
    """Leave with status 1 if a server runs on this file: two would both start, and fight over every workflow."""
    descriptor = os.open(f"{database}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"run_server: a server is running on {database}; stop it, or name another file with --db")
    # Never close it: the server inherits it, and so holds the lock until it ends, be it by SIGKILL.
    os.set_inheritable(descriptor, True)


def delete_if_unfinished(database: Path) -> None:
    """Delete the file of a server that was killed while it made its tables: none would ever work on it again.

    Nothing is in such a file: first come all tables, then a namespace, then what namespaces hold.
    """
    with closing(sqlite3.connect(database, timeout=1)) as connection:
        # An error while another program has the file open, such as a server that does not know of our lock.
        connection.executescript("PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE")
        has_tables = connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        # An error if the tables are not those of a server: then it is not ours to delete.
        if has_tables and connection.execute("SELECT is_global FROM namespaces").fetchone():
            return
    for suffix in ("-journal", "-wal", "-shm", ""):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    print(f"run_server: deleted {database}, left unfinished by its first start; starting anew", file=sys.stderr)


def read_arguments() -> tuple[int, int, Path]:
    """Return the ports of server and UI, and the file; leave with status 2 if they cannot be."""
    parser = argparse.ArgumentParser(description="Start a local Temporal server.")
    parser.add_argument("--port", type=int, default=7233, help="port of the server (default: 7233)")
    parser.add_argument("--ui-port", type=int, help="port of the UI (default: 1000 above, where printed links lead)")
    parser.add_argument(
        "--db", default=DATABASE, metavar="FILE", help="state (default: data/temporal.sqlite3 beside me)"
    )
    arguments = parser.parse_args()
    port, database = arguments.port, Path(os.path.realpath(arguments.db))
    ui_port = port + 1000 if arguments.ui_port is None else arguments.ui_port
    if port == ui_port or not all(0 < number < 65536 for number in (port, ui_port)):
        parser.error("the two ports must differ, and be from 1 to 65535")
    if set("?#%") & set(str(database)):
        parser.error(f"--db: the server reads ?, # and % as those of a URL: {database}")
    return port, ui_port, database


def main() -> int:
    """Become the server (exec), so that your signals reach it. Return 1 or 2 if that is not possible."""
    # Fill the places of closed streams (`>&-`): the server would print into whatever is opened there next.
    while os.open(os.devnull, os.O_RDWR) <= 2:
        pass
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115  # as long as the process
    port, ui_port, database = read_arguments()
    temporal = shutil.which("temporal", path=str(Path(sys.executable).parent)) or shutil.which("temporal")
    if temporal is None:
        sys.exit(
            "run_server: the program `temporal` is not installed; either run `make .venv` and use .venv/bin/python,"
            " or install the Temporal CLI (https://docs.temporal.io/cli), or run `docker compose up -d` instead"
        )
    refuse_taken_port("--port", port)
    refuse_taken_port("--ui-port", ui_port)
    try:
        if database.exists() and not database.is_file():
            raise OSError("it is not a file")
        database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock(database)
        if database.exists():
            delete_if_unfinished(database)
    except (OSError, sqlite3.Error) as error:
        print(f"run_server: {database} cannot hold a server's state: {error}; set --db", file=sys.stderr)
        return 2
    print(f"Temporal server at 127.0.0.1:{port}, UI at http://localhost:{ui_port}", file=sys.stderr, flush=True)
    os.dup2(2, 1)  # The server panics when it cannot write to standard output.
    options = ["--ip=127.0.0.1", f"--port={port}", f"--ui-port={ui_port}", f"--db-filename={database}", *SETTINGS]
    return os.execv(temporal, [temporal, "server", "start-dev", *options])


if __name__ == "__main__":
    sys.exit(main())
