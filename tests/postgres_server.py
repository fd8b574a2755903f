"""PostgreSQL and PgBouncer of a test's own: free ports of 127.0.0.1, folders of their own, a user without rights."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg

from comparison.stage.processes import POLL_SECONDS, READY_TIMEOUT_SECONDS, free_port
from shop.stores.location import PostgresUrl

PASSWORD = "walnut/plum@turnip"  # with what a URL takes for something else
# From Debian's package, which puts none of them on the path.
FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
POOLER = Path("/usr/sbin/pgbouncer")
OPTIONS = (
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "fsync=off",  # what a killed process has written is with the kernel; a power cut is not tested
    "shared_buffers=32MB",
)
STANDBY = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")
DISCONNECT_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


class PostgresServer:
    """A server that a test may kill and start again."""

    def __init__(self, *, of: PostgresServer | None = None) -> None:
        """Make an empty one, or a standby of another one; `start` starts it."""
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
        data = f"--pgdata={self.directory / 'data'}"
        if of:
            made = self._run(FOLDERS[-1] / "pg_basebackup", data, "--dbname", of.url().secret, *STANDBY)
        else:
            made = self._run(FOLDERS[-1] / "initdb", data, *options)
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
        self._process = self._run(FOLDERS[-1] / "postgres", "-D", str(self.directory / "data"), *options)
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

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Connect as another program would; each statement is a transaction of its own."""
        return psycopg.connect(self.url(database=database).secret, autocommit=True)

    def operate(self, *statements: str, database: str = "postgres") -> None:
        """Carry out statements, each a transaction of its own."""
        with self.connect(database) as operator:
            for statement in statements:
                operator.execute(statement.encode())

    @contextmanager
    def database(self, options: str = "", *statements: str) -> Iterator[PostgresUrl]:
        """Give a database `of_a_test`, on which `statements` were carried out, and a role of that name that owns it."""
        self.operate(
            f"CREATE ROLE of_a_test LOGIN PASSWORD '{PASSWORD}'",
            f"CREATE DATABASE of_a_test OWNER of_a_test TEMPLATE template0 {options}",
            *statements,
        )
        try:
            yield self.url("of_a_test", database="of_a_test")
        finally:
            self.operate("DROP DATABASE of_a_test WITH (FORCE)", "DROP OWNED BY of_a_test", "DROP ROLE of_a_test")

    @contextmanager
    def standby(self) -> Iterator[PostgresServer]:
        """Run a standby, which may be read and promoted."""
        standby = PostgresServer(of=self)
        try:
            standby.start()
            yield standby
        finally:
            standby.stop()

    @contextmanager
    def pooler(self, *settings: str) -> Iterator[int]:
        """Run PgBouncer before it; give its port."""
        port, directory = free_port(), self.directory / "pooler"
        directory.mkdir()
        users = "".join(f'"{user}" "{PASSWORD}"\n' for user in ("shop", "of_a_test"))
        (directory / "users").write_text(users)
        lines = (
            "[databases]",
            f"* = host=127.0.0.1 port={self.port}",
            "[pgbouncer]",
            *("listen_addr = 127.0.0.1", f"listen_port = {port}", "unix_socket_dir ="),
            *("auth_type = md5", f"auth_file = {directory / 'users'}", *settings),
        )
        (directory / "ini").write_text("\n".join(lines))
        pooler = self._run(POOLER, str(directory / "ini"))
        try:
            wait_for(lambda: accepts(port) or pooler.poll() is not None, "PgBouncer listens")
            assert pooler.poll() is None, self.log()
            yield port
        finally:
            pooler.kill()
            pooler.wait()
            shutil.rmtree(directory)

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

    def _run(self, program: Path, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [program, *arguments],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=self._user,
                group=pwd.getpwnam(self._user).pw_gid,
                extra_groups=[] if os.getuid() == 0 else None,
            )


def accepts(port: int) -> bool:
    """Tell whether a program listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(POLL_SECONDS)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
