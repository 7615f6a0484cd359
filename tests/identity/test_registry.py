"""Which verified subject is which agent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Refusal
from gateway.core.principal import Agent
from gateway.identity.registry import Entry, Registry, one_segment


def found(subject: str, *entries: tuple[str, dict[str, str]], claims: dict[str, object] | None = None) -> str:
    """The index of the entry that is found, or the code of the refusal."""
    registry = Registry(Entry(Agent(str(n)), "dev", pattern, wanted) for n, (pattern, wanted) in enumerate(entries))
    try:
        return registry.find("dev", subject, claims or {}).id
    except Refusal as refusal:
        return refusal.code


UNKNOWN, AMBIGUOUS = "agent_unknown", "agent_ambiguous"


@pytest.mark.parametrize(
    ("pattern", "subject", "matches"),
    [
        ("agent/a", "agent/a", True),
        ("agent/a", "agent/A", False),
        ("agent/a", "agent/a/", False),
        ("agent/a", "agent/a ", False),
        ("agent/*", "agent/a", True),
        ("agent/*", "agent/*", True),
        ("agent/*", "agent/", False),
        ("agent/*", "agent", False),
        ("agent/*", "agent/a/b", False),
        ("agent/*", "agent/a:b", False),
        ("agent/*", "agents/a", False),
        ("agent/*", "x/agent/a", False),
        ("ns:*", "ns:a", True),
        ("ns:*", "ns:a:b", False),
        ("ns:*", "ns/a", False),
        ("spiffe://acme.example/*", "spiffe://acme.example.evil/a", False),
        ("spiffe://acme.example/agent/*", "spiffe://acme.example/agent/buyer", True),
        ("system:serviceaccount:jobs:*", "system:serviceaccount:jobs:nightly", True),
        ("system:serviceaccount:jobs:*", "system:serviceaccount:jobs2:nightly", False),
    ],
)
def test_subjects(pattern: str, subject: str, *, matches: bool) -> None:
    """A subject is compared exactly; a `*` stands for one whole, non-empty last segment and reaches no further."""
    assert found(subject, (pattern, {})) == ("0" if matches else UNKNOWN)


def test_claims() -> None:
    """An entry with claims wants each of them with exactly that text, beside the subject where it names one."""
    by_client = ("", {"azp": "client-1"})
    assert found("anyone", by_client, claims={"azp": "client-1"}) == "0"
    for azp in ("client-2", "Client-1", ["client-1"], None, 1):
        assert found("anyone", by_client, claims={"azp": azp}) == UNKNOWN
    assert found("anyone", by_client) == UNKNOWN
    both = ("agent/*", {"azp": "client-1", "tenant": "t"})
    assert found("agent/a", both, claims={"azp": "client-1", "tenant": "t"}) == "0"
    assert found("agent/a", both, claims={"azp": "client-1"}) == UNKNOWN
    assert found("other/a", both, claims={"azp": "client-1", "tenant": "t"}) == UNKNOWN


def test_two_entries_for_one_token() -> None:
    """A token that two entries claim is refused, in whatever order and however exact they are."""
    entries: list[tuple[str, dict[str, str]]] = [("agent/a", {}), ("agent/*", {}), ("", {"azp": "c"})]
    for one in entries:
        for other in entries:
            assert found("agent/a", one, other, claims={"azp": "c"}) == AMBIGUOUS
    assert found("agent/b", *entries) == "1"
    assert found("agent/b", *entries, claims={"azp": "c"}) == AMBIGUOUS


def test_same_subject_at_another_issuer() -> None:
    """I11: agents are told apart by issuer and subject: the same name elsewhere is somebody else."""
    registry = Registry([Entry(Agent("a"), "dev", "agent/a", {}), Entry(Agent("b"), "corp", "agent/a", {})])
    assert [registry.find(issuer, "agent/a", {}).id for issuer in ("dev", "corp")] == ["a", "b"]
    with pytest.raises(Refusal, match="agent_unknown"):
        registry.find("other", "agent/a", {})


def test_ambiguity_names_no_agents_in_public() -> None:
    """The caller is told what to ask for; which agents matched stands in the log."""
    registry = Registry([Entry(Agent("red-team"), "dev", "a/b", {}), Entry(Agent("blue-team"), "dev", "a/*", {})])
    with pytest.raises(Refusal) as caught:
        registry.find("dev", "a/b", {})
    assert "team" not in f"{caught.value.sentence}{caught.value.fields}"
    assert "red-team" in str(caught.value.detail)


_PATTERNS = st.sampled_from(["", "a/b", "a/*", "a:b", "a:*", "b/b"])
_CLAIMS = st.dictionaries(st.sampled_from("xyz"), st.sampled_from("12"), max_size=3)


@given(
    st.lists(st.tuples(_PATTERNS, _CLAIMS), max_size=8),
    st.sampled_from(["a/b", "a:b", "b/b", "c"]),
    st.dictionaries(st.sampled_from("xyz"), st.sampled_from(["1", "2", 1, None, ["1"]]), max_size=3),
)
def test_an_index_finds_what_a_walk_through_all_entries_finds(
    entries: list[tuple[str, dict[str, str]]], subject: str, claims: dict[str, object]
) -> None:
    """Filing entries by their claims changes nothing of who is meant: one, nobody, or more than one."""
    matching = [
        str(number)
        for number, (pattern, wanted) in enumerate(entries)
        if pattern in {"", subject, one_segment(subject)}
        and all(claims.get(name) == value for name, value in wanted.items())
    ]
    expected = matching[0] if len(matching) == 1 else AMBIGUOUS if matching else UNKNOWN
    assert found(subject, *entries, claims=claims) == expected


class Counting(dict[str, object]):
    """Claims that count how often they are asked."""

    asked = 0

    def get(self, name: str, default: object = None) -> object:
        """Count, and answer."""
        self.asked += 1
        return super().get(name, default)


@pytest.mark.parametrize("subject", ["", "agent/*"])
def test_ten_thousand_agents_that_differ_in_one_claim(subject: str) -> None:
    """However many agents share a subject, or go without one, few of them are looked at for a token."""
    entries = [Entry(Agent(str(n)), "dev", subject, {"env": "prod", "azp": f"app-{n}"}) for n in range(10_000)]
    registry = Registry(entries)
    claims = Counting(env="prod", azp="app-4711")
    assert registry.find("dev", "agent/x", claims).id == "4711"
    assert claims.asked <= 4


@given(st.text(alphabet="ab/:*.", min_size=1, max_size=12))
def test_wildcard_covers_one_segment_only(subject: str) -> None:
    """The only pattern that a subject can match is itself up to its last separator, and then `*`."""
    pattern = one_segment(subject)
    if pattern:
        segment = subject[len(pattern) - 1 :]
        assert subject.startswith(pattern[:-1])
        assert pattern[-2] in "/:"
        assert segment
        assert not set(segment) & set("/:")
    else:
        assert subject[-1] in "/:" or not set(subject) & set("/:")
