"""The metrics listener."""

from __future__ import annotations

import socket

import aiohttp

from gateway.web.listener import listen
from gateway.web.metrics import Check, metrics_app


async def test_readiness_says_why() -> None:
    """/readyz is 503 only when no call can be served; warnings are 200, and ?verbose names every check."""
    state = {"ready": True}
    checks = [Check("store", "ok", "writes within 1 ms"), Check("config", "warning", "the last reload failed")]
    sock = socket.create_server(("127.0.0.1", 0))
    base = f"http://127.0.0.1:{sock.getsockname()[1]}"

    async def exposition() -> bytes:
        return b"passgate_up 1\n"

    runner = await listen(metrics_app(exposition, lambda: (state["ready"], checks)), sock)
    async with aiohttp.ClientSession() as session:

        async def get(path: str) -> tuple[int, str]:
            async with session.get(base + path) as answer:
                assert "Server" not in answer.headers
                return answer.status, await answer.text()

        assert await get("/healthz") == (200, "ok\n")
        assert await get("/metrics") == (200, "passgate_up 1\n")
        assert await get("/readyz") == (200, "ready\n")
        assert await get("/readyz?verbose") == (
            200,
            "ready\n[ok] store: writes within 1 ms\n[warning] config: the last reload failed\n",
        )
        state["ready"] = False
        assert await get("/readyz") == (503, "not ready\n")
        assert (await get("/admin/v1/status"))[0] == 404
        async with session.post(base + "/metrics") as answer:
            assert answer.status == 405
    await runner.cleanup()
