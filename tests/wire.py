"""A TCP connection to a server that a test can cut, or turn into a black hole, and mend."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from comparison.stage.processes import Server


class Wire:
    """Carries bytes to a server and back."""

    def __init__(self, server: Server, delay_seconds: float = 0.0) -> None:
        """Choose the server, and how long bytes take in each direction; `mend` begins to carry."""
        self._delay_seconds = delay_seconds
        self._server_port = server.port
        self._open: set[asyncio.StreamWriter] = set()
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
        self._listener = await asyncio.start_server(self._carry, "127.0.0.1", self._port)
        self._port = self._listener.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Stop listening and break all connections."""
        self._listener.close()
        for writer in self._open:
            writer.transport.abort()

    def swallow(self) -> None:
        """Become a black hole: keep all connections open, take new ones, and carry nothing."""
        self._carries.clear()

    def carry_on(self) -> None:
        """Carry again, what was held back first."""
        self._carries.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        ends = {writer, server_writer}
        self._open |= ends
        await asyncio.gather(self._pass_on(reader, server_writer), self._pass_on(server_reader, writer))
        self._open -= ends

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while part := await reader.read(65536):
                await self._carries.wait()
                await asyncio.sleep(self._delay_seconds)
                writer.write(part)
                await writer.drain()
        writer.close()
