"""What it costs to know who asks: `Identity` alone in a process of its own, with many agents and many more tokens.

A first verification is timed beside the bare signature of the same token, one after the other, so that a
slow moment of the machine meets both. What takes microseconds is timed in rounds and the quietest one counts:
the limits are about this code and not about its neighbours. Run as a module it prints its figures as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256
from multidict import CIMultiDict

from benchmarks.limits import Limit
from benchmarks.processes import pinned
from gateway.core.call import Address, Head
from gateway.core.clock import SystemClock
from gateway.core.principal import Agent
from gateway.core.sources import KeptSources
from gateway.identity import Identity
from gateway.identity.registry import Entry, Registry
from gateway.identity.settings import AgentSettings, Algorithm, IdentitySettings, IssuerSettings, KeySettings

ALGORITHMS = ("EdDSA", "ES256", "RS256")
SEARCHED = ("exact", "wildcard", "claims")  # the ways in which an entry of the registry is found
CACHED_MICROSECONDS, FIRST_MICROSECONDS, LOOKUP_RATIO, TOKENS_MEGABYTES = 5.0, 40.0, 3.0, 30.0  # what is promised
_AUDIENCE, _ISSUER = "https://gateway.example", "https://issuer.example"
_CHAT = Address("openai", "chat", "/v1/chat/completions")

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    agents: int  # that are registered, a third of each kind
    tokens: tuple[int, ...]  # after so many distinct tokens memory is read
    sample: int  # first verifications in a round, of each algorithm


FULL = Sizes(agents=10_000, tokens=(10_000, 100_000), sample=150)
QUICK = Sizes(agents=10_000, tokens=(10_000, 20_000), sample=100)
ROUNDS = 5  # ten times as many of what takes the least
FEW = 10  # agents of the small registry that the large one is compared with


@dataclass(slots=True)
class Figures:
    """What was measured: times in microseconds, memory in megabytes (10^6 bytes)."""

    agents: int = 0
    cached: float = 0.0  # a token that was verified a moment ago
    first: dict[str, float] = field(default_factory=dict)  # by algorithm: a token that was never seen
    signature: dict[str, float] = field(default_factory=dict)  # by algorithm: the signature alone
    lookup_few: dict[str, float] = field(default_factory=dict)  # by `SEARCHED`, in a registry of few agents
    lookup_many: dict[str, float] = field(default_factory=dict)  # and in one of many
    memory: dict[str, float] = field(default_factory=dict)  # tokens seen -> more than with the agents alone


class Issuer:
    """Signs tokens, and verifies their bare signatures with nothing around it."""

    def __init__(self, alg: str) -> None:
        self.alg = alg
        self.key: PrivateKey
        if alg == "EdDSA":
            self.key = ed25519.Ed25519PrivateKey.generate()
        elif alg == "ES256":
            self.key = ec.generate_private_key(ec.SECP256R1())
        else:
            self.key = rsa.generate_private_key(65537, 2048)

    def jwk(self) -> dict[str, object]:
        """Its public key."""
        public: Any = self.key.public_key()
        jwk = json.loads(jwt.get_algorithm_by_name(self.alg).to_jwk(public))
        kept = {name: jwk[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in jwk}
        return {**kept, "kid": self.alg, "alg": self.alg, "use": "sig"}

    def token(self, number: int, now: int, *, agents: int) -> str:
        """A token that no other number gives, of one of so many agents."""
        claims = {
            "iss": _ISSUER, "sub": _subject(number % agents), "aud": _AUDIENCE, "iat": now, "exp": now + 3600,
            "jti": f"tok_{number:026d}", "azp": _client(number % agents), "env": "prod",
        }  # fmt: skip
        return jwt.encode(claims, self.key, algorithm=self.alg, headers={"kid": self.alg, "typ": "at+jwt"})

    def bare(self, token: str) -> tuple[Any, tuple[Any, ...]]:
        """The function that verifies the token's signature and nothing else, and what it is called with."""
        signed, _, tail = token.rpartition(".")
        signature, message = jwt.utils.base64url_decode(tail), signed.encode()
        public = self.key.public_key()
        if isinstance(public, ed25519.Ed25519PublicKey):
            return public.verify, (signature, message)
        if isinstance(public, ec.EllipticCurvePublicKey):
            r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
            return public.verify, (utils.encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))
        return public.verify, (signature, message, padding.PKCS1v15(), SHA256())


