"""One trace an order, over all processes that had it in hand: with retries, a kill, and a replay by the next worker."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import Stage, make_order, write_orders
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SentSpan
from test_encryption import NEW, TOKEN, kept_by_the_server, with_keys

from comparison.stage.processes import ROOT, Program, Worker, clean_environment
from examples.trace_tree import Span, lines_of, read_spans
from plumbing.connection import NoConnection, connect

RETRY_AND_KILL = "process_payment:unavailable*1,update_inventory:crash_after"
START, RUN = "StartWorkflow:OrderWorkflow", "RunWorkflow:OrderWorkflow"


async def run_with_a_kill(stage: Stage, **settings: str) -> list[Path]:
    """Run an order whose payment is retried, and whose worker is killed as it takes the stock; return the logs."""
    environment = {**stage.settings, **settings}
    orders = write_orders(stage.directory / "orders.jsonl", make_order("traced"))
    killed = Worker(stage.directory / "killed", environment, stage.data, RETRY_AND_KILL)
    second = Worker(stage.directory / "second", environment, stage.data)
    starter = Program(stage.directory / "starter", environment, "run_workflow.py", str(orders))
    stage.started += [killed, second, starter]
    await killed.start()
    await starter.start()
    await killed.wait()
    await second.start()
    assert await starter.wait() == 0
    assert starter.lines()[0].startswith("traced\tcompleted")
    await second.stop()
    return [program.errors for program in (starter, killed, second)]


def outline(spans: list[Span]) -> list[tuple[str, str]]:
    """Return the lines of the tree: name with its indentation, and log."""
    return [(line[:42].rstrip(), line[42:].split()[0]) for line in lines_of(spans)]


async def test_an_order_is_one_trace_from_its_start_through_its_attempts_whatever_is_killed_and_replayed(
    stage: Stage,
) -> None:
    spans = read_spans(await run_with_a_kill(stage, OTEL_TRACES_EXPORTER="console"))

    assert outline(spans) == [
        (START, "starter"),
        # Begun by the first worker, and ended by the second, which replayed it; the steps before appear once.
        (f"  {RUN}", "second"),
        ("    StartActivity:validate_inventory", "killed"),
        ("      RunActivity:validate_inventory", "killed"),
        ("    StartActivity:process_payment", "killed"),
        ("      RunActivity:process_payment", "killed"),
        ("      RunActivity:process_payment", "killed"),
        ("    StartActivity:update_inventory", "killed"),
        # The attempt that was killed could not write its span; the next one has its own.
        ("      RunActivity:update_inventory", "second"),
        ("    StartActivity:send_confirmation", "second"),
        ("      RunActivity:send_confirmation", "second"),
    ]
    assert len({span.trace_id for span in spans}) == 1
    assert len({span.span_id for span in spans}) == len(spans)
    assert [span.error for span in spans if span.error] == [
        "ApplicationError: ServiceUnavailable: the service is unavailable (payments)"
    ]
    workflow, first_step = spans[1], spans[2]
    assert workflow.began <= first_step.began
    assert workflow.ended == max(span.ended for span in spans)


async def test_attaching_to_an_order_is_a_trace_of_its_own_with_an_error(stage: Stage) -> None:
    orders = write_orders(stage.directory / "orders.jsonl", make_order("twice"))
    settings = {**stage.settings, "OTEL_TRACES_EXPORTER": "console"}
    starter = Program(stage.directory / "starter", settings, "run_workflow.py", "--no-wait", str(orders))

    assert [await starter.run(), await starter.run()] == [0, 0]

    first, second = read_spans([starter.errors])
    assert (first.name, first.error, second.name) == (START, "", START)
    assert second.error.startswith("WorkflowAlreadyStartedError")
    assert first.trace_id != second.trace_id


@pytest.fixture
def collector() -> Iterator[tuple[str, list[SentSpan]]]:
    """Take spans by OTLP over HTTP; give the address, and the list to which they are added."""
    taken: list[SentSpan] = []

    class Request(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            taken.extend(span for of in sent.resource_spans for scope in of.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Request)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}", taken
    serving.shutdown()
    thread.join()
    serving.server_close()


async def test_a_collector_gets_the_same_trace_but_what_a_killed_worker_had_not_sent_yet(
    stage: Stage, collector: tuple[str, list[SentSpan]]
) -> None:
    address, taken = collector
    # So that nothing is sent before the kill.
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
    settings |= with_keys(stage, NEW)

    await run_with_a_kill(stage, OTEL_TRACES_EXPORTER="otlp", **settings)

    # Sent at the end of each process that was not killed.
    assert sorted(span.name for span in taken) == [
        "RunActivity:send_confirmation",
        "RunActivity:update_inventory",
        RUN,
        "StartActivity:send_confirmation",
        START,
    ]
    assert len({span.trace_id for span in taken}) == 1
    by_name = {span.name: span for span in taken}
    assert by_name[RUN].parent_span_id == by_name[START].span_id
    # Its parent, `StartActivity:update_inventory`, is lost.
    assert by_name["RunActivity:update_inventory"].parent_span_id not in {span.span_id for span in taken}
    # Payloads are encrypted here; the ids of the trace, in headers, are not.
    kept = await kept_by_the_server(stage, "traced")
    assert TOKEN.encode() not in kept
    assert taken[0].trace_id.hex().encode() in kept


async def test_a_collector_that_never_answers_does_not_hold_a_program_up(stage: Stage) -> None:
    orders = write_orders(stage.directory / "orders.jsonl", make_order("unseen"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = {
            **stage.settings,
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "600",
        }
        starter = Program(stage.directory / "starter", settings, "run_workflow.py", "--no-wait", str(orders))
        stage.started.append(starter)

        status = await starter.run(60)

        silent.settimeout(1)
        silent.accept()  # It was asked.
    assert status == 0


async def test_an_exporter_that_is_not_known_is_refused_in_a_sentence() -> None:
    with pytest.raises(NoConnection, match="^correct OTEL_TRACES_EXPORTER: must be otlp, console or none, not jaeger$"):
        await connect(clean_environment(OTEL_TRACES_EXPORTER="jaeger"))


def test_a_log_that_cannot_be_read_is_said_in_a_sentence() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "examples.trace_tree", "no-such.log"], cwd=ROOT, capture_output=True, text=True
    )

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("trace_tree: ")
    assert "no-such.log" in ended.stderr
