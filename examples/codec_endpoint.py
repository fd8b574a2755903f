"""Decrypts payloads for the UI and the command line, with the keys of this machine: a codec server for one person.

PAYLOAD_KEYS_FILE=FILE python -m examples.codec_endpoint [--port N] [--ui ORIGIN]

It listens on 127.0.0.1 and answers whoever reaches that: stop it when you have seen what you wanted to see. For a team,
put a server behind TLS and a login: https://docs.temporal.io/production-deployment/data-encryption.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf.json_format import MessageToJson, Parse, ParseError
from temporalio.api.common.v1 import Payloads

from plumbing.encryption import KEYS_FILE, Encryption, read_keys
from plumbing.process import log_to_stderr

PORT, MAX_PORT = 8081, 65_535
UI_ORIGINS = ["http://localhost:8233", "http://127.0.0.1:8233"]
# A page of a history is at most 4 MB, the limit of gRPC; Base64 adds a third.
MAX_BODY_BYTES = 8_000_000
TIMEOUT_SECONDS = 10

logger = logging.getLogger("codec_endpoint")


class CodecEndpoint(ThreadingHTTPServer):
    """Serves one codec to pages of a few origins, and to programs, which name none."""

    daemon_threads = True

    def __init__(self, port: int, codec: Encryption, origins: list[str]) -> None:
        """Listen on a port of this machine."""
        self.codec, self.origins = codec, origins
        super().__init__(("127.0.0.1", port), _Request)


class _Request(BaseHTTPRequestHandler):
    server: CodecEndpoint
    timeout = TIMEOUT_SECONDS

    def do_OPTIONS(self) -> None:  # noqa: N802  # the name that http.server calls
        """Tell a browser whether the page that asks may send a request."""
        self._answer(HTTPStatus.NO_CONTENT) if self._is_allowed() else self._answer(HTTPStatus.FORBIDDEN)

    def do_POST(self) -> None:
        """Decode or encode the payloads in the body."""
        codec, length = self.server.codec, self.headers.get("Content-Length", "")
        work = {"/decode": codec.decode, "/encode": codec.encode}.get(self.path.partition("?")[0])
        if not self._is_allowed():
            # A browser sends the origin of every page that posts. Any page may try, so the request is not even read.
            self._answer(HTTPStatus.FORBIDDEN, b"the page that asks is not the UI (--ui)")
        elif work is None:
            self._answer(HTTPStatus.NOT_FOUND, b"POST to /decode or /encode")
        elif not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"a body of at most 8,000,000 bytes is taken")
        else:
            try:
                payloads = Parse(self.rfile.read(int(length)), Payloads())
            except (ParseError, ValueError, RecursionError):
                self._answer(HTTPStatus.BAD_REQUEST, b'the body must be JSON: {"payloads": [...]}')
                return
            done = Payloads(payloads=asyncio.run(work(payloads.payloads)))
            self._answer(HTTPStatus.OK, MessageToJson(done).encode())

    def log_request(self, *_: object) -> None:
        """Say nothing: one command makes dozens of requests."""

    def _is_allowed(self) -> bool:
        return self.headers.get("Origin") in (None, *self.server.origins)

    def _answer(self, status: HTTPStatus, body: bytes = b"") -> None:
        self.send_response(status)
        if self._is_allowed() and "Origin" in self.headers:
            self.send_header("Access-Control-Allow-Origin", self.headers["Origin"])
            self.send_header("Access-Control-Allow-Headers", "Content-Type, X-Namespace")
            self.send_header("Vary", "Origin")
        self.send_header("Content-Type", "application/json" if status is HTTPStatus.OK else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> int:
    """Serve until Ctrl-C; return the exit status: 0 stopped on request, 2 bad usage, no keys, or a port in use."""
    parser = argparse.ArgumentParser(description="Decrypt payloads for the Temporal UI and the temporal program.")
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help=f"port to listen on (default: {PORT})")
    parser.add_argument("--ui", action="append", metavar="ORIGIN", help="origin of the UI (default: localhost:8233)")
    arguments = parser.parse_args()
    if not 0 <= arguments.port <= MAX_PORT:
        parser.error(f"--port: must be from 0 to {MAX_PORT}")
    log_to_stderr()
    try:
        keys = read_keys(os.environ)
        if not keys:
            raise ValueError("set it to the file with the keys that the workers have")
        endpoint = CodecEndpoint(arguments.port, Encryption(keys, leaves_unknown=True), arguments.ui or UI_ORIGINS)
    except (ImportError, ValueError) as error:
        print(f"codec_endpoint: correct {KEYS_FILE}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"codec_endpoint: {error}", file=sys.stderr)
        return 2
    logger.info("decrypting at http://127.0.0.1:%s for %s", endpoint.server_port, " and ".join(endpoint.origins))
    try:
        endpoint.serve_forever()
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