class Nobody:
    """The authority that is never asked: keys are in a file, and no token is bound."""

    async def fetch_keys(self, issuer: str) -> None:
        """See `identity.Authority`."""
        raise AssertionError(issuer)

    async def first_use(self, proof: bytes, until: float) -> bool:
        """See `identity.Authority`."""
        raise AssertionError(proof, until)


def _subject(number: int) -> str:
    return f"spiffe://acme.example/team-{number}/agent/{number}"


def _client(number: int) -> str:
    return f"client-{number}"


def registered(agents: int) -> Iterator[tuple[str, str, Mapping[str, str]]]:
    """Id, subject and claims of so many agents: by turns an exact subject, a wildcard, claims alone."""
    for number in range(agents):
        how = SEARCHED[number % 3]
        subject = {"exact": _subject(number), "wildcard": f"{_subject(number).rpartition('/')[0]}/*", "claims": ""}[how]
        yield f"agent-{number}", subject, {"azp": _client(number), "env": "prod"} if how == "claims" else {}


def _identity(keys: list[dict[str, object]], agents: int) -> Identity:
    source = Path("jwks.json")
    issuer = IssuerSettings(
        name="bench", iss=_ISSUER, algs=cast("tuple[Algorithm, ...]", ALGORITHMS), keys=KeySettings(file=source)
    )
    jwks = json.dumps({"keys": keys}).encode()
    entries = [
        AgentSettings(id=name, issuer="bench", subject=subject, claims=claims)
        for name, subject, claims in registered(agents)
    ]
    settings = IdentitySettings(audience=_AUDIENCE, issuers=(issuer,))
    return Identity.build(settings, entries, KeptSources({str(source): jwks}, {}, {}), SystemClock(), None)


def _head(token: str) -> Head:
    headers: Any = CIMultiDict({"authorization": f"Bearer {token}"})
    return Head("POST", "/v1/chat/completions", "", headers, "127.0.0.1")


async def measure(sizes: Sizes, aside: set[int]) -> Figures:
    """Fill in the figures; what is not measured runs on the cores aside."""
    figures = Figures(agents=sizes.agents)
    for how in SEARCHED:
        figures.lookup_few[how], figures.lookup_many[how] = _lookups(FEW, how), _lookups(sizes.agents, how)
    issuers = [Issuer(alg) for alg in ALGORITHMS]
    identity = _identity([issuer.jwk() for issuer in issuers], sizes.agents)
    for issuer in issuers:
        first, signature = min([await _verify(identity, issuer, sizes, turn) for turn in range(ROUNDS)])
        figures.first[issuer.alg], figures.signature[issuer.alg] = first, signature
    await _remember(figures, sizes, aside)
    return figures


async def _verify(identity: Identity, issuer: Issuer, sizes: Sizes, turn: int) -> tuple[float, float]:
    """Medians of a first verification and of the bare signature, over a sample of tokens that were never seen."""
    now, numbers = int(time.time()), range(turn * sizes.sample, (turn + 1) * sizes.sample)
    tokens = [issuer.token(number, now, agents=sizes.agents) for number in numbers]
    times, nobody = [], Nobody()
    for head, (bare, arguments) in [(_head(token), issuer.bare(token)) for token in tokens]:
        begun = time.perf_counter()
        await identity.identify(head, _CHAT, nobody)
        verified = time.perf_counter()
        bare(*arguments)
        times.append((verified - begun, time.perf_counter() - verified))
    return _median(first for first, _ in times), _median(signature for _, signature in times)


async def _remember(figures: Figures, sizes: Sizes, aside: set[int]) -> None:
    """Show it one distinct token after the other, and see what it keeps of them."""
    with _signed(max(sizes.tokens), sizes.agents, aside) as lines:
        identity, nobody = _identity([json.loads(next(lines))], sizes.agents), Nobody()
        lately: deque[Head] = deque(maxlen=200)
        before = _resident()
        for number, line in enumerate(lines, 1):
            head = _head(line.decode().strip())
            lately.append(head)
            await identity.identify(head, _CHAT, nobody)
            if number in sizes.tokens:
                figures.memory[str(number)] = (_resident() - before) / 1e6
    rounds = []
    for _ in range(10 * ROUNDS):
        begun = time.perf_counter()
        for head in lately:
            await identity.identify(head, _CHAT, nobody)
        rounds.append((time.perf_counter() - begun) / len(lately) * 1e6)
    figures.cached = min(rounds)


