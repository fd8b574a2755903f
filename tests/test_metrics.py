"""`run_worker.py --metrics`: what it serves to Prometheus is what happened; an address that it cannot use ends it."""

from __future__ import annotations

import re
import socket
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest
from conftest import Stage, make_order, make_stage
from counter import serve, start, wait_for_event
from temporalio.api.enums.v1 import EventType
from test_deploys import ChangedWorkflow
from test_run_workflow import end_without_a_server

from comparison.stage.processes import ROOT, Server, Worker, free_port, wait_until
from plumbing.connection import add_search_attribute
from run_worker import main
from shop.orders import Item
from workflows import ORDER_STATUS

Metrics: TypeAlias = dict[str, list[tuple[dict[str, str], float]]]
"""Of each metric, its labels and values."""

(SECTION,) = re.findall(
    r"^## Watch a worker$(.*?)(?=^## |\Z)", (ROOT / "docs/operating.md").read_text(), re.MULTILINE | re.DOTALL
)
WATCHED = re.findall(r"^\| `(\w+)`", SECTION, re.MULTILINE)


def scrape(address: str) -> Metrics:
    """Read metrics as Prometheus does."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    metrics: Metrics = {}
    for name, labels, value in re.findall(r"^(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        metrics.setdefault(name, []).append((dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)))
    return metrics


def by(label: str, samples: list[tuple[dict[str, str], float]]) -> dict[str, float]:
    """Return the values of a metric that differ in one label only."""
    return {labels[label]: value for labels, value in samples}


@dataclass(frozen=True)
class Watched:
    """Metrics of a worker on which orders ended, and another met a changed workflow."""

    stage: Stage
    statuses: dict[str, str]
    metrics: Metrics


@pytest.fixture(scope="module")
async def watched(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    stage = await make_stage(server, tmp_path_factory.mktemp("watched"))
    await add_search_attribute(stage.client, ORDER_STATUS)
    async with serve(stage.client, workflows=[ChangedWorkflow]):
        handle = await start(stage.client, make_order("changed"))
        await wait_for_event(handle, EventType.EVENT_TYPE_TIMER_STARTED)
    address = f"127.0.0.1:{free_port()}"
    worker = Worker(stage.directory / "worker", stage.settings, stage.data, "process_payment:unavailable*inf")
    worker.arguments += (f"--metrics={address}",)
    await worker.start()
    _, statuses = await stage.run_orders(
        make_order("rejected", items=(Item("no-such-product", 1, 100),)), make_order("failed")
    )
    name = "temporal_workflow_task_execution_failed_total"
    await wait_until(lambda: name in scrape(address), "the changed workflow is noticed")
    metrics = scrape(address)
    await worker.kill()
    yield Watched(stage, statuses, metrics)


async def test_attempts_that_failed_are_counted_by_step_and_refusals_are_not(watched: Watched) -> None:
    failed = by("activity_type", watched.metrics["temporal_activity_execution_failed_total"])

    refused = [attempt for attempt in watched.stage.ledger().attempts if attempt.outcome == "ServiceUnavailable"]
    assert watched.statuses == {"rejected": "rejected", "failed": "failed"}
    assert failed == {"process_payment": len(refused)}


async def test_durations_are_in_seconds(watched: Watched) -> None:
    # By default the SDK serves them in milliseconds, under names without a unit.
    (samples,) = by("workflow_type", watched.metrics["temporal_workflow_endtoend_latency_seconds_sum"]).values()

    assert 2 < samples < 60  # The failed order has paused for three seconds; the rejected one ended at once.


async def test_the_metrics_that_the_page_names_are_served_and_slots_are_as_many_as_it_says(watched: Watched) -> None:
    served = {name.removesuffix("_bucket") for name in watched.metrics}
    slots = by("worker_type", watched.metrics["temporal_worker_task_slots_available"])["ActivityWorker"]

    assert len(WATCHED) == 5
    assert set(WATCHED) <= served
    assert f"near 0 of {slots:.0f}:" in SECTION


@pytest.mark.parametrize("address", ["9464", "127.0.0.1:65536", "taken"])
def test_an_address_that_metrics_cannot_be_served_at_is_bad_usage_in_one_sentence(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        if address == "taken":
            address = f"127.0.0.1:{taken.getsockname()[1]}"

        status = end_without_a_server(monkeypatch, main, f"--data={tmp_path / 'shop'}", f"--metrics={address}")

    output, errors = capfd.readouterr()
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith(f"run_worker: metrics cannot be served at {address}: ")
    assert not (tmp_path / "shop").exists()
