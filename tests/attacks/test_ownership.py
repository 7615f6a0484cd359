"""One agent's runs and calls are nobody else's, and nobody can tell that they exist."""

from __future__ import annotations

from tests.attacks.stage import AUDITOR, Stage
from tests.simulator.gateway import Reply
from tests.simulator.provider import completion


def _say(stage: Stage, run: str, subject: str = "") -> Reply:
    model = stage.model(completion("mine"))
    body = {"model": model, "messages": []}
    reply = stage.gateway.call("POST", f"/r/{run}/v1/chat/completions", body, token=stage.token(subject))
    assert reply.status == 200
    return reply


def _alike(one: Reply, other: Reply) -> None:
    """Two answers that tell the same, but for the request's own id and what was asked for."""
    assert (one.status, one.refusal, one.headers.keys()) == (other.status, other.refusal, other.headers.keys())
    mine, theirs = one.json(), other.json()
    for body in (mine, theirs):
        body["gateway"].pop("request_id")
        body["gateway"].pop("decision_id", None)
    assert mine == theirs


def test_anothers_run_reads_as_unknown(stage: Stage) -> None:
    """S08: the run of another agent is 404, word for word like one that never was."""
    _say(stage, "s08-payroll")
    assert stage.gateway.call("GET", "/gateway/v1/runs/s08-payroll").json()["steps"] == 1
    auditor = stage.token(AUDITOR)
    theirs = stage.gateway.call("GET", "/gateway/v1/runs/s08-payroll", token=auditor)
    nobodys = stage.gateway.call("GET", "/gateway/v1/runs/s08-nothing", token=auditor)
    assert (theirs.status, theirs.refusal) == (404, "run_unknown")
    _alike(theirs, nobodys)


def test_anothers_call_reads_as_unknown(stage: Stage) -> None:
    """I24, S08: the id of another agent's call is 404, word for word like one that never was."""
    request_id = _say(stage, "s08-calls").headers["gateway-request-id"]
    assert stage.gateway.call("GET", f"/gateway/v1/calls/{request_id}").status == 200
    auditor = stage.token(AUDITOR)
    theirs = stage.gateway.call("GET", f"/gateway/v1/calls/{request_id}", token=auditor)
    nobodys = stage.gateway.call("GET", f"/gateway/v1/calls/{request_id[::-1]}", token=auditor)
    assert (theirs.status, theirs.refusal) == (404, "object_unknown")
    _alike(theirs, nobodys)


def test_one_id_in_two_hands_is_two_runs(stage: Stage) -> None:
    """S08, J09: each agent counts its own steps in its own run of that name, and sees only its own."""
    for number in (1, 2, 3):
        assert _say(stage, "s08-shared").headers["gateway-step"] == str(number)
    assert _say(stage, "s08-shared", AUDITOR).headers["gateway-step"] == "1"
    mine = stage.gateway.call("GET", "/gateway/v1/runs/s08-shared").json()
    theirs = stage.gateway.call("GET", "/gateway/v1/runs/s08-shared", token=stage.token(AUDITOR)).json()
    assert (mine["steps"], theirs["steps"]) == (3, 1)
    rows = stage.gateway.rows("run = 's08-shared'")
    assert [row["agent"] for row in rows] == ["procurement"] * 3 + ["auditor"]


def test_a_claim_decides_whose_run_it_is(stage: Stage) -> None:
    """S08: a token that names its run can be led into no other: 400 where URL or header disagree."""
    model = stage.model()
    body = {"model": model, "messages": []}
    bound = stage.token(run="s08-mine")
    for path, headers in (("/r/s08-other", {}), ("", {"Gateway-Run": "s08-other"})):
        reply = stage.gateway.call("POST", f"{path}/v1/chat/completions", body, token=bound, headers=headers)
        assert (reply.status, reply.refusal) == (400, "run_conflict")
    assert not stage.upstream.heard(model)
    assert stage.gateway.call("GET", "/gateway/v1/runs/s08-other").status == 404
