"""The admin listener: who may do what, and in which order that is asked."""

from __future__ import annotations

import hashlib
import io
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from gateway.core.errors import Refusal
from gateway.identity.operators import SENTENCE, Subject, no_operator
from gateway.web.admin import AdminCall, Operator, Operators, Route, admin_app, ensure_admin_token
from gateway.web.hosts import Hosts
from gateway.web.listener import listen
from gateway.web.settings import OperatorSettings

VIEWER, OPERATOR = "viewer-token-" + "v" * 40, "operator-token-" + "o" * 40


def known(token: str, *roles: str) -> OperatorSettings:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return OperatorSettings(id=token[:6], token_sha256=digest, roles=roles)  # type: ignore[arg-type] # any role name


class Admin:
    """A running admin listener and what its handlers were asked."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self.session, self.base = session, base
        self.calls: list[AdminCall] = []
        self.failures: list[str] = []

    async def ask(
        self,
        method: str,
        path: str,
        token: str | None = OPERATOR,
        *,
        data: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, object], str]:
        """Status, JSON and refusal code of one request."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        skip = ["Content-Type"]
        async with self.session.request(
            method, self.base + path, data=io.BytesIO(data) if data else None, headers=sent, skip_auto_headers=skip
        ) as answer:
            assert "Access-Control-Allow-Origin" not in answer.headers
            return answer.status, await answer.json(content_type=None), answer.headers.get("gateway-refusal", "")


@asynccontextmanager
async def admin() -> AsyncIterator[Admin]:
    sock = socket.create_server(("127.0.0.1", 0))
    async with aiohttp.ClientSession() as session:
        running = Admin(session, f"http://127.0.0.1:{sock.getsockname()[1]}")

        async def status(call: AdminCall) -> object:
            running.calls.append(call)
            return {"by": call.operator.id}

        async def reload(call: AdminCall) -> object:
            running.calls.append(call)
            if call.body.get("fail"):
                raise Refusal("arguments_invalid", "the file has mistakes.", fields={"mistakes": ["a.yaml:1"]})
            if call.body.get("break"):
                raise LookupError("s3cret")
            return {"body": dict(call.body), "variables": dict(call.variables), "query": dict(call.query)}

        routes = [
            Route("GET", "/admin/v1/status", "viewer", status),
            Route("POST", "/admin/v1/reload", "operator", reload),
            Route("POST", "/admin/v1/agents/{id}/stop", "operator", reload),
        ]
        operators = Operators([known(VIEWER, "viewer"), known(OPERATOR, "operator")])
        hosts = Hosts((), "127.0.0.1")
        app = admin_app(routes, lambda: operators, hosts, on_failure=lambda what, _path: running.failures.append(what))
        runner = await listen(app, sock)
        yield running
        await runner.cleanup()


JSON = {"Content-Type": "application/json"}


async def test_an_operator_reads_and_writes() -> None:
    """Reads need no content type; writes carry JSON, path variables and a query."""
    async with admin() as running:
        assert await running.ask("GET", "/admin/v1/status", VIEWER) == (200, {"by": "viewer"}, "")
        status, answer, _ = await running.ask(
            "POST", "/admin/v1/agents/a%2Fb/stop?x=1", data=b'{"why":"test"}', headers=JSON
        )
        assert (status, answer) == (200, {"body": {"why": "test"}, "variables": {"id": "a/b"}, "query": {"x": "1"}})
        assert (await running.ask("POST", "/admin/v1/reload", headers=JSON))[0] == 200


@pytest.mark.parametrize(
    "token", [None, "", "wrong", VIEWER[:-1], VIEWER + "x", hashlib.sha256(OPERATOR.encode()).hexdigest()]
)
async def test_without_a_credential_nothing_is_told(token: str | None) -> None:
    """401 for every address, known or not, so that nobody can map the API."""
    async with admin() as running:
        for method, path in [("GET", "/admin/v1/status"), ("POST", "/admin/v1/reload"), ("GET", "/nothing")]:
            status, answer, code = await running.ask(method, path, token, headers=JSON)
            assert (status, code) == (401, "identity_missing" if token is None else "identity_invalid")
            assert answer["code"] == code
        assert running.calls == []


async def test_roles_are_kept() -> None:
    """A viewer may look and not touch."""
    async with admin() as running:
        status, _, code = await running.ask("POST", "/admin/v1/reload", VIEWER, headers=JSON)
        assert (status, code) == (403, "scope_exceeded")
        assert running.calls == []


@pytest.mark.parametrize("media", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_writes_must_say_that_they_are_json(media: str) -> None:
    """What an HTML form can send is 415, whoever's browser sends it."""
    async with admin() as running:
        headers = {"Content-Type": media} if media else {}
        status, _, code = await running.ask("POST", "/admin/v1/reload", data=b"{}", headers=headers)
        assert (status, code) == (415, "encoding_unsupported")
        assert running.calls == []


@pytest.mark.parametrize(
    "header", [{"Host": "evil"}, {"Host": "127.0.0.1#"}, {"Origin": "http://evil"}, {"Origin": "null"}]
)
async def test_foreign_hosts_and_pages_are_refused(header: dict[str, str]) -> None:
    """A rebound name or a foreign page gets 403 even with a good credential."""
    async with admin() as running:
        status, _, code = await running.ask("GET", "/admin/v1/status", headers=header)
        assert (status, code) == (403, "origin_refused")
        assert running.calls == []


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"{", 400, "request_malformed"),
        (b"[]", 400, "request_malformed"),
        (b'{"a":1,"a":2}', 400, "request_malformed"),
        (b'{"a":NaN}', 400, "request_malformed"),
        (b"\xff\xfe", 400, "request_malformed"),
        (b"[" * 100_000, 400, "request_malformed"),
        (b'{"a":"' + b"x" * 1_100_000 + b'"}', 413, "request_too_large"),
    ],
)
async def test_bodies_are_small_strict_json(data: bytes, status: int, code: str) -> None:
    """Anything but one JSON object with each name once is refused in words."""
    async with admin() as running:
        got, _, got_code = await running.ask("POST", "/admin/v1/reload", data=data, headers=JSON)
        assert (got, got_code) == (status, code)
        assert running.calls == []


