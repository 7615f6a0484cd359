"""The signing desk: a child is counted before its token leaves, and a key is known before it signs."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.core.errors import Refusal
from gateway.core.run import RunKey, RunLimits, RunRef
from gateway.identity.delegation import LONGEST
from gateway.identity.own_keys import ROTATE_EVERY, OwnKeys
from gateway.identity.tokens import MAX_TOKEN
from gateway.process.channel import ChannelError
from gateway.process.granting import Granting
from gateway.process.messages import (
    Grant,
)
from gateway.runs import Register
from gateway.state import Runs, Store
from gateway.telemetry.logs import Log
from tests.simulator.clock import SetClock

KEY = RunKey("https://issuer.example", "agent/a", "order-17")


@dataclass
class Desk:
    """The supervisor's part, with what it has published."""

    folder: Path
    store: Store
    clock: SetClock = field(default_factory=SetClock)
    limits: RunLimits = field(default_factory=RunLimits)
    published: list[bytes] = field(default_factory=list)
    register: Register = field(init=False)
    granting: Granting = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """As after a restart of the gateway: the same disk, and nothing in memory."""
        log = Log("supervisor", fd=os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        self.register = Register(Runs(self.store), lambda: self.limits, self.clock)
        keys = OwnKeys.open(self.folder / "keys", self.clock.time)
        self.granting = Granting(keys, self.register, self.published.append, lambda: log, self.clock)

    async def grants(
        self, child: str, *, run: bool = True, by_token: tuple[tuple[str, int], ...] = (), **claims: object
    ) -> str:
        """A child's token."""
        start = int(self.clock.time)
        whole = {"agent": "a", "sub": "user/anna", "jti": f"tok-{child}", "iat": start, "exp": start + 60, **claims}
        ref = RunRef(KEY, None, "header", None, by_token) if run else None
        return (await self.granting.grant(Grant(json.dumps(whole).encode(), child, ref))).token

    async def children(self) -> tuple[int, int]:
        """How many children the run has: in memory, and on disk."""
        facts = await self.register.facts(KEY)
        loaded = await Runs(self.store).load_run(KEY)
        return facts.children if facts else 0, loaded[0].children if loaded else 0

    def said(self, event: str) -> list[dict[str, Any]]:
        """The lines of the log with this event."""
        lines = [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]
        return [line for line in lines if line["event"] == event]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    store = await Store.open(tmp_path / "passgate.db")
    try:
        yield Desk(tmp_path, store)
    finally:
        await store.close()


def kid(token: str) -> str:
    """Which key signed."""
    header = token.partition(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(header + "=="))["kid"])


def kids(jwks: bytes) -> list[str]:
    return [jwk["kid"] for jwk in json.loads(jwks)["keys"]]


async def test_a_child_is_counted_once(desk: Desk) -> None:
    """Another token for the same child is no second child, in memory and on disk, before and after a restart."""
    for child in ("agent/a/x", "agent/a/y", "agent/a/x"):
        await desk.grants(child)
    assert await desk.children() == (2, 2)
    desk.restart()
    await desk.grants("agent/a/x")
    assert await desk.children() == (2, 2)
    await desk.grants("agent/a/z")
    assert await desk.children() == (3, 3)


@pytest.mark.parametrize(("by_config", "by_token", "most"), [(5, None, 5), (None, 3, 3), (2, 7, 2), (7, 0, 0)])
async def test_children_are_limited(desk: Desk, by_config: int | None, by_token: int | None, most: int) -> None:
    """Of twenty requests at once as many get a token as the lesser limit says; known children renew on."""
    desk.limits = RunLimits(children=by_config)
    of_token = (("children", by_token),) if by_token is not None else ()
    answers = await asyncio.gather(
        *(desk.grants(f"agent/a/{number}", by_token=of_token) for number in range(20)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, Refusal)]
    assert len(answers) - len(refused) == most
    assert {(one.code, one.fields["limit"], one.fields["allowed"]) for one in refused} == {
        ("run_limit", "children", most)
    }
    assert await desk.children() == (most, most)
    for number, answer in enumerate(answers):
        if isinstance(answer, str):
            await desk.grants(f"agent/a/{number}", by_token=of_token)
    assert await desk.children() == (most, most)


async def test_child_runs_and_child_agents_share_the_limit(desk: Desk) -> None:
    """A run's children are counted together, whatever they are."""
    desk.limits = RunLimits(children=2, depth=4)
    await desk.grants("agent/a/x")
    await desk.register.enter("worker-1", RunRef(KEY._replace(id="below"), None, "claim", KEY.id), "llm")
    assert await desk.children() == (2, 2)
    with pytest.raises(Refusal, match="children"):
        await desk.grants("agent/a/y")
    with pytest.raises(Refusal, match="children"):
        await desk.register.enter("worker-1", RunRef(KEY._replace(id="beside"), None, "claim", KEY.id), "llm")


async def test_outside_a_run_nothing_is_counted(desk: Desk) -> None:
    """Without a run there is nothing to count in, and the token is signed all the same."""
    desk.limits = RunLimits(children=0)
    assert await desk.grants("agent/a/x", run=False)
    assert await desk.register.facts(KEY) is None


