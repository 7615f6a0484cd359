"""Attestations that rules ask for: each clause of what binds one to a call, and the code that says why it does not."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.attestation import Attestation, Use
from gateway.policy import Discounted, RunView
from gateway.policy.requirements import REASONS
from tests.policy.scene import CALLER, MICRO, NOW, ORDER, RUN, attested, call, decided, moment, policies

MAY = "{id: may, effect: allow, match: {tools: [payments.charge]}}"
BIND = "bind: {order_id: args.order_id, amount: args.amount, currency: args.currency}"


def asking(said: str = BIND, more: str = "") -> str:
    """An allow rule, and a require rule that asks for an attestation of step check."""
    requires = f"requires: [{{attestation: {{step: check, {said}}}}}]"
    return f"{MAY}\n{{id: checked, effect: require, match: {{tools: [payments.charge]}}, {requires}{more}}}"


def about(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 -- values of a subject
    """Order A1 with something else in it."""
    return ORDER | changes


@pytest.mark.parametrize(
    "said", ["outcome: passed", BIND, f"{BIND}, max_age: 1m", f"{BIND}, attested_by: [x, gateway]"]
)
def test_an_attestation_of_this_run_about_this_order_lets_the_call_go_on(said: str) -> None:
    """With the attestation that is asked for the call is allowed, and rests on it."""
    seen = attested()
    decision = decided(policies(asking(said)), moment(None, seen))
    assert (decision.effect, decision.rests_on, decision.uses, decision.reasons) == ("allow", (seen,), (), ())


@pytest.mark.parametrize(
    ("attestation", "said", "code"),
    [
        (None, BIND, "none"),
        (attested("other"), BIND, "none"),
        (attested(run="r2"), BIND, "other_run"),
        (attested(owner=("https://issuer.example", "somebody else")), BIND, "other_run"),
        (attested(agent="support"), BIND, "other_agent"),
        (attested(owner=None, agent="support"), BIND, "other_run"),
        (attested(by="fraud-service"), f"{BIND}, attested_by: [gateway]", "attester"),
        (attested(by="gateway"), f"{BIND}, attested_by: [fraud-service]", "attester"),
        (attested(subject=about(order_id="A2")), BIND, "subject_mismatch"),
        (attested(subject=about(amount=99)), BIND, "subject_mismatch"),
        (attested(subject=about(currency="USD")), BIND, "subject_mismatch"),
        (attested(subject=about(amount="100")), BIND, "subject_mismatch"),
        (attested(subject=about(amount=True)), "bind: {amount: args.amount}", "subject_mismatch"),
        (attested(subject={"order_id": "A1", "amount": 100}), BIND, "subject_mismatch"),
        (attested(subject={}), BIND, "subject_mismatch"),
        (attested(subject=about(order_id="A\N{COMBINING ACUTE ACCENT}1")), BIND, "subject_mismatch"),
        (attested(outcome="failed"), BIND, "outcome"),
        (attested(outcome="skipped"), BIND, "outcome"),
        (attested(outcome="error"), BIND, "outcome"),
        (attested(outcome="Passed"), BIND, "outcome"),
        (attested(), f"{BIND}, outcome: failed", "outcome"),
        (attested(age=-601), BIND, "not_yet"),
        (attested(expires=round(NOW * MICRO)), BIND, "expired"),
        (attested(age=61), f"{BIND}, max_age: 1m", "too_old"),
    ],
)
def test_each_clause_fails_by_itself_and_says_so(attestation: Attestation | None, said: str, code: str) -> None:
    """W1, W2, W3, W4, W6, W7, W8, W10, W20: one thing wrong with the attestation, and the call is refused for that."""
    given = (attestation,) if attestation is not None else ()
    decision = decided(policies(asking(said)), moment(None, *given))
    assert (decision.effect, decision.code) == ("deny", "attestation_required")
    (reason,) = decision.reasons
    assert (reason.rule, reason.clause, reason.code, reason.step) == ("p/checked", "requires[0]", code, "check")
    assert reason.detail.startswith(REASONS[code])
    assert (decision.rests_on, decision.uses) == ((), ())


@pytest.mark.parametrize(
    "edge",
    [attested(age=60), attested(age=-600), attested(expires=round(NOW * MICRO) + 1), attested(agent="procurement")],
)
def test_what_is_just_good_enough_is_good(edge: Attestation) -> None:
    """An attestation is good up to and with its age, until its expiry, and for the agent by either of its names."""
    assert decided(policies(asking(f"{BIND}, max_age: 1m")), moment(None, edge)).effect == "allow"


@pytest.mark.parametrize(
    "args",
    [
        {"order_id": "A1", "amount": 100.0, "currency": "EUR"},
        {"order_id": "A1", "amount": "100", "currency": "EUR"},
        {"order_id": "A1", "amount": None, "currency": "EUR"},
        {"order_id": "A1", "amount": [100], "currency": "EUR"},
        {"order_id": "A1", "amount": {"value": 100}, "currency": "EUR"},
        {"order_id": "A1", "amount": True, "currency": "EUR"},
        {"order_id": "A1", "currency": "EUR"},
        {},
    ],
)
def test_an_amount_of_another_kind_is_another_amount(args: dict[str, object]) -> None:
    """W4: a float, a text, a truth, null, a list, an object and nothing at all are not the integer that was checked."""
    decision = decided(policies(asking()), moment(call(args), attested()))
    (reason,) = decision.reasons
    kept = isinstance(args.get("amount"), str | bool)
    assert (decision.effect, reason.code) == ("deny", "subject_mismatch" if kept else "bind")


def test_one_is_not_true() -> None:
    """W4: a truth that was attested is no amount of 1, and the other way round."""
    loaded = policies(asking("bind: {amount: args.amount}"))
    for asked, said in ((1, True), (True, 1), (0, False)):
        decision = decided(loaded, moment(call({"amount": asked}), attested(subject={"amount": said})))
        assert decision.reasons[0].code == "subject_mismatch"
    assert decided(loaded, moment(call({"amount": True}), attested(subject={"amount": True}))).effect == "allow"


def test_a_call_outside_a_run_has_no_attestations() -> None:
    """Attestations are of a run: a call that names none is refused, whatever was attested."""
    decision = decided(policies(asking()), moment(None, attested(), run=None))
    assert (decision.effect, decision.reasons[0].code) == ("deny", "no_run")


def test_the_run_of_somebody_else_is_his() -> None:
    """A delegated agent in the run of its root rests on what was attested there, and nowhere else."""
    root = ("https://issuer.example", "root")
    within = RUN._replace(owner=root)
    loaded = policies(asking())
    assert decided(loaded, moment(None, attested(owner=root), run=within)).effect == "allow"
    assert decided(loaded, moment(None, attested(), run=within)).reasons[0].code == "other_run"


def test_what_was_posted_counts_for_the_agent_that_it_names() -> None:
    """An attester knows no owner: its attestation counts in a run of that id of the agent that it is for."""
    loaded = policies(asking())
    assert decided(loaded, moment(None, attested(owner=None, source="posted"))).effect == "allow"
    assert decided(loaded, moment(None, attested(owner=None, agent="x"))).effect == "deny"


def test_a_newer_one_that_says_otherwise_voids_an_older_one() -> None:
    """W13: a check that failed later takes back one that passed, whether or not the agent shows it."""
    loaded = policies(asking())
    passed, failed, again = attested(age=50), attested(outcome="failed", age=40), attested(age=30)
    assert decided(loaded, moment(None, passed, failed)).reasons[0].code == "superseded"
    assert decided(loaded, moment(None, failed, passed)).reasons[0].code == "superseded", "it is the time that counts"
    assert decided(loaded, moment(None, passed, failed, again)).rests_on == (again,)


def test_at_the_same_time_the_one_that_did_not_pass_is_the_newer() -> None:
    """What cannot be told apart by its time is held against the call."""
    loaded = policies(asking())
    for pair in ((attested(), attested(outcome="error")), (attested(outcome="error"), attested())):
        assert decided(loaded, moment(None, *pair)).reasons[0].code == "superseded"


@pytest.mark.parametrize(
    ("changes", "voids"),
    [
        ({}, True),
        ({"by": "anybody-who-may"}, True),
        ({"agent": "another"}, True),
        ({"expires": 1}, True),
        ({"subject": {}}, True),
        ({"subject": {"order_id": "A1"}}, True),
        ({"subject": {"order_id": "A1", "note": "x"}}, True),
        ({"subject": {"order_id": "A2"}}, False),
        ({"subject": about(amount="100")}, False),
        ({"outcome": "passed", "subject": {"order_id": "A1"}}, False),
        ({"outcome": "passed", "by": "somebody-else"}, False),
        ({"run": "r2"}, False),
        ({"age": 61.0}, False),
    ],
)
def test_what_a_newer_attestation_takes_back(changes: dict[str, Any], voids: bool) -> None:  # noqa: FBT001 -- a column
    """A newer failure in the run voids unless it names another value; a newer success takes nothing back."""
    given: dict[str, Any] = {"outcome": "failed", "age": 10.0} | changes
    newer = attested("check", **given)
    decision = decided(policies(asking(f"{BIND}, attested_by: [gateway]")), moment(None, attested(), newer))
    assert (decision.effect, [one.code for one in decision.reasons]) == (
        ("deny", ["superseded"]) if voids else ("allow", [])
    )


@pytest.mark.parametrize(
    ("subject", "voids"),
    [
        (ORDER, True),
        ({"order_id": "A1"}, True),
        ({"order_id": "A2"}, False),
        ({"other": "A1"}, False),
        ({}, False),
    ],
)
def test_a_failure_in_another_run_counts_where_the_rule_says_so(
    subject: dict[str, Any],
    voids: bool,  # noqa: FBT001 -- a column
) -> None:
    """With `void_across_runs` a newer failure about the same in any run, by any agent, takes a success back."""
    elsewhere = attested(outcome="failed", age=10, run="r2", owner=("x", "y"), agent="z", subject=subject)
    loaded = policies(asking(f"{BIND}, void_across_runs: true"))
    assert decided(loaded, moment(None, attested(), elsewhere)).effect == ("deny" if voids else "allow")
    assert decided(policies(asking()), moment(None, attested(), elsewhere)).effect == "allow"


def test_ages_count_from_when_the_call_was_held() -> None:
    """While a person thinks a call over, what it rests on does not grow too old; what fails meanwhile counts."""
    loaded = policies(asking(f"{BIND}, max_age: 1m"))
    seen = attested(age=3600, expires=round((NOW - 3500) * MICRO))
    assert decided(loaded, moment(None, seen)).effect == "deny"
    assert decided(loaded, moment(None, seen, held_at=NOW - 3590)).effect == "allow"
    assert decided(loaded, moment(None, seen, held_at=NOW - 3500)).effect == "deny"
    failed = attested(outcome="failed", age=5)
    assert decided(loaded, moment(None, seen, failed, held_at=NOW - 3590)).reasons[0].code == "superseded"


@pytest.mark.parametrize(
    ("said", "uses"),
    [
        ("consume: never", ()),
        ("consume: once", (Use("once", "gateway/check-passed-60.0"),)),
        ("consume: per_subject", (Use("p/checked", 'check {"amount":100,"currency":"EUR","order_id":"A1"}'),)),
        ("consume: per_subject, per: [order_id]", (Use("p/checked", 'check {"order_id":"A1"}'),)),
    ],
)
def test_what_a_call_uses_up(said: str, uses: tuple[Use, ...]) -> None:
    """The decision names what whoever sends the call must take first: the attestation, or the rule's subject."""
    assert decided(policies(asking(f"{BIND}, {said}")), moment(None, attested())).uses == uses


