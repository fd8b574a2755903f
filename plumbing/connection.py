"""How worker and starter reach Temporal: settings, client, search attribute, links to the UI."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import quote

from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes
from temporalio.envconfig import ClientConfig
from temporalio.runtime import LogForwardingConfig, LoggingConfig, PrometheusConfig, Runtime, TelemetryConfig
from temporalio.service import KeepAliveConfig, RetryConfig, RPCError

from plumbing.converters import PlainFailureConverter, StrictPayloadConverter
from plumbing.encryption import KEYS_FILE, Encryption, read_keys
from plumbing.tracing import EXPORTER, tracing_by

TEMPORAL_SETTINGS = "the Temporal settings (TEMPORAL_* or the profile file)"
CONNECT_TIMEOUT_SECONDS = 4.0
# A server that goes away is waited for: by default the SDK gives up a call after ten seconds.
FOR_EVER = RetryConfig(max_interval_millis=1_000, max_elapsed_time_millis=None, max_retries=2**31)
# A connection on which nobody answers is closed after ten seconds, not three quarters of a minute.
ALIVE = KeepAliveConfig(interval_millis=5_000, timeout_millis=5_000)

logger = logging.getLogger("connection")


class NoConnection(Exception):
    """The Temporal server cannot be used; the message says why, and what to do."""

    exit_status = 1


class InvalidSettings(NoConnection):
    """A setting cannot be read."""

    exit_status = 2


@functools.cache
def runtime(metrics_address: str | None = None) -> Runtime:
    """Return the SDK's native core: one a process, because each has threads and files of its own.

    Its logs go to Python's, not to standard output. With an address (`127.0.0.1:9464`) it serves metrics there.

    Raises:
        ValueError: if it cannot serve them there.
    """
    python = LogForwardingConfig(logging.getLogger("temporalio.core"), append_log_fields_to_message=False)
    logs = LoggingConfig("ERROR,temporalio_client=WARN,temporalio_sdk_core=WARN,temporalio_sdk=WARN", forwarding=python)
    metrics = metrics_address and PrometheusConfig(
        metrics_address, counters_total_suffix=True, unit_suffix=True, durations_as_seconds=True
    )
    try:
        return Runtime(telemetry=TelemetryConfig(logging=logs, metrics=metrics or None))
    except ValueError as error:
        raise ValueError(f"metrics cannot be served at {metrics_address}: {error}; give a free IP:PORT") from error


async def connect(environment: Mapping[str, str], core: Runtime | None = None) -> Client:
    """Connect by the standard Temporal environment: `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, ...

    See https://docs.temporal.io/develop/environment-configuration.

    Raises:
        InvalidSettings: if a setting cannot be read.
        NoConnection: within 5 s, if the server is not usable.
    """
    with _reading(TEMPORAL_SETTINGS):
        # The SDK would refuse a variable of somebody else's that is not UTF-8.
        ours = {name: value for name, value in environment.items() if name.startswith("TEMPORAL_")}
        settings = ClientConfig.load_client_connect_config(override_env_vars=ours)
    address = settings.setdefault("target_host", "localhost:7233")
    with _reading("TEMPORAL_ADDRESS"):
        if not address.rpartition(":")[2].isdecimal():
            raise ValueError(f"it must read HOST:PORT, not {address}")
    with _reading(f"{KEYS_FILE}={environment.get(KEYS_FILE)}"):
        converter = _converter_with(Encryption(read_keys(environment)))
    with _reading(EXPORTER):
        plugins = tracing_by(environment.get(EXPORTER, ""))

    async def connect_and_look() -> Client:
        client = await Client.connect(
            **settings,
            data_converter=converter,
            plugins=plugins,
            runtime=core or runtime(),
            retry_config=FOR_EVER,
            keep_alive_config=ALIVE,
        )
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
        return client

    try:
        return await asyncio.wait_for(connect_and_look(), CONNECT_TIMEOUT_SECONDS)
    except ValueError as error:
        raise InvalidSettings(f"correct {TEMPORAL_SETTINGS} for {address}: {error}") from error
    except (asyncio.TimeoutError, RuntimeError, RPCError) as error:
        says = "refuses" if isinstance(error, RPCError) else "does not answer"
        reason = " ".join(str(error).split()) or f"nothing within {CONNECT_TIMEOUT_SECONDS} s"
        advice = "is it running (python run_server.py)? If so, check the TEMPORAL_* settings"
        raise NoConnection(f"the Temporal server at {address} {says}: {reason}; {advice}") from error


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Name what is to be corrected, and the problem by its first line: the next ones quote files, which hold keys."""
    try:
        yield
    except ImportError as error:
        raise InvalidSettings(f"{what} needs a package; install it once (make .venv): {error}") from error
    except (OSError, RuntimeError, ValueError) as error:
        problem = str(error).partition("\n")[0]
        raise InvalidSettings(f"correct {what}: {problem}") from error


def _converter_with(codec: Encryption) -> DataConverter:
    """Return how payloads are written: encrypted, if there are keys."""
    if codec.key_id:
        logger.info("payloads are encrypted under key %s", codec.key_id)
    # With keys, messages and stacks go where the codec encrypts them.
    failures = DefaultFailureConverterWithEncodedAttributes if codec.key_id else PlainFailureConverter
    return DataConverter(StrictPayloadConverter, codec, failures)


async def add_search_attribute(client: Client, key: SearchAttributeKey[str]) -> None:
    """Add a search attribute, unless it is there; where that is for operators alone, say the command."""
    operator, kind, problem = client.operator_service, key.indexed_value_type, ""
    request = AddSearchAttributesRequest(namespace=client.namespace)
    request.search_attributes[key.name] = kind.value  # type: ignore[assignment]  # the enum's number
    try:
        await operator.add_search_attributes(request)
        known = await operator.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
        if known.custom_attributes[key.name] != kind.value:
            problem = "it is there, with another type"
    except RPCError as error:
        problem = error.message
    if problem:
        logger.warning(
            "cannot add the search attribute %s (%s). Workflows wait where it is missing:"
            " temporal operator search-attribute create --namespace %s --name %s --type %s",
            *(key.name, problem, client.namespace, key.name, kind.name.title()),
        )


def ui_link(client: Client, path: str) -> str:
    """Return where the UI shows `path`. The development server's UI listens 1000 above the server."""
    host, _, port = client.service_client.config.target_host.rpartition("/")[2].rpartition(":")
    is_cloud = host.endswith((".tmprl.cloud", ".temporal.io"))
    base = "https://cloud.temporal.io" if is_cloud else f"http://{host}:{int(port) + 1000}"
    return f"{base}/namespaces/{quote(client.namespace)}/{path}"
