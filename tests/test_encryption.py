"""What the server keeps of an order is readable with the keys alone; what happens where one is missing or wrong."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import TEMPORAL, Stage, make_order, make_stage, write_orders
from counter import Counter, Handle, PlanOfEachOrder, serve, start, wait_for_event
from google.protobuf.json_format import MessageToJson, Parse
from proofs.browser import browser, is_installed
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryResponse,
)
from temporalio.client import ActivityFailureError, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import RawValue
from temporalio.converter import DefaultPayloadConverter
from temporalio.exceptions import ApplicationError

from comparison.stage.processes import (
    STOP_TIMEOUT_SECONDS,
    Program,
    Server,
    Worker,
    clean_environment,
    free_port,
)
from examples.codec_endpoint import MAX_BODY_BYTES, CodecEndpoint, main
from plumbing.connection import NoConnection, add_search_attribute, connect
from plumbing.encryption import ENCRYPTED, KEY_ID, Encryption, key_id_of, read_keys
from plumbing.waiting import what_for
from run_workflow import run_order
from shop.faults import FaultPlan, parse_faults
from shop.orders import Outcome, Status
from shop.shop import Shop
from workflows import ATTEMPT_TIMEOUT, ORDER_STATUS, TASK_QUEUE

OLD, NEW = os.urandom(32), os.urandom(32)
TOKEN = "tok_visa"
NO_FAULTS, NO_STOCK = FaultPlan(), parse_faults("update_inventory:unavailable*inf")
REFUSED_WITHIN_SECONDS = 10.0


def key_file(path: Path, *keys: bytes) -> Path:
    path.write_bytes(b"".join(base64.b64encode(key) + b"\n" for key in keys))
    return path


def with_keys(stage: Stage, *keys: bytes) -> dict[str, str]:
    """Return the settings of a program that has these keys; none, if none are given."""
    if not keys:
        return stage.settings
    name = "-".join(map(key_id_of, keys))
    return {**stage.settings, "PAYLOAD_KEYS_FILE": str(key_file(stage.directory / f"{name}.keys", *keys))}


@asynccontextmanager
async def serving(stage: Stage, *keys: bytes, plan: FaultPlan = NO_FAULTS) -> AsyncIterator[Counter]:
    """Serve the stage's shop by a worker that has these keys, as has the client that is given."""
    client = await connect(with_keys(stage, *keys))
    await add_search_attribute(client, ORDER_STATUS)
    with closing(Shop(stage.data, plan)) as shop:
        async with serve(client, shop):
            yield Counter(replace(stage, client=client), shop, {})


@pytest.fixture(scope="module")
async def secret(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Counter]:
    """Serve by a worker that has the key NEW, an order that is named like a step without that step's service."""
    stage = await make_stage(server, tmp_path_factory.mktemp("secret"))
    plans = {step: parse_faults(f"{step}:unavailable*inf") for step in ("process_payment", "update_inventory")}
    async with serving(stage, NEW, plan=PlanOfEachOrder(plans=plans)) as counter:
        yield counter


async def run(counter: Counter, order_id: str) -> Outcome:
    return await run_order(counter.stage.client, make_order(order_id), wait=True)


async def begin(counter: Counter, order_id: str) -> Handle:
    """Start an order, and wait until it waits for its stock."""
    handle = await start(counter.stage.client, make_order(order_id))
    await counter.wait_for_attempt(make_order(order_id), "update_inventory")
    return handle


async def history(stage: Stage, order_id: str) -> GetWorkflowExecutionHistoryResponse:
    execution = WorkflowExecution(workflow_id=f"order-{order_id}")
    return await stage.client.workflow_service.get_workflow_execution_history(
        GetWorkflowExecutionHistoryRequest(namespace=stage.namespace, execution=execution)
    )


async def kept_by_the_server(stage: Stage, order_id: str) -> bytes:
    """Return all that the server tells of an order."""
    execution = WorkflowExecution(workflow_id=f"order-{order_id}")
    described = await stage.client.workflow_service.describe_workflow_execution(
        DescribeWorkflowExecutionRequest(namespace=stage.namespace, execution=execution)
    )
    return (await history(stage, order_id)).SerializeToString() + described.SerializeToString()


def keys_used(kept: bytes) -> set[str]:
    """Return the ids of the keys under which something is encrypted."""
    return {key_id for key_id in map(key_id_of, (OLD, NEW)) if key_id.encode() in kept}


