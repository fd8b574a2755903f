"""Orders by HTTP: a real client, a real web server, and a Temporal server that is killed in between."""

from __future__ import annotations

import asyncio
import base64
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
from counter import assert_done_once, serving, start

from comparison.stage.processes import Program, Server, free_port
from examples.http_orders import main
from plumbing.connection import connect
from shop.orders import Order
from shop.parsing import MAX_LINE_BYTES

ORDER = make_order()
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

    def __init__(self, stage: Stage) -> None:
        self.stage, self.port = stage, free_port()
        log = stage.directory / "web"
        super().__init__(log, stage.settings, "-m", "examples.http_orders", f"--port={self.port}")

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


@pytest.fixture(scope="module")
async def web(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WebServer]:
    """Run the example for all tests: each has an order of its own."""
    stage = await make_stage(server, tmp_path_factory.mktemp("web"))
    running = WebServer(stage)
    await running.start()
    yield running
    await running.kill()


def accepted(order: Order) -> dict[str, str]:
    return {"order_id": order.order_id, "status": "started", "detail": f"order-{order.order_id}"}


async def ended(web: WebServer, order: Order) -> Answer:
    """Ask for an order until it has ended."""

    async def ask() -> Answer:
        while (answer := await web.ask("GET", f"/orders/{order.order_id}")).document["status"] == "started":
            await asyncio.sleep(0.1)
        return answer

    return await asyncio.wait_for(ask(), PATIENCE_SECONDS)


async def test_an_order_is_accepted_without_a_worker_shown_as_started_and_then_as_it_ended(web: WebServer) -> None:
    order = make_order("late")
    first = await web.post(order)
    under_way = await web.ask("GET", first.headers["location"])
    async with serving(web.stage):
        outcome = await ended(web, order)
    again = await web.post(order)

    assert (first.status, first.document, first.headers["location"]) == (202, accepted(order), "/orders/late")
    assert (under_way.status, under_way.document) == (200, accepted(order))
    assert (outcome.status, outcome.document["status"]) == (200, "completed")
    assert (again.status, again.document) == (202, accepted(order))
    assert_done_once(web.stage.ledger(), order)


async def test_the_same_order_many_times_at_once_is_one_order_and_other_content_under_its_id_a_conflict(
    web: WebServer,
) -> None:
    order = make_order("many")
    answers = await asyncio.gather(*(web.post(order) for _ in range(8)))
    refused = await web.post(replace(order, customer_id="grace"))
    async with serving(web.stage):
        await ended(web, order)

    assert {answer.status for answer in answers} == {202}
    assert all(answer.document == accepted(order) for answer in answers)
    assert (refused.status, refused.text) == (409, "order-many runs or ran with other content; it was left alone")
    assert_done_once(web.stage.ledger(), order)


async def test_an_order_whose_key_is_not_here_is_answered_with_503_and_the_reason(web: WebServer) -> None:
    order, keys = make_order("sealed"), web.stage.directory / "keys"
    keys.write_bytes(base64.b64encode(bytes(32)))
    client = await connect({**web.stage.settings, "PAYLOAD_KEYS_FILE": str(keys)})
    await start(client, order)

    answer = await web.post(order)

    assert (answer.status, "is not in PAYLOAD_KEYS_FILE" in answer.text) == (503, True)
    assert "Traceback" not in web.errors.read_text()


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
    web: WebServer, broken: Callable[[str], str], reason: str
) -> None:
    refused = await web.ask("POST", "/orders", broken(json.dumps(asdict(ORDER))).encode())

    assert refused.status == 422
    assert refused.text.startswith(reason)
    assert (await web.ask("GET", "/orders/1")).status == 404


async def test_an_order_that_is_too_long_is_refused(web: WebServer) -> None:
    refused = await web.ask("POST", "/orders", b" " * (MAX_LINE_BYTES + 1))

    assert (refused.status, refused.text) == (413, f"order: is longer than {MAX_LINE_BYTES} bytes")


async def test_a_client_that_leaves_before_its_order_is_complete_is_no_error(web: WebServer) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(b'POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"order_id"')
    await writer.drain()
    writer.close()
    await writer.wait_closed()

    # The web server has seen it when it has answered the next one.
    assert (await web.ask("GET", "/orders/1")).status == 404
    assert "Traceback" not in web.errors.read_text()


@pytest.mark.parametrize("path", ["/orders/2", "/", f"/orders/{'x' * 65}", f"/orders/{'x' * 2_000}"])
async def test_what_is_not_there_is_not_found(web: WebServer, path: str) -> None:
    assert (await web.ask("GET", path)).status == 404


@pytest.mark.parametrize(
    ("token", "faults", "status", "reason"),
    [
        ("tok_chargeDeclined", "", "rejected", "PaymentDeclined"),
        ("tok_visa", "process_payment:unavailable*inf", "failed", "ServiceUnavailable"),
    ],
)
async def test_an_order_that_did_not_complete_says_why(
    web: WebServer, token: str, faults: str, status: str, reason: str
) -> None:
    order = make_order(status, payment_token=token)
    async with serving(web.stage, faults):
        await web.post(order)
        outcome = await ended(web, order)

    assert (outcome.status, outcome.document["status"]) == (200, status)
    assert reason in outcome.document["detail"]


async def test_an_order_that_was_cancelled_or_terminated_is_shown_as_such_and_a_terminated_one_is_started_anew(
    web: WebServer,
) -> None:
    orders = make_order("terminated"), make_order("cancelled")
    for order in orders:
        await web.post(order)
    await web.stage.client.get_workflow_handle("order-terminated").terminate()
    await web.stage.client.get_workflow_handle("order-cancelled").cancel()
    terminated = await web.ask("GET", "/orders/terminated")
    again = await web.post(orders[0])
    async with serving(web.stage):
        outcomes = [await ended(web, order) for order in orders]

    assert (terminated.document["status"], again.status) == ("unknown", 202)
    assert [outcome.document["status"] for outcome in outcomes] == ["completed", "cancelled"]
    assert outcomes[1].document["detail"].endswith("; nothing was charged")


async def test_while_the_server_is_away_there_is_no_answer_but_503_and_after_it_the_same_order_is_accepted_once(
    own_server: Server, tmp_path: Path
) -> None:
    """Before it ever came, and after it was killed."""
    stage = Stage(own_server, "default", await own_server.client(), tmp_path)
    web = WebServer(stage)
    await own_server.kill()
    try:
        await web.start()
        away = [await web.post(ORDER)]
        await own_server.start()
        before = await accepted_at_last(web)
        await own_server.kill()
        away += [await web.post(ORDER), await web.post(make_order("2")), await web.ask("GET", "/orders/1")]
        await own_server.start()
        after = await accepted_at_last(web)
        async with serving(stage):
            await ended(web, ORDER)
        web.signal(signal.SIGINT)
        status = await web.wait(20)
    finally:
        await web.kill()

    assert [(answer.status, answer.headers["retry-after"]) for answer in away] == [(503, "1")] * 4
    assert max(answer.seconds for answer in away) < ANSWER_SECONDS
    assert (before.status, before.document) == (after.status, after.document) == (202, accepted(ORDER))
    assert_done_once(stage.ledger(), ORDER)
    assert status == 0
    assert "Traceback" not in web.errors.read_text()
    assert web.output.read_text() == ""


async def accepted_at_last(web: WebServer) -> Answer:
    """Post the order until the server is found."""
    while (answer := await web.post(ORDER)).status == 503:
        await asyncio.sleep(0.1)
    return answer


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_a_port_that_is_none_is_bad_usage(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["http_orders", f"--port={port}"])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
