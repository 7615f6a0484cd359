"""The command line as an operator: the admin API of the gateway that serves with the same configuration.

The address is that of `listen.admin`, or `--admin URL`; the token `PASSGATE_ADMIN_TOKEN`, or the file that
the gateway made beside its state. The token is sent to this machine or over TLS, never in the clear.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from gateway.cli import WrongUse

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from gateway.config import Settings

_SECONDS: Final = 10.0
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_LONGEST: Final = 256 * 1024 * 1024


class NothingServes(Exception):
    """There is nobody at the address of the configuration: the state may be read, or changed under its lock."""


class Admin:
    """One gateway's admin API."""

    def __init__(self, url: str, token: str, *, guessed: bool) -> None:
        """`guessed`: the address is the configuration's, where nobody may be."""
        where = urlsplit(url)
        if where.scheme not in {"http", "https"} or not where.hostname or where.path.strip("/") or where.query:
            raise WrongUse(f"passgate: {url} is no address of an admin listener; write it as https://host:9901")
        if where.scheme == "http" and where.hostname not in _LOOPBACK:
            raise WrongUse(f"passgate: {url} would show the operator's token to the network; use https, or a tunnel")
        self._url = url.rstrip("/")
        self._where = where
        self._token = token
        self._guessed = guessed

    def get(self, path: str) -> dict[str, Any]:
        """Read; raises `WrongUse` with what the gateway says, `NothingServes`."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Change something; raises as `get` does."""
        return self._ask("POST", path, json.dumps(body).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        try:
            status, data = self._exchange(method, path, body)
        except ConnectionRefusedError as error:
            if self._guessed:
                raise NothingServes(self._url) from error
            raise WrongUse(f"passgate: nothing serves at {self._url}; correct --admin, or start the gateway.") from None
        except (OSError, http.client.HTTPException) as error:
            raise WrongUse(
                f"passgate: {self._url} cannot be asked: {error}; correct listen.admin or --admin."
            ) from None
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise WrongUse(f"passgate: what answers at {self._url} is not a gateway's admin listener ({status}).")
        if status != http.client.OK:
            raise WrongUse(f"passgate: {answer.get('detail', f'the gateway answered {status}')}.")
        return answer

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        where = self._where
        connection = (
            http.client.HTTPSConnection(
                where.hostname or "", where.port, timeout=_SECONDS, context=ssl.create_default_context()
            )
            if where.scheme == "https"
            else http.client.HTTPConnection(where.hostname or "", where.port, timeout=_SECONDS)
        )
        try:
            headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(_LONGEST)
        finally:
            connection.close()


def add_admin(parser: argparse.ArgumentParser) -> None:
    """Let a command take `--admin`."""
    parser.add_argument(
        "--admin", metavar="URL", help="the admin listener; default: that of the configuration, on this machine"
    )


def admin(settings: Settings, given: argparse.Namespace) -> Admin:
    """The gateway that is meant; raises `WrongUse` where there is no token for it, `NothingServes`."""
    door = settings.listen.admin
    url = given.admin
    if not url:
        if not door.bind.port:
            raise NothingServes("listen.admin")
        host = door.hosts[0].partition(":")[0] if door.tls and door.hosts else door.bind.reachable.host
        host = f"[{host}]" if ":" in host else host
        url = f"{'https' if door.tls else 'http'}://{host}:{door.bind.port}"
    return Admin(url, _token(settings, guessed=not given.admin), guessed=not given.admin)


def _token(settings: Settings, *, guessed: bool) -> str:
    token = os.environ.get("PASSGATE_ADMIN_TOKEN", "").strip()
    file = settings.state.admin_token
    if not token:
        try:
            token = file.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            if guessed and not settings.operators:
                raise NothingServes(str(file)) from None  # it is made at the first start
            raise WrongUse(
                "passgate: this needs an operator's token; put it into the variable PASSGATE_ADMIN_TOKEN."
            ) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise WrongUse(
                f"passgate: {file} cannot be read: {reason}; use the account of the gateway, or PASSGATE_ADMIN_TOKEN."
            ) from None
    if not token.isascii() or not token.isprintable() or " " in token:
        raise WrongUse("passgate: PASSGATE_ADMIN_TOKEN holds no token.")
    return token
