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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import Stage, make_order, write_orders
from google.protobuf.json_format import MessageToJson, Parse
from proofs.browser import browser, is_installed
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryResponse,
)
from temporalio.client import ActivityFailureError, WorkflowFailureError, WorkflowHandle
from temporalio.common import RawValue
from temporalio.converter import DefaultPayloadConverter
from temporalio.exceptions import ApplicationError

from comparison.stage.processes import (
    ROOT,
    STOP_TIMEOUT_SECONDS,
    Program,
    Worker,
    clean_environment,
    free_port,
    wait_until,
)
from examples.codec_endpoint import MAX_BODY_BYTES, CodecEndpoint
from plumbing.connection import NoConnection, connect
from plumbing.encryption import ENCRYPTED, KEY_ID, Encryption, key_id_of, read_keys
from plumbing.starting import what_for
from workflows import ATTEMPT_TIMEOUT, TASK_QUEUE

TEMPORAL = Path(sys.executable).parent / "temporal"
OLD, NEW = os.urandom(32), os.urandom(32)
TOKEN = "tok_visa"
FOR_EVER = "update_inventory:unavailable*inf"
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


async def worker(stage: Stage, *keys: bytes, faults: str = "") -> Worker:
    started = Worker(stage.directory / f"worker-{len(stage.started)}", with_keys(stage, *keys), stage.data, faults)
    stage.started.append(started)
    await started.start()
    return started


def starter(stage: Stage, order_id: str, *keys: bytes, options: tuple[str, ...] = ()) -> Program:
    orders = write_orders(stage.directory / f"{order_id}.jsonl", make_order(order_id))
    log = stage.directory / f"starter-{len(stage.started)}"
    program = Program(log, with_keys(stage, *keys), "run_workflow.py", *options, str(orders))
    stage.started.append(program)
    return program


async def run(stage: Stage, order_id: str, *keys: bytes) -> str:
    """Run an order to its end; return the line that is printed for it."""
    program = starter(stage, order_id, *keys)
    await program.run()
    (line,) = program.lines()
    return line


async def begin(stage: Stage, order_id: str, *keys: bytes) -> WorkflowHandle[Any, Any]:
    assert await starter(stage, order_id, *keys, options=("--no-wait",)).run() == 0
    return stage.client.get_workflow_handle(f"order-{order_id}")


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


async def test_without_keys_the_server_keeps_the_payment_token_in_clear(stage: Stage) -> None:
    await worker(stage)

    line = await run(stage, "clear")

    assert line.startswith("clear\tcompleted\ttxn_")
    assert TOKEN.encode() in await kept_by_the_server(stage, "clear")


async def test_with_a_key_the_server_keeps_nothing_that_was_said_of_an_order_and_the_order_is_the_same(
    stage: Stage,
) -> None:
    await worker(stage, NEW)

    line = await run(stage, "secret", NEW)

    transaction_id = line.split("\t")[2]
    kept = await kept_by_the_server(stage, "secret")
    assert line.startswith("secret\tcompleted\ttxn_")
    for secret in (TOKEN, transaction_id, "USD", "mug", "ada"):
        assert secret.encode() not in kept, secret
    # What stays in clear: ids, types, the names of steps, and search attributes.
    for clear in ("order-secret", "OrderWorkflow", "process_payment", "OrderStatus", "completed"):
        assert clear.encode() in kept, clear
    assert keys_used(kept) == {key_id_of(NEW)}


async def test_why_an_order_failed_is_encrypted_and_the_starter_tells_it(stage: Stage) -> None:
    await worker(stage, NEW, faults="process_payment:unavailable*inf")

    line = await run(stage, "failed", NEW)

    kept = await kept_by_the_server(stage, "failed")
    assert "the service is unavailable" in line
    assert b"unavailable" not in kept
    assert b"Encoded failure" in kept


