"""R14, R18: more than the gateway can carry is refused in words that help, and what it carries goes on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from tests.simulator.gateway import Gateway, Reply, eventually
from tests.simulator.load import Call, Client, Got
from tests.simulator.provider import ScriptedProvider, streamed
from tests.simulator.upstream import held_back

_FLOOD = 400


def behind(provider: ScriptedProvider) -> dict[str, object]:
    scripted = {"dialects": ["openai"], "base_url": f"{provider.url}/v1", "allow_internal": True}
    return {
        "providers": {"scripted": scripted, "demo": {"dialects": ["openai"], "base_url": "builtin:demo"}},
        "models": {
            "sim-*": {"targets": [{"provider": "demo"}]},
            "scripted-*": {"targets": [{"provider": "scripted"}]},
        },
        "prices": {name: [{"input": "1.00", "output": "2.00"}] for name in ("demo/*", "scripted/*")},
    }


def test_what_is_over_the_limit_is_refused_and_the_rest_finishes(tmp_path: Path, provider: ScriptedProvider) -> None:
    """R14: at `limits.concurrency` new calls get 503 with a time to come back; own reads and calls under way go on."""
    go_on = threading.Event()

    provider.says("scripted-slow", *(held_back(streamed("one ", "two "), 2, go_on) for _ in range(3)))
    with Gateway(tmp_path, config={"limits": {"concurrency": 3}, **behind(provider)}) as gateway:
        replies: list[Reply] = []

        def ask() -> None:
            replies.append(gateway.chat(model="scripted-slow", stream=True))

        waiting = [threading.Thread(target=ask) for _ in range(3)]
        for thread in waiting:
            thread.start()
        eventually(lambda: len(provider.heard("scripted-slow")) == 3, "not all calls are under way")
        for _ in range(5):
            over = gateway.chat()
            assert (over.status, over.refusal) == (503, "overloaded")
            assert "limits.concurrency" in over.json()["error"]["message"]
            assert 1 <= int(over.headers["retry-after"]) <= 30
        assert gateway.call("GET", "/v1/models").status == 200
        go_on.set()
        for thread in waiting:
            thread.join()
        assert all(reply.body.endswith(b"data: [DONE]\n\n") for reply in replies)
        assert gateway.chat().status == 200
        gateway.wait_for_rows(5, "code = 'overloaded' AND outcome = 'refused'")
        gateway.wait_for_rows(4, "outcome = 'complete'")


async def test_few_descriptors_shed_connections_and_nothing_else(tmp_path: Path, provider: ScriptedProvider) -> None:
    """R18: with `ulimit -n 256` a flood of connections is shed, who was let in is served, and it recovers by itself."""
    go_on = threading.Event()

    provider.says("scripted-slow", *(held_back(streamed("one ", "two "), 2, go_on) for _ in range(_FLOOD)))
    with Gateway(tmp_path, config=behind(provider), descriptors=256) as gateway:
        token, before = gateway.token(), gateway.worker_pids()

        async def ask() -> Got | None:
            client = Client(gateway.port, token, "scripted-slow")
            try:
                return await client.chat(Call(None, stream=True))
            except OSError:
                return None  # shed without a word, where not even an answer fits
            finally:
                await client.close()

        asking = [asyncio.create_task(ask()) for _ in range(_FLOOD)]
        done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(eventually, lambda: len(provider.heard("scripted-slow")) > 50, "nobody is let in")
        assert gateway.ready()[0] == 200, "readiness needs descriptors too"
        go_on.set()
        got = await asyncio.gather(*asking)
        served = [one for one in got if one is not None and one.status == 200]
        shed = [one for one in got if one is not None and one.status == 503]
        assert done
        assert len(served) > 50
        assert all(one.complete for one in served)
        assert shed
        assert {one.headers["gateway-refusal"] for one in shed} == {"overloaded"}
        assert all(1 <= int(one.headers["retry-after"]) <= 30 for one in shed)
        assert {one.status for one in got if one is not None} == {200, 503}
        reply = await asyncio.to_thread(gateway.chat)
        assert reply.status == 200
        assert gateway.worker_pids() == before
        assert gateway.metrics()["passgate_worker_restarts_total"] == 0
        rows = await asyncio.to_thread(gateway.wait_for_rows, len(served) + 1, "outcome = 'complete'")
        assert {one.request_id for one in served} <= {row["request_id"] for row in rows}
        assert "Traceback" not in (tmp_path / "log.ndjson").read_text()
