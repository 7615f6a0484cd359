"""A day's worth of work with secrets in every place, then a search for them in all that is kept or shown."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.attacks.stage import PROVIDER_KEY, TOOL_KEY, Stage, compact, on_stage
from tests.simulator.gateway import Gateway, Reply
from tests.simulator.provider import completion, failure, streamed
from tests.simulator.upstream import CHUNKED, LAST_CHUNK, Do, Script, Step, answer, chunk

PROMPT = "canary-prompt-8d1e70"
ANSWER = "canary-answer-52ab91"
ARGUMENT = "canary-argument-c07f3e"
NONSENSE = "canary-nonsense-token-77aa01"


@dataclass
class Day:
    """What happened, and what is left of it."""

    replies: list[Reply] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    kept: dict[str, bytes] = field(default_factory=dict)  # every file of the state and the log, by name
    admin_token: str = ""

    def credentials(self) -> list[str]:
        """What nothing may show: keys, the admin token, and each token's signature and whole text."""
        whole = [*self.tokens, PROVIDER_KEY, f"{PROVIDER_KEY[:8]}*", TOOL_KEY, NONSENSE, self.admin_token]
        return [*whole, *(token.rpartition(".")[2] for token in self.tokens)]


def _work(stage: Stage, day: Day) -> None:
    """Calls that go well, calls that fail in every way, and upstreams that echo the key."""

    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"{text} {PROMPT}"}]

    quoted = f"Incorrect API key provided: {PROVIDER_KEY}. You can find it on your dashboard."
    masked = f"Incorrect API key provided: {PROVIDER_KEY[:8]}*******{PROVIDER_KEY[-4:]}."
    split: list[Step] = [
        CHUNKED,
        chunk(f"data: {PROVIDER_KEY[:9]}".encode()),
        0.02,
        chunk(f"{PROVIDER_KEY[9:]}\n\n".encode()),
    ]
    scripts: list[list[Script]] = [
        [completion(ANSWER)],
        [streamed(ANSWER, "b")],
        [failure(401, quoted, code="invalid_api_key")],
        [failure(401, masked, code="invalid_api_key")],
        [failure(403, quoted), failure(429, quoted, code="insufficient_quota")],
        [failure(400, f"bad request with {PROVIDER_KEY}")],
        [failure(500, quoted)],
        [failure(503, quoted, ("Retry-After", "3"))],
        [completion(f"the key is {PROVIDER_KEY}")],
        [[*split, LAST_CHUNK]],
        [[*streamed("a", done=False), chunk(f'data: {{"key": "{PROVIDER_KEY}"}}\n\n'.encode()), LAST_CHUNK]],
        [[answer(b"{}", ("X-Request-Id", PROVIDER_KEY), ("X-Echo", f"Bearer {PROVIDER_KEY}"))]],
        [[answer(b"{}", ("Location", f"https://x.example/?k={PROVIDER_KEY}"), status="307 Moved")]],
        [[f"HTTP/1.1 200 {PROVIDER_KEY}\r\nX: {PROVIDER_KEY}\0\r\n\r\n".encode(), Do.CLOSE]],
        [[f"{PROVIDER_KEY} is no HTTP\r\n\r\n".encode(), Do.CLOSE]],
        [[Do.RESET]],
    ]  # fmt: skip
    for number, script in enumerate(scripts):
        model = stage.model(*script)
        for stream in (False, True):
            for path in ("/v1/chat/completions", f"/r/day-{number}/v1/chat/completions"):
                token = stage.token(note=PROMPT)
                day.tokens.append(token)
                asked = {"model": model, "messages": said("hello"), "stream": stream}
                day.replies.append(stage.gateway.call("POST", path, asked, token=token))
                _keep_recovery(stage, day)
    stage.upstream.says("/bank/pay/S18", [answer(f'{{"echo": "{TOOL_KEY}"}}'.encode())])
    stage.upstream.says("/bank/pay/S18b", failure(401, f"wrong credential Bearer {TOOL_KEY}"))
    stage.upstream.says("/bank/pay/S18c", failure(500, f"{TOOL_KEY} {ARGUMENT}"))
    stage.upstream.says(f"/bank/pay/S18d?memo={ARGUMENT}", [answer(compact({"ok": ANSWER}))])
    for path in ("S18", "S18b", "S18c", f"S18d?memo={ARGUMENT}", "S18e?undeclared=1"):
        body = compact({"note": ARGUMENT})
        day.replies.append(stage.gateway.call("POST", f"/tools/bank/pay/{path}", body))
    # Mistakes of agents, which are quoted nowhere either.
    token = stage.token()
    day.tokens.append(token)
    bad_json = compact({"model": "scripted-0", "messages": said("x")})[:-1] + f',"{ARGUMENT}"'.encode()
    basic = {"Authorization": f"Basic {NONSENSE}"}
    nul = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\0\r\n\r\n"
    tries = [
        stage.gateway.call("POST", "/v1/chat/completions", bad_json, token=token),
        stage.gateway.call("POST", "/v1/chat/completions", {"model": "scripted-0", "messages": PROMPT}, token=token),
        stage.gateway.call("POST", "/v1/chat/completions", {}, token=NONSENSE),
        stage.gateway.call("POST", "/v1/chat/completions", {}, token=f"{token}x"),
        stage.gateway.call("POST", "/v1/chat/completions", {}, token=token, headers={"x-api-key": NONSENSE}),
        stage.gateway.call("GET", f"/v1/models?access_token={token}", token=None),
        stage.gateway.call("GET", f"/v1/models?key={token}", token=None),
        stage.gateway.call("GET", f"/tools/bank/look/S18?key={token}", token=token),
        stage.gateway.call("POST", "/v1/chat/completions", {}, token=None, headers=basic),
        stage.gateway.call("GET", "/v1/models", token=None, headers={"Cookie": f"s={NONSENSE}"}),
        Reply(0, {}, stage.raw(nul.encode())),
        Reply(0, {}, stage.raw(b"%b\r\n\r\n" % token.encode())),
    ]  # fmt: skip
    day.replies += tries


