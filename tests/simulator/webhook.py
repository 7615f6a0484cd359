"""A receiver of webhooks on loopback: it believes a signature or nothing, and fails or dawdles when a test says so."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes....").decode()


@dataclass
class Delivery:
    """One request as it came."""

    id: str
    at: int
    path: str
    event: dict[str, Any]
    genuine: bool  # the signature is ours and covers id, time and body
    status: int  # what it was answered with


@dataclass
class Receiver:
    """Answers with `status`, or with what `answers` says for the n-th request, after `delay` seconds."""

    secret: str = SECRET
    status: int = 200
    delay: float = 0.0
    answers: Callable[[int], int] | None = None
    deliveries: list[Delivery] = field(default_factory=list)
    _server: ThreadingHTTPServer = field(init=False)

    @property
    def url(self) -> str:
        """Where it is told."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    @property
    def config(self) -> dict[str, object]:
        """The entry below `webhooks`."""
        return {"url": self.url, "secret": self.secret}

    @property
    def heard(self) -> list[tuple[str, str]]:
        """What it has acknowledged: type of the event and id of what it is about."""
        return [(one.event["type"], one.event["data"]["id"]) for one in self.deliveries if one.status // 100 == 2]

    def __enter__(self) -> Self:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                time.sleep(receiver.delay)
                self.send_response(receiver._received(self, body))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _received(self, request: BaseHTTPRequestHandler, body: bytes) -> int:
        name, at, signatures = (request.headers[f"webhook-{part}"] for part in ("id", "timestamp", "signature"))
        key = base64.b64decode(self.secret.removeprefix("whsec_"))
        mine = base64.b64encode(hmac.new(key, f"{name}.{at}.".encode() + body, hashlib.sha256).digest()).decode()
        genuine = f"v1,{mine}" in signatures.split(" ")
        status = self.answers(len(self.deliveries)) if self.answers is not None else self.status
        status = status if genuine else 401
        self.deliveries.append(Delivery(name, int(at), request.path, json.loads(body), genuine, status))
        return status
