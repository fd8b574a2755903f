"""What stands before a Temporal server elsewhere: TLS, client certificates, API keys; and certificates for it."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path

import hpack
from wire import Wire

from comparison.stage.processes import Server

# RFC 9113: what a connection begins with, and of a frame's head the length, the type and the stream.
PREFACE_LENGTH, HEAD_LENGTH, LENGTH, TYPE, STREAM = 24, 9, slice(3), 3, slice(5, 9)
HEADERS, LAST_AND_WHOLE = 1, 0x5
UNAUTHENTICATED = "16"

# `openssl ca` and no shorter command: every version of it takes the dates of a certificate that has expired.
AUTHORITY = """
[ca]
default_ca = authority
[authority]
database = index
serial = serial
new_certs_dir = .
default_md = sha256
policy = policy
unique_subject = no
copy_extensions = copy
[policy]
commonName = supplied
"""
EVER = ("20200101000000Z", "20491231000000Z")
LONG_AGO = ("20200101000000Z", "20200102000000Z")


def make_authority(directory: Path) -> None:
    """Make a folder for a CA, with its certificate in `ca.pem`."""
    directory.mkdir()
    (directory / "config").write_text(AUTHORITY)
    (directory / "index").touch()
    (directory / "serial").write_text("01")
    _openssl(directory, *_request("ca"), "-x509", "-out", "ca.pem")


def make_certificate(directory: Path, name: str, host: str = "IP:127.0.0.1", valid: tuple[str, str] = EVER) -> None:
    """Let the CA in a folder issue a certificate to a host, from one date to another; write `NAME.pem`, `NAME.key`."""
    _openssl(directory, *_request(name), "-addext", f"subjectAltName={host}", "-out", f"{name}.request")
    dates = ("-startdate", valid[0], "-enddate", valid[1])
    authority = ("ca", "-batch", "-notext", "-config", "config", "-cert", "ca.pem", "-keyfile", "ca.key")
    _openssl(directory, *authority, *dates, "-in", f"{name}.request", "-out", f"{name}.pem")


def _request(name: str) -> tuple[str, ...]:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")
    return ("req", "-subj", f"/CN={name}", *key)


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, capture_output=True, timeout=60, check=True)


class Gateway(Wire):
    """Ends TLS, notes the headers of every request, and passes it on, if it brings the right API key."""

    def __init__(self, server: Server, certificate: Path, client_ca: Path | None = None, key: str = "") -> None:
        """Show a certificate; demand one of the CA `client_ca` from clients, or an API key, if there is one."""
        super().__init__(server)
        self.key = key
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        self._context.set_alpn_protocols(["h2"])
        if client_ca:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(client_ca)
        self.requests: list[dict[str, str]] = []

    async def _pass_both_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        with suppress(OSError, EOFError):
            server_writer.write(await reader.readexactly(PREFACE_LENGTH))
            # The server's settings come before any answer.
            writer.write(await server_reader.read(65536))
            await asyncio.gather(self._admit(reader, server_writer, writer), self._pass_on(server_reader, writer))

    async def _admit(
        self, reader: asyncio.StreamReader, server_writer: asyncio.StreamWriter, writer: asyncio.StreamWriter
    ) -> None:
        """Pass frames on to the server, but none of a client with a wrong key."""
        decoder, is_known = hpack.Decoder(), True
        with suppress(OSError, EOFError):
            while True:
                head = await reader.readexactly(HEAD_LENGTH)
                body = await reader.readexactly(int.from_bytes(head[LENGTH], "big"))
                if head[TYPE] == HEADERS:
                    self.requests.append({str(name): str(value) for name, value in decoder.decode(body)})
                    is_known = not self.key or self.requests[-1].get("authorization") == f"Bearer {self.key}"
                    if not is_known:
                        writer.write(refusal(head[STREAM]))
                if is_known:
                    server_writer.write(head + body)
                await server_writer.drain()
        server_writer.close()


def refusal(stream: bytes) -> bytes:
    """Return the frame that answers a call: we do not know you."""
    headers = hpack.Encoder().encode(
        [
            (":status", "200"),
            ("content-type", "application/grpc"),
            ("grpc-status", UNAUTHENTICATED),
            ("grpc-message", "Request unauthorized."),
        ]
    )
    return len(headers).to_bytes(3, "big") + bytes([HEADERS, LAST_AND_WHOLE]) + stream + headers
