"""Attestations are handed in by the agent they are for, or by their attester itself; all of them or none."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.core.attestation import Attestation
from gateway.core.run import RunKey
from tests.pipeline.stage import Door, Stage, on_stage
from tests.simulator.attester import AGENT, ORDER, Attester

PATH = "/gateway/v1/attestations"


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with on_stage(tmp_path) as everything:
        yield everything


async def sends(stage: Stage, door: Door) -> dict[str, Any]:
    """What is answered."""
    await stage.pipeline.handle(door)
    return dict(json.loads(bytes(door.got)))


async def hands_in(stage: Stage, *attestations: object, **headers: str) -> tuple[int, dict[str, Any]]:
    """The agent presents them."""
    door = stage.door(PATH, {"attestations": list(attestations)}, **headers)
    told = await sends(stage, door)
    return door.status, told


async def posts(stage: Stage, *attestations: object) -> tuple[int, dict[str, Any]]:
    """Somebody without a token hands them in."""
    return await hands_in(stage, *attestations, authorization="")


def forged(text: str) -> str:
    """With another signature."""
    signed, _, tail = text.rpartition(".")
    return f"{signed}.{'A' if tail[0] != 'A' else 'B'}{tail[1:]}"


async def recorded(stage: Stage, run: str = "r1") -> list[Attestation]:
    """What is attested in a run of the agent."""
    owner = stage.gateway.issuer.iss, stage.gateway.issuer.subject
    found, _ = await stage.supervising.gather(RunKey(*owner, run), (AGENT, "procurement"), (), ())
    return list(found)


async def test_an_agent_presents_its_own(stage: Stage) -> None:
    """Each is recorded in the run that it names, with who brought it; again it is nothing new."""
    first, second = stage.attester.attest(jti="a1"), stage.attester.attest(jti="a2", run="r2", agent="procurement")
    envelope = json.loads(stage.attester.dsse(jti="a3", outcome="failed"))
    status, told = await hands_in(stage, first, second, envelope)
    entry = {"by": "fraud-service", "step": "fraud-check", "subject": ORDER, "new": True}
    assert status == 201
    assert told["attestations"] == [
        {**entry, "id": "a1", "outcome": "passed", "run": "r1"},
        {**entry, "id": "a2", "outcome": "passed", "run": "r2"},
        {**entry, "id": "a3", "outcome": "failed", "run": "r1"},
    ]
    again = (await hands_in(stage, first, stage.attester.attest(jti="a4")))[1]["attestations"]
    assert [(one["id"], one["new"]) for one in again] == [("a1", False), ("a4", True)]
    found = await recorded(stage)
    assert [(one.id, one.source, one.owner) for one in found] == [
        (name, "presented", (stage.gateway.issuer.iss, AGENT)) for name in ("a1", "a3", "a4")
    ]
    assert all(one.request_id.startswith("req_") for one in found)


async def test_one_compact_jws_alone(stage: Stage) -> None:
    """One may come as it is, under the media type of a JWS."""
    for number, kind in enumerate(("application/jose", "application/jwt", "application/JOSE; charset=utf-8")):
        text = stage.attester.attest(jti=f"a{number}")
        door = stage.door(PATH, f"{text}\r\n".encode(), **{"content-type": kind})
        await sends(stage, door)
        assert door.status == 201
    assert len(await recorded(stage)) == 3


@pytest.mark.parametrize(
    ("claims", "status", "reason"),
    [
        ({"agent": "support"}, 403, "other_agent"),
        ({"aud": "https://other.example"}, 403, "audience"),
        ({"step": "audit"}, 403, "step_not_allowed"),
        ({"iss": "procurement"}, 403, "unknown_attester"),
        ({"iat": 1_700_000_000, "exp": 1_700_000_300}, 403, "expired"),
        ({"subject": {"amount": 1.5}}, 400, "malformed"),
        ({"outcome": "Passed"}, 400, "malformed"),
    ],
)
async def test_one_that_does_not_count(claims: dict[str, Any], status: int, reason: str, stage: Stage) -> None:
    """W7, W8, W9, W10, W19, W20: the refusal names the one and why, and none of the others is recorded."""
    got, told = await hands_in(stage, stage.attester.attest(), stage.attester.attest(**claims))
    assert (got, told["gateway"]["reason"], told["gateway"]["index"]) == (status, reason, 1)
    assert told["code"] == ("request_malformed" if status == 400 else "policy_denied")
    assert await recorded(stage) == []


async def test_a_forged_one(stage: Stage) -> None:
    """S09: with another key, or a changed byte, it does not count; who presents it is told so, and it is recorded."""
    for text in (Attester().attest(), forged(stage.attester.attest())):
        status, told = await hands_in(stage, text)
        assert (status, told["code"], told["gateway"]["reason"]) == (403, "policy_denied", "signature")
    rows = await stage.rows()
    assert [(row["outcome"], row["code"]) for row in rows] == [("refused", "policy_denied")] * 2
    assert await recorded(stage) == []


async def test_an_attester_posts_its_own(stage: Stage) -> None:
    """W13: its signature is its credential; what it posts is found in every run of that id and agent."""
    texts = [stage.attester.attest(jti="p1", outcome="failed"), json.loads(stage.attester.dsse(jti="p2", run="r2"))]
    status, told = await posts(stage, *texts)
    assert (status, [one["new"] for one in told["attestations"]]) == (201, [True, True])
    (posted,) = await recorded(stage)
    assert (posted.id, posted.source, posted.owner, posted.outcome) == ("p1", "posted", None, "failed")
    assert (await posts(stage, texts[0]))[1]["attestations"][0]["new"] is False
    assert await stage.rows() == []


async def test_who_posts_is_not_known(stage: Stage) -> None:
    """W9, S09: without a valid signature it is 401 with one sentence for all causes, and nothing is recorded."""
    good = stage.attester.attest()
    sentences = set()
    handed_in: list[list[object]] = [
        [Attester().attest()],
        [stage.attester.attest(iss="gateway")],
        [stage.gateway.token()],
        [forged(good)],
        ["x"],
        [{}],
        [good, forged(good)],
    ]
    for texts in handed_in:
        status, told = await posts(stage, *texts)
        assert (status, told["code"]) == (401, "identity_invalid")
        sentences.add(told["detail"])
    assert len(sentences) == 1
    for body in (b"", b"{}", b"[]", b'{"attestations": []}', b'{"attestations": [1]}', b"\xff"):
        door = stage.door(PATH, body, authorization="")
        told = await sends(stage, door)
        assert (door.status, told["code"]) == (401, "identity_missing")
    assert await recorded(stage) == []


async def test_an_attester_hears_what_is_wrong(stage: Stage) -> None:
    """Whose signature it is, is known: then the reason may be said."""
    status, told = await posts(stage, stage.attester.attest(step="audit"))
    assert (status, told["gateway"]["reason"], told["gateway"]["step"]) == (403, "step_not_allowed", "audit")
    status, told = await posts(stage, stage.attester.attest(subject={"amount": 1.5}))
    assert (status, told["code"]) == (400, "request_malformed")
    assert "minor units" in told["detail"]
    changed = stage.attester.attest(jti="p1"), stage.attester.attest(jti="p1", outcome="failed")
    assert (await posts(stage, changed[0]))[0] == 201
    status, told = await posts(stage, changed[1])
    assert (status, told["gateway"]["reason"]) == (400, "replayed")


async def test_a_token_is_never_left_aside(stage: Stage) -> None:
    """W20: who sends a credential is identified by it, and a bad one is not made good by what the body has."""
    text = stage.attester.attest(agent="support")
    assert (await hands_in(stage, text))[0] == 403
    for headers in ({"authorization": "Bearer x"}, {"authorization": "", "x-api-key": "x"}):
        status, told = await hands_in(stage, text, **headers)
        assert (status, told["code"]) == (401, "identity_invalid")
    assert await recorded(stage) == []


async def test_too_many(stage: Stage) -> None:
    """W22: sixteen may come at once; of seventeen none is read."""
    texts = [stage.attester.attest(jti=f"a{number}") for number in range(16)]
    status, told = await hands_in(stage, *texts, "not even an attestation")
    assert (status, told["gateway"]["limit"]) == (400, 16)
    assert (await posts(stage, *texts, "not even an attestation"))[0] == 401
    assert await recorded(stage) == []
    assert (await posts(stage, *texts))[0] == 201
    assert (await hands_in(stage, *texts))[0] == 201


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
async def test_another_media_type(kind: str, stage: Stage) -> None:
    """What the body is, its media type says."""
    door = stage.door(PATH, {"attestations": [stage.attester.attest()]}, **{"content-type": kind})
    told = await sends(stage, door)
    assert (door.status, told["code"]) == (400, "request_malformed")
    assert "application/json" in told["detail"]


async def test_members_that_stand_twice(stage: Stage) -> None:
    """W5: the body is one strict JSON object; and so is an envelope in it."""
    text = stage.attester.attest()
    envelope = stage.attester.dsse()
    for body in (
        f'{{"attestations": [], "attestations": ["{text}"]}}',
        f'{{"attestations": [{envelope[:-1]}, "payload": "e30="}}]}}',
    ):
        door = stage.door(PATH, body.encode())
        assert (await sends(stage, door))["code"] == "request_malformed"
    assert await recorded(stage) == []