def test_two_rules_use_the_same_attestation_up_once() -> None:
    """What two rules consume is one use where it is one attestation."""
    loaded = policies(asking(f"{BIND}, consume: once") + "\n" + asking(f"{BIND}, consume: once").split("\n")[1].replace(
        "id: checked", "id: again"
    ))  # fmt: skip
    decision = decided(loaded, moment(None, attested()))
    assert decision.uses == (Use("once", "gateway/check-passed-60.0"),)
    assert decision.rests_on == (attested(),)


def test_any_takes_the_first_that_uses_up_least_and_all_takes_all() -> None:
    """Of several ways to hold the cheapest is taken; where all are asked for each is named."""
    one, two = "{attestation: {step: check, consume: once}}", "{attestation: {step: seal}}"
    rule = "{{id: c, effect: require, match: {{tools: [payments.charge]}}, requires: [{{{}: [{}, {}]}}]}}"
    either, both = (policies(f"{MAY}\n{rule.format(word, one, two)}") for word in ("any", "all"))
    check, seal = attested(), attested("seal")
    assert decided(either, moment(None, check)).uses == (Use("once", "gateway/check-passed-60.0"),)
    assert decided(either, moment(None, check, seal)).rests_on == (seal,)
    assert decided(both, moment(None, check, seal)).rests_on == (check, seal)
    assert [one.clause for one in decided(either, moment()).reasons] == ["requires[0].any[0]", "requires[0].any[1]"]
    assert [one.clause for one in decided(both, moment(None, seal)).reasons] == ["requires[0].all[0]"]


