"""Reload: a whole new state in all workers, or the old one and the reasons; calls under way notice nothing."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.simulator.gateway import ALLOW_ALL, Gateway, Reply, eventually
from tests.simulator.issuer import Issuer
from tests.simulator.load import Load
from tests.simulator.provider import ScriptedProvider, completion, streamed
from tests.simulator.soak import SECONDS
from tests.simulator.upstream import held_back

NONE = "version: 1\npolicy: tests\nrules:\n  - {id: none, effect: deny, match: {models: ['*']}}\n"


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.says("scripted-plain", completion("hello"))
        yield running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, provider: ScriptedProvider) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "key").write_text("sk-before\n")
    scripted = {"dialects": ["openai"], "base_url": f"{provider.url}/v1", "allow_internal": True}
    config = {
        "workers": 2,
        "providers": {
            "demo": {"dialects": ["openai"], "base_url": "builtin:demo"},
            "scripted": {**scripted, "api_key": "${file:key}"},
        },
        "models": {
            "sim-*": {"targets": [{"provider": "demo"}]},
            "scripted-*": {"targets": [{"provider": "scripted"}]},
        },
        "prices": {name: [{"input": "1.00", "output": "2.00"}] for name in ("demo/*", "scripted/*")},
    }
    with Gateway(folder, config=config) as gateway:
        yield gateway


@pytest.fixture
def gateway(running: Gateway) -> Iterator[Gateway]:
    """The shared gateway, with its first configuration whatever a test made of it."""
    config, policies = dict(running.config), running.policies
    # A test before this one may have killed a worker, whose successor is still starting.
    eventually(lambda: len(running.worker_pids()) == running.config["workers"], "the workers do not serve")
    yield running
    running.config, running.policies = config, policies
    running.write_config()
    running.write_policies()
    assert running.reload() == []


def statuses(gateway: Gateway, model: str = "sim-small") -> set[tuple[int, str]]:
    """What ten calls get, each on a connection of its own, so that all workers answer."""
    replies = [gateway.chat(model=model) for _ in range(10)]
    return {(reply.status, reply.refusal) for reply in replies}


def successful(gateway: Gateway) -> bool:
    return bool(gateway.metrics()["passgate_config_last_reload_successful"])


def test_a_good_configuration_is_taken_over_at_once(gateway: Gateway) -> None:
    """After the admin API says `reloaded`, no worker knows the old state any more; SIGHUP does the same."""
    assert statuses(gateway, "extra") == {(404, "model_unknown")}
    models = {**gateway.config["models"], "extra": {"targets": [{"provider": "demo"}]}}
    gateway.config = {**gateway.config, "models": models}
    gateway.write_config()
    assert gateway.reload() == []
    assert statuses(gateway, "extra") == {(200, "")}
    gateway.policies = {"all.yaml": NONE}
    gateway.write_policies()
    gateway.process.send_signal(signal.SIGHUP)
    eventually(lambda: statuses(gateway) == {(403, "policy_denied")}, "SIGHUP was not heard")
    assert successful(gateway)


def test_a_reload_loses_no_line_of_the_log(gateway: Gateway) -> None:
    """What was gathered for the log when a reload replaces it is written all the same."""
    seen = (gateway.folder / "log.ndjson").stat().st_size
    answered = {gateway.chat().headers["gateway-request-id"] for _ in range(10)}
    assert gateway.reload() == []
    gateway.wait_for("reload_asked", since=seen)

    def written() -> set[str]:
        return {line["request_id"] for line in gateway.log(since=seen) if line.get("event") == "call"}

    eventually(lambda: answered <= written(), "lines of calls were lost")


def test_a_broken_file_keeps_the_old_state(gateway: Gateway) -> None:
    """R17: broken YAML and broken policies are refused with file and line; the old state serves, and it is said."""
    path = gateway.folder / "config.yaml"
    good = path.read_text()
    path.write_text("listen: [\n")
    (problem, *_) = gateway.reload()
    assert "config.yaml:" in problem
    assert statuses(gateway) == {(200, "")}
    assert not successful(gateway)
    status, text = gateway.ready()
    assert status == 200
    assert "[warning] config: the last reload was refused" in text

    path.write_text(good)
    gateway.policies = {"all.yaml": ALLOW_ALL + "  - {id: odd, effect: perhaps, match: {models: [x]}}\n"}
    gateway.write_policies()
    seen = (gateway.folder / "log.ndjson").stat().st_size
    gateway.process.send_signal(signal.SIGHUP)
    (problem, *_) = gateway.wait_for("reload_refused", since=seen)["problems"]
    assert "all.yaml:6" in problem
    assert statuses(gateway) == {(200, "")}
    assert not successful(gateway)

    (gateway.folder / "key").write_text("sk-between\n")  # taken over by itself, and no excuse for the other file
    gateway.wait_for("reloaded", since=seen)
    assert not successful(gateway)
    assert "all.yaml:6" in gateway.ready()[1]

    gateway.policies = {"all.yaml": ALLOW_ALL}
    gateway.write_policies()
    assert gateway.reload() == []
    assert successful(gateway)
    assert "config:" not in gateway.ready()[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("workers", 3),
        ("state", {"durable": "sqlite:var/other.db"}),
        ("listen", {name: {"bind": "127.0.0.1:0", "hosts": ["gw"]} for name in ("agents", "metrics", "admin")}),
    ],
)
def test_what_needs_a_restart_is_refused(gateway: Gateway, name: str, value: Any) -> None:  # noqa: ANN401 - JSON
    """Where it listens, how many workers and where state lives cannot change under way, and nothing else does then."""
    gateway.config = {**gateway.config, name: value, "models": {"only": {"targets": [{"provider": "demo"}]}}}
    gateway.write_config()
    assert gateway.reload() == [f"{name}: a change needs a restart of the gateway"]
    assert statuses(gateway) == {(200, "")}


def test_a_provider_key_in_a_file_is_taken_over_by_itself(gateway: Gateway, provider: ScriptedProvider) -> None:
    """A new key is used soon after it stands in its file, and nothing else of the disk is taken over with it."""
    gateway.policies = {"all.yaml": NONE}
    gateway.write_policies()  # nobody asked for a reload
    (gateway.folder / "key").write_text("sk-after\n")

    def used() -> str | None:
        assert gateway.chat(model="scripted-plain").status == 200
        return provider.heard("scripted-plain")[-1].header("authorization")

    eventually(lambda: used() == "Bearer sk-after", "the old key is still used")
    assert {used() for _ in range(10)} == {"Bearer sk-after"}


def test_a_key_that_left_the_jwks_is_refused(gateway: Gateway) -> None:
    """I22: tokens of a removed key are refused soon after, also where they were verified and remembered before."""
    token = gateway.token()
    asked = {"model": "sim-small", "messages": [{"role": "user", "content": "x"}]}

    def call(credential: str) -> str:
        reply = gateway.call("POST", "/v1/chat/completions", asked, token=credential)
        return reply.refusal or str(reply.status)

    assert {call(token) for _ in range(10)} == {"200"}
    before, other = gateway.issuer, Issuer()
    path = gateway.folder / "jwks.json"
    try:
        path.write_bytes(other.jwks())
        eventually(lambda: call(token) == "identity_invalid", "the removed key still counts")
        assert {call(token) for _ in range(10)} == {"identity_invalid"}
        assert call(other.token()) == "200"
    finally:
        path.write_bytes(before.jwks())
    eventually(lambda: {call(token) for _ in range(5)} == {"200"}, "the key is back and does not count")


def test_calls_under_way_keep_what_they_began_with(gateway: Gateway, provider: ScriptedProvider) -> None:
    """A stream that began before a reload runs to its end as it began, however much that one forbids."""
    go_on = threading.Event()

    provider.says("scripted-slow", held_back(streamed("one ", "two ", "three "), 2, go_on))
    got: list[Reply] = []
    asking = threading.Thread(target=lambda: got.append(gateway.chat(model="scripted-slow", stream=True)))
    asking.start()
    eventually(lambda: provider.heard("scripted-slow"), "the provider was not asked")
    gateway.policies = {"all.yaml": NONE}
    gateway.write_policies()
    assert gateway.reload() == []
    assert statuses(gateway) == {(403, "policy_denied")}
    go_on.set()
    asking.join()
    assert got[0].status == 200
    assert got[0].body.endswith(b"data: [DONE]\n\n")
    request_id = got[0].headers["gateway-request-id"]
    (row,) = gateway.wait_for_rows(1, "request_id = ?", request_id)
    assert (row["outcome"], row["output_tokens"]) == ("complete", 5)


@pytest.mark.soak
def test_reloads_under_load_drop_nothing(gateway: Gateway) -> None:
    """Five reloads under load (twenty in the long form), and every call is answered on its kept connection."""
    with Load(gateway.port, gateway.token(), agents=6) as load:
        for number in range(20 if SECONDS else 5):
            gateway.config = {**gateway.config, "prices": {"demo/*": [{"input": str(number + 1), "output": "1"}]}}
            gateway.write_config()
            assert gateway.reload() == []
            wanted = len(load.full) + 10
            eventually(lambda wanted=wanted: len(load.full) > wanted, "no answers any more")  # type: ignore[misc]
    assert load.broken == []
    assert load.refused == []


def test_a_new_worker_gets_what_was_reloaded_and_nothing_newer(gateway: Gateway) -> None:
    """Workers that replace dead ones serve what the others serve, whatever the files say meanwhile."""
    gateway.policies = {"all.yaml": NONE}
    gateway.write_policies()
    assert gateway.reload() == []
    gateway.policies = {"all.yaml": "this: [is no policy"}
    gateway.write_policies()
    (gateway.folder / "config.yaml").write_text("nor: [this a configuration")
    before = set(gateway.worker_pids())
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(set(gateway.worker_pids()) - before) == 2, "the dead workers were not replaced")
    assert statuses(gateway) == {(403, "policy_denied")}


def test_a_worker_that_starts_slowly_does_not_hold_up_a_reload(gateway: Gateway) -> None:
    """A reload goes on without a worker that is still starting, which then serves what was reloaded."""

    def starting() -> list[int]:
        workers = gateway.admin("GET", "/admin/v1/status")["workers"]
        return [worker["pid"] for worker in workers if not worker["serving"] and worker["pid"] != victim]

    victim = gateway.worker_pids()[0]
    os.kill(victim, signal.SIGKILL)
    eventually(starting, "no other worker is started")
    (slow,) = starting()
    os.kill(slow, signal.SIGSTOP)
    gateway.policies = {"all.yaml": NONE}
    gateway.write_policies()
    assert gateway.reload() == []
    assert starting() == [slow]
    assert gateway.chat().refusal == "policy_denied"
    os.kill(slow, signal.SIGCONT)
    eventually(lambda: slow in gateway.worker_pids(), "the slow one does not serve")
    assert statuses(gateway) == {(403, "policy_denied")}


def test_a_worker_that_dies_does_not_stop_a_reload(gateway: Gateway) -> None:
    """Kills in the middle of reloads refuse none of them, and nobody serves the old state afterwards."""
    for number in range(4):
        gateway.policies = {"all.yaml": (NONE, ALLOW_ALL)[number % 2]}
        gateway.write_policies()
        eventually(lambda: len(gateway.worker_pids()) == 2, "a worker is missing")
        victim = gateway.worker_pids()[0]
        os.kill(victim, signal.SIGSTOP)  # so that it dies with the question unanswered
        killing = threading.Timer(0.2, os.kill, (victim, signal.SIGKILL))
        killing.start()
        assert gateway.reload() == []
        killing.join()
        assert statuses(gateway) == {((403, "policy_denied"), (200, ""))[number % 2]}


def test_the_token_that_was_made_counts_only_without_operators(gateway: Gateway) -> None:
    """Operators that a reload brings replace the admin token at once; without them it counts again."""
    token = "an operator's own token, long enough"
    digest = hashlib.sha256(token.encode()).hexdigest()
    gateway.config = {**gateway.config, "operators": [{"id": "desk", "roles": ["operator"], "token_sha256": digest}]}
    gateway.write_config()
    assert gateway.reload() == []
    with pytest.raises(OSError, match="401"):
        gateway.admin("GET", "/admin/v1/status")
    del gateway.config["operators"]
    gateway.write_config()
    seen = (gateway.folder / "log.ndjson").stat().st_size
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_for("reloaded", since=seen)
    assert gateway.admin("GET", "/admin/v1/status")["ready"]
