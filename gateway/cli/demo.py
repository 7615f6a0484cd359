"""`passgate demo`: the walk-through, on a gateway of its own that is gone afterwards.

Everything happens on real processes and sockets, with embedded state in a temporary folder and the built-in
provider and tools. Parts that are not built yet are named in the place where they will be shown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple
from urllib.error import HTTPError
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

import gateway
from gateway.cli import DONE, NOT_BUILT, load_settings

WENT_WRONG: Final = 1
RULES: Final = """\
version: 1
policy: demo
rules:
  - {id: agents-may-think, effect: allow, match: {agents: [procurement, support], models: ["sim-*"]}}
  - {id: procurement-may-pay, effect: allow, match: {agents: [procurement], tools: [fraud.check, payments.charge]}}
  - id: only-after-the-fraud-check
    effect: require
    match: {tools: [payments.charge]}
    requires:
      - attestation: {step: fraud-check, max_age: 15m, consume: per_subject,
                      bind: {order_id: args.order_id, amount: args.amount, currency: args.currency}}
    approve: {when: "args.amount > 250000", approvers: ["group:finance"], expires: 30m}
    message: Run fraud.check for this very order first, then pay.
  - id: support-never-pays
    effect: deny
    match: {agents: [support], tools: ["payments.*"]}
    message: Support does not move money. Hand the order over to procurement.
observe:
  - step: fraud-check
    tool: fraud.check
    outcome: 'result.verdict == "pass" ? "passed" : "failed"'
    subject: {order_id: args.order_id, amount: args.amount, currency: args.currency}
"""

_CONFIG: Final = """\
listen: {agents: {bind: "127.0.0.1:0"}, metrics: {bind: "127.0.0.1:0"}, admin: {bind: "127.0.0.1:0"}}
state: {durable: "sqlite:var/passgate.db"}
drain: 5s
identity:
  audience: https://gateway.example
  issuers: [{name: demo, iss: "https://issuer.example", algs: [EdDSA], keys: {file: jwks.json}}]
agents:
  - {id: procurement, issuer: demo, subject: "spiffe://acme.example/agent/procurement", team: finance}
  - {id: support, issuer: demo, subject: "spiffe://acme.example/agent/support", team: customer-care}
providers: {demo: {dialects: [openai], base_url: "builtin:demo"}}
models: {"sim-*": {targets: [{provider: demo}]}}
prices: {"demo/sim-*": [{input: "1.00", output: "2.00"}]}
tools:
  fraud: {kind: http, base_url: "builtin:demo", operations: {check: {method: POST, path: /check, repeat: safe}}}
  payments:
    kind: http
    base_url: "builtin:demo"
    operations: {charge: {method: POST, path: /charge, repeat: never, cost: 0.01 USD}}
"""
_OPERATOR: Final = "operator.token"
_DESK: Final = "{id: treasury-desk, roles: [operator], groups: [finance]"
_RUN: Final = "order-A1"
_ORDER: Final = {"order_id": "A1", "amount": 1250, "currency": "EUR"}
_OTHER: Final = {"order_id": "A2", "amount": 1250, "currency": "EUR"}
_LARGE: Final = {"order_id": "A3", "amount": 900000, "currency": "EUR"}
_PATIENCE: Final = 30.0  # seconds, for anything that should take less than three
_TOKEN_LIFE: Final = 300.0  # seconds
_PASSGATE: Final = (sys.executable, "-m", "gateway")
_HOME: Final = Path(gateway.__file__).parents[1]  # started there, Python finds this very package


class WentWrong(Exception):
    """A step that did not go as announced; the text says which and what came instead."""


class Reply(NamedTuple):
    """An answer of the gateway; header names in lower case."""

    status: int
    headers: dict[str, str]
    text: str

    def seen(self) -> str:
        """The status, and with an error its code and first sentence."""
        if self.status < 400:  # noqa: PLR2004 -- where errors begin
            return str(self.status)
        try:
            told = json.loads(self.text)
            words = told["error"]["message"] if "error" in told else told["detail"]
        except (ValueError, KeyError, TypeError):  # not the gateway's own words
            words = self.text[:200]
        return f"{self.status} {re.split('[.;] ', words)[0].rstrip('.')}."


class Client(NamedTuple):
    """Somebody who calls the gateway; without a proxy, whatever the environment names."""

    opener: OpenerDirector
    url: str
    token: str | None = None

    def call(self, method: str, path: str, body: object = None) -> Reply:
        """One request; raises `WentWrong` where there is no answer."""
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {self.token}"} if self.token else {}
        )
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, data, headers, method=method)  # noqa: S310 -- loopback
        try:
            with self.opener.open(request, timeout=_PATIENCE) as answer:
                return _reply(answer)
        except HTTPError as error:
            with error:
                return _reply(error)
        except OSError as error:
            raise WentWrong(f"{method} {path} got no answer: {error}") from None

    def chat(self, prefix: str = "", *, stream: bool = False) -> Reply:
        """One chat completion."""
        body = {"model": "sim-small", "messages": [{"role": "user", "content": "Pay order A1"}], "stream": stream}
        return self.call("POST", f"{prefix}/v1/chat/completions", body)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "demo",
        help="a walk through what is built, on a gateway of its own",
        epilog="example: passgate demo        exit code 0: each step went as announced, 1: one did not",
    )
    parser.set_defaults(run=demo)


def demo(_: argparse.Namespace) -> int:
    """Show it; the gateway ends also when this process is told to."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    return walk_through()


