"""The bare proxy that the gateway is measured against: aiohttp on uvloop with everything left out that can be.

Low-level server, one shared session, no routing, no checks, no accounts. It is pinned by its SHA-256 in
`systems.py`: whoever makes it slower, to look better beside it, has to say so in a diff.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web

HOP_BY_HOP = {"host", "connection", "keep-alive", "te", "trailer", "upgrade", "transfer-encoding", "content-length"}


async def serve(port: int, upstream: str) -> None:
    """Forward everything that arrives at the port to the upstream, until the process is stopped."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    )

    async def forward(request: web.BaseRequest) -> web.StreamResponse:
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
        body = await request.read()
        async with session.request(request.method, upstream + request.path_qs, headers=headers, data=body) as answer:
            kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP]
            if answer.content_length is not None:
                return web.Response(status=answer.status, headers=kept, body=await answer.read())
            stream = web.StreamResponse(status=answer.status, headers=kept)
            await stream.prepare(request)
            async for part in answer.content.iter_any():
                await stream.write(part)
            await stream.write_eof()
            return stream

    runner = web.ServerRunner(web.Server(forward))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
