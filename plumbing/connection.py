"""How worker and starter reach Temporal: settings, client, links to the UI, and the search attribute."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from urllib.parse import quote

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.converter import DataConverter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime
from temporalio.service import KeepAliveConfig, RPCError, RPCStatusCode

from plumbing.admission import OrderPayloadConverter, PlainFailureConverter
from plumbing.diagnosis import diagnose
from plumbing.runtime import make_runtime

TASK_QUEUE = "order-processing"
DEFAULT_ADDRESS = "localhost:7233"
CONNECT_TIMEOUT_SECONDS = 2.5
RPC_TIMEOUT = timedelta(seconds=1)
# A connection that nobody answers any more is closed after 10 s; the default would be 45 s.
KEEP_ALIVE = KeepAliveConfig(interval_millis=5_000, timeout_millis=5_000)


class NoConnection(Exception):
    """The Temporal server cannot be used; the message says why, and what to do."""


async def connect(
    environment: Mapping[str, str], identity: str | None = None, runtime: Runtime | None = None
) -> Client:
    """Connect by the standard Temporal environment: `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, ...

    See https://docs.temporal.io/develop/environment-configuration.

    Raises:
        NoConnection: within 5 s, if the settings or the server are not usable.
    """
    try:
        settings = ClientConfig.load_client_connect_config(override_env_vars=dict(environment))
    except (RuntimeError, ValueError, OSError) as error:
        # Its first line says where. The next ones quote the file, which may hold a key.
        problem = str(error).partition("\n")[0]
        raise NoConnection(f"correct the Temporal settings (TEMPORAL_* or the profile file): {problem}") from error
    address = settings.setdefault("target_host", DEFAULT_ADDRESS)
    if "/" in address or not address.rpartition(":")[2].isdecimal():
        raise NoConnection(f"correct TEMPORAL_ADDRESS: it must read HOST:PORT, not {address}")
    converter = replace(
        DataConverter.default,
        payload_converter_class=OrderPayloadConverter,
        failure_converter_class=PlainFailureConverter,
    )
    try:
        connecting = Client.connect(
            **settings,
            data_converter=converter,
            identity=identity,
            keep_alive_config=KEEP_ALIVE,
            runtime=runtime or make_runtime(),
        )
        client = await asyncio.wait_for(connecting, CONNECT_TIMEOUT_SECONDS)
        await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=client.namespace), timeout=RPC_TIMEOUT
        )
    except (RuntimeError, ValueError, asyncio.TimeoutError) as error:
        raise NoConnection(diagnose(error, address, is_secure=bool(settings.get("tls")))) from error
    except RPCError as error:
        advice = "check TEMPORAL_NAMESPACE and TEMPORAL_API_KEY"
        raise NoConnection(f"the Temporal server at {address} refuses: {error.message}; {advice}") from error
    return client


async def register_search_attribute(client: Client, key: SearchAttributeKey[str]) -> None:
    """Register a Keyword if the server lacks it: a workflow that sets an unknown attribute hangs.

    Raises:
        NoConnection: if it does not, and may not be told from here.
    """
    name, keyword = key.name, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    operator = client.operator_service
    try:
        known = await operator.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
        if name not in known.custom_attributes:
            await operator.add_search_attributes(
                AddSearchAttributesRequest(namespace=client.namespace, search_attributes={name: keyword})
            )
        elif known.custom_attributes[name] != keyword:
            raise NoConnection(f"the search attribute {name} is there, but is no Keyword; remove it first")
    except RPCError as error:
        if error.status is RPCStatusCode.UNAVAILABLE:
            raise NoConnection(f"the Temporal server has gone away ({error.message}); start this again") from error
        raise NoConnection(
            f"the search attribute {name} cannot be registered from here ({error.message}); somebody who may must run:"
            f" temporal operator search-attribute create --namespace {client.namespace} --name {name} --type Keyword"
        ) from error


def ui_link(client: Client, path: str) -> str:
    """Return where the UI shows `path`, by the development server's rule: the UI listens 1000 above the server."""
    host, _, port = client.service_client.config.target_host.rpartition("/")[2].rpartition(":")
    if host.endswith((".tmprl.cloud", ".temporal.io")):
        base = "https://cloud.temporal.io"
    else:
        base = f"http://{host}:{int(port) + 1000}"
    return f"{base}/namespaces/{quote(client.namespace)}/{path}"