def walk_through(rules: str = RULES) -> int:
    """Start a gateway with these policies, go through all parts and say what each shows; gives the exit code."""
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="passgate-demo-") as name, _gateway(Path(name), rules) as urls:
            _walk(Path(name), urls)
    except (WentWrong, OSError, subprocess.TimeoutExpired) as error:
        sys.stdout.flush()
        print(f"\nThe demo stops here: {error}", file=sys.stderr)
        return WENT_WRONG
    print(f"\nAll of it went as announced, in {time.monotonic() - began:.0f} s. `make run` starts a gateway to try.")
    return DONE


def _walk(folder: Path, urls: dict[str, str]) -> None:
    opener = build_opener(ProxyHandler({}))
    nobody = Client(opener, urls["agents"])
    procurement, support = (nobody._replace(token=_token(folder, agent)) for agent in ("procurement", "support"))
    print(f"A gateway of its own, on {nobody.url}, with a demo provider and demo tools; nothing leaves this machine.")

    _part(1, "Who is it? No call without a known agent")
    _step("a caller without a token is refused", nobody.chat(), 401, "identity_missing")
    claims, signature = str(procurement.token).rpartition(".")[0], str(support.token).rpartition(".")[2]
    forger = nobody._replace(token=f"{claims}.{signature}")
    _step("so is a forged one: the claims of procurement, signed for support", forger.chat(), 401, "identity_invalid")

    _part(2, "May it, and what does it cost? Only what a rule allows")
    run = f"/r/{_RUN}"
    _step(f"procurement asks a model, in its run {_RUN}", asked := procurement.chat(run), 200)
    _told(f"it cost {asked.headers['gateway-cost-usd']} USD, known when the answer came")
    _step("it streams as well", stream := procurement.chat(run, stream=True), 200)
    frames = stream.text.count("data: ")
    _check(stream.text.rstrip().endswith("data: [DONE]"), "the stream has no end")
    _told(f"{frames} frames, the last one is the provider's own [DONE]")
    _pay(folder, urls, procurement, support, run)

    _part(3, "What survives a kill?")
    _later("50 steps, killed at step 47, started again: 46 replayed for 0 USD, every side effect once")
    _killed_worker(folder, urls, procurement)

    _part(4, "What may it spend at most?")
    _later("64 sub-agents race a budget of 1 USD; today `runs.limits` bounds the steps, calls and tokens of a run")

    _part(5, "What happened?")
    _step("procurement looks at its run", told := procurement.call("GET", f"/gateway/v1/runs/{_RUN}"), 200)
    counters = json.loads(told.text)
    _check((counters["steps"], counters["tool_calls"]) == (7, 5), f"the run counted {counters}")
    _told(", ".join(f"{name} {counters[name]}" for name in ("steps", "tool_calls", "tokens", "cost_usd")))
    print("   finance asks: passgate spend report --by agent,model,tool")
    for line in _passgate(folder, "spend", "report", "--by", "agent,model,tool").splitlines():
        print(f"      {line}".rstrip())
    print("   security asks: passgate audit verify")
    for line in _passgate(folder, "audit", "verify").splitlines():
        print(f"      {line}")
    for command, name in {"runs show": "runs", "spend waste": "spend waste"}.items():
        _later(f"passgate {command}; {NOT_BUILT[name]}")


def _pay(folder: Path, urls: dict[str, str], procurement: Client, support: Client, run: str) -> None:
    """Money leaves only after the fraud check of this very order, once, and much of it only with a person's word."""

    def charge(order: object) -> Reply:
        return procurement.call("POST", f"{run}/tools/payments/charge", order)

    def check(order: object) -> Reply:
        return procurement.call("POST", f"{run}/tools/fraud/check", order)

    _step("it wants to pay order A1 without a fraud check", charge(_ORDER), 403, "attestation_required")
    _step("it has another order checked", check(_OTHER), 200)
    _step("which is no check of A1", charge(_ORDER), 403, "attestation_required")
    _step("it has A1 checked", check(_ORDER), 200)
    _step("and pays it", charge(_ORDER), 200)
    _step("but not twice", charge(_ORDER), 403, "attestation_required")
    _step("a large order is checked as well", check(_LARGE), 200)
    _step("and waits for a person", held := charge(_LARGE), 403, "approval_required")
    approval = json.loads(held.text)["gateway"]["approval"]["id"]
    _passgate(folder, "approvals", "approve", approval, "--reason", "ordered by hand", "--admin", urls["admin"])
    _told(f"passgate approvals approve {approval}")
    _step("now it goes through", charge(_LARGE), 200)
    _step("support may never pay", support.call("POST", "/tools/payments/charge", _ORDER), 403, "policy_denied")
    charges = (folder / "var" / "demo" / "effects.ndjson").read_text().count('"payments.charge"')
    _check(charges == 2, f"{charges} payments happened where two were expected")  # noqa: PLR2004 -- A1 and A3
    _told("the payment tool's own record: 2 payments")