async def test_with_a_key_the_server_keeps_nothing_that_was_said_of_an_order_and_the_order_is_the_same(
    secret: Counter,
) -> None:
    outcome = await run(secret, "secret")

    kept = await kept_by_the_server(secret.stage, "secret")
    assert outcome.status is Status.COMPLETED
    for text in (TOKEN, outcome.detail, "payment_token", "customer_id", "quantity"):
        assert text.encode() not in kept, text
    # What stays in clear: ids, types, the names of steps, and search attributes.
    for clear in ("order-secret", "OrderWorkflow", "process_payment", "OrderStatus", "completed"):
        assert clear.encode() in kept, clear
    assert keys_used(kept) == {key_id_of(NEW)}


async def test_why_an_order_failed_is_encrypted_and_the_starter_tells_it(secret: Counter) -> None:
    outcome = await run(secret, "process_payment")

    kept = await kept_by_the_server(secret.stage, "process_payment")
    assert "the service is unavailable" in outcome.detail
    assert b"unavailable" not in kept
    assert b"Encoded failure" in kept


async def test_what_an_order_waits_for_and_what_a_cancel_gave_back_is_told_to_those_that_have_the_key(
    secret: Counter,
) -> None:
    client = secret.stage.client
    handle = await begin(secret, "update_inventory")

    while "unavailable" not in (told := await what_for(client, handle.id)):
        await asyncio.sleep(0.1)
    await handle.cancel()
    outcome = await run(secret, "update_inventory")

    kept = await kept_by_the_server(secret.stage, "update_inventory")
    assert re.fullmatch(r"update_inventory, attempt \d+: the service is unavailable.*", told)
    assert outcome.detail.endswith(" USD refunded")
    assert b"refunded" not in kept


async def test_orders_from_before_the_keys_go_on_under_them_and_stay_readable(stage: Stage) -> None:
    async with serving(stage, plan=NO_STOCK) as without:
        await begin(without, "before")
    in_clear = await kept_by_the_server(stage, "before")
    async with serving(stage, NEW) as counter:
        outcome = await run(counter, "before")

    assert TOKEN.encode() in in_clear
    assert outcome.status is Status.COMPLETED
    assert keys_used(in_clear) == set()
    assert keys_used(await kept_by_the_server(stage, "before")) == {key_id_of(NEW)}


async def test_keys_are_rotated_under_running_orders_with_old_and_new_workers_side_by_side(stage: Stage) -> None:
    async with serving(stage, OLD, plan=NO_STOCK) as first:
        await begin(first, "old")
    # One step: every worker learns the new key; the old one still encrypts.
    # Two: one by one, they encrypt with the new one. What either writes, both read.
    async with serving(stage, OLD, NEW) as learned, serving(stage, NEW, OLD) as moved:
        outcomes = [await run(counter, str(number)) for number, counter in enumerate([learned, moved] * 2)]
    async with serving(stage, NEW, OLD) as moved:
        outcomes.append(await run(moved, "old"))
    # Three: the old key goes. What was written under it cannot be read any more; what is new can.
    async with serving(stage, NEW) as alone:
        outcomes.append(await run(alone, "new"))

    assert {outcome.status for outcome in outcomes} == {Status.COMPLETED}
    assert keys_used(await kept_by_the_server(stage, "old")) >= {key_id_of(OLD)}
    assert max(row.attempt for row in stage.ledger().attempts if row.step != "update_inventory") == 1
    assert keys_used(await kept_by_the_server(stage, "new")) == {key_id_of(NEW)}


@pytest.mark.parametrize("keys", [(), (OLD,)], ids=["no key", "another key"])
async def test_an_order_waits_while_its_workers_lack_the_key_and_goes_on_with_one_that_has_it(
    keys: tuple[bytes, ...], stage: Stage
) -> None:
    has_key = await connect(with_keys(stage, NEW))
    # A workflow task that failed is repeated after this time; by default after ten seconds.
    handle = await start(has_key, make_order("waits"), task_timeout=timedelta(seconds=1))
    async with serving(stage, *keys) as without:
        await wait_for_event(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED)
        failed = [event.workflow_task_failed_event_attributes.failure async for event in handle.fetch_history_events()]
        converter = without.stage.client.data_converter
        (said, *_) = [str(await converter.decode_failure(failure)) for failure in failed if failure.message]
        outcome_without = await run(without, "waits")
        status = (await handle.describe()).status
        tried = without.ledger().attempts
    async with serving(stage, NEW) as counter:
        outcome = await run(counter, "waits")

    sentence = f"it is encrypted under key {key_id_of(NEW)}, which is not in PAYLOAD_KEYS_FILE of this process"
    assert sentence in said
    assert (status, tried) == (WorkflowExecutionStatus.RUNNING, ())
    # So does a starter that lacks it.
    assert outcome_without == Outcome("waits", Status.UNKNOWN, sentence)
    assert outcome.status is Status.COMPLETED


