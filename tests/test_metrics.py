"""`run_worker.py --metrics`: what it serves to Prometheus is what happened, under the names that the page lists."""

from __future__ import annotations

import asyncio
import re
import socket
import urllib.request
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import pytest
from conftest import Stage, make_order, make_stage
from temporalio.api.enums.v1 import EventType
from test_cancellation import serve, start, wait_for_event
from test_deploys import ChangedWorkflow
from test_run_worker import end_without_a_server, sentence_of, status_of, worker_that_ends

from comparison.stage.processes import ROOT, Server, Worker, free_port, wait_until
from plumbing.runtime import ip_and_port
from run_workflow import run_order
from shop.orders import Item, Order, Outcome, Status
from shop.shop import Shop
from workflows import workflow_id_for

Metrics: TypeAlias = dict[str, list[tuple[dict[str, str], float]]]
"""Of each metric, its labels and values."""

(SECTION,) = re.findall(
    r"^## Watch a worker$(.*?)(?=^## |\Z)", (ROOT / "docs/operating.md").read_text(), re.MULTILINE | re.DOTALL
)
WATCHED = re.findall(r"^\| `(\w+)`", SECTION, re.MULTILINE)
ORDERS = {
    Status.COMPLETED: make_order("completed"),
    Status.REJECTED: make_order("rejected", items=(Item("no-such-product", 1, 100),)),
    Status.FAILED: make_order("failed"),
    Status.CANCELLED: make_order("cancelled"),
    Status.UNKNOWN: make_order("unknown"),
}


def worker_with_metrics(stage: Stage, faults: str = "") -> tuple[Worker, str]:
    """Return a worker that serves metrics, not yet started, and where it serves them."""
    address = f"127.0.0.1:{free_port()}"
    worker = Worker(stage.directory / f"worker-{len(stage.started)}", stage.settings, stage.data, faults)
    worker.arguments += (f"--metrics={address}",)
    stage.started.append(worker)
    return worker, address