def _killed_worker(folder: Path, urls: dict[str, str], agent: Client) -> None:
    """Kill the one worker right after an answer; its ledger row must be there all the same."""
    admin = agent._replace(url=urls["admin"], token=(folder / _OPERATOR).read_text())

    def serving() -> list[int]:
        workers = json.loads(admin.call("GET", "/admin/v1/status").text)["workers"]
        return [worker["pid"] for worker in workers if worker["serving"]]

    (before,) = serving()
    answer = agent.chat()
    os.kill(before, signal.SIGKILL)
    _step("a worker of the gateway is killed right after an answer", answer, 200)
    until = time.monotonic() + _PATIENCE
    while serving() in ([], [before]):
        _check(time.monotonic() < until, "no other worker came")
        time.sleep(0.05)
    _step("another one has taken its place and answers", agent.chat(), 200)
    while answer.headers["gateway-request-id"] not in _passgate(folder, "spend", "export"):
        _check(time.monotonic() < until, "the ledger has lost a call")
    _told("the call that it had answered is in the ledger")


# -- the gateway and its files


@contextmanager
def _gateway(folder: Path, rules: str) -> Iterator[dict[str, str]]:
    """`passgate serve` in a process of its own; gives its addresses, and stops it whatever happens."""
    from gateway.identity.issue import add_key

    add_key(folder / "jwks.json", "EdDSA", rotate=False)
    token = secrets.token_urlsafe(32)
    (folder / _OPERATOR).write_text(token)
    digest = hashlib.sha256(token.encode()).hexdigest()
    (folder / "config.yaml").write_text(f'{_CONFIG}operators: [{_DESK}, token_sha256: "{digest}"}}]\n')
    (folder / "policies").mkdir()
    (folder / "policies" / "demo.yaml").write_text(rules)
    with (folder / "log").open("wb") as log:
        served = subprocess.Popen(
            [*_PASSGATE, "serve", "--config", str(folder / "config.yaml")],
            cwd=_HOME,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        yield _addresses(served, folder / "log")
    finally:
        served.terminate()
        try:
            served.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            served.kill()
            served.wait()


def _addresses(served: subprocess.Popen[bytes], log: Path) -> dict[str, str]:
    until = time.monotonic() + _PATIENCE
    while served.poll() is None and time.monotonic() < until:
        for line in log.read_text().splitlines():
            if line.startswith("{") and line.endswith("}") and (event := json.loads(line))["event"] == "ready":
                return {door: event[door] for door in ("agents", "admin")}
        time.sleep(0.02)
    raise WentWrong(f"the gateway did not start:\n{log.read_text()[-2000:]}")


def _passgate(folder: Path, *words: str) -> str:
    """What another `passgate` command prints about this gateway."""
    encoding = sys.stdout.encoding or "utf-8"
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [*_PASSGATE, *words, "--config", str(folder / "config.yaml")],
        cwd=_HOME,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PASSGATE_ADMIN_TOKEN": (folder / _OPERATOR).read_text()},
        capture_output=True,
        encoding=encoding,
        timeout=_PATIENCE,
        check=False,
    )
    _check(done.returncode == DONE, f"passgate {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _token(folder: Path, agent: str) -> str:
    from gateway.identity.mint import mint

    settings = load_settings(str(folder / "config.yaml"))
    return mint(settings.identity, settings.agents, agent, ttl=_TOKEN_LIFE, now=time.time()).token


def _reply(answer: HTTPResponse | HTTPError) -> Reply:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Reply(answer.status or 0, headers, answer.read().decode())


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


# -- what is printed


def _part(number: int, title: str) -> None:
    print(f"\n({number}) {title}", flush=True)


def _step(what: str, reply: Reply, status: int, code: str = "") -> None:
    """Say what a call shows and what came of it; raises `WentWrong` when that is not what was announced."""
    announced = f"{status} {code}".rstrip()
    came = f"{reply.status} {reply.headers.get('gateway-refusal', '')}".rstrip()
    _check(came == announced, f"{what}: expected {announced}, got {reply.seen()}")
    print(f"   {what}:{chr(10) + '      ' if code else ' '}{reply.seen()}", flush=True)


def _told(fact: str) -> None:
    print(f"      {fact}", flush=True)


def _later(what: str) -> None:
    print(f"   not built yet: {what}", flush=True)


def _check(true: bool, why: str) -> None:  # noqa: FBT001 -- it is what is checked
    if not true:
        raise WentWrong(why)