def sealed(content: bytes, key: bytes = NEW, **metadata: bytes) -> Payload:
    return Payload(metadata={"encoding": ENCRYPTED, KEY_ID: key_id_of(key).encode(), **metadata}, data=content)


def encrypted(payload: Payload) -> Payload:
    (done,) = asyncio.run(Encryption([NEW]).encode([payload]))
    return done


GOOD = encrypted(DefaultPayloadConverter().to_payload({"order_id": "x"}))
DAMAGED = {
    "no content": sealed(b""),
    "less than a nonce": sealed(b"short"),
    "noise": sealed(os.urandom(200)),
    "a bit flipped": sealed(GOOD.data[:-1] + bytes([GOOD.data[-1] ^ 1])),
    "cut short": sealed(GOOD.data[:-5]),
    "no key id": Payload(metadata={"encoding": ENCRYPTED}, data=GOOD.data),
    "well encrypted, and no order": GOOD,
    "well encrypted, and no JSON": encrypted(Payload(metadata={"encoding": b"json/plain"}, data=b"{")),
}


async def test_damaged_payloads_fail_their_start_at_once_with_a_sentence(secret: Counter) -> None:
    tried = secret.ledger().attempts
    without_keys = await connect(with_keys(secret.stage))
    for case, payload in DAMAGED.items():
        await without_keys.start_workflow(
            "OrderWorkflow", args=[RawValue(payload)], id=f"order-{case}", task_queue=TASK_QUEUE
        )
        reader = secret.stage.client.get_workflow_handle(f"order-{case}")
        with pytest.raises(WorkflowFailureError) as failure:
            await asyncio.wait_for(reader.result(), REFUSED_WITHIN_SECONDS)
        cause = failure.value.cause
        assert isinstance(cause, ApplicationError)
        assert ("damaged" if "well" not in case else "JSON" if "no JSON" in case else "missing") in cause.message, case
    assert secret.ledger().attempts == tried


async def test_a_step_that_is_started_on_its_own_is_refused_though_its_key_is_unknown(secret: Counter) -> None:
    without_keys = await connect(with_keys(secret.stage))

    with pytest.raises(ActivityFailureError) as failure:
        await without_keys.execute_activity(
            "process_payment",
            args=[RawValue(sealed(b"?", OLD))],
            id="alone",
            task_queue=TASK_QUEUE,
            start_to_close_timeout=ATTEMPT_TIMEOUT,
        )

    assert isinstance(failure.value.cause, ApplicationError)
    assert failure.value.cause.type == "StepOnItsOwn"


async def test_a_worker_that_lacks_the_key_uses_up_attempts_of_a_step_that_is_encrypted(stage: Stage) -> None:
    async with serving(stage, NEW, plan=NO_STOCK) as first:
        await begin(first, "paid")
    tried = len(stage.ledger().attempts)
    async with serving(stage):
        while b"Failed decoding arguments" not in (kept := await kept_by_the_server(stage, "paid")):
            await asyncio.sleep(0.1)

    assert f"encrypted under key {key_id_of(NEW)}".encode() in kept
    assert len(stage.ledger().attempts) == tried
    # A step without a limit of attempts loses nothing by it.
    async with serving(stage, NEW) as counter:
        assert (await run(counter, "paid")).status is Status.COMPLETED


def test_a_tilde_before_the_key_file_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    key_file(tmp_path / "payload.keys", NEW)

    assert read_keys({"PAYLOAD_KEYS_FILE": "~/payload.keys"}) == [NEW]


BAD_FILES: dict[str, tuple[bytes | None, str]] = {
    "empty": (b"", "the file holds no key"),
    "no Base64": (b"not a key!\n", "line 1 is no key; make one: head -c 32 /dev/urandom | base64"),
    "not ASCII": (b"\xff\xfe\n", "line 1 is no key"),
    "16 bytes": (base64.b64encode(NEW) + b"\n" + base64.b64encode(NEW[:16]), "line 2 is no key"),
    "an empty line": (b"\n" + base64.b64encode(NEW), "line 1 is no key"),
    "not there": (None, "[Errno 2] No such file or directory"),
}


