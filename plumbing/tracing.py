"""Traces of workflows by OpenTelemetry: one trace from the start through the steps and their attempts.

The standard `OTEL_*` environment says where spans go: https://opentelemetry.io/docs/languages/sdk-configuration/.
A program has to end by `run_and_exit`, or its last spans are lost.
"""

from __future__ import annotations

import functools
import sys
import threading
from typing import TYPE_CHECKING

from plumbing.process import at_exit

if TYPE_CHECKING:  # Imported, it brings all of the worker along, also to programs that are none.
    from temporalio.plugin import SimplePlugin

EXPORTER = "OTEL_TRACES_EXPORTER"
# A collector that does not answer must not hold a program up at its end: the exporter would try for ten seconds.
FLUSH_SECONDS = 2.0


@functools.cache
def tracing_by(exporter: str) -> list[SimplePlugin]:
    """Return the client's plugin that makes spans, for `otlp` (over HTTP) or `console` (a line a span, in the log).

    It sets OpenTelemetry's global tracer provider: spans of your own code and of instrumented libraries join the trace.

    Raises:
        ImportError: if a package is missing.
        ValueError: if there is no such exporter.
    """
    if exporter in ("", "none"):
        return []
    if exporter not in ("otlp", "console"):
        raise ValueError(f"must be otlp, console or none, not {exporter}")
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
    from temporalio.contrib.opentelemetry import OpenTelemetryPlugin, create_tracer_provider

    provider = create_tracer_provider(shutdown_on_exit=False)
    if exporter == "otlp":  # in batches, by a thread: a slow collector must not hold up a workflow
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    else:
        lines = ConsoleSpanExporter(out=sys.stderr, formatter=lambda span: f"{span.to_json(indent=None)}\n")
        provider.add_span_processor(SimpleSpanProcessor(lines))
    trace.set_tracer_provider(provider)
    flush = threading.Thread(target=provider.shutdown, daemon=True)
    at_exit.callback(flush.join, FLUSH_SECONDS)
    at_exit.callback(flush.start)  # the last one is called first
    return [OpenTelemetryPlugin(add_temporal_spans=True)]
