"""How worker and starter reach Temporal: settings, what an order looks like on the wire, and what is refused there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, NoReturn
from urllib.parse import quote

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.converter import (
    ActivitySerializationContext,
    DataConverter,
    DefaultPayloadConverter,
    SerializationContext,
)
from temporalio.envconfig import ClientConfig
from temporalio.exceptions import ApplicationError
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig
from temporalio.service import RPCError
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from shop.errors import ShopError
from shop.orders import InvalidOrder, Order, parse_order

TASK_QUEUE = "order-processing"
DEFAULT_ADDRESS = "localhost:7233"
CONNECT_TIMEOUT_SECONDS = 3.0
RPC_TIMEOUT = timedelta(seconds=1)


class NoConnection(Exception):
    """The Temporal server cannot be used; the message says why, and what to do."""


class OrderPayloadConverter(DefaultPayloadConverter):
    """Reads orders by the shop's own rules, whoever wrote them.

    The SDK turns a payload that it cannot decode into a failed workflow *task*, which is retried for ever while the
    order looks as if it ran. Here a malformed order fails its workflow at once, with the field and the reason.

    A stricter rule does not fail an order that is under way: the failure contradicts the recorded history, which fails
    the workflow task only, so the order waits for a worker with the rules that it was accepted by.
    """

    _checks_orders = True

    def with_context(self, context: SerializationContext) -> OrderPayloadConverter:
        """Check an order where its workflow starts, not again in each step: there it would use up the attempts."""
        if not isinstance(context, ActivitySerializationContext):
            return self
        unchecked = OrderPayloadConverter()
        unchecked._checks_orders = False
        return unchecked

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """Decode payloads; an order is checked. The SDK gives no hints if there is another number of arguments.

        Raises:
            ApplicationError: of type `InvalidOrder`, for what cannot be decoded or breaks a rule.
        """
        if not self._checks_orders or type_hints not in (None, [Order]):
            return super().from_payloads(payloads, type_hints)
        try:
            values = super().from_payloads(payloads)
            return [parse_order(*values)] if type_hints else values
        except (ValueError, TypeError, RuntimeError, KeyError, RecursionError) as error:
            message = str(error) if isinstance(error, InvalidOrder) else f"order: cannot be decoded: {error}"
            raise ApplicationError(message, type=InvalidOrder.__name__) from error


class OneOrderInterceptor(Interceptor):
    """Fails an order workflow that was started without an argument or with several; the SDK would retry it for ever."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """Return the check."""
        return _OneOrderCheck


class _OneOrderCheck(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        if workflow.info().workflow_type == "OrderWorkflow" and len(input.args) != 1:
            raise ApplicationError(
                f"order: the workflow takes one argument, not {len(input.args)}", type=InvalidOrder.__name__
            )
        return await super().execute_workflow(input)


@workflow.defn(dynamic=True)
class UnknownWorkflow:
    """Fails workflows of any type that the worker does not serve; the SDK would let them wait for ever.

    Right for a queue of one type. Where types are added, let starts wait for a newer worker: leave this class out.
    """

    @workflow.run
    async def run(self, arguments: Sequence[RawValue]) -> None:
        """Refuse a start, but leave a workflow that is under way to a worker that knows its type.

        Raises:
            ApplicationError: of type `UnknownWorkflowType`.
        """
        message = f"workflow type {workflow.info().workflow_type} is unknown; this queue serves OrderWorkflow"
        if workflow.unsafe.is_replaying():
            raise RuntimeError(message)
        raise ApplicationError(message, type="UnknownWorkflowType")


async def connect(environment: Mapping[str, str]) -> Client:
    """Connect by the standard Temporal environment: `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, ...

    See https://docs.temporal.io/develop/environment-configuration.

    Raises:
        NoConnection: within 5 s, if the settings or the server are not usable.
    """
    try:
        settings = ClientConfig.load_client_connect_config(override_env_vars=dict(environment))
    except (RuntimeError, ValueError, OSError) as error:
        raise NoConnection(f"the Temporal settings cannot be read: {error}") from error
    address = settings.setdefault("target_host", DEFAULT_ADDRESS)
    converter = replace(DataConverter.default, payload_converter_class=OrderPayloadConverter)
    try:
        client = await asyncio.wait_for(
            Client.connect(**settings, data_converter=converter, runtime=_runtime()), CONNECT_TIMEOUT_SECONDS
        )
    except (RuntimeError, ValueError, asyncio.TimeoutError) as error:
        raise NoConnection(
            f"no Temporal server answers at {address}; start one (python run_server.py) or set TEMPORAL_ADDRESS;"
            f" the SDK says: {error or 'no answer in time'}"
        ) from error
    try:
        await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=client.namespace), timeout=RPC_TIMEOUT
        )
    except RPCError as error:
        raise NoConnection(f"the Temporal server at {address} refuses: {error.message}") from error
    return client


def ui_link(client: Client, path: str) -> str:
    """Return where the UI shows `path`, by the development server's rule: the UI listens 1000 above the server."""
    host, _, port = client.service_client.config.target_host.rpartition("/")[2].rpartition(":")
    if host.endswith((".tmprl.cloud", ".temporal.io")):
        base = "https://cloud.temporal.io"
    else:
        base = f"http://{host}:{int(port) + 1000}"
    return f"{base}/namespaces/{quote(client.namespace)}/{path}"


def log_to_stderr() -> None:
    """Send all logs to standard error, an expected failure in one line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_shorten_shop_errors)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=[handler])


def leave_with(main: Callable[[], int]) -> NoReturn:
    """Run `main` and end the process with the status it returns, whatever the SDK's native threads do at exit.

    They sometimes crash or hang there, see https://github.com/temporalio/sdk-python/issues/300.
    """
    status = 1
    try:
        status = main()
    except SystemExit as request:
        status = request.code if isinstance(request.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def _shorten_shop_errors(record: logging.LogRecord) -> bool:
    """Replace the traceback of an attempt that the shop refused by what the shop said."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, ShopError):
        attempt = getattr(record, "temporal_activity", {})
        record.msg = "%s: %s: attempt %s failed: %s: %s"
        record.args = (
            attempt.get("workflow_id"),
            attempt.get("activity_type"),
            attempt.get("attempt"),
            type(error).__name__,
            error,
        )
        record.exc_info = record.exc_text = None
    return True


def _runtime() -> Runtime:
    """Return a runtime whose native core logs through Python: by default it writes to standard output."""
    forwarding = LogForwardingConfig(logging.getLogger("temporalio.core"))
    # Without its client's warnings of each retry: when the server is away, the starter says so itself.
    log_filter = "ERROR,temporalio_sdk_core=WARN,temporalio_sdk=WARN,temporal_sdk_bridge=WARN"
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(log_filter, forwarding=forwarding)))
