"""Policies that change while calls are under way: each call is decided by one whole set, and by the right one."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.simulator.gateway import Gateway, Reply

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
    "what is not built": ONE + "  - {id: when, effect: allow, match: {models: [x]}, when: 'true'}\n",
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


def test_every_decision_has_exactly_one_policy(gateway: Gateway) -> None:
    """P10: through ten reloads each of hundreds of decisions names one of two sets, and is what that set says."""
    token = gateway.token()
    assert _reload(gateway, ONE)
    left = _ask(gateway, "sim-left", token)[0]
    assert _reload(gateway, OTHER)
    right = _ask(gateway, "sim-right", token)[0]
    assert left != right
    stop = threading.Event()
    decided: list[tuple[str, str, Reply]] = []

    def ask_on(first: int) -> None:
        for number in itertools.count(first):
            if stop.is_set():
                return
            decided.append(_ask(gateway, ("sim-left", "sim-right")[number % 2], token))

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask_on, number) for number in range(4)]
        try:
            for number in range(10):
                enough = len(decided) + 25
                assert _reload(gateway, (ONE, OTHER)[number % 2])
                while len(decided) < enough and not any(asked.done() for asked in asking):
                    time.sleep(0.01)
        finally:
            stop.set()
        for asked in asking:
            asked.result()
    assert len(decided) > 200
    assert {policy for policy, _, _ in decided} == {left, right}
    allows = {left: "sim-left", right: "sim-right"}
    for policy, model, reply in decided:
        expected = (200, "") if allows[policy] == model else (403, "policy_denied")
        assert (reply.status, reply.refusal) == expected
    # After the last reload has answered, every worker decides by it.
    assert {_ask(gateway, "sim-left", token)[0] for _ in range(20)} == {right}


def test_a_call_keeps_the_policy_it_began_with(gateway: Gateway) -> None:
    """P10: a call whose body comes before and after a reload is decided, and says so, by the set it began with."""
    assert _reload(gateway, ONE)
    left = _ask(gateway, "sim-left", gateway.token())[0]
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
        assert (reply.status, reply.headers["gateway-policy"]) == (200, left)
    assert _ask(gateway, "sim-left", gateway.token())[2].refusal == "policy_denied"


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


def test_a_folder_without_rules_allows_nothing(tmp_path: Path) -> None:
    """Without any policy there is no allow rule: every call is refused, by a decision that says so."""
    with Gateway(tmp_path, policies={}) as gateway:
        reply = gateway.chat()
        assert (reply.status, reply.refusal) == (403, "policy_denied")
        assert reply.headers["gateway-decision-id"]
        assert gateway.call("GET", "/v1/models").json()["data"] == []
