"""The worker's image. No engine runs here: a linter reads the Dockerfile, and the tests carry it out without one.

A virtual environment stands for the base image. What `pip` would install there it is asked, and the same versions are
taken from the environment of these tests: to download them again takes long.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import psycopg
import pytest
from conftest import Stage, make_order
from postgres_server import FOLDERS, PostgresServer
from test_compose import CLUSTER, compose, compose_is_at_hand
from test_imports import reached_from

from comparison.stage.processes import ROOT, STOP_TIMEOUT_SECONDS, Worker, clean_environment
from run_workflow import run_order
from shop.orders import Status

PROGRAMS = Path(sys.executable).parent
LOCK, WORKER_LOCK = ROOT / "requirements.lock", ROOT / "requirements-worker.lock"
BASE = re.compile(r"python:(?P<version>3\.\d+)\.\d+-slim-\w+")
INSTALL_TIMEOUT_SECONDS = 240
# With everything that would have to be escaped, in SQL or in a URL.
PASSWORD = 'it\'s "a" p@ss/word %'

pytestmark = pytest.mark.timeout(INSTALL_TIMEOUT_SECONDS + 50)


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file, continued ones joined, without comments and empty ones."""
    lines = path.read_text().replace("\\\n", "").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def instructions() -> list[tuple[str, str]]:
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines_of(ROOT / "Dockerfile"))]


def let_through() -> set[str]:
    """Return what .dockerignore lets through: it excludes everything, and then names what it lets through."""
    everything, *names, caches = lines_of(ROOT / ".dockerignore")
    assert (everything, caches) == ("*", "**/__pycache__")
    assert all(re.fullmatch(r"![\w.-]+", name) for name in names)
    return {name[1:] for name in names}


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def packages_in(lock: Path) -> dict[str, set[str]]:
    """Return the hashes of each package of a lock, by its line: name, version and marker."""
    blocks = re.findall(r"^(\S+==[^\\\n]*?) *\\\n((?: +--hash.*\n?)+)", lock.read_text(), re.MULTILINE)
    return {package: set(re.findall(r"--hash=(\S+)", hashes)) for package, hashes in blocks}


@dataclass(frozen=True)
class Image:
    """A folder with what the image holds, an environment with its Python, and the command that it starts."""

    directory: Path
    environment: dict[str, str]
    command: list[str]


