"""The configuration as a whole: the shipped example, cross-checks, what is off, and what is not built yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config import Config, ConfigMistakes, config_schema, load
from gateway.core.sources import DiskSources, KeptSources
from gateway.settings import Complaint, Complaints, document, plain

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "config.example.yaml"

MINIMAL = """
identity:
  audience: https://gateway.example
  issuers: [{name: dev, iss: "https://issuer.example", keys: {file: keys.json}}]
agents: [{id: a, issuer: dev, subject: "agent:a"}]
providers:
  demo: {dialects: [openai], base_url: "builtin:demo"}
models:
  small: {targets: [{provider: demo}]}
"""
ATTESTER = "{name: fraud, keys: {file: fraud.json}, may_attest: [check]}"


def loaded(text: str, variables: Mapping[str, str] | None = None, /, **files: str) -> Config:
    kept = {"c/config.yaml": text.encode()} | {f"c/{name}": data.encode() for name, data in files.items()}
    return load(Path("c/config.yaml"), KeptSources(kept, {}, dict(variables or {})))


def mistakes(text: str, **files: str) -> list[str]:
    with pytest.raises(ConfigMistakes) as caught:
        loaded(text, {}, **files)
    return [str(complaint) for complaint in caught.value.complaints]


def test_the_shipped_example_has_no_mistakes_and_no_warnings() -> None:
    """A fresh clone starts with a file that `check` has nothing to say about."""
    config = load(EXAMPLE, DiskSources())
    assert config.warnings == ()
    assert config.off == {}
    assert config.uses_demo
    assert config.settings.state.durable == ROOT / "var/passgate.db"


def test_a_record_of_the_sources_gives_the_same_configuration() -> None:
    """Workers load from the supervisor's record and run the very same settings."""
    disk = DiskSources()
    first = load(EXAMPLE, disk)
    assert load(EXAMPLE, KeptSources(disk.files, disk.dirs, disk.variables)) == first


def test_the_printed_schema_accepts_the_example_and_refuses_a_typo() -> None:
    """Editors underline what `check` would refuse."""
    validator = jsonschema_rs.Draft202012Validator(config_schema())
    data = _json(plain(document(EXAMPLE.read_bytes(), "e", Complaints()) or _none()))
    assert [error.message for error in validator.iter_errors(data)] == []
    assert not validator.is_valid(data | {"modles": {}})
    assert not validator.is_valid(data | {"budgets": [{}]})
    assert validator.is_valid(data | {"budgets": None})


def test_the_schema_beside_the_documentation_is_the_printed_one() -> None:
    """`docs/schema/config.json`, which the example names for editors, is what `passgate schema config` prints."""
    assert json.loads((ROOT / "docs/schema/config.json").read_text()) == config_schema()


def test_every_field_of_the_schema_has_a_description() -> None:
    """Descriptions come from the settings' own docstrings, and none is missing."""
    schema: Any = config_schema()
    for record in [schema, *schema["$defs"].values()]:
        assert record["description"]
        lacking = [name for name, field in record["properties"].items() if not field["description"]]
        assert lacking == []


def test_defaults_are_those_of_the_contract() -> None:
    """What is left out is what the contract prints."""
    config = loaded(MINIMAL).settings
    assert [str(door.bind) for door in (config.listen.agents, config.listen.metrics, config.listen.admin)] == [
        "127.0.0.1:8080",
        "127.0.0.1:9464",
        "127.0.0.1:9901",
    ]
    assert (config.identity.skew, config.drain, config.workers) == (30.0, 120.0, 1)
    assert (config.timeouts.connect, config.timeouts.first_byte, config.timeouts.idle) == (5.0, 120.0, 120.0)
    assert (config.limits.body, config.limits.json_elements) == (32 * 1024**2, 2_000_000)
    assert config.state.durable == Path("c/var/passgate.db")
    assert config.policies.dir == Path("c/policies")


