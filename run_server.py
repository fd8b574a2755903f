"""Start a local Temporal server with its UI, for development: no Docker, no download, state kept in a file."""

import argparse
import fcntl
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing

# Beside this program, wherever you stand: a server with another file would know none of your orders.
DATABASE = os.path.join(os.path.dirname(__file__), "data", "temporal.sqlite3")
# docker-compose.yml repeats these. The server's defaults are slow: WAL saves an fsync a transaction; the poll limit of
# the single shard holds back orders that come one after the other; and its queues drop what they have finished only
# every half a minute, and look through it for each step until then (docs/cost.md has the figures). Without the time
# shift a timer or a retry that is due within a second comes after a whole one. With more partitions to write to, some
# orders that waited five to ten minutes for a worker wait longer (findings/unloaded-partition.sh); all are still read,
# since an older file may hold orders in each.
SETTINGS = (
    "--search-attribute=OrderStatus=Keyword",
    "--sqlite-pragma=journal_mode=WAL",
    "--sqlite-pragma=synchronous=NORMAL",
    "--dynamic-config-value=history.transferProcessorMaxPollRPS=1000",
    '--dynamic-config-value=history.transferProcessorUpdateAckInterval="2s"',
    '--dynamic-config-value=history.visibilityProcessorUpdateAckInterval="2s"',
    '--dynamic-config-value=history.timerProcessorMaxTimeShift="10ms"',
    "--dynamic-config-value=matching.numTaskqueueWritePartitions=1",
    "--ui-disable-news-fetch",
    "--log-level=error",
)
ANSWER_SECONDS = 10.0


def find_temporal() -> str:
    """Return the path of the `temporal` program, the one beside this Python first; exit with 1 if it is too old."""
    path = shutil.which("temporal", path=os.path.dirname(sys.executable)) or shutil.which("temporal") or "temporal"
    try:
        asked = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace", timeout=ANSWER_SECONDS
        )
        found = (asked.stdout or asked.stderr).strip()[:80]
    except (OSError, subprocess.TimeoutExpired) as error:
        found = str(error)
    if not re.search(r"temporal version ([2-9]|1\.(9|\d\d))", found):  # as in pyproject.toml
        sys.exit(f"run_server: needs the Temporal CLI, version 1.9 or newer, not {found!r}; `make server` brings it")
    return path


def open_state(database: str) -> None:
    """Lock the file until the server ends, be it by SIGKILL, and make sure that no other one left it half-made."""
    os.makedirs(os.path.dirname(database), mode=0o700, exist_ok=True)
    descriptor = os.open(f"{database}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.set_inheritable(descriptor, True)
    if os.path.exists(database):
        with closing(sqlite3.connect(database)) as connection:
            if not connection.execute("SELECT 1 FROM namespaces").fetchone():
                raise sqlite3.DatabaseError("no namespace")


def main() -> None:
    """Become the server (exec), so that your signals reach it; exit with a sentence, and 1 or 2, if that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=7233, help="of the server (default: 7233)")
    parser.add_argument("--ui-port", type=int, help="of the UI (default: 1000 above, where printed links lead)")
    parser.add_argument("--db", metavar="FILE", default=DATABASE, help="state (default: in data/ beside me)")
    arguments = parser.parse_args()
    port, database = arguments.port, os.path.realpath(os.path.expanduser(arguments.db))
    ui_port = port + 1000 if arguments.ui_port is None else arguments.ui_port
    if port == ui_port or not (0 < port < 65536 and 0 < ui_port < 65536):
        parser.error("the two ports must differ, and be from 1 to 65535")
    if os.path.isdir(database) or set("?#%") & set(database):
        parser.error(f"--db must be a file, and its path without ?, # and %, which a URL reserves: {database}")
    temporal = find_temporal()
    for option, number in (("--port", port), ("--ui-port", ui_port)):
        try:
            socket.create_server(("127.0.0.1", number)).close()
        except OSError as error:
            sys.exit(f"run_server: port {number} cannot be used: {error.strerror}; set another with {option}")
    try:
        open_state(database)
    except BlockingIOError:
        sys.exit(f"run_server: a server is running on {database}; stop it, or name another file with --db")
    except (OSError, sqlite3.Error) as error:
        is_half_made = isinstance(error, sqlite3.Error)
        advice = "set --db, or delete this file if a server was killed while it made it" if is_half_made else "set --db"
        parser.exit(2, f"run_server: {database} cannot hold a server's state ({error}): {advice}\n")
    print(f"Temporal server at 127.0.0.1:{port}, UI at http://localhost:{ui_port}", file=sys.stderr, flush=True)
    os.dup2(2, 1)  # the server panics when it cannot write to standard output
    # A user who is not in /etc/passwd has neither, and the server would not start.
    os.environ["HOME"] = os.environ.get("HOME") or "/"
    os.environ["USER"] = os.environ.get("USER") or "nobody"
    options = ("--ip=127.0.0.1", f"--port={port}", f"--ui-port={ui_port}", f"--db-filename={database}", *SETTINGS)
    os.execv(temporal, (temporal, "server", "start-dev", *options))


if __name__ == "__main__":
    main()
