"""Draws the traces that programs wrote into their logs, as trees: spans by their parents, in the order they began.

OTEL_TRACES_EXPORTER=console python run_worker.py 2> worker.log
python -m examples.trace_tree worker.log ...
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

SPAN, TIME = '{"name"', "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True)
class Span:
    """One span, as OpenTelemetry's console exporter writes it."""

    name: str
    span_id: str
    parent_id: str
    trace_id: str
    began: datetime
    ended: datetime
    error: str
    log: str


def read_spans(logs: list[Path]) -> list[Span]:
    """Read the spans of all logs, the first to begin first; what else is in them is skipped.

    Raises:
        OSError: if a file cannot be read.
    """
    lines = [(log.stem, line) for log in logs for line in log.read_text(errors="replace").splitlines()]
    return sorted((read_span(line, log) for log, line in lines if line.startswith(SPAN)), key=lambda span: span.began)


def read_span(line: str, log: str) -> Span:
    """Read one line."""
    written = json.loads(line)
    began, ended = (datetime.strptime(written[name], TIME) for name in ("start_time", "end_time"))
    error = written["status"].get("description", "")
    # A parent's id is written as 0x..., or not.
    ids = [str(one or "").removeprefix("0x") for one in (written["context"]["span_id"], written["parent_id"])]
    return Span(written["name"], ids[0], ids[1], written["context"]["trace_id"], began, ended, error, log)


def lines_of(spans: list[Span]) -> Iterator[str]:
    """Yield a line a span: its name, the log it stands in, how long it took, and its error."""
    known, children = {span.span_id for span in spans}, defaultdict[str, list[Span]](list)
    for span in spans:
        # A process that was killed has not written the spans that were open: what they would hold begins a tree.
        children[span.parent_id if span.parent_id in known else ""].append(span)

    def below(parent_id: str, depth: int) -> Iterator[str]:
        for span in children[parent_id]:
            seconds = (span.ended - span.began).total_seconds()
            yield f"{'  ' * depth + span.name:<42}  {span.log:<8}  {seconds:.2f} s  {span.error}".rstrip()
            yield from below(span.span_id, depth + 1)

    yield from below("", 0)


def main() -> int:
    """Print the trees; return 0, or 2 if a file cannot be read."""
    try:
        spans = read_spans([Path(name) for name in sys.argv[1:]])
    except OSError as error:
        print(f"trace_tree: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines_of(spans)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
