"""What is measured: nothing in between, the bare proxy, and the gateway with every control on."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.processes import Server, free_port

BASELINE = Path(__file__).with_name("baseline.py")
BASELINE_SHA256 = "1958e38116f789598d08e7aeae28dce6e645920c844efdf984283d1aeb3ec268"
_HERE = Path(__file__).parent
_AUDIENCE = "https://gateway.example"
_ISSUER = "https://issuer.example"
_SUBJECT = "spiffe://acme.example/agent/bench"

_POLICY = """\
version: 1
policy: bench
rules:
  - {id: bench-may-ask, effect: allow, match: {agents: [bench], models: ["gpt-4o*"]}}
  - {id: nobody-asks-o1, effect: deny, match: {models: ["o1*"]}, message: Ask gpt-4o-mini instead.}
"""


def upstream(cores: set[int], folder: Path) -> Server:
    """Start what stands in for the provider."""
    port = free_port()
    return Server("upstream", port, [str(_HERE / "upstream.py"), str(port)], cores, folder / "upstream.log")


def baseline(cores: set[int], folder: Path, upstream_port: int) -> Server:
    """Start the bare proxy; raises RuntimeError when it is not the one that the figures are compared to."""
    if hashlib.sha256(BASELINE.read_bytes()).hexdigest() != BASELINE_SHA256:
        raise RuntimeError(f"{BASELINE.name} was changed: if that is meant, put its new SHA-256 into BASELINE_SHA256")
    port = free_port()
    command = [str(BASELINE), str(port), f"http://127.0.0.1:{upstream_port}"]
    return Server("bare aiohttp proxy", port, command, cores, folder / "baseline.log")


def gateway(cores: set[int], folder: Path, upstream_port: int) -> tuple[Server, str]:
    """Start `passgate serve` with one worker; give it with a token of its one agent."""
    port = free_port()
    config, token = configure(folder, port, upstream_port)
    command = ["-m", "gateway", "serve", "--config", str(config)]
    return Server("passgate", port, command, cores, folder / "gateway.log"), token


def configure(folder: Path, port: int, upstream_port: int) -> tuple[Path, str]:
    """Write a configuration with identity, policy, metering, ledger, metrics and access log on; give it and a token."""
    key = Ed25519PrivateKey.generate()
    jwk = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key()))
    (folder / "jwks.json").write_text(json.dumps({"keys": [{**jwk, "kid": "bench", "alg": "EdDSA", "use": "sig"}]}))
    (folder / "policies").mkdir(exist_ok=True)
    (folder / "policies" / "bench.yaml").write_text(_POLICY)
    config = {
        "listen": {
            "agents": {"bind": f"127.0.0.1:{port}"},
            "metrics": {"bind": f"127.0.0.1:{free_port()}"},
            "admin": {"bind": f"127.0.0.1:{free_port()}"},
        },
        "workers": 1,
        "state": {"durable": "sqlite:state/passgate.db"},
        "identity": {
            "audience": _AUDIENCE,
            "issuers": [{"name": "bench", "iss": _ISSUER, "algs": ["EdDSA"], "keys": {"file": "jwks.json"}}],
        },
        "agents": [
            {
                "id": "bench", "issuer": "bench", "subject": _SUBJECT, "owner": "bench@acme.example",
                "team": "platform", "cost_center": "CC-1", "category": "bounded", "tags": {"env": "bench"},
            }
        ],
        "providers": {
            "openai": {
                "dialects": ["openai"], "base_url": f"http://127.0.0.1:{upstream_port}/v1",
                "api_key": "sk-bench", "allow_internal": True,
            }
        },
        "models": {
            "gpt-4o-mini": {
                "targets": [{"provider": "openai", "model": "gpt-4o-mini"}],
                "output_tokens": {"default": 1000, "max": 16000},
            }
        },
        "policies": {"dir": "policies"},
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(json.dumps(config, indent=1))  # JSON is YAML
    now = int(time.time())
    claims = {"iss": _ISSUER, "sub": _SUBJECT, "aud": _AUDIENCE, "iat": now, "exp": now + 3600, "jti": "bench"}
    token = jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": "bench", "typ": "at+jwt"})
    return path, token
