"""The metrics listener: `/metrics`, `/healthz` and `/readyz`, open to whoever reaches it."""

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
    metrics: Callable[[], Awaitable[bytes]],
    ready: Callable[[], tuple[bool, Sequence[Check]]],
    *,
    on_failure: Callable[[str, str], None] = lambda _what, _path: None,
) -> web.Application:
    """The application; `metrics` gives the exposition, `ready` whether calls are served and why (not).

    Both are called in the event loop for each request; `ready` must be quick. `on_failure` hears of our
    own mistakes: what, and the path.
    """

    async def get_metrics(request: web.Request) -> web.Response:
        try:
            exposition = await metrics()
        except Exception as error:  # noqa: BLE001 - the door is where our own mistakes end
            on_failure(f"{type(error).__name__}: {error}", request.path)
            return web.Response(status=500, text="the metrics could not be made; the log says why\n")
        return web.Response(body=exposition, headers={"Content-Type": _EXPOSITION})

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
