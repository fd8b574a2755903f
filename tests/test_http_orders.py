"""Orders by HTTP: a real client, a real web server, and a Temporal server that is killed in between."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from conftest import Stage, make_order, make_stage
from test_cancellation import assert_done_once

from comparison.stage.processes import Program, Server, clean_environment, free_port
from shop.orders import Order
from shop.parsing import MAX_LINE_BYTES

ORDER = make_order()
ACCEPTED = {"order_id": "1", "status": "started", "detail": "order-1"}
ANSWER_SECONDS = 2.0
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP."""

    status: int
    document: dict[str, str]
    text: str
    headers: dict[str, str]
    seconds: float


class WebServer(Program):
    """The example as a process, and a client of it."""

    ready = "running on http://127.0.0.1"

    def __init__(self, log: Path, settings: dict[str, str]) -> None:
        self.port = free_port()
        super().__init__(log, settings, "-m", "examples.http_orders", f"--port={self.port}")

    async def ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        return await asyncio.to_thread(self._ask, method, path, body)

    async def post(self, order: Order) -> Answer:
        return await self.ask("POST", "/orders", json.dumps(asdict(order)).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> Answer:
        connection, begun = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS), time.monotonic()
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        document: dict[str, Any] = json.loads(text) if is_json else {}
        return Answer(response.status, document, text, dict(response.headers), time.monotonic() - begun)


@pytest.fixture
async def web(stage: Stage) -> AsyncIterator[WebServer]:
    """Run the example on the stage's namespace."""
    started = WebServer(stage.directory / "web", stage.settings)
    await started.start()
    yield started
    await started.kill()


@pytest.fixture(scope="module")
async def door(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WebServer]:
    """Run the example for the tests in which nothing is accepted."""
    stage = await make_stage(server, tmp_path_factory.mktemp("door"))
    started = WebServer(stage.directory / "web", stage.settings)
    await started.start()
    yield started
    await started.kill()


async def ended(web: WebServer, order_id: str) -> Answer:
    """Ask for an order until it has ended."""
    answer = await web.ask("GET", f"/orders/{order_id}")
    while answer.document["status"] == "started":
        await asyncio.sleep(0.1)
        answer = await web.ask("GET", f"/orders/{order_id}")
    return answer


async def test_an_order_is_accepted_without_a_worker_shown_as_started_and_then_as_it_ended(
    web: WebServer, stage: Stage
) -> None:
    accepted = await web.post(ORDER)
    under_way = await web.ask("GET", accepted.headers["location"])
    await stage.start_worker()
    outcome = await asyncio.wait_for(ended(web, "1"), PATIENCE_SECONDS)
    again = await web.post(ORDER)

    assert (accepted.status, accepted.document, accepted.headers["location"]) == (202, ACCEPTED, "/orders/1")
    assert (under_way.status, under_way.document) == (200, ACCEPTED)
    assert (outcome.status, outcome.document["status"]) == (200, "completed")
    assert (again.status, again.document) == (202, ACCEPTED)
    assert_done_once(stage.ledger(), ORDER)


async def test_the_same_order_many_times_at_once_is_one_order_with_one_answer(web: WebServer, stage: Stage) -> None:
    answers = await asyncio.gather(*(web.post(ORDER) for _ in range(8)))
    await stage.start_worker()
    await asyncio.wait_for(ended(web, "1"), PATIENCE_SECONDS)

    assert {answer.status for answer in answers} == {202}
    assert all(answer.document == ACCEPTED for answer in answers)
    assert_done_once(stage.ledger(), ORDER)


async def test_other_content_under_the_id_of_an_order_is_a_conflict_and_the_order_goes_on(
    web: WebServer, stage: Stage
) -> None:
    await web.post(ORDER)
    refused = await web.post(replace(ORDER, customer_id="grace"))
    await stage.start_worker()
    await asyncio.wait_for(ended(web, "1"), PATIENCE_SECONDS)

    assert (refused.status, refused.text) == (409, "order-1 runs or ran with other content; it was left alone")
    assert_done_once(stage.ledger(), ORDER)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda text: text.replace('"quantity": 2', '"quantity": 0'), "items[0].quantity: must be a whole number from"),
        (lambda text: text.replace('"quantity": 2', '"quantity": 2.0'), "items[0].quantity: must be a whole number"),
        (lambda text: text.replace('"currency"', '"money"'), "currency: is missing"),
        (lambda text: text.replace('"1"', '"a/b"'), "order_id: must match "),
        (lambda text: text[:-1], "order: is not JSON that can be read"),
        (lambda text: "", "order: is not JSON that can be read"),
        (lambda text: "[]", "order: must be a JSON object"),
    ],
)
async def test_a_malformed_order_is_refused_with_its_field_and_the_rule_and_is_not_started(
    door: WebServer, broken: Callable[[str], str], reason: str
) -> None:
    refused = await door.ask("POST", "/orders", broken(json.dumps(asdict(ORDER))).encode())

    assert refused.status == 422
    assert refused.text.startswith(reason)
    assert (await door.ask("GET", "/orders/1")).status == 404