def test_mistakes_of_binding_and_of_cross_checks_come_together() -> None:
    """One run of `check` tells everything, in the order of the file."""
    found = mistakes(
        MINIMAL.replace("issuer: dev", "issuer: dve").replace("provider: demo", "provider: dmeo") + "lmits: {}\n"
    )
    assert [line.split(": ")[0] for line in found] == ["c/config.yaml:5", "c/config.yaml:9", "c/config.yaml:10"]
    assert "there is no issuer dve; identity.issuers has dev" in found[0]
    assert "there is no provider dmeo; providers has demo" in found[1]
    assert "did you mean `limits`?" in found[2]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("agents: [", "agents: [{id: a, issuer: dev, subject: x}, ", "agents[1].id: another agent has this id"),
        ("agents: [", "agents: [{id: b, issuer: dev, subject: 'agent:a'}, ", "agent b has the same issuer, subject"),
        ("agents: [", "agents: [{id: b, issuer: dev, subject: a}, ", "agents[0].subject: agent a is called that too"),
        ('"agent:a"', '"agent:a*"', "has a `*` that is not the whole last segment"),
        ('"agent:a"', '"*"', "has a `*` that is not the whole last segment"),
        (', subject: "agent:a"', "", "nothing says which tokens are this agent's"),
        ("https://issuer.example", "https://gateway.example", "the gateway signs its own tokens under this name"),
        ("dev", "gateway", "`gateway` names the gateway's own tokens"),
        ("dev", "api-key", "`api-key` names the holders of API keys"),
        ("keys: {file: keys.json}", "algs: [HS256], keys: {file: keys.json}", "'HS256' is not among the choices"),
        ("keys: {file: keys.json}", "algs: [none], keys: {file: keys.json}", "'none' is not among the choices"),
        ("keys: {file: keys.json}", "algs: [], keys: {file: keys.json}", "the list is empty"),
        ("keys: {file: keys.json}", "kinds: [jwt, k8s], keys: {file: keys.json}", "jwt and k8s cannot be told apart"),
        ("keys: {file: keys.json}", "kinds: [jwt-svid], keys: {file: keys.json}", "jwt-svid need a trust domain"),
        ("keys: {file: keys.json}", "keys: {file: keys.json, url: 'https://x'}", "names file and url"),
        ("dialects: [openai]", "dialects: [openai, gemini]", "gemini is not built yet; use openai"),
        ("[{provider: demo}]", "[]", "the list is empty"),
        ("small:", "'sm*all':", "is not a model's name"),
        ("models:", "listen: {admin: {bind: '0.0.0.0:9901'}}\nmodels:", "without operators and listen.admin.tls"),
        ("models:", "listen: {agents: {bind: '127.0.0.1:9901'}}\nmodels:", "binds 127.0.0.1:9901 already"),
        ("models:", "state: {durable: 'postgresql://x'}\nmodels:", "PostgreSQL is not built yet"),
        ("models:", "policies: {mode: dry}\nmodels:", "policies.mode: 'dry' is not among the choices"),
        ("models:", f"attesters: [{ATTESTER}]\nmodels:".replace("fraud", "gateway"), "the name gateway is reserved"),
        ("models:", f"attesters: [{ATTESTER}, {ATTESTER}]\nmodels:", "another attester has this name"),
        ("models:", f"attesters: [{ATTESTER}]\nmodels:".replace("[check]", "[]"), "the list is empty"),
        ("models:", f"attesters: [{ATTESTER}]\nmodels:".replace("[check]", "['*']"), "is not a step's name"),
        ("models:", "limits: {body: 1 GiB}\nmodels:", "so that no body fits"),
        ("models:", "prices: {a/b: [{input: 1}, {input: 2}]}\nmodels:", "another price has this from"),
        ("models:", "prices: {a/b: [{from: 2026-01-01}]}\nmodels:", "no price is named"),
        ("'builtin:demo'", "'https://127.1/v1'", "neither a host name nor an IP address"),
        *(
            ("models:", f"{key}: [x]\nmodels:", f"{key}: ")
            for key in ("budgets", "cache", "webhooks")
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line_and_remedy(old: str, new: str, says: str) -> None:
    """Every cross-check and everything that is not built yet has a sentence of its own."""
    text = MINIMAL.replace('"builtin:demo"', "'builtin:demo'")
    assert old in text
    found = mistakes(text.replace(old, new))
    assert len(found) == 1, found
    assert says in found[0]
    assert found[0].startswith("c/config.yaml:")
    assert "; " in found[0]


def test_the_demo_and_a_real_provider_do_not_mix_in_one_model() -> None:
    """Made-up answers never pass for real ones, even while the real provider is off; side by side they warn."""
    both = MINIMAL.replace(
        "providers:", "providers:\n  real: {dialects: [openai], base_url: 'https://a.example', api_key: '${env:KEY?}'}"
    )
    mixed = both.replace("[{provider: demo}]", "[{provider: demo}, {provider: real}]")
    assert any("mixes builtin:demo with real providers" in line for line in mistakes(mixed))
    assert any("stands beside real providers" in line for line in loaded(both, {"KEY": "k"}).warnings)


def test_rules_that_only_count_are_pointed_out() -> None:
    """Whoever starts with `policies.mode: shadow` is told that what rules refuse passes."""
    (warning,) = loaded(MINIMAL + "policies: {mode: shadow}\n").warnings
    assert "policies.mode: what rules refuse passes and is only counted" in warning


def test_a_provider_whose_variable_is_unset_is_off_and_its_models_stay() -> None:
    """Callers learn why: the sentence names provider and variable."""
    text = MINIMAL.replace('"builtin:demo"', "https://a.example, api_key: '${env:KEY?}'")
    config = loaded(text)
    assert config.off == {"providers.demo": "provider demo is off: KEY unset"}
    assert config.unset("providers") == {"demo": "provider demo is off: KEY unset"}
    assert config.settings.providers == {}
    assert list(config.settings.models) == ["small"]


def test_secrets_are_not_in_the_repr_of_a_configuration() -> None:
    """What is logged by accident shows no key."""
    text = MINIMAL.replace('"builtin:demo"', "https://a.example, api_key: '${env:KEY}'")
    config = loaded(text, {"KEY": "sk-secret"})
    provider = config.settings.providers["demo"]
    assert provider.api_key is not None
    assert provider.api_key.reveal() == "sk-secret"
    assert "sk-secret" not in repr(config)


def test_agents_may_live_in_a_folder_of_files(tmp_path: Path) -> None:
    """Each file is a list or one agent; mistakes name the agent's own file."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/one.yaml").write_text("id: one\nissuer: dev\nsubject: s/1\n")
    two = "- {id: two, issuer: dev, subject: s/2}\n- {id: three, issuer: dev, claims: {a: b}}\n"
    (tmp_path / "agents/two.yml").write_text(two)
    (tmp_path / "agents/empty.yaml").write_text("# nobody yet\n")
    (tmp_path / "agents/notes.txt").write_text("not YAML: [")
    path = tmp_path / "config.yaml"
    path.write_text(MINIMAL.replace('[{id: a, issuer: dev, subject: "agent:a"}]', "{dir: agents}"))
    config = load(path, DiskSources())
    assert [agent.id for agent in config.settings.agents] == ["one", "two", "three"]
    (tmp_path / "agents/one.yaml").write_text("id: one\nissuer: dev\nsubjet: s/1\n")
    with pytest.raises(ConfigMistakes) as caught:
        load(path, DiskSources())
    assert {complaint.file for complaint in caught.value.complaints} == {str(tmp_path / "agents/one.yaml")}
    assert {complaint.line for complaint in caught.value.complaints} <= {1, 3}


def test_what_is_wrong_already_is_not_judged_again() -> None:
    """One mistake, one complaint: a path that is no template is not also one that cannot be compiled."""
    tool = "tools: {t: {kind: http, base_url: 'https://t.example', operations: {o: {method: GET, path: o}}}}"
    found = mistakes(MINIMAL + tool)
    assert len(found) == 1, found
    assert "is not a path template" in found[0]


def test_a_file_that_is_not_there_is_a_mistake_like_any_other(tmp_path: Path) -> None:
    """No traceback for a wrong --config."""
    with pytest.raises(ConfigMistakes) as caught:
        load(tmp_path / "none.yaml", DiskSources())
    assert "cannot be read" in str(caught.value)


def test_argument_schemas_are_read_with_the_configuration() -> None:
    """A tool's schema that is missing or no JSON is found before anything serves."""
    operation = "{method: GET, path: /o, arguments: s}"
    tool = f"tools: {{t: {{kind: http, base_url: 'https://t.example', operations: {{o: {operation}}}}}}}"
    assert any("tools.t.operations.o.arguments" in line for line in mistakes(MINIMAL + tool))
    assert any("tools.t.operations.o.arguments" in line for line in mistakes(MINIMAL + tool, s="{"))
    assert loaded(MINIMAL + tool, s='{"type": "object"}').settings.tools["t"].operations["o"].arguments == Path("c/s")


def test_what_stands_but_means_nothing_is_a_warning() -> None:
    """Kept for later, unreachable by name, unencrypted: said, not refused."""
    extra = """
state: {volatile: "disk:var/cache", keys: var/keys}
listen: {agents: {bind: "0.0.0.0:8080"}}
prices: {nobody/x: [{input: 1}]}
"""
    warnings = "\n".join(loaded(MINIMAL + extra).warnings)
    for says in ("nothing is kept there yet", "unencrypted", "Host is localhost", "there is no provider nobody"):
        assert says in warnings


LINES = EXAMPLE.read_text().splitlines()
SCHEMAS = {f"schemas/{file.name}": file.read_text() for file in ROOT.glob("schemas/*.json")}


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    edits=st.lists(
        st.tuples(
            st.integers(0, len(LINES) - 1),
            st.sampled_from(
                ["", "  x: 1", "- a", "a: [", "null", "'", "x: {}", "  - {id: 5}", "models: []", "tools: 7"]
            ),
        ),
        max_size=6,
    )
)
def test_no_edit_of_the_example_gives_a_traceback(edits: list[tuple[int, str]]) -> None:
    """Whatever line is lost or garbled: a configuration, or complaints that each have a line and a remedy."""
    lines = list(LINES)
    for number, line in edits:
        lines[number] = line
    complaints: list[Complaint] = []
    try:
        loaded("\n".join(lines), {}, **SCHEMAS)
    except ConfigMistakes as mistakes:
        complaints = mistakes.complaints
    assert not (complaints and lines == LINES)
    assert all(complaint.line >= 1 and complaint.problem and complaint.remedy for complaint in complaints)


