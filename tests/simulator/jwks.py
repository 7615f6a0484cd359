"""An issuer's web server on loopback: it publishes keys, or anything else that a test wants it to say, and counts.

It plays in a thread of its own, so that a gateway in other processes can fetch from it too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from tests.simulator.provider import ScriptedProvider
from tests.simulator.upstream import CHUNKED, Do, Script, Step, answer, chunk

JWKS: Final = "/jwks.json"
DISCOVERY: Final = "/.well-known/openid-configuration"
_PIECE: Final = 64 * 1024


class Endless:
    """A body that never ends; `sent` is how much of it was taken."""

    def __init__(self) -> None:
        """Nothing was asked for yet."""
        self.sent = 0

    def __iter__(self) -> Iterator[Step]:
        yield CHUNKED
        while True:
            yield chunk(b" " * _PIECE)
            self.sent += _PIECE


class JwksServer(ScriptedProvider):
    """Publishes nothing until it is told what."""

    @property
    def jwks_url(self) -> str:
        """Where the keys are."""
        return self.url + JWKS

    @property
    def fetches(self) -> int:
        """How often the keys were asked for."""
        return len(self.heard(JWKS))

    def publishes(self, jwks: bytes) -> None:
        """Say these keys from now on."""
        self.says(JWKS, [answer(jwks, ("Content-Type", "application/json"))])

    def answers(self, script: Script) -> None:
        """Say this where the keys should be."""
        self.says(JWKS, script)

    def discovers(self, **members: object) -> None:
        """Publish a discovery document for this server's own address; a change to `...` leaves the member out."""
        document = {"issuer": self.url, "jwks_uri": self.jwks_url, **members}
        text = json.dumps({name: value for name, value in document.items() if value is not ...})
        self.says(DISCOVERY, [answer(text.encode(), ("Content-Type", "application/json"))])


def redirect(location: str) -> Script:
    """Send the other side elsewhere."""
    return [answer(b"", ("Location", location), status="302 Found")]


def trouble(jwks: bytes) -> dict[str, Script]:
    """Answers that are no set of keys, by what is wrong with them; what they carry would be one."""
    html = b"<html><body>Sign in to continue</body></html>"
    private = json.loads(jwks)
    private["keys"][0]["d"] = "c2VjcmV0LXZhbHVl"
    return {
        "an error with keys": [answer(jwks, status="500 Internal Server Error")],
        "not found": [answer(jwks, status="404 Not Found")],
        "another success": [answer(jwks, status="203 Non-Authoritative Information")],
        "a web page": [answer(html, ("Content-Type", "text/html"))],
        "nothing": [answer(b"")],
        "no content": [b"HTTP/1.1 204 No Content\r\n\r\n"],
        "cut JSON": [answer(jwks[:-2])],
        "a list": [answer(b"[" + jwks + b"]")],
        "no keys member": [answer(b'{"error": "try later"}')],
        "keys twice": [answer(jwks[:-1] + b', "keys": []}')],
        "a private key": [answer(json.dumps(private).encode())],
        "half a body": [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(jwks) + 9) + jwks, Do.CLOSE],
        "a reset": [b"HTTP/1.1 200 OK\r\n", Do.RESET],
        "not HTTP": [b"SSH-2.0-OpenSSH_9.7\r\n\r\n", Do.CLOSE],
        "two gibibytes, announced": [b"HTTP/1.1 200 OK\r\nContent-Length: 2147483648\r\n\r\n" + jwks, Do.HANG],
        "silence": [Do.HANG],
        "an answer without an end": [b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{", Do.HANG],
    }
