"""The metrics listener: `/metrics`, `/healthz` and `/readyz`, open to whoever reaches it (wire §2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from aiohttp import web

_EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"
_TEXT: Final = "text/plain; charset=utf-8"


class Check(NamedTuple):
    """One line of `/readyz?verbose`."""

    name: str
    status: str  # ok | warning | failing
    text: str


def metrics_app(
    metrics: Callable[[], Awaitable[bytes]], ready: Callable[[], tuple[bool, Sequence[Check]]]
) -> web.Application:
    """The application; `metrics` gives the exposition, `ready` whether calls are served and why (not).

    Both are called in the event loop for each request; `ready` must be quick.
    """

    async def get_metrics(_request: web.Request) -> web.Response:
        return web.Response(body=await metrics(), headers={"Content-Type": _EXPOSITION})

    async def get_health(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def get_ready(request: web.Request) -> web.Response:
        is_ready, checks = ready()
        lines = [f"{'ready' if is_ready else 'not ready'}\n"]
        if "verbose" in request.query:
            lines += [f"[{check.status}] {check.name}: {check.text}\n" for check in checks]
        return web.Response(
            status=200 if is_ready else 503,
            body="".join(lines).encode(),
            headers={"Content-Type": _TEXT, "Cache-Control": "no-store"},
        )

    app = web.Application(client_max_size=1024)
    app.router.add_get("/metrics", get_metrics)
    app.router.add_get("/healthz", get_health)
    app.router.add_get("/readyz", get_ready)
    return app