@pytest.mark.parametrize("case", BAD_FILES)
async def test_a_bad_key_file_is_refused_in_a_sentence_that_quotes_nothing_of_it(case: str, tmp_path: Path) -> None:
    content, reason = BAD_FILES[case]
    file = tmp_path / "payload.keys"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(NoConnection) as refusal:
        await connect(clean_environment(PAYLOAD_KEYS_FILE=str(file)))

    assert str(refusal.value).startswith(f"correct PAYLOAD_KEYS_FILE={file}: {reason}")
    assert not any(line.decode("latin-1") in str(refusal.value) for line in (content or b"").splitlines() if line)


async def test_the_programs_take_keys_and_no_log_shows_them(stage: Stage) -> None:
    settings = with_keys(stage, NEW, OLD)
    orders = write_orders(stage.directory / "orders.jsonl", make_order("logged"))
    worker = Worker(stage.directory / "worker", settings, stage.data, "process_payment:unavailable*1")
    starter = Program(stage.directory / "starter", settings, "run_workflow.py", str(orders))
    stage.started += [worker, starter]
    await worker.start()
    await starter.run()

    logs = b"".join(path.read_bytes() for path in stage.directory.glob("*.err"))

    assert starter.lines()[0].startswith("logged\tcompleted")
    assert keys_used(await kept_by_the_server(stage, "logged")) == {key_id_of(NEW)}
    assert logs.count(f"payloads are encrypted under key {key_id_of(NEW)}".encode()) == 2
    for key in (NEW, OLD):
        assert base64.b64encode(key) not in logs
        assert key.hex().encode() not in logs


UI = "http://localhost:8233"


@pytest.fixture
def endpoint() -> Iterator[str]:
    """Serve the codec to the UI, in this process; give its address."""
    serving = CodecEndpoint(0, Encryption([NEW], leaves_unknown=True), [UI])
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    thread.join()
    serving.server_close()


@dataclass(frozen=True)
class Answer:
    """What the endpoint says."""

    status: int
    body: str
    allowed_origin: str | None


def ask(url: str, body: bytes | None = None, method: str = "POST", **headers: str) -> Answer:
    request = urllib.request.Request(url, body, {name.replace("_", "-"): text for name, text in headers.items()})
    request.method = method
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return Answer(answer.status, answer.read().decode(), answer.headers["Access-Control-Allow-Origin"])
    except urllib.error.HTTPError as refusal:
        return Answer(refusal.code, refusal.read().decode(), refusal.headers["Access-Control-Allow-Origin"])


def as_body(*payloads: Payload) -> bytes:
    return MessageToJson(Payloads(payloads=payloads)).encode()


def test_the_endpoint_decodes_what_it_has_keys_for_and_leaves_the_rest_as_it_is(endpoint: str) -> None:
    clear = DefaultPayloadConverter().to_payload("clear")
    unknown = sealed(b"?", os.urandom(32))

    # As the UI asks, and as the command line does.
    answer = ask(f"{endpoint}/decode?preserveStorageRefs=true", as_body(GOOD, clear, unknown), Origin=UI)
    again = ask(f"{endpoint}/encode", answer.body.encode())

    decoded = Parse(answer.body, Payloads()).payloads
    assert (answer.status, answer.allowed_origin) == (200, UI)
    assert decoded[0].data == b'{"order_id":"x"}'
    assert list(decoded[1:]) == [clear, unknown]
    assert all(payload.metadata["encoding"] == ENCRYPTED for payload in Parse(again.body, Payloads()).payloads)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:8234", "https://localhost:8233"])