async def test_a_token_that_is_too_long_is_refused(desk: Desk) -> None:
    """What no door would read is not given out, and counts for nothing; the refusal says what to leave out."""
    with pytest.raises(Refusal) as caught:
        await desk.grants("agent/a/x", tools=["pay.charge"] * 500)
    assert (caught.value.code, caught.value.fields) == ("request_malformed", {"limit": MAX_TOKEN})
    assert "`tools`" in caught.value.sentence
    assert await desk.children() == (0, 0)
    assert len(await desk.grants("agent/a/x", tools=["pay.charge"] * 200)) <= MAX_TOKEN


async def test_no_token_outlives_its_key(desk: Desk) -> None:
    """Whatever a worker asks for: a key is kept for the longest token that may be signed, and no longer."""
    now = int(desk.clock.time)
    assert await desk.grants("agent/a/x", exp=now + LONGEST)
    for exp in (now + LONGEST + 1, "tomorrow", None):
        with pytest.raises(ChannelError, match="outlive"):
            await desk.grants("agent/a/y", exp=exp)
    assert await desk.children() == (1, 1)


async def test_it_is_written_down(desk: Desk) -> None:
    """The log says who was delegated to, in whose name, in which run and under which key; never the token."""
    token = await desk.grants("agent/a/x")
    (line,) = desk.said("token_granted")
    told = {name: line[name] for name in ("agent", "subject", "sub", "run", "token_id", "key_id")}
    assert told == {
        "agent": "a",
        "subject": "agent/a/x",
        "sub": "user/anna",
        "run": "order-17",
        "token_id": "tok-agent/a/x",
        "key_id": kid(token),
    }
    assert token.rpartition(".")[2] not in json.dumps(line)


async def test_a_restart_keeps_the_keys(desk: Desk) -> None:
    """The same keys are published after a restart, so that tokens of before still count."""
    before = await desk.grants("agent/a/x")
    desk.restart()
    assert kids(desk.published[-1]) == [kid(before)] == [kid(await desk.grants("agent/a/y"))]


async def test_a_new_key_is_published_before_it_signs(desk: Desk) -> None:
    """Whoever gets a token of the new key finds the key; tokens of the old one still have theirs."""
    old = kid(await desk.grants("agent/a/x"))
    new = await desk.granting.rotate("ops")
    assert kids(desk.published[-1]) == [new, old]
    assert kid(await desk.grants("agent/a/y")) == new
    (line,) = desk.said("key_rotated")
    assert (line["key_id"], line["replaces"], line["operator"]) == (new, old, "ops")
    desk.restart()
    assert kids(desk.published[-1]) == [new, old]


async def test_rotations_at_once_lose_no_key(desk: Desk) -> None:
    """Two operators at the same time make two keys, and all three stay published."""
    first = kid(await desk.grants("agent/a/x"))
    found = await asyncio.gather(desk.granting.rotate("one"), desk.granting.rotate("two"))
    assert set(kids(desk.published[-1])) >= {first, *found}
    assert len(kids(desk.published[-1])) == 3


async def test_keys_rotate_by_themselves(desk: Desk) -> None:
    """After thirty days another key signs, without anybody asking."""
    old = kid(await desk.grants("agent/a/x"))
    desk.clock.pass_(ROTATE_EVERY)
    tending = asyncio.create_task(desk.granting.tend())
    try:
        while len(desk.published) < 2:  # noqa: ASYNC110 - it has no event, and the test a time limit
            await asyncio.sleep(0.005)
        assert kids(desk.published[-1])[1] == old
        assert kid(await desk.grants("agent/a/y")) == kids(desk.published[-1])[0] != old
    finally:
        tending.cancel()
        with suppress(asyncio.CancelledError):
            await tending


async def test_a_key_that_cannot_be_kept_is_not_used(desk: Desk) -> None:
    """Without its file there is no rotation: the old key signs on, and the log says why."""
    old = kid(await desk.grants("agent/a/x"))
    (desk.folder / "keys" / "tokens.json").unlink()
    (desk.folder / "keys").rmdir()
    with pytest.raises(FileNotFoundError):
        await desk.granting.rotate("ops")
    desk.clock.pass_(ROTATE_EVERY)
    tending = asyncio.create_task(desk.granting.tend())
    try:
        while not desk.said("key_not_rotated"):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
    finally:
        tending.cancel()
        with suppress(asyncio.CancelledError):
            await tending
    assert kid(await desk.grants("agent/a/y")) == old
    assert len(desk.published) == 1


async def test_rotating_without_end_is_refused(desk: Desk) -> None:
    """Keys that were replaced stay in the file for half a day: more than it takes would end the next start."""
    for _ in range(100):
        await desk.granting.rotate("a script")
    with pytest.raises(Refusal, match=r"rate_limited: 100 keys .* the present one signs on"):
        await desk.granting.rotate("a script")
    last = kid(await desk.grants("agent/a/x"))
    desk.restart()
    assert kid(await desk.grants("agent/a/y")) == last
    assert len(kids(desk.published[-1])) == 101
