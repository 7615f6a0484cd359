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


async def test_metrics_that_cannot_be_made_say_so_and_are_logged() -> None:
    """A mistake of ours is an answer without a traceback, and a line for the log."""
    heard: list[tuple[str, str]] = []

    async def broken() -> bytes:
        raise ValueError("a bad sum")

    sock = socket.create_server(("127.0.0.1", 0))
    app = metrics_app(broken, lambda: (True, []), on_failure=lambda what, path: heard.append((what, path)))
    runner = await listen(app, sock)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{sock.getsockname()[1]}/metrics") as answer,
    ):
        assert answer.status == 500
        assert "bad sum" not in await answer.text()
    assert heard == [("ValueError: a bad sum", "/metrics")]
    await runner.cleanup()
