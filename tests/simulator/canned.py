"""An upstream on loopback that keeps every byte it was sent and answers what it was told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class CannedUpstream:
    """Serves one canned answer to each request; `requests` holds the raw heads and bodies that came."""

    def __init__(self, answer: bytes) -> None:
        """Take the raw answer, from status line to last byte."""
        self.answer = answer
        self.requests: list[bytes] = []
        self.url = ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
                )
                self.requests.append(head + await reader.readexactly(length))
                writer.write(self.answer)
                await writer.drain()
        writer.close()

    def seen(self) -> bytes:
        """Everything that arrived, joined: for canaries."""
        return b"\n".join(self.requests)


@contextlib.asynccontextmanager
async def canned_upstream(
    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
) -> AsyncIterator[CannedUpstream]:
    """Run a canned upstream while the block lasts."""
    upstream = CannedUpstream(answer)
    server = await asyncio.start_server(upstream._serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()
