"""The admin listener: `/admin/v1/…` in JSON, always with an operator's credential.

In this order, each step before the next: (1) the host is ours and no foreign page asks; (2) an
operator's token; (3) the address and method exist; (4) the operator has the role; (5) a write says
that it is JSON, which no HTML form can; (6) the body is small and strict JSON. Who has no
credential learns nothing about addresses.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote

from aiohttp import web

from gateway.core.errors import Refusal, method_not_allowed
from gateway.core.ids import new_id
from gateway.dialects.json_body import JsonLimits, parse
from gateway.dialects.refusals import render
from gateway.identity.operators import Subject, no_operator
from gateway.web.hosts import Hosts
from gateway.web.settings import OperatorSettings

_BODY_BYTES: Final = 1024 * 1024
_BODY_SECONDS: Final = 10.0
_LIMITS: Final = JsonLimits()
_TOKEN_LENGTH: Final = 43  # 256 bits in base64url
_READS: Final = frozenset({"GET", "HEAD"})
ROLES: Final[Mapping[str, frozenset[str]]] = {
    "viewer": frozenset({"viewer"}),
    "finance": frozenset({"finance", "viewer"}),
    "approver": frozenset({"approver", "viewer"}),
    "operator": frozenset({"operator", "finance", "approver", "viewer"}),
}
"""What each role may do: its own and what stands below it."""
Verify = Callable[[str], Awaitable[Subject]]
"""Whose a signed token is; raises `Refusal` for all that is none of an operator's."""


@dataclass(frozen=True, slots=True)
class Operator:
    """Who asks: the id for logs, every role that the operator may act in, and the groups of approvers.

    `subject` is what names the operator in tokens, empty where it has a token of its own.
    """

    id: str
    may: frozenset[str]
    groups: frozenset[str] = frozenset()
    subject: str = ""


@dataclass(frozen=True, slots=True)
class AdminCall:
    """One authorised request."""

    operator: Operator
    method: str
    path: str
    variables: Mapping[str, str]
    query: Mapping[str, str]
    body: Mapping[str, object]  # empty for reads


class Route(NamedTuple):
    """One line of the table: a handler gives what is sent as JSON, or raises `Refusal`."""

    method: str
    path: str  # segments; `{name}` stands for one
    role: str
    handler: Callable[[AdminCall], Awaitable[object]]


class Operators:
    """The credentials: operators of the configuration, or the token that was made at first start."""

    def __init__(
        self, operators: Sequence[OperatorSettings], bootstrap: str | None = None, verify: Verify | None = None
    ) -> None:
        """`bootstrap` is a token with all roles, `verify` takes the signed ones; no credential is a `ValueError`."""
        self._known: list[tuple[str, Operator]] = []
        self._signed: dict[Subject, Operator] = {}
        for one in operators:
            operator = Operator(one.id, roles_of(one), frozenset(one.groups), one.subject)
            if one.issuer:
                self._signed[Subject(one.issuer, one.subject)] = operator
            else:
                self._known.append((one.token_sha256, operator))
        if bootstrap is not None:
            self._known.append(
                (hashlib.sha256(bootstrap.encode()).hexdigest(), Operator("bootstrap", ROLES["operator"]))
            )
        if not (self._known or self._signed):
            raise ValueError("the admin listener needs operators or an admin token")
        self._verify = verify

    async def identify(self, authorization: Sequence[str]) -> Operator:
        """The operator of an `Authorization` header; raises `Refusal` (401; 503 where keys cannot be had).

        All digests are compared, in constant time, so that time tells nothing about them; then the token is
        verified as one that an issuer signed.
        """
        if not authorization:
            raise Refusal("identity_missing", "an operator's token is needed; send it as Authorization: Bearer TOKEN")
        scheme, _, token = authorization[0].partition(" ")
        token = token.strip(" ")
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        match = None
        for known, operator in self._known:
            if hmac.compare_digest(known, digest):
                match = operator
        if scheme.lower() != "bearer" or len(authorization) > 1:
            raise no_operator("Authorization is not one header with the scheme Bearer")
        if match is None and self._verify is not None:
            match = self._signed.get(await self._verify(token))
        if match is None:
            raise no_operator("the token is nobody's")
        return match


def roles_of(operator: OperatorSettings) -> frozenset[str]:
    """Every role that an operator may act in."""
    return frozenset().union(*(ROLES[role] for role in operator.roles))