def test_what_does_not_count_says_why_where_nothing_else_does() -> None:
    """W15: nothing attested is a refusal; what was presented in vain explains it, if nothing is about the same."""
    loaded = policies(asking())
    revoked = Discounted("revoked", "check", "key k1 is no longer in keys/fraud.jwks.json")
    unreadable = Discounted("malformed", "", "not three segments")
    elsewhere = Discounted("signature", "seal", "")
    told = decided(loaded, moment(discounted=(unreadable, revoked, elsewhere))).reasons[0]
    assert told.code == "revoked"
    assert "key k1 is no longer" in told.detail
    assert decided(loaded, moment(discounted=(unreadable,))).reasons[0].code == "malformed"
    assert decided(loaded, moment(discounted=(elsewhere,))).reasons[0].code == "none"
    other = attested(subject=about(amount=5))
    assert decided(loaded, moment(None, other, discounted=(revoked,))).reasons[0].code == "revoked"
    before = revoked._replace(subject=about(amount=5))
    assert decided(loaded, moment(None, other, discounted=(before,))).reasons[0].code == "subject_mismatch"
    assert decided(loaded, moment(discounted=(before,))).reasons[0].code == "none"
    same = attested(outcome="failed")
    assert decided(loaded, moment(None, other, same, discounted=(revoked,))).reasons[0].code == "outcome"