async def test_why_a_cancelled_order_was_given_back_is_encrypted_and_the_starter_tells_it(stage: Stage) -> None:
    await worker(stage, NEW, faults=FOR_EVER)
    handle = await begin(stage, "cancelled", NEW)
    await wait_until(lambda: bool(stage.ledger().charges), "it is charged")

    await handle.cancel()
    line = await run(stage, "cancelled", NEW)

    assert line.endswith(" USD refunded")
    assert b"refunded" not in await kept_by_the_server(stage, "cancelled")


async def test_what_an_order_waits_for_is_told_to_those_that_have_the_key(stage: Stage) -> None:
    await worker(stage, NEW, faults=FOR_EVER)
    await begin(stage, "waiting", NEW)
    await wait_until(lambda: "update_inventory" in {row.step for row in stage.ledger().attempts}, "it waits")
    client = await connect(with_keys(stage, NEW))

    async def told() -> str:
        for _ in range(100):
            reason = await what_for(client, "order-waiting")
            if "unavailable" in reason:
                break
            await asyncio.sleep(0.1)
        return reason

    assert re.fullmatch(r"update_inventory, attempt \d+: the service is unavailable.*", await told())


async def test_orders_from_before_the_keys_go_on_under_them_and_stay_readable(stage: Stage) -> None:
    without = await worker(stage, faults=FOR_EVER)
    await run_to_the_stock(stage, "before")
    await without.stop()

    await worker(stage, NEW)
    line = await run(stage, "before", NEW)

    kept = await kept_by_the_server(stage, "before")
    assert line.startswith("before\tcompleted\ttxn_")
    assert TOKEN.encode() in kept  # as it was started
    assert keys_used(kept) == {key_id_of(NEW)}  # as it went on


async def run_to_the_stock(stage: Stage, order_id: str, *keys: bytes) -> None:
    """Start an order, and wait until it waits for its stock."""
    await begin(stage, order_id, *keys)

    def waits() -> bool:
        attempts = stage.ledger().attempts
        return any(row.order_id == order_id and row.step == "update_inventory" for row in attempts)

    await wait_until(waits, f"{order_id} waits for its stock")


async def test_keys_are_rotated_under_running_orders_with_old_and_new_workers_side_by_side(stage: Stage) -> None:
    first = await worker(stage, OLD, faults=FOR_EVER)
    await run_to_the_stock(stage, "old", OLD)
    # One step: every worker learns the new key; the old one still encrypts.
    learned = await worker(stage, OLD, NEW)
    await first.stop()
    # Two: one by one, they encrypt with the new one. What either writes, both read.
    moved = await worker(stage, NEW, OLD)
    lines = [await run(stage, f"{number}", *keys) for number, keys in enumerate([(OLD, NEW), (NEW, OLD)] * 2)]
    await learned.stop()
    lines.append(await run(stage, "old", NEW, OLD))

    assert moved.is_running
    assert {line.split("\t")[1] for line in lines} == {"completed"}
    assert len(lines) == 5
    assert keys_used(await kept_by_the_server(stage, "old")) >= {key_id_of(OLD)}
    assert max(row.attempt for row in stage.ledger().attempts if row.step != "update_inventory") == 1
    # Three: the old key goes. What was written under it cannot be read any more; what is new can.
    await moved.stop()
    await worker(stage, NEW)
    assert (await run(stage, "new", NEW)).startswith("new\tcompleted")
    assert keys_used(await kept_by_the_server(stage, "new")) == {key_id_of(NEW)}