def _json(value: Any) -> Any:  # noqa: ANN401 -- plain data
    """Plain data with decimals as floats, which is what editors see."""
    if isinstance(value, dict):
        return {key: _json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_json(inner) for inner in value]
    return float(value) if isinstance(value, Decimal) else value


def _none() -> Any:  # noqa: ANN401 -- never returns
    raise AssertionError("the example cannot be read")


MESH = """
listen: {agents: {tls: {cert: tls.crt, key: tls.key, client_ca: agents.pem}}}
identity:
  audience: https://gateway.example
  issuers:
    - {name: mesh, kinds: [x509-svid], trust_domain: acme.example}
agents: [{id: a, issuer: mesh, subject: "spiffe://acme.example/a"}]
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        (", client_ca: agents.pem", "", 6, "no client is asked for its certificate"),
        ("listen: {agents: {tls: {cert: tls.crt, key: tls.key, client_ca: agents.pem}}}", "", 6, "no client is asked"),
        (
            "agents: [",
            "    - {name: b, kinds: [x509-svid], trust_domain: b.example}\nagents: [",
            7,
            "issuer mesh has x509-svid already",
        ),
    ],
)
def test_client_certificates_need_their_authorities(old: str, new: str, line: int, says: str) -> None:
    """X.509-SVIDs count where agents are asked for certificates, and for one issuer, whom the authorities speak for."""
    loaded(MESH)
    found = mistakes(MESH.replace(old, new))
    assert len(found) == 1, found
    assert found[0].startswith(f"c/config.yaml:{line}: ")
    assert says in found[0]


def test_api_keys_are_one_agents_and_for_development() -> None:
    """A key of two agents is nobody's; whoever lists keys is warned, the more where they could never be used."""
    one, two = ("a" * 64, "b" * 64)
    keyed = MINIMAL.replace("agents: [", f"agents: [{{id: k, key_sha256: ['{one}', '{two}']}}, ")
    (warning,) = loaded(keyed).warnings
    assert "agents[0].key_sha256: has API keys, which are for development" in warning
    (warning,) = loaded(keyed.replace("identity:", "identity:\n  require_proof: true")).warnings
    assert "which identity.require_proof refuses" in warning
    (shared,) = mistakes(keyed.replace("subject:", f"key_sha256: ['{two}'], subject:"))
    assert "agents[1].key_sha256[0]: agent k has this API key too" in shared
    (never,) = mistakes(keyed.replace("id: k", "id: k, require_proof: true"))
    assert "an API key can never be proven" in never
    (short,) = mistakes(keyed.replace(one, one[1:]))
    assert "SHA-256" in short


