"""What may happen once happens once: whoever calls at the same time, through whichever worker, and whatever breaks."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.till import WORKERS, Order, Till, open_till, required, why
from tests.simulator.load import Client, Got
from tests.simulator.soak import SECONDS
from tests.simulator.upstream import Do, Script, answer

CROWD = 50
CONSUMED = (403, "attestation_required", "consumed")


class Crowd:
    """Agents with a connection each, shared out among all workers, which ask at the same moment."""

    def __init__(self, till: Till) -> None:
        self._till = till
        self._clients = [Client(till.gateway.port, till.token()) for _ in range(CROWD)]

    async def arrive(self) -> None:
        """Each worker gets its part of the connections: while they are made the others stand still."""
        for number, alone in enumerate(self._till.workers()):
            arriving = self._clients[number :: self._till.gateway.config["workers"]]
            with alone:
                await asyncio.gather(*(client.request("GET", "/v1/models") for client in arriving))

    async def ask(
        self, order: Order, way: str, runs: list[str], attestations: list[str]
    ) -> Counter[tuple[int, str, str]]:
        """What all of them were told."""
        body = json.dumps(order).encode()
        turns = zip(self._clients, runs, attestations, strict=True)
        asked = (
            client.request("POST", f"/r/{run}/tools/bank/{way}", body, {"Workflow-Attestation": attested})
            for client, run, attested in turns
        )
        return Counter(map(_told, await asyncio.gather(*asked)))

    async def close(self) -> None:
        """They leave."""
        await asyncio.gather(*(client.close() for client in self._clients))


def _told(got: Got) -> tuple[int, str, str]:
    code = got.headers.get("gateway-refusal", "")
    return got.status, code, json.loads(got.body)["gateway"]["reason"] if code else ""


async def race(till: Till, rounds: int) -> None:
    """One attestation in all hands; then one order in fifty runs, each with an attestation of its own."""
    crowd = Crowd(till)
    await crowd.arrive()
    for _ in range(rounds):
        order, run = till.order(), till.run()
        attested = till.attests(order, run)
        told = await crowd.ask(order, "once", [run] * CROWD, [attested] * CROWD)
        assert told == {(200, "", ""): 1, CONSUMED: CROWD - 1}
        assert till.paid(order) == 1

        order, runs = till.order(), [till.run() for _ in range(CROWD)]
        told = await crowd.ask(order, "each", runs, [till.attests(order, run) for run in runs])
        assert told == {(200, "", ""): 1, CONSUMED: CROWD - 1}
        assert till.paid(order) == 1
    await crowd.close()


@contextlib.contextmanager
def served_by(workers: int, folder: Path, till: Till) -> Iterator[Till]:
    """A gateway with so many workers: the one that is there, or one of its own."""
    if workers == WORKERS:
        yield till
    else:
        with open_till(folder, workers=workers) as other:
            yield other


@pytest.mark.soak
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_fifty_at_once(tmp_path: Path, till: Till, workers: int) -> None:
    """W11: of fifty that use one attestation, or ask for one order, at the same moment exactly one reaches the bank."""
    with served_by(workers, tmp_path, till) as other:
        asyncio.run(race(other, 200 if SECONDS else 10))


def test_one_time_is_one_time(till: Till) -> None:
    """W11, S04: used once, an attestation is used for all ways that use it up, in this run and every other one."""
    order, run = till.order(), till.run()
    attested = till.attests(order, run)
    assert till.pay(order, attested, run=run, by="bank/once").status == 200
    for _ in range(2):
        assert why(till.pay(order, attested, run=run, by="bank/once")) == CONSUMED
        assert why(till.pay(order, run=run, by="bank/once")) == CONSUMED
    assert till.paid(order) == 1
    assert till.pay(order, till.attests(order, run), run=run, by="bank/once").status == 200  # a new one is a new one
    assert till.paid(order) == 2


def test_once_for_each_order(till: Till) -> None:
    """W11: an order is paid once by this rule, whichever attestation, run or spelling of the call comes next."""
    order, run = till.order(), till.run()
    assert till.pay(order, till.attests(order, run), run=run, by="bank/each").status == 200
    for again in (run, till.run()):
        assert why(till.pay(order, till.attests(order, again), run=again, by="bank/each")) == CONSUMED
    body = json.dumps(dict(reversed(order.items())), indent=3).replace("A", r"\u0041").encode()
    reply = till.gateway.call("POST", f"/r/{run}/tools/bank/each", body)
    assert why(reply) == CONSUMED
    assert till.paid(order) == 1
    other = {**order, "amount": 1001}
    assert till.pay(other, till.attests(other, run), run=run, by="bank/each").status == 200


def test_not_used_up_by_a_refusal(till: Till) -> None:
    """W11: a call that is refused uses nothing up: not for another reason, nor because its attestation is wrong."""
    order, run = till.order(), till.run()
    attested = till.attests(order, run)
    assert why(till.pay({**order, "amount": 1}, attested, run=run, by="bank/once")) == required("subject_mismatch")
    assert why(till.pay(order, attested, run=till.run(), by="bank/once")) == required("other_run")
    assert till.pay(order, attested, run=run, by="bank/once").status == 200
    assert till.paid(order) == 1


@pytest.mark.parametrize(("late", "way"), [("late", "once"), ("late-each", "each")])
@pytest.mark.parametrize(
    "script",
    [[Do.HANG], [Do.RESET], [Do.CLOSE], [answer(b"{}", status="500 Oops")], [answer(b"{}")[:-1], Do.CLOSE]],
    ids=["says nothing", "resets", "closes", "fails", "breaks off"],
)
def test_what_was_sent_is_used_up(till: Till, script: Script, late: str, way: str) -> None:
    """W12: once the bank has heard of it nobody knows what it did: neither attestation nor order can be used again."""
    till.upstream.says(f"/bank/{late}", script)
    order, run = till.order(), till.run()
    attested = till.attests(order, run)
    assert till.pay(order, attested, run=run, by=f"bank/{late}").status >= 424
    assert till.paid(order) == 1
    for by in (late, way):
        assert why(till.pay(order, attested, run=run, by=f"bank/{by}")) == CONSUMED
    if way == "each":
        again = till.run()
        assert why(till.pay(order, till.attests(order, again), run=again, by="bank/each")) == CONSUMED
    assert till.paid(order) == 1


@pytest.mark.parametrize("way", ["once", "each"])
def test_what_was_never_sent_can_be_sent(till: Till, way: str) -> None:
    """W12: where the connection is refused nothing is used up: the same attestation pays elsewhere, and only once."""
    order, run = till.order(), till.run()
    attested = till.attests(order, run)
    for _ in range(3):
        reply = till.pay(order, attested, run=run, by=f"shut/{way}")
        assert why(reply)[:2] == (503, "upstream_unavailable")
    assert till.pay(order, attested, run=run, by=f"bank/{way}").status == 200
    assert why(till.pay(order, attested, run=run, by=f"shut/{way}")) == CONSUMED
    assert till.paid(order) == 1