@pytest.mark.parametrize("keys", [(), (OLD,)], ids=["no key", "another key"])
async def test_an_order_waits_while_its_workers_lack_the_key_and_goes_on_with_one_that_has_it(
    keys: tuple[bytes, ...], stage: Stage
) -> None:
    without = await worker(stage, *keys)
    await begin(stage, "waits", NEW)

    async def failures() -> list[str]:
        client = await connect(with_keys(stage, *keys))
        events = (await client.get_workflow_handle("order-waits").fetch_history()).events
        assert not [event for event in events if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED]
        failed = [event.workflow_task_failed_event_attributes.failure for event in events]
        return [str(await client.data_converter.decode_failure(one)) for one in failed if one.message]

    while not (found := await failures()):
        await asyncio.sleep(0.1)
    sentence = f"it is encrypted under key {key_id_of(NEW)}, which is not in PAYLOAD_KEYS_FILE of this process"
    assert sentence in found[0]
    assert stage.ledger().attempts == ()

    await without.stop()
    await worker(stage, NEW)
    assert (await run(stage, "waits", NEW)).startswith("waits\tcompleted")


@pytest.mark.parametrize("keys", [(), (OLD,)], ids=["no key", "another key"])
async def test_a_starter_that_lacks_the_key_says_so_in_a_sentence(keys: tuple[bytes, ...], stage: Stage) -> None:
    await worker(stage, NEW)
    await run(stage, "known", NEW)

    line = await run(stage, "known", *keys)

    sentence = f"it is encrypted under key {key_id_of(NEW)}, which is not in PAYLOAD_KEYS_FILE of this process"
    assert line == f"known\tunknown\t{sentence}"
    assert "Traceback" not in stage.started[-1].errors.read_text()


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


async def test_damaged_payloads_fail_their_start_at_once_with_a_sentence(stage: Stage) -> None:
    await worker(stage, NEW)

    for case, payload in DAMAGED.items():
        handle: WorkflowHandle[Any, Any] = await stage.client.start_workflow(
            "OrderWorkflow", args=[RawValue(payload)], id=f"order-{case}", task_queue=TASK_QUEUE
        )
        reader = (await connect(with_keys(stage, NEW))).get_workflow_handle(handle.id)
        with pytest.raises(WorkflowFailureError) as failure:
            await asyncio.wait_for(reader.result(), REFUSED_WITHIN_SECONDS)
        cause = failure.value.cause
        assert isinstance(cause, ApplicationError)
        assert ("damaged" if "well" not in case else "JSON" if "no JSON" in case else "missing") in cause.message, case
    assert stage.ledger().attempts == ()


async def test_a_step_that_is_started_on_its_own_is_refused_though_its_key_is_unknown(stage: Stage) -> None:
    await worker(stage, OLD)

    with pytest.raises(ActivityFailureError) as failure:
        await stage.client.execute_activity(
            "process_payment",
            args=[RawValue(sealed(b"?"))],
            id="alone",
            task_queue=TASK_QUEUE,
            start_to_close_timeout=ATTEMPT_TIMEOUT,
        )

    assert isinstance(failure.value.cause, ApplicationError)
    assert failure.value.cause.type == "StepOnItsOwn"
    assert stage.ledger().attempts == ()


async def test_a_worker_that_lacks_the_key_uses_up_attempts_of_a_step_that_is_encrypted(stage: Stage) -> None:
    first = await worker(stage, NEW, faults=FOR_EVER)
    await run_to_the_stock(stage, "paid", NEW)
    await first.stop()
    tried = len(stage.ledger().attempts)

    without = await worker(stage)
    while b"Failed decoding arguments" not in (kept := await kept_by_the_server(stage, "paid")):
        await asyncio.sleep(0.1)
    await without.stop()

    assert f"encrypted under key {key_id_of(NEW)}".encode() in kept
    assert len(stage.ledger().attempts) == tried
    # A step without a limit of attempts loses nothing by it.
    await worker(stage, NEW)
    assert (await run(stage, "paid", NEW)).startswith("paid\tcompleted")


def test_a_tilde_before_the_key_file_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    key_file(tmp_path / "payload.keys", NEW)

    assert read_keys({"PAYLOAD_KEYS_FILE": "~/payload.keys"}) == [NEW]


