"""S10: a gateway that would be open to the world does not start, and nothing can be configured over the wire."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.attacks.stage import Stage
from tests.simulator.gateway import Gateway

OPERATOR: Final = {"id": "desk", "roles": ["viewer"], "token_sha256": "ab" * 32}
ANYWHERE: Final[Mapping[str, Any]] = {name: {"bind": "127.0.0.1:0"} for name in ("agents", "metrics")}


def _refused(folder: Path, config: dict[str, Any], token: str = "", mode: int = 0o600) -> str:
    """What it says instead of starting."""
    gateway = Gateway(folder, config=config)
    gateway.write()
    if token:
        (folder / "var").mkdir()
        (folder / "var" / "admin.token").write_text(token)
        (folder / "var" / "admin.token").chmod(mode)
    ended = gateway.command("serve", "--config", "config.yaml", check=False)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "ready" not in ended.stdout + ended.stderr
    return ended.stderr


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
@pytest.mark.parametrize("operators", [[], [OPERATOR]])
def test_an_admin_listener_for_everybody_does_not_start(tmp_path: Path, bind: str, operators: list[object]) -> None:
    """S10: beyond loopback without operators and TLS it refuses to start, and names what is missing."""
    config = {"listen": {**ANYWHERE, "admin": {"bind": bind}}, "operators": operators or None}
    said = _refused(tmp_path, config)
    assert "listen.admin" in said
    assert "listen.admin.tls" in said
    assert ("operators" in said.partition("without ")[2].partition(";")[0]) == (not operators)


@pytest.mark.parametrize(
    ("token", "mode"), [("admin", 0o600), ("changeme", 0o600), ("x" * 31, 0o600), ("y" * 64, 0o644)]
)
def test_a_short_or_open_admin_token_does_not_start(tmp_path: Path, token: str, mode: int) -> None:
    """S10: a default, short or world-readable secret is refused, without being quoted."""
    said = _refused(tmp_path, {}, token, mode)
    assert "admin.token" in said
    assert token not in said.replace("admin.token", "").replace("passgate", "").replace("admin token", "")


@pytest.mark.parametrize("digest", ["", "ab", "g" * 64, "5f4dcc3b5aa765d61d8327deb882cf99"])
def test_an_operators_token_that_is_no_digest(tmp_path: Path, digest: str) -> None:
    """S10: an operator's token is kept as a whole SHA-256; anything else, a plain or weak one, is a mistake."""
    assert "token_sha256" in _refused(tmp_path, {"operators": [OPERATOR | {"token_sha256": digest}]})


@pytest.mark.parametrize("tool", [{"kind": "mcp", "command": ["sh"]}, {"kind": "http", "command": ["sh"]}])
def test_a_command_is_no_tool(tmp_path: Path, tool: dict[str, object]) -> None:
    """S10: a configuration that would run a program says that this is not built, and does not start."""
    assert "tools.shell" in _refused(tmp_path, {"tools": {"shell": tool}})


@pytest.mark.parametrize("path", ["config", "tools", "providers", "policies", "agents", "exec", "operators", "keys"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_nothing_is_configured_over_the_wire(stage: Stage, method: str, path: str) -> None:
    """S10: even an operator finds no address that takes configuration, tools or commands."""
    token = (stage.gateway.folder / "var" / "admin.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    url = f"{stage.gateway.admin_url}/admin/v1/{path}"
    request = urllib.request.Request(url, b'{"command": ["sh"]}', headers, method=method)  # noqa: S310 - loopback
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)  # noqa: S310 - loopback
    with refused.value as error:
        assert error.code in {404, 405}