def test_a_trust_domain_that_could_sign_no_svid() -> None:
    """Of `algs` EdDSA alone nothing is left for JWT-SVIDs; beside another one it does no harm."""
    svids = MINIMAL.replace('"agent:a"', '"spiffe://a.example/a"').replace(
        "keys: {file: keys.json}", "kinds: [jwt-svid], trust_domain: a.example, algs: [EdDSA], keys: {file: keys.json}"
    )
    (found,) = mistakes(svids)
    assert "identity.issuers[0].algs: no JWT-SVID is signed with EdDSA; name" in found
    loaded(svids.replace("[EdDSA]", "[EdDSA, ES256]"))


@pytest.mark.parametrize(
    ("subject", "says"),
    [
        ("spiffe://acme.example/agent/a", ""),
        ("spiffe://acme.example/agent/*", ""),
        ("spiffe://acme.example/*", ""),
        ("spiffe://acme.example", "names no workload that issuer mesh speaks for"),
        ("spiffe://other.example/agent/a", "names no workload that issuer mesh speaks for"),
        ("spiffe://acme.example.evil/agent/*", "names no workload that issuer mesh speaks for"),
        ("spiffe://acme.example/agent/a/", "is no SPIFFE ID"),
        ("agent:a", "is no SPIFFE ID"),
    ],
)
@pytest.mark.parametrize("kinds", ["jwt-svid", "x509-svid", "jwt-svid, x509-svid"])
def test_an_agent_that_no_svid_can_name(kinds: str, subject: str, says: str) -> None:
    """A subject outside the issuer's trust domain would wait for its agent for ever, so `check` says so."""
    keys = "" if kinds == "x509-svid" else ", keys: {file: keys.json}"
    authorities = "listen: {agents: {tls: {cert: c.pem, key: k.pem, client_ca: ca.pem}}}\n" if "x509" in kinds else ""
    text = MINIMAL.replace(
        '{name: dev, iss: "https://issuer.example", keys: {file: keys.json}}',
        f"{{name: mesh, kinds: [{kinds}], trust_domain: acme.example{keys}}}",
    ).replace('issuer: dev, subject: "agent:a"', f'issuer: mesh, subject: "{subject}"')
    if not says:
        loaded(authorities + text)
        return
    (found,) = mistakes(authorities + text)
    assert says in found
    assert "spiffe://acme.example/..." in found


