"""One gateway for all SDKs, with the demo and two scripted providers behind it; and the one of `make run`."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.simulator.example import Example
from tests.simulator.gateway import ALLOW_ALL, Gateway
from tests.simulator.provider import KEY, ScriptedProvider

DENY = "  - {id: nobody-asks, effect: deny, match: {models: [forbidden]}, message: Ask sim-small instead.}\n"


@pytest.fixture(scope="session")
def first() -> Iterator[ScriptedProvider]:
    """The provider behind `scripted-*`, the first one behind `pair-*`, and the tool `bank`."""
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture(scope="session")
def second() -> Iterator[ScriptedProvider]:
    """The one that is asked when the first one cannot help."""
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    """One of a test's own, for gateways that a test starts itself."""
    with ScriptedProvider() as running:
        yield running


@pytest.fixture(scope="session")
def closed() -> Iterator[str]:
    """An origin where connections are refused, held so that nobody else can listen there."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture(scope="session")
def crowded() -> Iterator[str]:
    """An origin whose queue of connections is full, so that the next one is never established."""
    with socket.socket() as held, contextlib.ExitStack() as waiting:
        held.bind(("127.0.0.1", 0))
        held.listen(0)
        for _ in range(16):
            waiting.enter_context(one := socket.socket())
            one.setblocking(False)
            one.connect_ex(held.getsockname())
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture(scope="session")
def gateway(
    tmp_path_factory: pytest.TempPathFactory,
    first: ScriptedProvider,
    second: ScriptedProvider,
    closed: str,
    crowded: str,
) -> Iterator[Gateway]:
    openai = {"dialects": ["openai"], "allow_internal": True}
    one = {"targets": [{"provider": "first"}]}
    operations = {
        "pay": {"method": "POST", "path": "/pay/{order}", "repeat": "never"},
        "look": {"method": "GET", "path": "/look/{order}", "repeat": "safe"},
    }
    config = {
        "providers": {
            "demo": {"dialects": ["openai"], "base_url": "builtin:demo"},
            "first": openai | {"base_url": f"{first.url}/v1", "api_key": "${env:FIRST_KEY}"},
            "hasty": openai | {"base_url": f"{first.url}/v1", "timeouts": {"first_byte": "300ms"}},
            "second": openai | {"base_url": f"{second.url}/v1"},
            "closed": openai | {"base_url": f"{closed}/v1"},
            "crowded": openai | {"base_url": f"{crowded}/v1", "timeouts": {"connect": "300ms"}},
        },
        "models": {
            "sim-small": {"targets": [{"provider": "demo"}]},
            "sim-*": {"targets": [{"provider": "demo"}]},
            "forbidden": {"targets": [{"provider": "demo"}]},
            "scripted-*": one,
            "pair-*": {"targets": [{"provider": "first"}, {"provider": "second"}]},
            "hasty-*": {"targets": [{"provider": "hasty"}, {"provider": "second"}]},
            "closed-*": {"targets": [{"provider": "closed"}, {"provider": "second"}]},
            "nobody-*": {"targets": [{"provider": "closed"}]},
            "vain-*": {"targets": [{"provider": "hasty"}, {"provider": "closed"}]},
            "crowded-*": {"targets": [{"provider": "crowded"}]},
        },
        "prices": {
            f"{name}/*": [{"input": "1.00", "output": "2.00"}]
            for name in ("demo", "first", "hasty", "second", "crowded")
        },
        "tools": {
            "bank": {
                "kind": "http",
                "base_url": f"{first.url}/bank",
                "allow_internal": True,
                "operations": operations,
                "timeouts": {"first_byte": "300ms"},
            },
            "shut": {
                "kind": "http",
                "base_url": closed,
                "allow_internal": True,
                "operations": {"pay": {"method": "POST", "path": "/pay", "repeat": "never"}},
            },
            "crowded": {
                "kind": "http",
                "base_url": crowded,
                "allow_internal": True,
                "operations": {"pay": {"method": "POST", "path": "/pay", "repeat": "never"}},
                "timeouts": {"connect": "300ms"},
            },
        },
    }
    folder = tmp_path_factory.mktemp("gateway")
    policies = {"all.yaml": ALLOW_ALL + DENY}
    with Gateway(folder, config=config, policies=policies, environment={"FIRST_KEY": KEY}) as running:
        yield running


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    for program in ("make", "bash", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not there: install {program}")
    with Example(tmp_path_factory.mktemp("example") / "clone") as running:
        yield running


@pytest.fixture
def client(gateway: Gateway) -> Iterator[OpenAI]:
    """The SDK for Python with a base URL and a key alone."""
    with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.token()) as sdk:
        yield sdk