async def test_addresses_and_methods() -> None:
    """Unknown addresses are 404, known ones with another method 405 naming the right one."""
    async with admin() as running:
        assert (await running.ask("GET", "/admin/v1/nothing"))[2] == "route_unknown"
        assert (await running.ask("GET", "/admin/v1/agents//stop"))[2] == "route_unknown"
        status, answer, code = await running.ask("DELETE", "/admin/v1/reload", headers=JSON)
        assert (status, code) == (405, "method_not_allowed")
        assert "POST" in str(answer["detail"])


async def test_what_goes_wrong() -> None:
    """A handler's refusal keeps its fields; our own mistake is a bare 500 and one record."""
    async with admin() as running:
        status, answer, code = await running.ask("POST", "/admin/v1/reload", data=b'{"fail":true}', headers=JSON)
        assert (status, code) == (422, "arguments_invalid")
        assert "a.yaml:1" in str(answer)
        status, answer, _ = await running.ask("POST", "/admin/v1/reload", data=b'{"break":true}', headers=JSON)
        assert status == 500
        assert "s3cret" not in str(answer)
        assert running.failures == ["LookupError"]


async def test_the_first_start_makes_a_token(tmp_path: Path) -> None:
    """The token has 256 bits and mode 0600, survives a restart, and leaves nothing else behind."""
    path = tmp_path / "var" / "admin.token"
    token = ensure_admin_token(path)
    assert len(token) >= 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ensure_admin_token(path) == token
    assert [one.name for one in path.parent.iterdir()] == ["admin.token"]
    assert (await Operators([], token).identify([f"Bearer {token}"])).id == "bootstrap"


def test_a_token_file_that_is_open_or_weak_is_refused(tmp_path: Path) -> None:
    """A file that others can read, a short token and a symbolic link stop the start."""
    path = tmp_path / "admin.token"
    ensure_admin_token(path)
    path.chmod(0o640)
    with pytest.raises(PermissionError, match="chmod 600"):
        ensure_admin_token(path)
    path.chmod(0o600)
    path.write_text("short\n")
    with pytest.raises(ValueError, match="delete it"):
        ensure_admin_token(path)
    link = tmp_path / "link.token"
    link.symlink_to(path)
    with pytest.raises(OSError, match="link"):
        ensure_admin_token(link)


def test_no_credential_at_all_is_a_mistake() -> None:
    """An empty list of operators never means that anybody may."""
    with pytest.raises(ValueError, match="operators"):
        Operators([])


ANNA = OperatorSettings(
    id="anna", issuer="corp", subject="user/anna", roles=("viewer", "approver"), groups=("finance",)
)


class Issuers:
    """What verifies signed tokens here: it vouches for whom it is told, and remembers what it was asked."""

    def __init__(self, **signed: Subject) -> None:
        self.signed, self.asked = signed, list[str]()

    async def verify(self, token: str) -> Subject:
        """Whose token this is."""
        self.asked.append(token)
        if token not in self.signed:
            raise no_operator("it is not signed")
        return self.signed[token]


async def test_an_operator_of_an_issuer() -> None:
    """Whom an issuer vouches for has the roles, groups and subject of the configuration; a stranger of it has none."""
    issuers = Issuers(good=Subject("corp", "user/anna"), strange=Subject("corp", "user/ann"))
    operators = Operators([ANNA, known(VIEWER, "viewer")], verify=issuers.verify)
    anna = await operators.identify(["Bearer good"])
    assert anna == Operator("anna", frozenset({"approver", "viewer"}), frozenset({"finance"}), "user/anna")
    for token in ("strange", "unsigned", ""):
        with pytest.raises(Refusal) as caught:
            await operators.identify([f"Bearer {token}"])
        assert (caught.value.code, caught.value.sentence) == ("identity_invalid", SENTENCE)


async def test_a_token_of_ones_own_is_not_shown_to_issuers() -> None:
    """A digest that is known settles it; only then the token is read as a signed one, and only as `Bearer`."""
    issuers = Issuers(good=Subject("corp", "user/anna"))
    operators = Operators([ANNA, known(VIEWER, "viewer")], verify=issuers.verify)
    assert (await operators.identify([f"bearer {VIEWER}"])).id == "viewer"
    for header in (["DPoP good"], ["Basic good"], ["good"], ["Bearer good", "Bearer good"]):
        with pytest.raises(Refusal, match="identity_invalid"):
            await operators.identify(header)
    assert issuers.asked == []


async def test_no_digest_stands_for_an_operator_of_an_issuer() -> None:
    """What has no digest matches none, not the empty one either, and without anybody to verify nothing is accepted."""
    operators = Operators([ANNA])
    for token in ("", hashlib.sha256(b"").hexdigest(), "good"):
        with pytest.raises(Refusal, match="identity_invalid"):
            await operators.identify([f"Bearer {token}"])
