"""Policies that change while calls are under way: each call is decided by one whole set, and by the right one."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.identity.dsse import seal
from gateway.identity.issue import PrivateKey
from gateway.policy.bundle import PAYLOAD_TYPE, manifest_of
from tests.simulator.gateway import Gateway, Reply
from tests.simulator.load import Client, Got
from tests.simulator.soak import SECONDS

ONE = """version: 1
policy: changing
rules:
  - {id: models, effect: allow, match: {models: [sim-left]}}
"""
OTHER = ONE.replace("sim-left", "sim-right")
BROKEN = {
    "an alias bomb": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "a Python object": "version: 1\npolicy: !!python/object:os.system x\n",
    "an unknown key": ONE + "extra: true\n",
    "a duplicate key": ONE + "policy: twice\n",
    "no YAML": "version: [1\n",
    "a rule id twice": ONE + "  - {id: models, effect: deny, match: {models: [x]}}\n",
    "a condition that is none": ONE + "  - {id: when, effect: allow, match: {models: [x]}, when: '1'}\n",
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("reload")
    with Gateway(folder, config={"workers": 2}, policies={"changing.yaml": ONE}) as running:
        yield running


def _reload(gateway: Gateway, text: str) -> bool:
    (gateway.folder / "policies" / "changing.yaml").write_text(text)
    return bool(gateway.admin("POST", "/admin/v1/reload")["reloaded"])


def _ask(gateway: Gateway, model: str, token: str) -> tuple[str, str, Reply]:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}]}
    reply = gateway.call("POST", "/v1/chat/completions", body, token=token)
    return reply.headers["gateway-policy"], model, reply


def _records(gateway: Gateway) -> Iterator[dict[str, Any]]:
    """The decisions in the log."""
    for file in sorted((gateway.folder / "var" / "audit").iterdir()):
        yield from (json.loads(line)["record"] for line in file.read_bytes().splitlines())


async def _asked(gateway: Gateway, calls: int) -> list[tuple[str, Got]]:
    """So many calls by eight agents for either model, while the policies change from one set to the other and back."""
    answers: list[tuple[str, Got]] = []
    turns = itertools.cycle(("sim-left", "sim-right"))

    async def agent() -> None:
        client = Client(gateway.port, gateway.token())
        while len(answers) < calls:
            model = next(turns)
            body = json.dumps({"model": model, "messages": [{"role": "user", "content": str(len(answers))}]})
            answers.append((model, await client.request("POST", "/v1/chat/completions", body.encode())))
        await client.close()

    async def changes() -> None:
        for text in itertools.cycle((OTHER, ONE)):
            wanted = len(answers) + calls // 12
            if wanted > calls:
                break
            assert await asyncio.to_thread(_reload, gateway, text)
            while len(answers) < wanted:  # noqa: ASYNC110 - the agents set no event
                await asyncio.sleep(0.005)

    await asyncio.gather(changes(), *(agent() for _ in range(8)))
    return answers


@pytest.mark.soak
def test_every_decision_has_one_policy(gateway: Gateway) -> None:
    """P10: through a dozen reloads each answer names the set that its line in the log names, and is what it says."""
    assert _reload(gateway, ONE)
    answers = asyncio.run(_asked(gateway, 10_000 if SECONDS else 2_000))
    log = {record["id"]: record for record in _records(gateway)}
    said: dict[str, set[tuple[str, int, str]]] = {}
    for model, got in answers:
        record = log[got.headers["gateway-decision-id"]]
        assert record["policy_hash"][:16] == got.headers["gateway-policy"]
        assert record["effect"] == ("allow" if got.status == 200 else "deny")
        said.setdefault(record["policy_hash"], set()).add((model, got.status, got.headers.get("gateway-refusal", "")))
    refused = 403, "policy_denied"
    assert sorted(map(sorted, said.values())) == [
        [("sim-left", 200, ""), ("sim-right", *refused)],
        [("sim-left", *refused), ("sim-right", 200, "")],
    ]
    # After the last reload has answered, every worker decides by it.
    assert _reload(gateway, OTHER)
    assert {_ask(gateway, "sim-right", gateway.token())[2].status for _ in range(20)} == {200}


def test_a_slow_call_is_decided_by_the_policy_of_the_moment(gateway: Gateway) -> None:
    """P10: a call whose body ends after a reload is decided by the new set, and says so: nobody keeps the old one."""
    assert _reload(gateway, ONE)
    assert _ask(gateway, "sim-left", gateway.token())[2].status == 200
    body = json.dumps({"model": "sim-left", "messages": [{"role": "user", "content": "x"}]})
    connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=20)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/v1/chat/completions")
        connection.putheader("Authorization", f"Bearer {gateway.token()}")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:10].encode())
        until = time.monotonic() + 20  # a worker tells of its calls a few times a second
        while not any(worker["inflight"] for worker in gateway.admin("GET", "/admin/v1/status")["workers"]):
            assert time.monotonic() < until
            time.sleep(0.02)
        assert _reload(gateway, OTHER)
        connection.send(body[10:].encode())
        reply = connection.getresponse()
        refused = reply.headers["gateway-refusal"], reply.headers["gateway-policy"]
    assert refused == ("policy_denied", _ask(gateway, "sim-right", gateway.token())[0])


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_policy_keeps_the_old_ones(gateway: Gateway, name: str) -> None:
    """P7, P8: a set that cannot be read, or says what is not built, is refused as a whole; the old one serves on."""
    token = gateway.token()
    assert _reload(gateway, ONE)
    before = _ask(gateway, "sim-left", token)
    told = _refused(gateway, BROKEN[name])
    assert any("changing.yaml:" in problem for problem in told)
    after = _ask(gateway, "sim-left", token)
    assert (after[0], after[2].status) == (before[0], 200)
    assert _ask(gateway, "sim-right", token)[2].refusal == "policy_denied"
    assert gateway.metrics()["passgate_config_last_reload_successful"] == 0


def _refused(gateway: Gateway, text: str) -> list[str]:
    (gateway.folder / "policies" / "changing.yaml").write_text(text)
    told = gateway.admin("POST", "/admin/v1/reload")
    assert not told["reloaded"]
    return [str(problem) for problem in told["problems"]]


KEY, THIEF = PrivateKey.new("EdDSA"), PrivateKey.new("EdDSA")


def _sign(gateway: Gateway, revision: int, key: PrivateKey = KEY, payload_type: str = PAYLOAD_TYPE) -> None:
    """Sign the policies as they lie there."""
    policies = gateway.folder / "policies"
    files = {path.name: path.read_bytes() for path in policies.glob("*.yaml")}
    manifest = manifest_of(files, revision, "2026-11-20T10:00:00Z")
    (policies / "bundle.json").write_bytes(seal(manifest, payload_type, key))


def test_policies_of_somebody_else(gateway: Gateway) -> None:
    """P9: an older set, another signer, another type, an edited file or no bundle at all: the set in force stays."""
    (gateway.folder / "sign.json").write_text(json.dumps({"keys": [KEY.public_jwk]}))
    policies = gateway.folder / "policies"
    bundle, file = policies / "bundle.json", policies / "changing.yaml"
    file.write_text(ONE)
    _sign(gateway, 3)
    older = bundle.read_bytes(), file.read_bytes()
    file.write_text(OTHER)
    _sign(gateway, 4)
    good = bundle.read_bytes(), file.read_bytes()
    gateway.config["policies"] = {"bundle": {"keys": "sign.json"}}
    gateway.write_config()
    assert gateway.reload() == []
    try:
        in_force = gateway.chat(model="sim-right").headers["gateway-policy"]

        def refused(why: str) -> None:
            assert why in "\n".join(gateway.reload())
            reply = gateway.chat(model="sim-right")
            assert (reply.status, reply.headers["gateway-policy"]) == (200, in_force)
            assert gateway.chat(model="sim-left").refusal == "policy_denied"

        bundle.write_bytes(older[0])
        file.write_bytes(older[1])
        refused("signed as revision 3, and this gateway has taken 4 before")
        _sign(gateway, 9, THIEF)
        refused("bundle.json")
        _sign(gateway, 9, payload_type="application/vnd.in-toto+json")
        refused("bundle.json")
        bundle.write_bytes(good[0])
        refused("is not the file that was signed")
        bundle.unlink()
        refused("bundle.json")
        _sign(gateway, 5)
        assert gateway.reload() == []
        assert gateway.chat(model="sim-left").status == 200
    finally:
        del gateway.config["policies"]
        gateway.write_config()
        assert _reload(gateway, ONE)


def test_a_folder_without_rules_allows_nothing(tmp_path: Path) -> None:
    """Without any policy there is no allow rule: every call is refused, by a decision that says so."""
    with Gateway(tmp_path, policies={}) as gateway:
        reply = gateway.chat()
        assert (reply.status, reply.refusal) == (403, "policy_denied")
        assert reply.headers["gateway-decision-id"]
        assert gateway.call("GET", "/v1/models").json()["data"] == []