async def test_an_order_that_is_too_long_is_refused(door: WebServer) -> None:
    refused = await door.ask("POST", "/orders", b" " * (MAX_LINE_BYTES + 1))

    assert (refused.status, refused.text) == (413, f"order: is longer than {MAX_LINE_BYTES} bytes")


async def test_a_client_that_leaves_before_its_order_is_complete_is_no_error(door: WebServer) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(b'POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"order_id"')
    await writer.drain()
    writer.close()
    await writer.wait_closed()

    # The web server has seen it when it has answered the next one.
    assert (await door.ask("GET", "/orders/1")).status == 404
    assert "Traceback" not in door.errors.read_text()


@pytest.mark.parametrize("path", ["/orders/2", "/", f"/orders/{'x' * 65}", f"/orders/{'x' * 2_000}"])
async def test_what_is_not_there_is_not_found(door: WebServer, path: str) -> None:
    assert (await door.ask("GET", path)).status == 404


@pytest.mark.parametrize(
    ("token", "faults", "status", "reason"),
    [
        ("tok_chargeDeclined", "", "rejected", "PaymentDeclined"),
        ("tok_visa", "process_payment:unavailable*inf", "failed", "ServiceUnavailable"),
    ],
)
async def test_an_order_that_did_not_complete_says_why(
    web: WebServer, stage: Stage, token: str, faults: str, status: str, reason: str
) -> None:
    await stage.start_worker(faults)
    await web.post(replace(ORDER, payment_token=token))
    outcome = await asyncio.wait_for(ended(web, "1"), PATIENCE_SECONDS)

    assert (outcome.status, outcome.document["status"]) == (200, status)
    assert reason in outcome.document["detail"]


async def test_an_order_that_was_cancelled_or_terminated_is_shown_as_such_and_a_terminated_one_is_started_anew(
    web: WebServer, stage: Stage
) -> None:
    await web.post(ORDER)
    await web.post(make_order("2"))
    await stage.client.get_workflow_handle("order-1").terminate()
    await stage.client.get_workflow_handle("order-2").cancel()
    terminated = await web.ask("GET", "/orders/1")
    again = await web.post(ORDER)
    await stage.start_worker()
    outcomes = [await asyncio.wait_for(ended(web, order_id), PATIENCE_SECONDS) for order_id in ("1", "2")]

    assert (terminated.document["status"], again.status) == ("unknown", 202)
    assert [outcome.document["status"] for outcome in outcomes] == ["completed", "cancelled"]
    assert outcomes[1].document["detail"].endswith("; nothing was charged")


async def test_while_the_server_is_dead_there_is_no_answer_but_503_and_after_it_the_same_order_is_accepted_once(
    own_server: Server, tmp_path: Path
) -> None:
    stage = Stage(own_server, "default", await own_server.client(), tmp_path)
    web = WebServer(tmp_path / "web", stage.settings)
    stage.started.append(web)
    try:
        await web.start()
        before = await web.post(ORDER)
        await own_server.kill()
        away = [await web.post(ORDER), await web.post(make_order("2")), await web.ask("GET", "/orders/1")]

        await own_server.start()
        while (after := await web.post(ORDER)).status == 503:
            await asyncio.sleep(0.1)
        await stage.start_worker()
        await asyncio.wait_for(ended(web, "1"), PATIENCE_SECONDS)
    finally:
        for program in stage.started:
            await program.kill()

    assert [(answer.status, answer.headers["retry-after"]) for answer in away] == [(503, "1")] * 3
    assert max(answer.seconds for answer in away) < ANSWER_SECONDS
    assert (before.status, before.document) == (after.status, after.document) == (202, ACCEPTED)
    assert_done_once(stage.ledger(), ORDER)


async def test_a_server_that_comes_later_than_the_web_server_is_found(tmp_path: Path) -> None:
    server = Server(tmp_path / "server")
    web = WebServer(tmp_path / "web", server.settings())
    try:
        await web.start()
        early = await web.post(ORDER)
        await server.start()
        while (later := await web.post(ORDER)).status == 503:
            await asyncio.sleep(0.1)
        web.signal(signal.SIGINT)
        status = await web.wait(20)
    finally:
        for program in (web, server):
            await program.kill()

    assert (early.status, later.status, status) == (503, 202, 0)
    assert early.seconds < ANSWER_SECONDS
    assert "Traceback" not in web.errors.read_text()
    assert web.output.read_text() == ""


@pytest.mark.parametrize("port", ["0", "65536", "x"])
async def test_a_port_that_is_none_is_bad_usage(tmp_path: Path, port: str) -> None:
    program = Program(tmp_path / "web", clean_environment(), "-m", "examples.http_orders", f"--port={port}")

    assert await program.run() == 2
    assert "Traceback" not in program.errors.read_text()
