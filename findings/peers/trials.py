"""The same four trials for every program of this folder, judged by the shop's ledger.

    python trials.py PROGRAM CHANGED_PROGRAM [--needs SERVER] [--seconds N]

The trials run side by side, each in a folder of its own, on ports of its own, with a shop of its own.
CHANGED_PROGRAM is the program with a step inserted before the charge: it validates twice. The results go to standard
output, one line a trial, in words that another run repeats; how long it took goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from shop.ledger import Ledger, read_ledger
from shop.shop import Shop

ORDER_ID = "1001"
PEERS = Path(__file__).resolve().parent
ROOT = PEERS.parent.parent
# From Debian's packages, which put none of them on the path.
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
RABBITMQ = sorted(Path("/usr/lib/rabbitmq/lib").glob("*/sbin/rabbitmq-server"))
REDIS = shutil.which("redis-server")
READY_SECONDS = 150
POLL_SECONDS = 0.05
GRACE_SECONDS = 10
# So many processes an order may kill before it counts as one that is never given up.
DEATHS = 6
# So long without another death it is left alone, unless the engine says sooner that it has ended.
PATIENCE_SECONDS = 60
# What a trial says whose moment had gone before its processes were ready, as on a busy machine: it is repeated.
TOO_LATE = "too late"
TRIES = 5
ENDED = re.compile("complete|succe|fail|error", re.IGNORECASE)


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float) -> float | None:
    """Return after how many seconds the condition held; None if it did not in time."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if condition():
            return time.monotonic() - began
        time.sleep(POLL_SECONDS)
    return None


def times(count: int) -> str:
    """Return a count in words."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stop(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for a process that ends by itself; ask it to end, as a deploy does; make it."""
    for act, patience in ((None, seconds), (process.terminate, GRACE_SECONDS), (process.kill, None)):
        if act:
            act()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


class Stage:
    """The processes of one trial, in a folder of their own, with a shop and an engine that know no order."""

    def __init__(self, folder: Path, faults: str) -> None:
        """Open an empty shop in which `faults` will strike."""
        self.folder = folder
        self.environment = dict(
            os.environ, SHOP_DATA=str(folder / "shop"), SHOP_FAULTS=faults, PYTHONPATH=f"{ROOT}:{PEERS}"
        )
        self.sockets: tuple[int, ...] = ()
        self.ending_seconds = 0.0
        self.once_serving: Callable[[], None] | None = None
        self.processes: list[subprocess.Popen[bytes]] = []
        Shop(folder / "shop").close()

    @property
    def ledger(self) -> Ledger:
        """Return what has happened in the shop."""
        return read_ledger(self.folder / "shop")

    def runs_of(self, step: str) -> int:
        """Return how often a step was begun."""
        return sum(attempt.step == step for attempt in self.ledger.attempts)

    def run(self, *command: str | Path, name: str = "server", **settings: str) -> subprocess.Popen[bytes]:
        """Start a process; it ends with the trial."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=self.sockets,
            )
        self.processes.append(process)
        return process

    def worker(self, program: Path, name: str = "") -> subprocess.Popen[bytes]:
        """Start a process that works on orders, and wait until it does. Without a name it is as the engine names it."""
        log = self.folder / f"worker{name}.log"
        served = log.read_text().count("serving") if log.exists() else 0
        settings = {"DBOS__VMID": name} if name else {}
        process = self.run(sys.executable, program, "work", name=f"worker{name}", **settings)
        wait_until(lambda: process.poll() is not None or log.read_text().count("serving") > served, READY_SECONDS)
        # A poisonous order may have killed it before it could say so.
        if log.read_text().count("serving") == served and process.poll() != -signal.SIGKILL:
            sys.exit("the worker does not serve")
        if self.once_serving:
            self.once_serving()
            self.once_serving = None
        return process

    def ask(self, program: Path, command: str, *order_ids: str) -> str:
        """Run `start` or `state` for the order to its end; return the last line that it printed."""
        done = subprocess.run(
            [sys.executable, program, command, *(order_ids or (ORDER_ID,))],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=READY_SECONDS,
        )
        # Some end badly after they have printed their answer.
        if not done.stdout:
            sys.exit(f"{command}: {done.returncode} {done.stderr}")
        return (done.stdout.splitlines() or [""])[-1]

    def deaths_in(self, step: str) -> int:
        """Return how many processes died while they carried out a step."""
        begun = {
            attempt.pid for attempt in self.ledger.attempts if (attempt.step, attempt.outcome) == (step, "started")
        }
        return sum(not is_alive(pid) for pid in begun)

    def is_confirmed(self) -> bool:
        """Tell whether the customer has the mail."""
        return bool(self.ledger.confirmations)

    def summary(self, program: Path) -> str:
        """Return how the order stands, in the shop and in the words of the engine."""
        ledger = self.ledger
        [refunded] = {charge.refunded for charge in ledger.charges}
        paid = "refunded" if refunded else "charged"
        mailed = "mailed" if ledger.confirmations else "not mailed"
        return f"{paid}, {mailed}; the engine says: {self.ask(program, 'state')}"

    def close(self) -> None:
        """Kill what is left."""
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def without_rights(stage: Stage, user: str, data: Path) -> list[str]:
    """Make a folder for a server; return how a command begins that root carries out as `user`, the folder's owner."""
    data.mkdir(mode=0o700)
    if os.getuid() != 0:
        return []
    stage.folder.chmod(0o755)
    shutil.chown(data, user, user)
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]


