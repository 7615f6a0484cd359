"""curl against the example configuration: what a person tries by hand."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.simulator.example import Example
from tests.simulator.gateway import joined

PAYMENT = {"order_id": "A1", "amount": 1250, "currency": "EUR"}


@dataclass
class Curl:
    """Types `curl -i` with an agent's token into a shell beside the example gateway."""

    example: Example
    tokens: dict[str, str] = field(default_factory=dict)

    def token(self, agent: str) -> str:
        """What `passgate token mint` prints."""
        if agent not in self.tokens:
            line = f".venv/bin/passgate token mint --agent {agent} --ttl 15m --config config.example.yaml"
            self.tokens[agent] = self.example.paste(line).stdout.strip()
        return self.tokens[agent]

    def post(self, path: str, body: object, *, agent: str = "procurement", options: str = "") -> Answer:
        """Post a JSON body as an agent."""
        return self.ask(path, f"{options} -d {shlex.quote(json.dumps(body))}", self.token(agent))

    def ask(self, path: str, options: str = "", token: str = "") -> Answer:
        """One request, its answer with the head."""
        credential = f"-H 'Authorization: Bearer {token}'" if token else ""
        line = f"curl -sS -i {self.example.url}{path} -H 'Content-Type: application/json' {credential} {options}"
        return Answer.of(self.example.paste(line))


@dataclass
class Answer:
    """What curl showed."""

    status: int
    headers: dict[str, str]
    body: str

    @classmethod
    def of(cls, done: subprocess.CompletedProcess[str]) -> Answer:
        """Take the output of `curl -i` apart."""
        assert (done.returncode, done.stderr) == (0, "")
        head, _, body = done.stdout.partition("\n\n")
        first, *lines = head.splitlines()
        headers = joined((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
        return cls(int(first.split()[1]), headers, body)

    def json(self) -> Any:  # noqa: ANN401 - JSON
        """The body's value."""
        return json.loads(self.body)


@pytest.fixture(scope="module")
def curl(example: Example) -> Curl:
    return Curl(example)


def test_an_answer_has_its_cost_in_the_head(curl: Curl) -> None:
    """`curl -i` shows what the call cost, who served it and where to ask about it."""
    said = curl.post("/v1/chat/completions", {"model": "demo-small", "messages": [{"role": "user", "content": "hi"}]})
    usage = said.json()["usage"]
    cost = usage["prompt_tokens"] * 150 + usage["completion_tokens"] * 600
    assert (said.status, said.headers["gateway-provider"]) == (200, "demo")
    assert round(float(said.headers["gateway-cost-usd"]) * 1e9) == cost


def test_a_stream_comes_as_events(curl: Curl) -> None:
    """`curl -N` prints events as they come, up to the terminal one, and no usage that was not asked for."""
    asked = {"model": "demo-small", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    said = curl.post("/v1/chat/completions", asked, options="-N")
    assert (said.status, said.headers["x-accel-buffering"]) == (200, "no")
    assert said.headers["content-type"].startswith("text/event-stream")
    *frames, last = (event.removeprefix("data: ") for event in said.body.strip().split("\n\n"))
    assert last == "[DONE]"
    assert all(json.loads(frame)["choices"] for frame in frames)
    assert json.loads(frames[-1])["choices"][0]["finish_reason"] == "stop"


def test_a_tool_is_a_plain_url(curl: Curl) -> None:
    """The payment is made once, after its check, and a person can read it in the effects file."""
    payment = PAYMENT | {"order_id": "CURL-1"}
    unchecked = curl.post("/r/curl-1/tools/payments/charge", payment)
    assert (unchecked.status, unchecked.headers["gateway-refusal"]) == (403, "attestation_required")
    checked = curl.post("/r/curl-1/tools/fraud/check", payment)
    assert (checked.status, checked.json()["verdict"]) == (200, "pass")
    paid = curl.post("/r/curl-1/tools/payments/charge", payment)
    assert (paid.status, paid.json()["status"], paid.headers["gateway-cost-usd"]) == (200, "charged", "0.01")
    found = [path for path in (curl.example.folder / "var").rglob("*") if path.is_file() and "effect" in path.name]
    (file,) = found
    again = curl.post("/r/curl-1/tools/payments/charge", payment)
    assert (again.status, again.headers["gateway-refusal"]) == (403, "attestation_required")
    assert file.read_text().count('"CURL-1"') == 1


def test_wrong_arguments_are_named(curl: Curl) -> None:
    """A 422 says where in the arguments, what was expected and what came."""
    said = curl.post("/tools/payments/charge", PAYMENT | {"amount": "a lot"})
    problem = said.json()
    assert (said.status, said.headers["content-type"]) == (422, "application/problem+json")
    assert (problem["code"], problem["gateway"]["pointer"]) == ("arguments_invalid", "/amount")
    assert problem["detail"].startswith("arguments_invalid: ")


def test_a_policy_says_no_in_its_own_words(curl: Curl) -> None:
    """The deny rule's message reaches the one who is denied."""
    said = curl.post("/tools/payments/charge", PAYMENT, agent="support")
    assert (said.status, said.headers["gateway-refusal"]) == (403, "policy_denied")
    assert "Hand the order over to procurement." in said.json()["detail"]
    assert said.headers["x-should-retry"] == "false"


def test_what_no_rule_allows_is_refused(curl: Curl) -> None:
    """Default deny: refunds stand in no rule, so nobody makes them."""
    said = curl.ask("/tools/payments/orders/A1/refund", "-d '{}'", curl.token("procurement"))
    assert (said.status, said.headers["gateway-refusal"]) == (403, "policy_denied")


def test_nobody_is_told_how_to_become_somebody(curl: Curl) -> None:
    """Without a credential the answer is 401, names the schemes and says how to get a token."""
    said = curl.ask("/v1/chat/completions", "-d '{}'")
    assert (said.status, said.headers["gateway-refusal"]) == (401, "identity_missing")
    assert said.headers["www-authenticate"].startswith("Bearer")
    assert "passgate token mint" in said.json()["error"]["message"]


def test_a_wrong_base_url_is_told_the_right_one(curl: Curl) -> None:
    """A 404 names the address that would have worked."""
    asked = {"model": "demo-small", "messages": [{"role": "user", "content": "hi"}]}
    said = curl.post("/chat/completions", asked)
    assert (said.status, said.headers["gateway-refusal"]) == (404, "route_unknown")
    assert f"the base URL that would have worked is {curl.example.url}/v1" in said.json()["error"]["message"]
