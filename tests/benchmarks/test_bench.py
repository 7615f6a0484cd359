"""The benchmark's own parts: what is asked, answered and counted. What it measures is no matter of tests."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from benchmarks import identity, load, policy, systems, upstream
from benchmarks.limits import Limit
from benchmarks.processes import Server
from gateway.config import load as load_config
from gateway.core.sources import DiskSources


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Server]:
    """The upstream as a process."""
    with contextlib.closing(_Stopping(systems.upstream(os.sched_getaffinity(0), tmp_path))) as running:
        yield running.server


@pytest.fixture
def bare(tmp_path: Path, provider: Server) -> Iterator[Server]:
    """The bare proxy before it."""
    cores = os.sched_getaffinity(0)
    with contextlib.closing(_Stopping(systems.baseline(cores, tmp_path, provider.port))) as running:
        yield running.server


class _Stopping:
    def __init__(self, server: Server) -> None:
        self.server = server
        server.wait()

    def close(self) -> None:
        self.server.stop()


async def test_the_bare_proxy_passes_answers_and_streams_on(bare: Server) -> None:
    """Through the bare proxy a whole answer has its bytes, and a stream all its frames and its end."""
    url = f"http://127.0.0.1:{bare.port}/v1/chat/completions"
    async with aiohttp.ClientSession() as session:
        async with session.post(url, data=_body(load.request("none"))) as answer:
            assert await answer.read() == upstream.BODY
        async with session.post(url, data=_body(load.request("none", frames=7))) as answer:
            frames = (await answer.text()).split("\n\n")
    assert len([frame for frame in frames if '" well"' in frame]) == 7 - 1
    assert frames[-2:] == ["data: [DONE]", ""]


async def test_the_load_makes_the_calls_it_was_asked_for(provider: Server) -> None:
    """Every call is counted once, but for the first of each connection in the latencies."""
    whole = await load.drive(provider.port, load.request("none"), connections=4, calls=50)
    streamed = await load.drive(provider.port, load.request("none", frames=3), connections=2, calls=6)
    assert (len(whole.latencies), len(whole.firsts)) == (50 - 4, 0)
    assert (len(streamed.latencies), len(streamed.firsts)) == (6 - 2, 6)


async def test_the_load_takes_no_refusal_for_an_answer(bare: Server, provider: Server) -> None:
    """Where an answer is not a 200, the benchmark stops with it instead of measuring refusals."""
    provider.stop()
    with pytest.raises(RuntimeError, match=r"not a 200: HTTP/1\.1 500"):
        await load.drive(bare.port, load.request("none"), connections=2, calls=10)


def test_requests_and_answers_have_the_sizes_that_are_named() -> None:
    """The figures speak of a body of 340 bytes and an answer of 600, and so it is."""
    assert len(_body(load.request("none"))) == len(_body(load.request("none", frames=200))) == load.REQUEST_BYTES
    assert len(upstream.BODY) == upstream.ANSWER_BYTES
    assert json.loads(upstream.BODY)["usage"]["total_tokens"] == 102


def test_processes_are_read_with_their_children(bare: Server) -> None:
    """CPU time and memory of a server are read from /proc."""
    (reading,) = bare.readings()
    assert reading.cpu > 0
    assert reading.memory > 1_000_000


def test_the_gateway_is_measured_with_a_configuration_that_it_takes(tmp_path: Path) -> None:
    """The configuration that the benchmark writes has no mistake, and leaves every control on."""
    path, token = systems.configure(tmp_path, 18080, 18081)
    settings = load_config(path, DiskSources()).settings
    assert token.count(".") == 2
    assert settings.workers == 1
    assert settings.log.access


def test_identification_is_measured_with_agents_and_tokens_that_count() -> None:
    """The part on identity runs, finds all its agents, has a figure for each row, and says which limit breaks."""
    cores, said = os.sched_getaffinity(0), list[str]()
    figures = identity.run(cores, cores, identity.Sizes(agents=30, tokens=(30, 60), sample=3), said.append)
    assert said == ["identity: 30 agents, 60 different tokens"]
    assert figures.first.keys() == figures.signature.keys() == {"EdDSA", "ES256", "RS256"}
    assert min(figures.cached, *figures.first.values(), *figures.signature.values()) > 0
    assert figures.lookup_few.keys() == figures.lookup_many.keys() == {"exact", "wildcard", "claims"}
    assert figures.memory.keys() == {"30", "60"}
    assert len(identity.table(figures)) == 1 + 1 + 3 + 3 + 2
    figures.cached, figures.lookup_many["claims"] = 5.5, 4 * figures.lookup_few["claims"]
    broken = [limit.what for limit in identity.limits(figures) if str(limit).startswith("BROKEN")]
    assert {"a token that was seen before, µs", "an agent found among many, times that among few"} <= set(broken)


def test_identification_that_cannot_be_measured_says_why() -> None:
    """A process that fails ends the benchmark with its words, not with a figure."""
    with pytest.raises(RuntimeError, match=r"identity could not be measured(?s:.)*ZeroDivisionError"):
        identity.run(os.sched_getaffinity(0), set(), identity.Sizes(agents=0, tokens=(1,), sample=1), print)


def test_decisions_are_measured() -> None:
    """The part on policy runs, is allowed all that it asks, has a figure for each row, and says which limit breaks."""
    said: list[str] = []
    figures = policy.run(os.sched_getaffinity(0), policy.Sizes(rules=50, rounds=2), said.append)
    assert said == ["policy: 50 rules, 2 rounds"]
    assert len(policy.table(figures)) == 1 + 5
    assert min(figures.remembered, figures.first, figures.simple, figures.p50, figures.large_p50) > 0
    figures.simple = policy.SIMPLE_MICROSECONDS + 1
    assert "a decision of one condition, µs" in {
        limit.what for limit in policy.limits(figures) if str(limit).startswith("BROKEN")
    }


def test_a_limit_holds_up_to_its_value() -> None:
    """What is promised is kept at the very value, and broken above it."""
    assert str(Limit("µs", 5.0, 5.0)) == "holds   µs: 5.00, at most 5"
    assert str(Limit("µs", 5.01, 5.0)) == "BROKEN  µs: 5.01, at most 5"


def _body(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[2]