def serve_postgres(stage: Stage) -> None:
    """Start PostgreSQL for the trial, as a user without rights: it refuses to run as root."""
    if not POSTGRES:
        sys.exit("PostgreSQL's server is not in /usr/lib/postgresql: apt-get install postgresql")
    port, data = free_port(), stage.folder / "postgres"
    become = without_rights(stage, "postgres", data)
    initdb = [*become, POSTGRES[-1] / "initdb", "-D", data, "-U", "shop", "-A", "trust", "--no-sync", "-E", "UTF8"]
    made = stage.run(*initdb)
    if made.wait():
        sys.exit((stage.folder / "server.log").read_text())
    options = [f"-cport={port}", "-clisten_addresses=127.0.0.1", "-cunix_socket_directories="]
    stage.run(*become, POSTGRES[-1] / "postgres", "-D", data, *options)
    wait_for_port(port)
    stage.environment |= {
        "DATABASE_URL": f"postgresql://shop@127.0.0.1:{port}/postgres",
        "PGPASSWORD": "none",
        # For programs that set an engine's tables up; some call psql.
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port),
        "PGUSER": "shop",
        "PGDATABASE": "postgres",
        "PATH": f"{Path(sys.executable).parent}:{POSTGRES[-1]}:{os.environ['PATH']}",
    }


def wait_for_port(port: int) -> None:
    """Wait until somebody listens."""

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    if wait_until(answers, READY_SECONDS) is None:
        sys.exit(f"nothing listens on port {port}")


def serve_restate(stage: Stage) -> None:
    """Start Restate's server for the trial, and the socket that all its workers share, as behind a load balancer."""
    ports = {name: free_port() for name in ("NODE", "INGRESS", "ADMIN")}
    address = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    settings = {
        "RESTATE_BIND_ADDRESS": address["NODE"],
        "RESTATE_INGRESS__BIND_ADDRESS": address["INGRESS"],
        "RESTATE_ADMIN__BIND_ADDRESS": address["ADMIN"],
        "RESTATE_LISTEN_MODE": "tcp",
        "RESTATE_BASE_DIR": str(stage.folder / "restate"),
        "RESTATE_DISABLE_TELEMETRY": "true",
    }
    stage.run(os.environ["RESTATE_SERVER"], "--node-name=one", **settings)
    listening = socket.create_server(("127.0.0.1", 0))
    stage.sockets = (listening.detach(),)
    service = f"http://127.0.0.1:{socket.socket(fileno=os.dup(stage.sockets[0])).getsockname()[1]}"
    admin = f"http://{address['ADMIN']}"
    stage.environment |= {
        "RESTATE_INGRESS": f"http://{address['INGRESS']}",
        "RESTATE_ADMIN": admin,
        "LISTEN_ON": f"fd://{stage.sockets[0]}",
    }
    wait_for_port(ports["ADMIN"])
    wait_for_port(ports["INGRESS"])

    def register() -> None:
        body = json.dumps({"uri": service, "force": False}).encode()
        request = urllib.request.Request(f"{admin}/deployments", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=READY_SECONDS).close()

    stage.once_serving = register


def serve_temporal(stage: Stage) -> None:
    """Start Temporal's development server for the trial."""
    ports = free_port(), free_port()
    stage.run(
        sys.executable,
        ROOT / "run_server.py",
        *("--port", str(ports[0]), "--ui-port", str(ports[1]), "--db", str(stage.folder / "temporal.db")),
    )
    stage.environment["TEMPORAL_ADDRESS"] = f"127.0.0.1:{ports[0]}"
    wait_for_port(ports[0])


