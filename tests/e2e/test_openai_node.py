"""The official OpenAI SDK for Node.js, unchanged: its two environment variables, nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.simulator.gateway import Gateway
from tests.simulator.provider import KEY, ScriptedProvider, failure

SOURCE = Path(__file__).parent / "node"
Scene = Callable[[str], Any]


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with calls.mjs and what it imports: the one that `make` has filled, else one of our own."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not there: install Node.js with npm")
    wanted = json.loads((SOURCE / "package-lock.json").read_text())["packages"]["node_modules/openai"]["version"]
    installed = SOURCE / "node_modules" / "openai" / "package.json"
    if installed.exists() and json.loads(installed.read_text())["version"] == wanted:
        return SOURCE
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", "calls.mjs"):
        shutil.copy(SOURCE / name, folder)
    done = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"npm ci failed:\n{done.stderr}"
    return folder


@pytest.fixture
def scene(package: Path, gateway: Gateway) -> Scene:
    """Run one scene of calls.mjs and give what it printed."""

    def run(name: str) -> Any:  # noqa: ANN401 - JSON
        done = subprocess.run(
            ["node", "calls.mjs", name],
            cwd=package,
            env={**os.environ, "OPENAI_BASE_URL": f"{gateway.url}/v1", "OPENAI_API_KEY": gateway.token()},
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_an_answer(scene: Scene) -> None:
    """`create` gives a completion, and `withResponse` the gateway's headers."""
    told = scene("chat")
    usage = told["data"]["usage"]
    assert told["data"]["choices"][0]["finish_reason"] == "stop"
    assert told["provider"] == "demo"
    assert round(float(told["cost"]) * 1e9) == usage["prompt_tokens"] * 1_000 + usage["completion_tokens"] * 2_000


def test_a_stream(scene: Scene) -> None:
    """Frames join to the whole answer; usage comes where it was asked for."""
    told = scene("stream")
    unasked, asked = told["runs"]
    assert unasked == {"text": told["whole"]["text"], "usage": []}
    assert asked == {"text": told["whole"]["text"], "usage": [told["whole"]["usage"]]}


def test_tool_calls(scene: Scene) -> None:
    """The round trip of function calling, and the SDK's own accumulation of a streamed call."""
    told = scene("tools")
    (call,) = told["calls"]
    assert call["function"]["name"] == "get_weather"
    assert "21 degrees and windy" in told["answer"]
    (streamed,) = told["streamed"]
    assert (streamed["id"], streamed["function"]) == (call["id"], call["function"])


def test_errors(scene: Scene, first: ScriptedProvider) -> None:
    """Each refusal raises the class that programs catch, with the code; what cannot help is asked once."""
    first.says("scripted-node-429", failure(429, "slow down"))
    first.says("scripted-node-401", failure(401, f"Incorrect API key provided: {KEY}"))
    told = scene("errors")
    kinds = {name: (error["kind"], error.get("status"), error["code"]) for name, error in told.items()}
    assert kinds == {
        "policy": ("PermissionDeniedError", 403, "policy_denied"),
        "unknown": ("NotFoundError", 404, "model_unknown"),
        "forged": ("AuthenticationError", 401, "identity_invalid"),
        "limited": ("RateLimitError", 429, "upstream_unavailable"),
        "locked": ("InternalServerError", 502, "upstream_credential"),
        "broken": ("APIError", None, "upstream_failed"),
    }
    assert all(f"{error['code']}: " in error["message"] for error in told.values())
    assert told["locked"]["retry"] == "false"
    assert KEY not in json.dumps(told)
    assert len(first.heard("scripted-node-401")) == 1


def test_models(scene: Scene) -> None:
    """`models.list` pages over what this agent may use."""
    assert scene("models") == {"listed": ["sim-small"], "retrieved": "sim-small"}