def ensure_admin_token(path: Path) -> str:
    """Give the token in the file `path`; make it (256 bits, mode 0600) where there is none.

    Raises `PermissionError` for a file that others can read, `ValueError` for one that holds no
    token of full length; both say what to do.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(fresh, path)  # appears complete, and never replaces one that is in use
    finally:
        fresh.unlink()
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, encoding="ascii", errors="replace") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise PermissionError(f"{path} can be read by others: run chmod 600 {path}, or delete it for a new token")
        token = file.read(1024).strip()
    if len(token) < _TOKEN_LENGTH or not token.isascii() or not token.isprintable():
        raise ValueError(f"{path} holds no admin token: delete it, and a new one is made at the next start")
    return token


def admin_app(
    routes: Iterable[Route],
    operators: Callable[[], Operators],
    hosts: Hosts,
    *,
    on_failure: Callable[[str, str], None] = lambda _what, _path: None,
) -> web.Application:
    """The application that serves `routes`.

    `operators` is asked for each request, so that a reload takes effect at once; `on_failure` hears
    of our own mistakes: what, and the path.
    """
    table = [(route, route.path.split("/")) for route in routes]

    async def handle(request: web.Request) -> web.Response:
        request_id = new_id("req")
        try:
            answer = await _answer(request, table, operators(), hosts)
        except Refusal as error:
            refusal = error
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:  # noqa: BLE001 - the door is where our own mistakes end
            on_failure(type(error).__name__, request.path)
            refusal = Refusal("internal_error", "the gateway failed; its log says why")
        else:
            body = json.dumps(answer, separators=(",", ":")).encode() + b"\n"
            return _response(200, [("Content-Type", "application/json"), ("x-request-id", request_id)], body)
        return _response(*render(refusal, "own", request_id))

    app = web.Application(client_max_size=_BODY_BYTES)
    app.router.add_route("*", "/{any:.*}", handle)
    return app


async def _answer(
    request: web.Request, table: list[tuple[Route, list[str]]], operators: Operators, hosts: Hosts
) -> object:
    headers = request.headers
    hosts.check(headers.get("Host", ""), headers.get("Origin"), "listen.admin.hosts")  # (1)
    operator = await operators.identify(headers.getall("Authorization", []))  # (2)
    route, variables = _find(request, table)  # (3)
    if route.role not in operator.may:  # (4)
        raise Refusal("scope_exceeded", f"this needs the role {route.role}; ask an operator who has it")
    body: Mapping[str, object] = {}
    if request.method not in _READS:
        if request.content_type != "application/json" or "Content-Encoding" in headers:  # (5)
            raise Refusal(
                "encoding_unsupported", "writes need Content-Type: application/json and no encoding; send plain JSON"
            )
        body = await _body(request)  # (6)
    call = AdminCall(operator, request.method, request.rel_url.raw_path, variables, dict(request.query), body)
    return await route.handler(call)


def _find(request: web.Request, table: list[tuple[Route, list[str]]]) -> tuple[Route, dict[str, str]]:
    parts = request.rel_url.raw_path.split("/")
    allowed: list[str] = []
    for route, template in table:
        variables = _match(template, parts)
        if variables is None:
            continue
        if route.method == request.method:
            return route, variables
        allowed.append(route.method)
    if allowed:
        raise method_not_allowed(allowed)
    raise Refusal("route_unknown", "there is nothing at this address; the admin API is below /admin/v1/")


def _match(template: list[str], parts: list[str]) -> dict[str, str] | None:
    if len(template) != len(parts):
        return None
    variables: dict[str, str] = {}
    for wanted, part in zip(template, parts, strict=True):
        if wanted.startswith("{"):
            if not part:
                return None
            variables[wanted[1:-1]] = unquote(part)
        elif wanted != part:
            return None
    return variables


async def _body(request: web.Request) -> Mapping[str, object]:
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            data = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise Refusal("request_too_large", f"the body is larger than {_BODY_BYTES} bytes; send less") from None
    except TimeoutError:
        raise Refusal(
            "request_malformed", f"the body did not come within {_BODY_SECONDS:g} s; send it at once"
        ) from None
    value = parse(data, _LIMITS) if data else {}
    if not isinstance(value, dict):
        raise Refusal("request_malformed", "the body is not a JSON object; send one")
    return value


def _response(status: int, headers: list[tuple[str, str]], body: bytes) -> web.Response:
    return web.Response(status=status, headers=[*headers, ("Cache-Control", "no-store")], body=body)