def serve_aws(stage: Stage) -> None:
    """Start the local runner of AWS for the trial, and the socket that the functions' stand-ins share."""
    port = free_port()
    listening = socket.create_server(("127.0.0.1", 0))
    functions = f"http://127.0.0.1:{listening.getsockname()[1]}"
    stage.sockets = (listening.detach(),)
    runner = f"http://127.0.0.1:{port}"
    stage.environment |= {
        "AWS_ENDPOINT_URL_LAMBDA": runner,
        "LISTEN_ON": str(stage.sockets[0]),
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-west-2",
    }
    command = Path(sys.executable).with_name("dex-local-runner"), "start-server", "--host", "127.0.0.1"
    stage.run(
        *command,
        *("--port", str(port), "--lambda-endpoint", functions, "--local-runner-endpoint", runner),
    )
    wait_for_port(port)


def serve_redis(stage: Stage) -> None:
    """Start Redis for the trial."""
    if not REDIS:
        sys.exit("redis-server is not on the path: apt-get install redis-server")
    port = free_port()
    stage.run(REDIS, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(stage.folder), "--save", "")
    stage.environment["REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
    wait_for_port(port)


def serve_prefect(stage: Stage) -> None:
    """Start Prefect's server for the trial, on SQLite in its folder."""
    port = free_port()
    stage.environment |= {
        "PREFECT_HOME": str(stage.folder / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
    }
    prefect = Path(sys.executable).with_name("prefect")
    stage.run(prefect, "server", "start", "--host", "127.0.0.1", "--port", str(port))
    wait_for_port(port)


def serve_rabbitmq(stage: Stage) -> None:
    """Start RabbitMQ for the trial, as a user without rights, and the register of names that Erlang wants."""
    if not RABBITMQ:
        sys.exit("RabbitMQ's server is not in /usr/lib/rabbitmq: apt-get install rabbitmq-server")
    port, names, data = free_port(), free_port(), stage.folder / "rabbitmq"
    become = without_rights(stage, "rabbitmq", data)
    configuration = stage.folder / "rabbitmq.conf"
    configuration.write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\n")
    settings = {
        "HOME": str(data),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(names),
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_CONFIG_FILE": str(configuration),
        "RABBITMQ_NODENAME": "trial@localhost",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_MNESIA_BASE": str(data),
        "RABBITMQ_LOG_BASE": str(data),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(data / "plugins"),
    }
    stage.run(*become, "epmd", **settings)
    wait_for_port(names)
    stage.run(*become, RABBITMQ[-1], **settings)
    stage.environment["RABBITMQ_URL"] = f"amqp://guest:guest@127.0.0.1:{port}//"
    wait_for_port(port)


NEEDS: dict[str, Callable[[Stage], None]] = {
    "nothing": lambda stage: None,
    "postgres": serve_postgres,
    "restate": serve_restate,
    "temporal": serve_temporal,
    "aws": serve_aws,
    "redis": serve_redis,
    "rabbitmq": serve_rabbitmq,
    "prefect": serve_prefect,
}


def killed_after_the_charge(stage: Stage, program: Path, changed: Path, seconds: float) -> str:
    """Kill the process that charged, before it could report; another one lives."""
    workers = {name: stage.worker(program, name) for name in ("a", "b")}
    stage.ask(program, "start")
    if wait_until(lambda: stage.deaths_in("process_payment") > 0, READY_SECONDS) is None:
        sys.exit("no worker took the order")
    took = wait_until(lambda: stage.runs_of("process_payment") == 2, seconds)
    who = "a living process"
    if took is None:
        print(f"no living process took over in {seconds:.0f} s", file=sys.stderr)
        for name in [name for name, worker in workers.items() if worker.poll() is not None]:
            stage.worker(program, name)
        took = wait_until(lambda: stage.runs_of("process_payment") == 2, seconds)
        who = "only the same process, started again,"
    if took is None:
        return f"nobody resumed it; {stage.summary(program)}"
    print(f"{who} resumed it after {took:.1f} s", file=sys.stderr)
    wait_until(stage.is_confirmed, READY_SECONDS)
    time.sleep(1)
    return f"{who} resumed it; the charge ran {times(stage.runs_of('process_payment'))}; {stage.summary(program)}"


def order_that_kills(stage: Stage, program: Path, changed: Path, seconds: float) -> str:
    """Kill each process that charges this order. A supervisor starts the next."""
    worker, deaths = stage.worker(program, "a"), 0
    began = died = time.monotonic()
    stage.ask(program, "start")
    while deaths < DEATHS and time.monotonic() - died < PATIENCE_SECONDS:
        time.sleep(POLL_SECONDS)
        if stage.deaths_in("process_payment") > deaths:
            deaths, died = deaths + 1, time.monotonic()
        if worker.poll() is not None:
            worker = stage.worker(program, "a")
        if time.monotonic() - died > seconds and ENDED.search(stage.ask(program, "state")):
            break
    print(f"{deaths} deaths in {died - began:.0f} s", file=sys.stderr)
    given_up = "not given up" if deaths == DEATHS else "given up"
    return f"{given_up} after {deaths} deaths; {stage.summary(program)}"


def step_inserted(stage: Stage, program: Path, changed: Path, seconds: float) -> str:
    """Kill the process after the charge was recorded, and start one with another step before the charge."""
    worker = stage.worker(program, "a")
    stage.ask(program, "start")
    if wait_until(lambda: stage.deaths_in("update_inventory") > 0, READY_SECONDS) is None:
        sys.exit("no worker took the order")
    stop(worker, stage.ending_seconds)  # the engine's own part of it, where a child died
    stage.worker(changed, "a")
    took = wait_until(stage.is_confirmed, seconds)
    time.sleep(1)
    ran = "ran" if stage.runs_of("validate_inventory") > 1 else "did not run"
    ended = "the order ended" if took is not None else "the order did not end"
    return f"{ended}, the inserted step {ran}; {stage.summary(program)}"


def second_process(stage: Stage, program: Path, changed: Path, seconds: float) -> str:
    """Start a second process by the same command while the first one charges; nobody dies."""
    stage.worker(program)
    stage.ask(program, "start")
    if wait_until(lambda: stage.runs_of("process_payment") > 0, READY_SECONDS) is None:
        sys.exit("no worker took the order")
    stage.worker(program)
    if any((run.step, run.outcome) == ("process_payment", "ok") for run in stage.ledger.attempts):
        return TOO_LATE
    wait_until(stage.is_confirmed, READY_SECONDS)
    time.sleep(3)
    charges = sum((run.step, run.outcome) == ("process_payment", "ok") for run in stage.ledger.attempts)
    return f"the charge ran {times(charges)}; {stage.summary(program)}"


TRIALS = {
    killed_after_the_charge: "process_payment:crash_after",
    order_that_kills: "process_payment:crash_after*inf",
    step_inserted: "update_inventory:crash_before",
    # Five seconds and a half for the second process to start in.
    second_process: "process_payment:unavailable*2,process_payment:slow(2.5)",
}
NAMES = [trial.__name__ for trial in TRIALS]


@contextlib.contextmanager
def staged(faults: str, needs: str, set_up: list[str]) -> Iterator[Stage]:
    """Give a trial its stage, and clear it away."""
    folder = Path(tempfile.mkdtemp(prefix="trial-"))
    stage = Stage(folder, faults)
    try:
        NEEDS[needs](stage)
        for command in set_up:
            if stage.run("/usr/bin/env", *command.split()).wait():
                sys.exit(f"{command}: failed")
        yield stage
    except SystemExit:
        for log in folder.glob("*.log"):
            print(f"--- {log.name}", log.read_text()[-2000:], sep="\n", file=sys.stderr)
        raise
    finally:
        stage.close()
        shutil.rmtree(folder)


def main() -> None:
    """Carry out the trials, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", type=Path)
    parser.add_argument("changed", type=Path)
    parser.add_argument("--needs", choices=NEEDS, default="nothing")
    parser.add_argument("--set-up", action="append", default=[], metavar="COMMAND", help="makes the engine's tables")
    parser.add_argument("--seconds", type=float, default=20, help="how long to wait for a recovery (default: 20)")
    parser.add_argument(
        "--ending", type=float, default=0, help="how long a program needs that ends after its child died"
    )
    parser.add_argument("--trial", choices=NAMES, help="only this one (default: all, side by side)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    if not arguments.trial:
        side_by_side()
        return
    [trial] = [trial for trial in TRIALS if trial.__name__ == arguments.trial]
    for _ in range(TRIES):
        with staged(TRIALS[trial], arguments.needs, arguments.set_up) as stage:
            stage.ending_seconds = arguments.ending
            result = trial(stage, arguments.program.resolve(), arguments.changed.resolve(), arguments.seconds)
        if result != TOO_LATE:
            print(f"{arguments.trial.replace('_', ' ')}: {result}")
            return
    sys.exit(f"{arguments.trial}: {TOO_LATE} {TRIES} times; try again on a machine with less to do")


def side_by_side() -> None:
    """Carry out each trial in a process of its own, and print the results in the order of the trials."""
    runs = [subprocess.Popen([sys.executable, *sys.argv, "--trial", name], stdout=subprocess.PIPE) for name in NAMES]
    try:
        for run in runs:
            print(run.communicate()[0].decode(), end="", flush=True)
    finally:
        for run in runs:
            run.terminate()
            run.wait()
    if any(run.returncode for run in runs):
        sys.exit("not all trials could be carried out")


if __name__ == "__main__":
    main()