@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
def test_the_endpoint_refuses_pages_of_other_origins(method: str, origin: str, endpoint: str) -> None:
    answer = ask(f"{endpoint}/decode", as_body(GOOD), method, Origin=origin)
    allowed = ask(f"{endpoint}/decode", as_body(GOOD), method, Origin=UI)

    assert (answer.status, answer.allowed_origin) == (403, None)
    assert "order_id" not in answer.body
    assert (allowed.status // 100, allowed.allowed_origin) == (2, UI)


def test_the_endpoint_refuses_bad_requests_and_goes_on(endpoint: str, capfd: pytest.CaptureFixture[str]) -> None:
    for path, body, status in [
        ("/decode", b"{", 400),
        ("/decode", b"7", 400),
        ("/decode", b"\xff", 400),
        ("/decode", b"[" * 100_000, 400),
        ("/decode", b'{"payloads": [{"data": 7}]}', 400),
        ("/else", b"{}", 404),
    ]:
        answer = ask(f"{endpoint}{path}", body)

        assert (answer.status, bool(answer.body)) == (status, True), body[:30]
    for length in (str(MAX_BODY_BYTES + 1), "-1", "many"):
        assert ask(f"{endpoint}/decode", b"{}", Content_Length=length).status == 413
    assert ask(f"{endpoint}/decode", as_body(GOOD)).status == 200
    assert "Traceback" not in capfd.readouterr().err


def test_the_endpoint_listens_on_this_machine_alone(endpoint: str) -> None:
    port = int(endpoint.rpartition(":")[2])
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]

    listening = [local for _, local, _, state, *_ in sockets if state == "0A" and local.endswith(f":{port:04X}")]

    assert listening == [f"0100007F:{port:04X}"]


@pytest.mark.parametrize(
    ("settings", "options", "sentence"),
    [
        ({}, [], "set it to the file with the keys that the workers have"),
        ({"PAYLOAD_KEYS_FILE": "no-such-file"}, [], "no-such-file"),
        ({}, ["--port", "99999"], "--port: must be from 0 to 65535"),
    ],
)
def test_an_endpoint_that_cannot_run_says_why_and_ends_with_2(
    settings: dict[str, str],
    options: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["codec_endpoint", *options])
    monkeypatch.setattr("examples.codec_endpoint.log_to_stderr", lambda: None)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SystemExit) as ended:
        sys.exit(main())

    output, errors = capsys.readouterr()
    assert (ended.value.code, output) == (2, "")
    assert sentence in errors


@pytest.fixture(scope="module")
async def seen(secret: Counter) -> AsyncIterator[tuple[Stage, str]]:
    """Give a stage on which the order `seen` has run, encrypted, and the address of a codec endpoint."""
    stage, port = secret.stage, free_port()
    assert (await run(secret, "seen")).status is Status.COMPLETED
    arguments = ("-m", "examples.codec_endpoint", "--port", str(port), "--ui", stage.server.ui)
    program = Program(stage.directory / "endpoint", with_keys(stage, NEW), *arguments)
    program.ready = "decrypting at"
    await program.start()
    yield stage, f"http://127.0.0.1:{port}"
    program.signal(signal.SIGINT)
    assert await program.wait(STOP_TIMEOUT_SECONDS) == 0


async def test_the_command_line_shows_the_payment_token_with_the_endpoint_and_without_it_does_not(
    seen: tuple[Stage, str],
) -> None:
    stage, address = seen

    def show(*options: str) -> str:
        command = [str(TEMPORAL), "workflow", "show", "--workflow-id", "order-seen", "--detailed", *options]
        return subprocess.run(command, env=stage.settings, capture_output=True, text=True, check=True).stdout

    without = await asyncio.to_thread(show)
    shown = await asyncio.to_thread(show, "--codec-endpoint", address)

    assert "WorkflowExecutionStarted" in without
    assert TOKEN not in without
    assert f"payment_token: {TOKEN}" in shown


@pytest.mark.skipif(not is_installed(), reason="no chromium and chromedriver")
async def test_the_ui_shows_the_order_with_the_endpoint_and_without_it_does_not(seen: tuple[Stage, str]) -> None:
    stage, address = seen
    (kept,) = (
        (await history(stage, "seen")).history.events[0].workflow_execution_started_event_attributes.input.payloads
    )
    as_kept = base64.b64encode(kept.data).decode()
    page = f"{stage.server.ui}/namespaces/{stage.namespace}/workflows/order-seen"
    # What the dialog behind the glasses stores in this browser.
    choice = f"localStorage.endpoint = '\"{address}\"'; localStorage.overrideRemoteCodecConfiguration = 'true'"

    with browser(stage.directory, 1400, 1250) as window:
        without = await asyncio.to_thread(window.open, page, "process_payment", as_kept)
        await asyncio.to_thread(window.run, choice)
        shown = await asyncio.to_thread(window.open, page, "process_payment", TOKEN)

    assert TOKEN not in without
    assert as_kept not in shown