def take_packages(environment: Path) -> None:
    """Put what the worker's lock names, and nothing else, into an environment."""
    (packages,) = environment.glob("lib/python*/site-packages")
    for name in packages_in(WORKER_LOCK):
        with suppress(PackageNotFoundError):  # of another Python or system
            installed = distribution(name.partition("==")[0])
            for file in installed.files or ():
                link = packages / file
                if ".." not in file.parts and not link.exists():  # some are listed twice
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(str(installed.locate_file(file)))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Carry the Dockerfile out."""
    root, context = tmp_path_factory.mktemp("image"), tmp_path_factory.mktemp("context")
    for name in let_through():
        copy(ROOT / name, context / name)
    directory, command = root, list[str]()
    python = root / "python" / "bin"
    environment = clean_environment(
        PATH=f"{python}:{PROGRAMS}:{os.environ['PATH']}",
    )
    for name, rest in instructions():
        if name == "FROM":
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "python"], check=True)
        elif name == "WORKDIR":
            directory = root / rest.lstrip("/")
            directory.mkdir()
        elif name == "COPY":
            source, target = rest.split()
            copy(context / source, directory / target)
        elif name == "RUN" and rest.startswith("pip install "):
            take_packages(root / "python")
        elif name == "RUN" and rest.startswith("python -m compileall "):
            subprocess.run(rest, shell=True, cwd=directory, env=environment, check=True)
        elif name == "ENTRYPOINT":
            command = json.loads(rest)
        else:
            assert name == "USER" or rest.startswith("useradd "), f"this test cannot carry out: {name} {rest}"
    return Image(directory, environment, command)


def test_the_linter_finds_nothing() -> None:
    linted = subprocess.run([PROGRAMS / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)

    assert (linted.returncode, linted.stdout, linted.stderr) == (0, "", "")


def test_the_base_is_slim_and_pinned_and_the_worker_is_not_root_and_gets_its_signals_itself() -> None:
    steps = instructions()
    (base,) = [rest for name, rest in steps if name == "FROM"]
    *_, (user, number), (entrypoint, command) = steps

    assert BASE.fullmatch(base)
    assert (user, number.isdecimal(), number == "0") == ("USER", True, False)
    assert (entrypoint, json.loads(command)) == ("ENTRYPOINT", ["python", "run_worker.py"])
    # While the image may still be written to.
    assert steps.index(("COPY", ". ./")) < steps.index(("RUN", "python -m compileall -q .")) < len(steps) - 2


def test_the_image_holds_what_a_worker_imports_and_nothing_else() -> None:
    imported = {name.partition(".")[0] for name in reached_from("run_worker") | {"run_worker"}}

    assert {Path(name).stem for name in let_through() - {WORKER_LOCK.name}} == imported


def test_the_workers_lock_is_the_part_of_the_lock_that_a_worker_needs() -> None:
    locked, for_the_worker = packages_in(LOCK), packages_in(WORKER_LOCK)

    assert {name.partition("==")[0] for name in for_the_worker} >= {"temporalio", "rich", "psycopg"}
    assert {name: locked.get(name) for name in for_the_worker} == for_the_worker
    assert all(for_the_worker.values())


def test_the_images_own_python_needs_no_compiler_on_another_machine_than_this(tmp_path: Path) -> None:
    (base,) = [BASE.fullmatch(rest) for name, rest in instructions() if name == "FROM"]
    (install,) = [rest.split() for name, rest in instructions() if name == "RUN" and rest.startswith("pip install ")]
    assert base
    platforms = [f"--platform={tag}_aarch64" for tag in ("manylinux2014", "manylinux_2_17", "manylinux_2_28")]

    resolved = subprocess.run(
        [sys.executable, "-m", *install, "--dry-run", f"--target={tmp_path}", *platforms]
        + [f"--python-version={base['version']}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_SECONDS,
    )

    assert resolved.returncode == 0, resolved.stderr
    assert "Would install" in resolved.stdout
    assert {"--only-binary", "--require-hashes", WORKER_LOCK.name} <= set(install)


async def test_the_image_completes_an_order_and_drains_on_sigterm(image: Image, stage: Stage) -> None:
    settings = {name: value for name, value in stage.settings.items() if name.startswith("TEMPORAL_")}
    worker = Worker(stage.directory / "worker", {**image.environment, **settings, "SHOP_DATA": str(stage.data)}, "")
    worker.tree, worker.executable, worker.arguments = image.directory, image.command[0], tuple(image.command[1:])
    stage.started.append(worker)

    await worker.start()
    outcome = await run_order(stage.client, make_order("1"), wait=True)
    worker.signal(signal.SIGTERM)  # as `docker stop` does
    status = await worker.wait(STOP_TIMEOUT_SECONDS)

    assert (outcome.status, status) == (Status.COMPLETED, 0)
    assert [charge.order_id for charge in stage.ledger().charges] == ["1"]
    assert "stopped; orders under way go on with the next worker" in worker.errors.read_text()


@pytest.fixture(scope="module")
def shop_of_compose(postgres: PostgresServer) -> dict[str, str]:
    """Make the shop's user and database as docker-compose.yml does; return the settings that lead there."""
    script = compose(*CLUSTER, "config")["configs"]["shop-database"]["content"]
    # The test's server has a user and a database named `shop`.
    subprocess.run(
        [FOLDERS[-1] / "psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", postgres.url().secret],
        input=script.replace("shop", "shop_of_compose"),
        env={**os.environ, "SHOP_PASSWORD": PASSWORD},
        text=True,
        check=True,
    )
    url = f"postgresql://shop_of_compose@127.0.0.1:{postgres.port}/shop_of_compose"
    return {"SHOP_DATA": url, "PGPASSWORD": PASSWORD}


@compose_is_at_hand
def test_the_shop_of_the_cluster_opens_in_a_worker(image: Image, shop_of_compose: dict[str, str]) -> None:
    settings = compose(*CLUSTER, "config")["services"]["worker"]["environment"] | shop_of_compose

    # As by `docker compose exec worker python -m shop ledger --json`.
    ledger = subprocess.run(
        ["python", "-m", "shop", "ledger", "--json"],
        cwd=image.directory,
        env={**image.environment, **settings},
        capture_output=True,
        check=True,
    ).stdout

    assert json.loads(ledger)["stock"]
    assert set(shop_of_compose) <= set(settings)


@compose_is_at_hand
def test_the_shops_user_may_make_nothing_in_another_database(
    postgres: PostgresServer, shop_of_compose: dict[str, str]
) -> None:
    url = f"postgresql://shop_of_compose@127.0.0.1:{postgres.port}/postgres"

    with (
        psycopg.connect(url, password=shop_of_compose["PGPASSWORD"]) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("CREATE TABLE of_temporal (id INTEGER)")
