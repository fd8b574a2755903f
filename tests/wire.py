"""A TCP connection to a server that a test can cut, or turn into a black hole, and mend."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress

from comparison.stage.processes import Server


class Wire:
    """Carries bytes to a server and back."""

    def __init__(self, server: Server, delay_seconds: float = 0.0) -> None:
        """Choose the server, and how long bytes take in each direction; `mend` begins to carry."""
        self._delay_seconds = delay_seconds
        self._context: ssl.SSLContext | None = None
        self._server_port = server.port
        self._open: set[asyncio.Task[None]] = set()
        self._port = 0
        self.taken = 0  # connections, so far
        self._carries = asyncio.Event()
        self._carries.set()

    @property
    def address(self) -> str:
        """Return where programs connect to."""
        return f"127.0.0.1:{self._port}"

    async def mend(self) -> None:
        """Listen, and carry."""
        self._listener = await asyncio.start_server(self._take, "127.0.0.1", self._port, ssl=self._context)
        self._port = self._listener.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Stop listening and break all connections."""
        self._listener.close()
        for connection in self._open:
            connection.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def swallow(self) -> None:
        """Become a black hole: keep all connections open, take new ones, and carry nothing."""
        self._carries.clear()

    def carry_on(self) -> None:
        """Carry again, what was held back first."""
        self._carries.set()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        connection = asyncio.create_task(self._carry(reader, writer))
        self._open.add(connection)
        connection.add_done_callback(self._open.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            ends.append(server_writer)
            await self._pass_both_on(reader, writer, server_reader, server_writer)
        finally:
            for end in ends:
                end.transport.abort()

    async def _pass_both_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        await asyncio.gather(self._pass_on(reader, server_writer), self._pass_on(server_reader, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while part := await reader.read(65536):
                await self._carries.wait()
                await asyncio.sleep(self._delay_seconds)
                writer.write(part)
                await writer.drain()
        writer.close()