def test_what_is_about_the_same_is_nearest_whoever_says_so() -> None:
    """A check of this order by somebody else is told of, not the check of another order by the right one."""
    loaded = policies(asking(f"{BIND}, attested_by: [fraud-service]"))
    same, other = attested(), attested(by="fraud-service", subject=about(order_id="A2"))
    assert decided(loaded, moment(None, same, other)).reasons[0].code == "attester"
    sibling = attested(by="fraud-service", agent="spiffe://acme/procurement/child")
    assert decided(loaded, moment(None, sibling, other)).reasons[0].code == "other_agent"
    assert decided(loaded, moment(None, attested(subject=about(order_id="A2")))).reasons[0].code == "subject_mismatch"


def test_a_reason_says_what_is_so_and_what_would_satisfy_it() -> None:
    """The agent reads what is asked for, and about what, so that it can get it."""
    loaded = policies(asking(f"{BIND}, attested_by: [gateway, fraud-service], max_age: 15m"))
    (reason,) = decided(loaded, moment(None, attested(subject=about(amount="100", currency="USD")))).reasons
    assert reason.detail == (
        "the step is attested, but about something else (its amount is a string, that of the call an integer; its "
        "currency is another); needed is step check passed, attested by fraud-service or gateway, not older than "
        "900 s, for the same order_id, amount, currency"
    )
    assert reason.subject == ORDER


def test_a_reason_hides_what_is_redacted_and_cuts_what_is_long() -> None:
    """P14: what an obligation redacts stands in no reason, and an agent cannot make one endless."""
    loaded = policies(asking(more=", obligations: {redact: [args.order_id]}"))
    (reason,) = decided(loaded, moment(call({"order_id": "secret", "amount": 1, "currency": "x" * 9999}))).reasons
    assert reason.subject is not None
    assert "secret" not in repr(reason)
    assert len(str(reason.subject["currency"])) < 300


def test_the_newest_that_fits_is_the_one_the_call_rests_on() -> None:
    """Of several attestations about the same the newest counts, at the same time the one that was stored last."""
    loaded = policies(asking())
    old, new, twin = attested(age=50), attested(age=20), attested(age=20, id="twin")
    assert decided(loaded, moment(None, new, old)).rests_on == (new,)
    assert decided(loaded, moment(None, old, new, twin)).rests_on == (twin,)


def test_another_run_with_the_same_id_is_another_run() -> None:
    """W1: the run of the caller is meant, not one that somebody else calls the same."""
    theirs = attested(owner=("https://other.example", CALLER.subject))
    assert decided(policies(asking()), moment(None, theirs)).reasons[0].code == "other_run"
    assert decided(policies(asking()), moment(None, attested(), run=RunView("r2", "url", 1, 0, 0))).effect == "deny"
