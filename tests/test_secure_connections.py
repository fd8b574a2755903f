"""TLS, client certificates, API keys and profile files, seen to work; and one line for each that is wrong."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Stage, make_order, write_orders
from gateway import LONG_AGO, Gateway, make_authority, make_certificate

from comparison.stage.processes import ROOT, Program, Server, Worker, clean_environment
from plumbing.connection import NoConnection, connect
from run_workflow import run_order
from shop.orders import Status

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="the program openssl is missing")

KEY = "key-of-the-worker"
(SECTION,) = re.findall(
    r"^## Connect securely$(.*?)(?=^## |\Z)", (ROOT / "docs/operating.md").read_text(), re.MULTILINE | re.DOTALL
)
BY_CERTIFICATE, BY_KEY, BY_PROFILE = re.findall(r"^```sh\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
(PROFILE,) = re.findall(r"^```text\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Site:
    """A server behind gateways of several kinds, and the folder that certificates are in."""

    certificates: Path
    addresses: dict[str, str]
    gateways: dict[str, Gateway]

    def settings_in(self, text: str, gateway: str, namespace: str) -> dict[str, str]:
        """Return the settings that a block of the page exports, for a gateway here."""
        return dict(re.findall(r"^export (\w+)=(.*)$", self.put_in(text, gateway, namespace), re.MULTILINE))

    def put_in(self, text: str, gateway: str, namespace: str) -> str:
        """Put what is here in the place of the page's names."""
        for name, ours in (
            ("temporal.example.com:7233", self.addresses[gateway]),
            ("certificates/", f"{self.certificates}/"),
            ("our-namespace", namespace),
            ("our-key", KEY),
        ):
            text = text.replace(name, ours)
        return text