DESK = "operators:\n  - {id: desk, roles: [viewer], issuer: dev, subject: user/desk}\n"


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("issuer: dev, subject: user/desk", "issuer: corp, subject: user/desk", 2, "there is no issuer corp;"),
        (", issuer: dev, subject: user/desk", "", 2, "operators[0]: nothing says whose tokens are this operator's"),
        ("issuer: dev, ", "", 2, "operators[0]: nothing says whose tokens are this operator's"),
        (", subject: user/desk", "", 2, "operators[0].subject: nothing says whom the issuer vouches for"),
        ("subject: user/desk", f"subject: user/desk, token_sha256: {'a' * 64}", 2, "has tokens of an issuer too"),
        ("user/desk", "user/*", 2, "'user/*' would be many people"),
        (
            "identity:",
            "  - {id: b, roles: [viewer], issuer: dev, subject: user/desk}\nidentity:",
            4,
            "operator desk has",
        ),
        ("subject: user/desk", "subject: 'agent:a'", 2, "agent a has tokens with this subject"),
        ('"agent:a"', '"user/*"', 2, "agent a has tokens with this subject"),
        ("identity:", "identity:\n  require_proof: true", 2, "the admin listener takes no proof"),
        ("name: dev", "name: dev, require_proof: true", 2, "the admin listener takes no proof"),
    ],
)
def test_operators_of_an_issuer(old: str, new: str, line: int, says: str) -> None:
    """An operator is one person of one issuer, whom no other entry and no agent could be taken for."""
    (operator,) = loaded(DESK + MINIMAL).settings.operators
    assert (operator.issuer, operator.subject, operator.token_sha256) == ("dev", "user/desk", "")
    (found,) = mistakes((DESK + MINIMAL).replace(old, new, 1))
    assert found.startswith(f"c/config.yaml:{line}: operators[")
    assert says in found


def test_operators_and_agents_that_are_told_apart() -> None:
    """Claims tell an agent's tokens from a person's; an issuer of certificates alone signs none for anybody."""
    app = MINIMAL.replace('subject: "agent:a"', 'subject: "user/*", claims: {azp: assistant}')
    assert loaded(DESK + app).settings.operators[0].id == "desk"
    (found,) = mistakes(f"operators: [{{id: desk, roles: [viewer], issuer: mesh, subject: x}}]\n{MESH.lstrip()}")
    assert "operators[0].issuer: issuer mesh signs no tokens" in found


def test_attesters_keys_are_watched() -> None:
    """W24: a key that is taken out of its file is taken over by itself, like those of issuers."""
    config = loaded(f"{MINIMAL}attesters: [{ATTESTER}]\n")
    assert [path.name for path in config.watched] == ["keys.json", "fraud.json"]
