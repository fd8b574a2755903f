"""How worker and starter reach Temporal: settings, one runtime, and one sentence where it is not to be reached."""

from __future__ import annotations

import base64
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from conftest import Stage
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.service import RPCError, RPCStatusCode
from wire import Wire

from comparison.stage.processes import ROOT, Program, Server, clean_environment, free_port
from plumbing.connection import InvalidSettings, NoConnection, add_search_attribute, connect, runtime, ui_link
from workflows import ORDER_STATUS

KEYWORD = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD


async def refusal_of(**settings: str) -> str:
    """Connect in vain; return the one sentence that says why."""
    started = time.monotonic()
    with pytest.raises(NoConnection) as refusal:
        await connect(clean_environment(**settings))
    assert time.monotonic() - started < 5
    (sentence,) = str(refusal.value).splitlines()
    return sentence


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:7233/", "127.0.0.1:x", ":", "no address"])
async def test_an_address_that_cannot_be_is_named_with_its_form(address: str) -> None:
    sentence = await refusal_of(TEMPORAL_ADDRESS=address)

    assert sentence == f"correct TEMPORAL_ADDRESS: it must read HOST:PORT, not {address}"


@pytest.mark.parametrize(
    "settings",
    [
        {"TEMPORAL_ADDRESS": "127.0.0.1:99999"},
        {"TEMPORAL_ADDRESS": ":7233"},
        {"TEMPORAL_TLS_CLIENT_CERT_DATA": "without a key"},
    ],
)
async def test_what_only_the_client_finds_wrong_is_a_setting_to_correct_and_not_a_server(
    settings: dict[str, str],
) -> None:
    with pytest.raises(
        InvalidSettings, match=r"^correct the Temporal settings \(TEMPORAL_\* or the profile file\) for "
    ):
        await connect(clean_environment(**settings))


