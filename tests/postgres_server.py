"""A PostgreSQL server of a test's own: a free port of 127.0.0.1, a folder of its own, a user without rights."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import psycopg

from comparison.stage.processes import POLL_SECONDS, READY_TIMEOUT_SECONDS, free_port
from shop.stores.location import PostgresUrl

PASSWORD = "walnut/plum@turnip"  # with what a URL takes for something else
# From Debian's package, which puts none of them on the path.
FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
OPTIONS = (
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "fsync=off",  # what a killed process has written is with the kernel; a power cut is not tested
    "shared_buffers=32MB",
)
DISCONNECT_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


class PostgresServer:
    """A server that a test may kill and start again."""

    def __init__(self) -> None:
        """Make an empty one; `start` starts it."""
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        # It refuses to run as root.
        self._user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        shutil.chown(self.directory, self._user)
        password_file = self.directory / "password"
        password_file.write_text(PASSWORD)
        shutil.chown(password_file, self._user)
        options = [
            "--username=shop",
            "--auth=md5",  # a client takes half as long to connect as with scram-sha-256
            f"--pwfile={password_file}",
            "--no-sync",
            "--encoding=UTF8",
        ]
        made = self._run("initdb", f"--pgdata={self.directory / 'data'}", *options)
        assert made.wait() == 0, self.log()

    @property
    def pid(self) -> int:
        """Return the process id."""
        assert self._process, "start it first"
        return self._process.pid

    def log(self) -> str:
        """Return what it said."""
        return (self.directory / "log").read_text()

    def start(self) -> None:
        """Start it, and wait until it serves."""
        options = [part for option in (f"port={self.port}", *OPTIONS) for part in ("-c", option)]
        self._process = self._run("postgres", "-D", str(self.directory / "data"), *options)
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while not self._serves():
            assert self._process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(POLL_SECONDS)

    def kill(self) -> None:
        """Kill all its processes with SIGKILL: it gets no chance to clean up."""
        assert self._process
        os.kill(self.pid, signal.SIGSTOP)  # else it makes more of them meanwhile
        children = [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        for pid in (*children, self.pid):
            os.kill(pid, signal.SIGKILL)
        self._process.wait()
        # It does not start again beside one that is left.
        while any(map(is_alive, children)):
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stop it, whoever is still connected, and remove its folder."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)  # "immediate": nobody needs what it holds
            self._process.wait(READY_TIMEOUT_SECONDS)
        shutil.rmtree(self.directory)

    def url(
        self, user: str = "shop", password: str = PASSWORD, port: int = 0, database: str = "postgres"
    ) -> PostgresUrl:
        """Return the URL of its one database, or a URL with something else in it."""
        return PostgresUrl(f"postgresql://{user}:{quote(password, '')}@127.0.0.1:{port or self.port}/{database}")

    def connect(self) -> psycopg.Connection:
        """Connect as another program would; each statement is a transaction of its own."""
        return psycopg.connect(self.url().secret, autocommit=True)

    def empty(self) -> None:
        """Remove the shop, whoever is still connected."""
        with self.connect() as connection:
            connection.execute(DISCONNECT_OTHERS)
            connection.execute("DROP SCHEMA IF EXISTS inventory, payments, notifications, orders CASCADE")

    def _serves(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [FOLDERS[-1] / program, *arguments],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=self._user,
                group=pwd.getpwnam(self._user).pw_gid,
                extra_groups=[] if os.getuid() == 0 else None,
            )


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