@contextmanager
def _signed(count: int, agents: int, cores: set[int]) -> Iterator[Iterator[bytes]]:
    """The lines that `_sign` prints in a process of its own, which is never far ahead of who reads them."""
    command = [sys.executable, "-m", "benchmarks.identity", json.dumps({"signed": count, "agents": agents})]
    with pinned(cores):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        yield iter(process.stdout)


def _sign(count: int, agents: int) -> None:
    """Print a public key, and distinct tokens, one a line."""
    issuer, now = Issuer("ES256"), int(time.time())
    print(json.dumps(issuer.jwk()))
    for number in range(count):
        print(issuer.token(number, now, agents=agents))


def _lookups(agents: int, how: str) -> float:
    """What one search of a registry takes, mean over agents that are found in this way."""
    registry = Registry(Entry(Agent(name), "bench", subject, claims) for name, subject, claims in registered(agents))
    numbers = [number for number in range(agents) if SEARCHED[number % 3] == how][-200:]
    asked = [(_subject(number), {"azp": _client(number), "env": "prod"}) for number in numbers]
    asked *= 200 // len(asked)
    rounds = []
    for _ in range(10 * ROUNDS):
        begun = time.perf_counter()
        for subject, claims in asked:
            registry.find("bench", subject, claims)
        rounds.append((time.perf_counter() - begun) / len(asked) * 1e6)
    return min(rounds)


def _median(seconds: Iterator[float]) -> float:
    return statistics.median(seconds) * 1e6


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(cores: set[int], aside: set[int], sizes: Sizes, say: Callable[[str], None]) -> Figures:
    """Measure in a process of its own on these cores; raises RuntimeError with its words where that fails."""
    say(f"identity: {sizes.agents:,} agents, {max(sizes.tokens):,} different tokens")
    asked = json.dumps({**asdict(sizes), "aside": sorted(aside)})
    command = [sys.executable, "-m", "benchmarks.identity", asked]
    with pinned(cores):
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"identity could not be measured; the end of what it said:\n{done.stderr[-3000:]}")
    return Figures(**json.loads(done.stdout))


def table(figures: Figures) -> list[str]:
    """Lay the figures out, one row each."""

    def row(label: str, unit: str, value: str) -> str:
        return f"{label:<44}{unit:>8}{value:>20}"

    few, many = f"{FEW:,}", f"{figures.agents:,}"
    return [
        f"Who asks, with {many} agents registered",
        row("a token that was seen before", "µs", f"{figures.cached:.1f}"),
        *(
            row(f"the first time, {alg} (its signature alone)", "µs", f"{first:.0f} ({figures.signature[alg]:.0f})")
            for alg, first in figures.first.items()
        ),
        *(
            row(f"found by {how}, of {few} / of {many}", "µs", f"{figures.lookup_few[how]:.1f} / {among:.1f}")
            for how, among in figures.lookup_many.items()
        ),
        *(
            row(f"memory for {int(seen):,} different tokens", "MB", f"{megabytes:.1f}")
            for seen, megabytes in figures.memory.items()
        ),
    ]


def limits(figures: Figures) -> list[Limit]:
    """Hold the figures against what is promised of them."""
    ratios = [among / figures.lookup_few[how] for how, among in figures.lookup_many.items()]
    beyond = {alg: first - figures.signature[alg] for alg, first in figures.first.items()}
    return [
        Limit("a token that was seen before, µs", figures.cached, CACHED_MICROSECONDS),
        *(
            Limit(f"the first time, {alg}, more than its signature, µs", added, FIRST_MICROSECONDS)
            for alg, added in beyond.items()
        ),
        Limit("an agent found among many, times that among few", max(ratios), LOOKUP_RATIO),
        Limit("memory for all tokens that were seen, MB", max(figures.memory.values()), TOKENS_MEGABYTES),
    ]


def _main(asked: dict[str, Any]) -> None:
    if "signed" in asked:
        _sign(asked["signed"], asked["agents"])
        return
    sizes = Sizes(asked["agents"], tuple(asked["tokens"]), asked["sample"])
    print(json.dumps(asdict(asyncio.run(measure(sizes, set(asked["aside"]))))))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