async def test_a_server_that_was_never_there_is_reported_in_one_sentence_and_nothing_else_is_written(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    address = f"127.0.0.1:{free_port()}"

    sentence = await refusal_of(TEMPORAL_ADDRESS=address)

    assert sentence.startswith(f"the Temporal server at {address} does not answer: ")
    assert "Connection refused" in sentence
    assert "python run_server.py" in sentence
    # The programs would write it before the sentence.
    assert (caplog.text, capfd.readouterr()) == ("", ("", ""))


@asynccontextmanager
async def silence() -> AsyncIterator[str]:
    """Accept connections, and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield f"127.0.0.1:{silent.getsockname()[1]}"


async def test_a_server_that_accepts_and_never_answers_is_given_up_within_five_seconds() -> None:
    async with silence() as address:
        sentence = await refusal_of(TEMPORAL_ADDRESS=address)

    assert sentence.startswith(f"the Temporal server at {address} does not answer: nothing within 4.0 s; ")


@pytest.mark.parametrize("program", ["run_worker.py", "run_workflow.py"])
async def test_a_program_without_a_server_says_so_and_ends_with_1(program: str, tmp_path: Path) -> None:
    settings = clean_environment(TEMPORAL_ADDRESS=f"127.0.0.1:{free_port()}", SHOP_DATA=str(tmp_path / "shop"))
    ended = Program(tmp_path / "program", settings, program)

    status = await ended.run(20)

    (sentence,) = ended.errors.read_text().splitlines()
    assert (status, ended.lines()) == (1, [])
    assert sentence.startswith(f"{program.removesuffix('.py')}: the Temporal server at 127.0.0.1:")


async def test_an_unknown_namespace_is_reported(server: Server) -> None:
    sentence = await refusal_of(TEMPORAL_ADDRESS=server.address, TEMPORAL_NAMESPACE="nowhere")

    assert sentence.startswith(f"the Temporal server at {server.address} refuses: Namespace nowhere is not found")


@pytest.mark.parametrize("program", ["run_worker.py", "run_workflow.py"])
async def test_a_program_whose_settings_cannot_be_read_says_so_and_ends_with_2(program: str, tmp_path: Path) -> None:
    settings = clean_environment(TEMPORAL_ADDRESS="nowhere", SHOP_DATA=str(tmp_path / "shop"))
    ended = Program(tmp_path / "program", settings, program)

    status = await ended.run(20)

    assert (status, ended.lines()) == (2, [])
    reason = "correct TEMPORAL_ADDRESS: it must read HOST:PORT, not nowhere"
    assert ended.errors.read_text() == f"{program.removesuffix('.py')}: {reason}\n"


@pytest.mark.parametrize("settings", [{"TEMPORAL_PROFILE": "none"}, {"TEMPORAL_TLS_CLIENT_KEY_PATH": "no-such-file"}])
async def test_settings_that_cannot_be_read_are_reported(settings: dict[str, str]) -> None:
    sentence = await refusal_of(**settings)

    assert "TEMPORAL_*" in sentence
    assert next(iter(settings.values())) in sentence or "TLS" in sentence or "key" in sentence


def test_what_encrypts_and_traces_is_not_imported_unless_it_is_wanted() -> None:
    program = "import run_worker, run_workflow, sys; print({'cryptography', 'opentelemetry'} & {*sys.modules})"

    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (ended.stdout, ended.stderr) == ("set()\n", "")


@pytest.mark.parametrize(
    ("module", "setting", "value"),
    [
        ("cryptography.hazmat.primitives.ciphers.aead", "PAYLOAD_KEYS_FILE", "payload.keys"),
        ("opentelemetry", "OTEL_TRACES_EXPORTER", "otlp"),
    ],
)
async def test_where_a_package_is_missing_that_a_setting_needs_a_sentence_says_what_to_install(
    module: str, setting: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # so Python marks what it shall not import
    monkeypatch.chdir(tmp_path)
    Path("payload.keys").write_bytes(base64.b64encode(bytes(32)))

    sentence = await refusal_of(**{setting: value})

    assert sentence.startswith(setting)
    assert "needs a package; install it once (make .venv): " in sentence


@pytest.mark.parametrize("value", ["caf\udce9", "/home/caf\udce9"])
async def test_a_variable_of_somebody_else_that_is_not_utf8_does_no_harm(value: str, server: Server) -> None:
    client = await connect({**server.settings(), "SOMETHING": value, "PWD": value})

    assert client.namespace == "default"


async def test_a_slow_link_is_patiently_waited_for(server: Server) -> None:
    wire = Wire(server, delay_seconds=0.55)
    await wire.mend()

    client = await connect({**server.settings(), "TEMPORAL_ADDRESS": wire.address})
    await wire.cut()

    assert client.namespace == "default"


def test_a_hundred_clients_share_one_runtime_and_need_few_files(server: Server) -> None:
    """In a process of its own, which may open as few files as one has on macOS."""
    program = (
        "import asyncio, os, sys\n"
        "from plumbing.connection import connect\n"
        "async def main():\n"
        "    clients = [await connect(os.environ) for _ in range(100)]\n"
        "    print(len(clients), len(os.listdir('/proc/self/task')))\n"
        "asyncio.run(main())\n"
        "sys.stdout.flush()\n"
        "os._exit(0)\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=server.settings(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert ended.stderr == ""
    clients, threads = map(int, ended.stdout.split())
    assert clients == 100
    assert threads < 20


def test_a_runtime_is_made_once() -> None:
    assert runtime() is runtime()


async def search_attributes(stage: Stage) -> dict[str, IndexedValueType.ValueType]:
    """Return the search attributes that were registered in the stage's namespace."""
    known = await stage.client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=stage.namespace)
    )
    return dict(known.custom_attributes)


async def test_a_search_attribute_is_added_where_it_lacks_and_left_alone_where_it_is(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    before = await search_attributes(stage)
    for _ in range(2):
        await add_search_attribute(stage.client, ORDER_STATUS)

    assert "OrderStatus" not in before
    assert (await search_attributes(stage))["OrderStatus"] == KEYWORD
    assert caplog.text == ""


async def test_where_adding_search_attributes_is_denied_the_command_is_said(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def deny(request: AddSearchAttributesRequest) -> None:
        raise RPCError("Request unauthorized.", RPCStatusCode.PERMISSION_DENIED, b"")

    monkeypatch.setattr(stage.client.operator_service, "add_search_attributes", deny)

    await add_search_attribute(stage.client, ORDER_STATUS)

    assert "cannot add the search attribute OrderStatus (Request unauthorized.)" in caplog.text
    command = f"search-attribute create --namespace {stage.namespace} --name OrderStatus --type Keyword"
    assert f"temporal operator {command}" in caplog.text


async def test_where_the_search_attribute_has_another_type_it_is_said_and_left_alone(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    number = IndexedValueType.INDEXED_VALUE_TYPE_INT
    await stage.client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(namespace=stage.namespace, search_attributes={"OrderStatus": number})
    )

    await add_search_attribute(stage.client, ORDER_STATUS)

    assert "cannot add the search attribute OrderStatus (" in caplog.text
    assert (await search_attributes(stage))["OrderStatus"] == number


async def test_a_link_leads_to_the_ui_beside_the_server(stage: Stage) -> None:
    link = ui_link(stage.client, "workflows/order-1")

    assert link == f"{stage.server.ui}/namespaces/{stage.namespace}/workflows/order-1"