@pytest.fixture(scope="module")
async def site(server: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    ours, others = directory / "certificates", directory / "others"
    make_authority(ours)
    make_authority(others)
    for name in ("server", "client"):
        make_certificate(ours, name)
    make_certificate(ours, "expired", valid=LONG_AGO)
    make_certificate(ours, "elsewhere", "DNS:elsewhere.example")
    make_certificate(others, "client")
    gateways = {
        "mutual": Gateway(server, ours / "server.pem", client_ca=ours / "ca.pem"),
        "keyed": Gateway(server, ours / "server.pem", key=KEY),
        "expired": Gateway(server, ours / "expired.pem"),
        "elsewhere": Gateway(server, ours / "elsewhere.pem"),
    }
    for gateway in gateways.values():
        await gateway.mend()
    addresses = {name: gateway.address for name, gateway in gateways.items()}
    yield Site(ours, {**addresses, "plain": server.address}, gateways)
    for gateway in gateways.values():
        await gateway.cut()


async def start_worker(stage: Stage, settings: dict[str, str]) -> Worker:
    """Start a worker with these settings, and no others, and wait until it serves."""
    worker = Worker(stage.directory / "worker", clean_environment(**settings), stage.data)
    stage.started.append(worker)
    await worker.start()
    return worker


async def test_an_order_is_processed_over_mutual_tls_with_the_settings_of_the_page(stage: Stage, site: Site) -> None:
    settings = site.settings_in(BY_CERTIFICATE, "mutual", stage.namespace)
    orders = write_orders(stage.directory / "orders.jsonl", make_order())
    starter = Program(stage.directory / "starter", clean_environment(**settings), "run_workflow.py", str(orders))
    stage.started.append(starter)

    await start_worker(stage, settings)
    status = await starter.run()

    assert status == 0
    assert len(stage.ledger().charges) == 1
    assert any(request[":path"].endswith("/StartWorkflowExecution") for request in site.gateways["mutual"].requests)


async def test_every_request_brings_the_api_key_that_the_page_sets(stage: Stage, site: Site) -> None:
    settings = site.settings_in(BY_KEY, "keyed", stage.namespace)

    await start_worker(stage, settings)
    outcome = await run_order(await connect(clean_environment(**settings)), make_order(), wait=True)

    requests = site.gateways["keyed"].requests
    assert outcome.status is Status.COMPLETED
    assert len(stage.ledger().charges) == 1
    assert {request[":path"].rpartition("/")[2] for request in requests} >= {"StartWorkflowExecution", "GetSystemInfo"}
    assert {request["authorization"] for request in requests} == {f"Bearer {KEY}"}


async def test_a_profile_file_says_where_and_how_to_connect(stage: Stage, site: Site) -> None:
    profile = stage.directory / "temporal.toml"
    profile.write_text(site.put_in(PROFILE, "mutual", stage.namespace))
    named = site.settings_in(BY_PROFILE, "mutual", stage.namespace)
    settings = {**named, "TEMPORAL_CONFIG_FILE": str(profile)}

    await start_worker(stage, settings)
    outcome = await run_order(await connect(clean_environment(**settings)), make_order(), wait=True)

    assert set(named) == {"TEMPORAL_CONFIG_FILE", "TEMPORAL_PROFILE"}
    assert outcome.status is Status.COMPLETED
    assert len(stage.ledger().charges) == 1


SERVER_CA, CERTIFICATE, CERTIFICATE_KEY = (
    f"TEMPORAL_TLS_{name}_PATH" for name in ("SERVER_CA_CERT", "CLIENT_CERT", "CLIENT_KEY")
)
TRUSTED = {SERVER_CA: "certificates/ca.pem"}
MUTUAL = {**TRUSTED, CERTIFICATE: "certificates/client.pem", CERTIFICATE_KEY: "certificates/client.key"}
OTHERS = {CERTIFICATE: "certificates/../others/client.pem", CERTIFICATE_KEY: "certificates/../others/client.key"}
# What is wrong; which gateway, with which settings.
MISTAKES = {
    "plain text to TLS": ("mutual", {}),
    "TLS to plain text": ("plain", MUTUAL),
    "unknown CA": ("keyed", {"TEMPORAL_TLS": "true"}),
    "expired server": ("expired", TRUSTED),
    "other host": ("elsewhere", TRUSTED),
    "no client certificate": ("mutual", TRUSTED),
    "client of another CA": ("mutual", {**TRUSTED, **OTHERS}),
    "no key": ("mutual", {**TRUSTED, CERTIFICATE: MUTUAL[CERTIFICATE]}),
    "wrong API key": ("keyed", {**TRUSTED, "TEMPORAL_API_KEY": "stolen"}),
}


@pytest.mark.parametrize(("gateway", "settings"), MISTAKES.values(), ids=MISTAKES)
async def test_what_is_wrong_with_a_connection_is_said_in_one_line_with_the_address_within_five_seconds(
    site: Site,
    gateway: str,
    settings: dict[str, str],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours = {name: site.put_in(value, gateway, "default") for name, value in settings.items()}
    address = site.addresses[gateway]
    started = time.monotonic()

    with pytest.raises(NoConnection) as refusal:
        await connect(clean_environment(TEMPORAL_ADDRESS=address, **ours))

    assert time.monotonic() - started < 5
    (line,) = str(refusal.value).splitlines()
    assert address in line
    assert "stolen" not in line
    # The programs would write it before the line.
    assert (caplog.text, capfd.readouterr()) == ("", ("", ""))


async def test_settings_that_cannot_be_read_are_said_in_one_line_without_the_key_in_them(tmp_path: Path) -> None:
    profile = tmp_path / "temporal.toml"
    profile.write_text(f"[profile.default]\napi_key = {KEY}\n")

    with pytest.raises(NoConnection) as refusal:
        await connect(clean_environment(TEMPORAL_CONFIG_FILE=str(profile)))

    (line,) = str(refusal.value).splitlines()
    assert "line 2" in line
    assert KEY not in line