def scrape(address: str) -> Metrics:
    """Read metrics as Prometheus does."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    metrics: Metrics = {}
    for name, labels, value in re.findall(r"^(\w+)\{(.*)\} (\S+)$", "\n".join(lines), re.MULTILINE):
        metrics.setdefault(name, []).append((dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)))
    return metrics


def by(label: str, samples: list[tuple[dict[str, str], float]]) -> dict[str, float]:
    """Return the values of a metric that differ in one label only."""
    return {labels[label]: value for labels, value in samples}


def orders_by_outcome(metrics: Metrics) -> dict[str, float]:
    return by("outcome", metrics.get("orders_total", []))


@dataclass(frozen=True)
class Watched:
    """Metrics of a worker on which an order ended in each way, and another met a changed workflow."""

    stage: Stage
    outcomes: list[Outcome]
    metrics: Metrics
    replayed: list[str]
    metrics_of_the_next: Metrics


def half_done(shop: Shop) -> None:
    """Let the shop know two orders: one was taken but not confirmed, one was charged with other content."""
    shop.payments.process_payment(ORDERS[Status.COMPLETED])
    shop.inventory.update_inventory(ORDERS[Status.COMPLETED])
    shop.payments.process_payment(replace(ORDERS[Status.UNKNOWN], customer_id="grace"))


async def begin_with_another_workflow(stage: Stage, order: Order) -> None:
    """Let an order begin with a pause that the workflow of the repository does not take."""
    async with serve(stage.client, workflows=[ChangedWorkflow]):
        handle = await start(stage.client, order)
        await wait_for_event(handle, EventType.EVENT_TYPE_TIMER_STARTED)


@pytest.fixture(scope="module")
async def watched(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    stage = await make_stage(server, tmp_path_factory.mktemp("watched"))
    with closing(Shop(stage.data)) as shop:
        half_done(shop)
    await begin_with_another_workflow(stage, make_order("changed"))
    worker, address = worker_with_metrics(stage, "process_payment:unavailable*inf")
    await worker.start()
    running = asyncio.gather(*(run_order(stage.client, order, wait=True) for order in ORDERS.values()))
    await wait_until(lambda: "cancelled" in refused_payments(stage), "the order is being paid")
    await stage.client.get_workflow_handle(workflow_id_for("cancelled")).cancel()
    outcomes = await running
    name = "temporal_workflow_task_execution_failed_total"
    await wait_until(lambda: name in scrape(address), "the changed workflow is noticed")
    metrics = scrape(address)
    await worker.stop()
    next_worker, address = worker_with_metrics(stage)
    await next_worker.start()
    # A worker that has never seen a workflow answers a query by replaying all of it.
    handles = [stage.client.get_workflow_handle(workflow_id_for(order.order_id)) for order in ORDERS.values()]
    replayed = [await handle.query("status") for handle in handles]
    metrics_of_the_next = scrape(address)
    await next_worker.stop()
    yield Watched(stage, outcomes, metrics, replayed, metrics_of_the_next)


def refused_payments(stage: Stage) -> list[str]:
    """Return the order ids of all attempts that the payment service did not answer."""
    return [attempt.order_id for attempt in stage.ledger().attempts if attempt.outcome == "ServiceUnavailable"]


async def test_orders_are_counted_by_how_they_ended(watched: Watched) -> None:
    assert [outcome.status for outcome in watched.outcomes] == list(ORDERS)
    assert orders_by_outcome(watched.metrics) == {status.value: 1 for status in ORDERS}


async def test_a_worker_that_replays_orders_which_have_ended_does_not_count_them_again(watched: Watched) -> None:
    assert watched.replayed == [status.value for status in ORDERS]
    assert orders_by_outcome(watched.metrics_of_the_next) == {}


async def test_attempts_that_failed_are_counted_by_step_and_refusals_are_not(watched: Watched) -> None:
    failed = by("activity_type", watched.metrics["temporal_activity_execution_failed_total"])

    assert failed["process_payment"] == len(refused_payments(watched.stage)) > 0
    assert "validate_inventory" not in failed


async def test_every_metric_that_the_page_names_is_served(watched: Watched) -> None:
    served = {name.removesuffix("_bucket") for name in watched.metrics}

    assert len(WATCHED) == 5
    assert set(WATCHED) <= served


async def test_free_slots_are_as_many_as_the_worker_has_threads_when_nothing_runs(watched: Watched) -> None:
    free = by("worker_type", watched.metrics_of_the_next["temporal_worker_task_slots_available"])

    assert f"of {free['ActivityWorker']:.0f}" in SECTION


async def test_a_port_that_is_taken_is_named_in_one_sentence(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        worker = worker_that_ends(stage.settings, stage.directory, f"--metrics={address}")

        status = await status_of(worker)

    assert status == 1
    assert f"metrics cannot be served at {address}; choose another address or port" in sentence_of(worker)


@pytest.mark.parametrize(
    "address", ["9464", "localhost:9464", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "[::1]:x"]
)
def test_an_address_for_metrics_that_is_none_is_bad_usage_before_anything_is_connected_to(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status = end_without_a_server(monkeypatch, f"--data={tmp_path / 'shop'}", f"--metrics={address}")

    output, errors = capfd.readouterr()
    assert (status, output) == (2, "")
    sentence = errors.splitlines()[-1]
    assert sentence.endswith(f"must be an IP address and a port, as in 127.0.0.1:9464, not '{address}'")
    assert not (tmp_path / "shop").exists()


@pytest.mark.parametrize(("text", "address"), [("0.0.0.0:09464", "0.0.0.0:9464"), ("[::]:9464", "[::]:9464")])
def test_an_address_for_metrics_may_be_any_of_the_machine(text: str, address: str) -> None:
    assert ip_and_port(text) == address