BAD_FILES = {
    "empty": (b"", "the file holds no key"),
    "no Base64": (b"not a key!\n", "line 1 is no key; make one: head -c 32 /dev/urandom | base64"),
    "not ASCII": (b"\xff\xfe\n", "line 1 is no key"),
    "16 bytes": (base64.b64encode(NEW) + b"\n" + base64.b64encode(NEW[:16]), "line 2 is no key"),
    "an empty line": (b"\n" + base64.b64encode(NEW), "line 1 is no key"),
}


@pytest.mark.parametrize("case", BAD_FILES)
async def test_a_bad_key_file_is_refused_in_a_sentence_that_quotes_nothing_of_it(case: str, tmp_path: Path) -> None:
    content, reason = BAD_FILES[case]
    file = tmp_path / "payload.keys"
    file.write_bytes(content)

    with pytest.raises(NoConnection) as refusal:
        await connect(clean_environment(PAYLOAD_KEYS_FILE=str(file)))

    assert str(refusal.value).startswith(f"correct PAYLOAD_KEYS_FILE={file}: {reason}")
    assert not any(line.decode("latin-1") in str(refusal.value) for line in content.splitlines() if line)


@pytest.mark.parametrize("program", ["run_worker.py", "run_workflow.py"])
@pytest.mark.parametrize("name", ["", "no-such-file"])
async def test_a_program_whose_key_file_is_not_there_says_so_and_ends_with_2(
    name: str, program: str, stage: Stage
) -> None:
    settings = {**stage.settings, "PAYLOAD_KEYS_FILE": name, "SHOP_DATA": str(stage.data)}
    ended = Program(stage.directory / "program", settings, program)

    status = await ended.run()

    (sentence,) = ended.errors.read_text().splitlines()
    assert (status, ended.lines()) == (2, [])
    assert sentence.startswith(f"{program.removesuffix('.py')}: correct PAYLOAD_KEYS_FILE={name}: ")


def python(program: str, **settings: str) -> str:
    """Run a program in a process of its own; return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", program], env=clean_environment(**settings), capture_output=True, text=True, check=True
    ).stdout


def test_without_keys_the_package_is_not_imported() -> None:
    program = "import run_worker, run_workflow, sys; print('cryptography' in sys.modules)"

    assert python(program) == "False\n"


def test_with_keys_and_without_the_package_a_sentence_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import asyncio, os, sys\n"
        "sys.modules['cryptography.hazmat.primitives.ciphers.aead'] = None\n"
        "from plumbing.connection import NoConnection, connect\n"
        "try:\n"
        "    asyncio.run(connect(os.environ))\n"
        "except NoConnection as error:\n"
        "    print(error)\n"
    )

    said = python(program, PAYLOAD_KEYS_FILE=str(key_file(tmp_path / "payload.keys", NEW)))

    assert "needs a package; install it once (make .venv): " in said
    assert "cryptography" in said


async def test_no_log_shows_a_key(stage: Stage) -> None:
    await worker(stage, NEW, OLD, faults="process_payment:unavailable*1")
    await run(stage, "logged", NEW, OLD)

    logs = b"".join(path.read_bytes() for path in stage.directory.glob("*.err"))

    assert f"payloads are encrypted under key {key_id_of(NEW)}".encode() in logs
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
    settings: dict[str, str], options: list[str], sentence: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "examples.codec_endpoint", *options],
        cwd=ROOT,
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (ended.returncode, ended.stdout) == (2, "")
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.fixture
async def seen(stage: Stage) -> AsyncIterator[tuple[Stage, str]]:
    """Give a stage on which the order `seen` has run, encrypted, and the address of a codec endpoint."""
    await worker(stage, NEW)
    assert (await run(stage, "seen", NEW)).startswith("seen\tcompleted")
    port = free_port()
    arguments = ("-m", "examples.codec_endpoint", "--port", str(port), "--ui", stage.server.ui)
    program = Program(stage.directory / "endpoint", with_keys(stage, NEW), *arguments)
    stage.started.append(program)
    await program.start()
    await wait_until(lambda: "decrypting at" in program.errors.read_text(), "the endpoint listens")
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
