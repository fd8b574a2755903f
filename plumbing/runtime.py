"""The SDK's native core in this process: where its logs go, and where its metrics are read."""

from __future__ import annotations

import argparse
import contextlib
import logging
from ipaddress import ip_address

from temporalio.runtime import LogForwardingConfig, LoggingConfig, PrometheusConfig, Runtime, TelemetryConfig


class MetricsNotServed(Exception):
    """Metrics were asked for, and cannot be served; the message says where, why, and what to do."""


def make_runtime(metrics_address: str | None = None) -> Runtime:
    """Return a runtime whose native core logs through Python: by default it writes to standard output.

    With an address it serves metrics at http://ADDRESS/metrics: durations in seconds, names by Prometheus' rules.

    Raises:
        MetricsNotServed: if the address is taken, or is none of this machine's.
    """
    forwarding = LogForwardingConfig(logging.getLogger("temporalio.core"))
    # Without its client's warnings of each retry: `watch` says it once when the server is away.
    log_filter = "ERROR,temporalio_sdk_core=WARN,temporalio_sdk=WARN,temporal_sdk_bridge=WARN"
    logs, metrics = LoggingConfig(log_filter, forwarding=forwarding), None
    if metrics_address:
        metrics = PrometheusConfig(
            metrics_address, counters_total_suffix=True, unit_suffix=True, durations_as_seconds=True
        )
    try:
        return Runtime(telemetry=TelemetryConfig(logging=logs, metrics=metrics))
    except ValueError as error:
        raise MetricsNotServed(
            f"metrics cannot be served at {metrics_address}; choose another address or port: {error}"
        ) from error


def ip_and_port(text: str) -> str:
    """Read an option's `IP:PORT`, and return it as the SDK wants it; for argparse.

    Raises:
        ArgumentTypeError: if it is something else, a host's name for example.
    """
    host, _, port = text.rpartition(":")
    with contextlib.suppress(ValueError):
        ip = ip_address(host.strip("[]"))
        if 0 < int(port) < 65_536:
            return f"[{ip}]:{int(port)}" if ip.version == 6 else f"{ip}:{int(port)}"
    raise argparse.ArgumentTypeError(f"must be an IP address and a port, as in 127.0.0.1:9464, not {text!r}")
