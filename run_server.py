"""Start a local Temporal server with its UI, for development: no Docker, no download, state kept in a file.

python run_server.py [--port 7233] [--ui-port 8233] [--db FILE]
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
from pathlib import Path

HOST = "127.0.0.1"
MAX_PORT = 65535

# The same stand in docker-compose.yml. The server's defaults are slow: WAL saves an fsync a transaction, and the poll
# limit of the single shard would put steps on a grid of 50 ms.
SETTINGS = (
    "--search-attribute=OrderStatus=Keyword",
    "--sqlite-pragma=journal_mode=WAL",
    "--sqlite-pragma=synchronous=NORMAL",
    "--dynamic-config-value=history.transferProcessorMaxPollRPS=1000",
    "--ui-disable-news-fetch",
    "--log-level=error",
)


class Refused(Exception):
    """The server cannot be started; the message says why, and what to do."""


def server_command(port: int, ui_port: int, database: Path) -> list[str]:
    """Return the command line of the server, bound to this machine only."""
    return [
        find_temporal(),
        "server",
        "start-dev",
        f"--ip={HOST}",
        f"--port={port}",
        f"--ui-port={ui_port}",
        f"--db-filename={database}",
        *SETTINGS,
    ]


def find_temporal() -> str:
    """Return the path of the `temporal` program: that of the virtual environment, else the one on PATH.

    Raises:
        Refused: if there is none.
    """
    program = shutil.which("temporal", path=str(Path(sys.executable).parent)) or shutil.which("temporal")
    if program is None:
        raise Refused(
            "the program `temporal` is not installed; either run `make .venv` and use .venv/bin/python,"
            " or install the Temporal CLI (https://docs.temporal.io/cli), or run `docker compose up -d` instead"
        )
    return program


def refuse_taken(port: int) -> None:
    """Check that nobody listens on a port.

    Raises:
        Refused: if somebody does.
    """
    with socket.socket() as probe:
        # As the server does: the port of one that was killed stays in TIME_WAIT for a while, and is free all the same.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise Refused(
                f"port {port} cannot be used ({error.strerror}); is a server running? else take --port"
            ) from error


def main() -> int:
    """Become the server (exec), so that a signal reaches it; return 1 or 2 if that is not possible."""
    parser = argparse.ArgumentParser(description="Start a local Temporal server.")
    parser.add_argument("--port", type=int, default=7233, help="port of the server (default: 7233)")
    parser.add_argument("--ui-port", type=int, help="port of the UI (default: 1000 above the server's)")
    parser.add_argument("--db", type=Path, default=Path("data/temporal.sqlite3"), metavar="FILE", help="state file")
    arguments = parser.parse_args()
    ui_port = arguments.port + 1000 if arguments.ui_port is None else arguments.ui_port
    if not all(0 < port <= MAX_PORT for port in (arguments.port, ui_port)):
        parser.error(f"ports must be from 1 to {MAX_PORT}")
    try:
        command = server_command(arguments.port, ui_port, arguments.db)
        refuse_taken(arguments.port)
        refuse_taken(ui_port)
        arguments.db.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (Refused, OSError) as error:
        print(f"run_server: {error}", file=sys.stderr)
        return 1
    print(f"Temporal server at {HOST}:{arguments.port}, UI at http://localhost:{ui_port}", file=sys.stderr, flush=True)
    return os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
