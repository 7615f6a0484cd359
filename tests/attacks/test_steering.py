"""Where a call goes, and with which headers, is the configuration's word alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.attacks.stage import PROVIDER_KEY, TOOL_KEY, Stage, compact
from tests.simulator.provider import ScriptedProvider, completion
from tests.simulator.upstream import answer

STEERING = ["base_url", "api_base", "headers", "extra_headers", "user_config", "api_key", "custom_host", "proxy"]


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[ScriptedProvider]:
    """Where an attacker would like to see the provider's key."""
    with ScriptedProvider() as decoy:
        yield decoy


@pytest.mark.parametrize("name", STEERING)
@pytest.mark.parametrize("where", ["", "stream_options"])
def test_a_member_does_not_steer(stage: Stage, elsewhere: ScriptedProvider, name: str, where: str) -> None:
    """S07: a member that steers other proxies is 400 in every object that the gateway reads; nothing is connected."""
    model = stage.model()
    told: dict[str, object] = {name: elsewhere.url}
    reply = stage.chat(model, **({where: told} if where else told))
    assert (reply.status, reply.refusal) == (400, "request_malformed")
    assert reply.json()["error"]["param"] == (f"{where}/{name}" if where else name)
    assert not stage.upstream.heard(model)
    assert elsewhere.seen() == b""


def test_the_same_names_are_data_elsewhere(stage: Stage, elsewhere: ScriptedProvider) -> None:
    """S07: within messages, tool definitions, schemas and a tool's arguments they pass byte for byte."""
    words = dict.fromkeys(STEERING, elsewhere.url)
    model = stage.model(completion("ok"))
    function = {"name": "f", "parameters": {"type": "object", "properties": {"base_url": {"type": "string"}}}}
    said = [{"role": "user", "content": str(words)}, {"role": "assistant", "content": "x", "extra": words}]
    body = compact({"model": model, "messages": said, "tools": [{"type": "function", "function": function}]})
    assert stage.gateway.call("POST", "/v1/chat/completions", body).status == 200
    assert stage.upstream.heard(model)[0].body == body
    stage.upstream.says("/bank/pay/S07", [answer(b"{}")])
    arguments = compact({"headers": {"Host": "x"}, **words})
    assert stage.gateway.call("POST", "/tools/bank/pay/S07", arguments).status == 200
    assert stage.upstream.heard("/bank/pay/S07")[0].body == arguments
    assert elsewhere.seen() == b""


SMUGGLED = [
    ("X-Upstream-Authorization", "Bearer smuggled-1"),
    ("x-portkey-custom-host", "http://smuggled-2.example"),
    ("x-portkey-config", "smuggled-3"),
    ("Helicone-Target-Url", "http://smuggled-4.example"),
    ("X-Forwarded-Host", "smuggled-5.example"),
    ("Api-Key", "smuggled-6"),
    ("Host-Override", "smuggled-7.example"),
    ("Transfer-Coding", "smuggled-8"),
    ("Keep-Alive", "smuggled-9"),
    ("Proxy-Connection", "smuggled-10"),
]


def test_headers_do_not_steer(stage: Stage) -> None:
    """R19: what would choose an upstream, a credential or a hop's manners is left behind; only the lists pass."""
    model = stage.model(completion("ok"))
    stage.upstream.says("/bank/note", [answer(b"{}")])
    ours = [stage.bearer(), ("Content-Type", "application/json")]
    chat = stage.request("POST", "/v1/chat/completions", ours + SMUGGLED, compact({"model": model, "messages": []}))
    noted = stage.request("POST", "/tools/bank/note", [*ours, *SMUGGLED, ("X-Agent-Id", "wanted")], b"{}")
    assert (chat.status, noted.status) == (200, 200)
    heard = stage.upstream.heard("/bank/note")[-1]
    assert [value for name, value in heard.headers if name.lower() == "x-upstream-authorization"] == [
        f"Bearer {TOOL_KEY}"
    ]
    assert heard.header("X-Agent-Id") == "wanted"
    (asked,) = stage.upstream.heard(model)
    assert [value for name, value in asked.headers if name.lower() == "authorization"] == [f"Bearer {PROVIDER_KEY}"]
    for one in (asked, heard):
        assert not [value for _, value in one.headers if "smuggled" in value]
        assert one.header("Host") == stage.upstream.url.removeprefix("http://")


@pytest.mark.parametrize("nominated", ["X-Agent-Id", "close, x-agent-id", "keep-alive, X-AGENT-ID"])
def test_a_nominated_header_stays_behind(stage: Stage, nominated: str) -> None:
    """R19: what `Connection` names belongs to the agent's own hop, even where the operation forwards it."""
    stage.upstream.says("/bank/note", [answer(b"{}")])
    headers = [stage.bearer(), ("Connection", nominated), ("X-Agent-Id", "left behind")]
    assert stage.request("POST", "/tools/bank/note", headers, b"{}").status == 200
    heard = stage.upstream.heard("/bank/note")[-1]
    assert heard.header("X-Agent-Id") is None
    assert heard.header("X-Upstream-Authorization") == f"Bearer {TOOL_KEY}"


@pytest.mark.parametrize("nominated", ["authorization", "x-upstream-authorization, content-length", "host"])
def test_nominating_the_credential_does_not_remove_it(stage: Stage, nominated: str) -> None:
    """R19: an agent cannot have the gateway's own headers taken off by nominating them."""
    model = stage.model(completion("ok"))
    stage.upstream.says("/bank/note", [answer(b"{}")])
    headers = [stage.bearer(), ("Connection", nominated)]
    stage.request("POST", "/tools/bank/note", headers, b"{}")
    stage.request("POST", "/v1/chat/completions", headers, compact({"model": model, "messages": []}))
    assert stage.upstream.heard("/bank/note")[-1].header("X-Upstream-Authorization") == f"Bearer {TOOL_KEY}"
    assert stage.upstream.heard(model)[-1].header("Authorization") == f"Bearer {PROVIDER_KEY}"