def _keep_recovery(stage: Stage, day: Day) -> None:
    """Rows are in a recovery file until they are committed, some 50 ms."""
    for file in (stage.gateway.folder / "var" / "recovery").iterdir():
        day.kept["recovery"] = day.kept.get("recovery", b"") + file.read_bytes()


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """The workload, then the gateway is stopped and everything that it left is read."""
    folder = tmp_path_factory.mktemp("secrets")
    day = Day()
    with on_stage(folder) as stage:
        _work(stage, day)
        for path in ("/admin/v1/status", "/admin/v1/config"):
            day.replies.append(_ask_admin(stage, path))
        day.kept["metrics"] = json.dumps(stage.gateway.metrics()).encode()
        day.kept["readyz"] = _readyz(stage)
        for process in ("/proc/self", *(f"/proc/{pid}" for pid in stage.gateway.worker_pids())):
            day.kept[f"{process} cmdline"] = (Path(process) / "cmdline").read_bytes()
    day.admin_token = (folder / "var" / "admin.token").read_text().strip()
    for file in [*folder.glob("*.ndjson"), *folder.glob("var/**/*")]:
        if file.is_file() and file.name != "admin.token":
            day.kept[str(file.relative_to(folder))] = file.read_bytes()
    return day


def _ask_admin(stage: Stage, path: str) -> Reply:
    try:
        return Reply(200, {}, json.dumps(stage.gateway.admin("GET", path)).encode())
    except OSError as error:
        return Reply(0, {}, str(error).encode())


def _readyz(stage: Stage) -> bytes:
    gateway = Gateway(stage.gateway.folder, url=stage.gateway.metrics_url)
    return gateway.call("GET", "/readyz?verbose", token=None).body


def test_the_day_was_worth_searching(day: Day) -> None:
    """S18: the workload had answers, refusals of many kinds, rows, recovery files and a log to look into."""
    refusals = {reply.refusal for reply in day.replies}
    assert {"upstream_credential", "upstream_failed", "identity_invalid", "identity_missing", ""} <= refusals
    assert len(day.replies) > 60
    assert b"req_" in day.kept["recovery"]
    assert b"req_" in day.kept["var/passgate.db"] + day.kept.get("var/passgate.db-wal", b"")
    assert day.kept["log.ndjson"].count(b"\n") > 60
    assert b"upstream_credential" in day.kept["log.ndjson"]
    assert b"[credential]" in day.kept["log.ndjson"]  # what the upstream said is kept, its quote of the key is not


def test_no_credential_is_kept_or_shown(day: Day) -> None:
    """S18: no key and no token stands in a log, a metric, the database, a recovery file or a process's arguments."""
    secrets = [secret.encode() for secret in day.credentials()]
    assert all(len(secret) > 8 for secret in secrets)
    found = {(name, secret[:24]) for name, data in day.kept.items() for secret in secrets if secret in data}
    assert not found


def test_no_answer_hands_out_a_credential(day: Day) -> None:
    """S18: no status, header or body that an agent got has the provider's or the tool's key, or anybody's token."""
    for reply in day.replies:
        shown = reply.body + json.dumps(dict(reply.headers)).encode()
        for secret in day.credentials():
            assert secret.encode() not in shown, reply


def test_prompts_and_answers_are_not_kept(day: Day) -> None:
    """S18: what agents and models say is in no log, no metric and no ledger: it passes, and that is all."""
    for name, data in day.kept.items():
        for canary in (PROMPT, ANSWER, ARGUMENT):
            assert canary.encode() not in data, name


def test_refusals_do_not_quote_prompts(day: Day) -> None:
    """S18: a refusal of the gateway's own quotes no prompt and no argument."""
    for reply in day.replies:
        if reply.refusal:
            assert b"canary" not in reply.body


def test_what_agents_make_up_does_not_multiply_series(stage: Stage) -> None:
    """S18: names that agents invent (models, runs, tools, paths, agents) are no labels: the metrics stay as many."""
    model = stage.model(completion("ok"))

    def invent() -> None:
        name = uuid.uuid4().hex
        stage.chat(f"invented-{name}")
        stage.chat(f"scripted-{name}")
        stage.gateway.call("POST", f"/tools/invented-{name}/x", b"{}")
        stage.gateway.call("POST", f"/tools/bank/pay/{name}", b"{}")
        stage.gateway.call("GET", f"/invented/{name}")
        stage.gateway.call("POST", f"/r/{name}/v1/chat/completions", {"model": model, "messages": []})
        stage.chat(model, token=stage.token(f"spiffe://acme.example/agent/{name}"))

    invent()
    before = _series(stage)
    for _ in range(20):
        invent()
    grown = _series(stage) - before
    assert {
        name for name in grown if not name.startswith(("passgate_tokens_total", "passgate_spend_usd", "passgate_up"))
    } == set()
    assert not [name for name in _series(stage) if re.search("invented", name)]


def _series(stage: Stage) -> set[str]:
    return {re.sub(r'le="[^"]*"', "", name) for name in stage.gateway.metrics()}
