"""How a request finds its operation."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.errors import Refusal
from gateway.core.sources import DiskSources
from gateway.outbound.settings import TimeoutOverrides, TimeoutSettings
from gateway.settings.types import Secret
from gateway.tools import Tools, mistakes
from gateway.tools.settings import AuthSettings, OperationSettings, ToolSettings
from tests.tools.payments import build, tools


def refused(tools: Tools, method: str, path: str, tool: str = "payments") -> Refusal:
    with pytest.raises(Refusal) as caught:
        tools.find(tool, method, path)
    return caught.value


def test_path_finds_operation_and_variables() -> None:
    """A raw path is matched segment by segment, its variables are decoded once, and it is sent as it came."""
    match = tools.find("payments", "POST", "/orders/A%201/refund")
    assert match.operation.tool == "payments.refund"
    assert match.variables == {"order_id": "A 1"}
    assert match.path == "/orders/A%201/refund"
    assert match.operation.upstream.path == "/v2"


def test_unknown_tool_and_path_are_404() -> None:
    """Only configured operations exist."""
    assert refused(tools, "POST", "/charge", tool="billing").code == "tool_unknown"
    assert refused(tools, "POST", "/charges").code == "tool_unknown"
    assert refused(tools, "POST", "/orders//refund").code == "request_malformed"
    assert refused(tools, "POST", "").code == "tool_unknown"


def test_other_method_is_405_with_allow() -> None:
    """A known path with another method names the methods that it has."""
    refusal = refused(tools, "DELETE", "/charge")
    assert (refusal.code, refusal.headers) == ("method_not_allowed", (("allow", "POST"),))


@pytest.mark.parametrize(
    "path", ["/Charge", "/CHARGE", "/ch%61rge", "/charge.", "/charge%2E", "/charge;x", "/charge%20", "/\uff43harge"]
)
def test_variants_of_a_name_are_not_the_tool(path: str) -> None:
    """P12, S05: another case, an encoding, a trailing dot or a path parameter is not the allowed operation."""
    assert refused(tools, "POST", path).code == "tool_unknown"


def test_variants_of_a_server_are_not_the_tool() -> None:
    """P12: the tool's own name is compared as it is written, too."""
    for name in ("Payments", "payments.", "payment%73", "payments.charge"):
        assert refused(tools, "POST", "/charge", tool=name).code == "tool_unknown"


def test_trailing_slash_does_no_harm() -> None:
    """P13: with or without a trailing slash the same operation is decided on, and its own spelling is sent."""
    tools = build(
        {"list": OperationSettings(method="GET", path="/orders/"), "root": OperationSettings(method="GET", path="/")}
    )
    assert tools.find("payments", "GET", "/orders").path == "/orders/"
    assert tools.find("payments", "GET", "/orders/").path == "/orders/"
    assert tools.find("payments", "GET", "").path == "/"


@pytest.mark.parametrize(
    "segment",
    [
        "A;x=1", "%2e%2e", "%2E", "..", "a%2Fb", "a%5Cb", "a%00", "a%0d%0aX", "a%7f", "%zz", "%", "%ff", "a b", "grün",
        "a\\b", "",
    ],
)  # fmt: skip
def test_ambiguous_variable_is_400(segment: str) -> None:
    """S05: a variable that an upstream might cut, climb with or read otherwise is refused."""
    assert refused(tools, "POST", f"/orders/{segment}/refund").code == "request_malformed"


def test_encoded_name_of_another_operation_is_400() -> None:
    """S05: `/orders/%6Fpen` is decided on as an order and acted on as the list of open ones; so it is refused."""
    assert tools.find("payments", "GET", "/orders/open").operation.tool == "payments.open"
    assert tools.find("payments", "GET", "/orders/op%20en").operation.tool == "payments.order"
    assert refused(tools, "GET", "/orders/%6Fpen").code == "request_malformed"


def test_literal_segment_wins_over_variable() -> None:
    """Where two templates match, the earlier literal segment decides, whatever the order in the file."""
    operations = {
        "any": OperationSettings(method="GET", path="/{kind}/open"),
        "one": OperationSettings(method="GET", path="/orders/{order_id}"),
    }
    for these in (operations, dict(reversed(operations.items()))):
        assert build(these).find("payments", "GET", "/orders/open").operation.tool == "payments.one"


def test_switched_off_tool_says_why() -> None:
    """A tool whose credential is unset is unknown with the reason."""
    tools = Tools({}, {"payments": "tool payments is off: PAYMENTS_TOKEN unset"})
    assert refused(tools, "POST", "/charge").sentence == "tool payments is off: PAYMENTS_TOKEN unset"


def test_demo_address_is_filled_in() -> None:
    """`builtin:demo` becomes the running demo's address, one path a tool."""
    tool = ToolSettings(
        kind="http", base_url="builtin:demo", operations={"check": OperationSettings(method="POST", path="/check")}
    )
    tools = Tools.build({"fraud": tool}, DiskSources(), timeouts=TimeoutSettings(), demo_url="http://127.0.0.1:9")
    upstream = tools.find("fraud", "POST", "/check").operation.upstream
    assert (upstream.authority, upstream.path) == ("127.0.0.1:9", "/tools/fraud")


def test_timeouts_are_inherited() -> None:
    """An operation's deadlines stand over its tool's, which stand over the general ones."""
    operation = OperationSettings(method="POST", path="/x", timeouts=TimeoutOverrides(idle=1.0))
    tools = build({"x": operation}, timeouts=TimeoutOverrides(connect=2.0, idle=9.0))
    timeouts = tools.find("payments", "POST", "/x").operation.timeouts
    assert (timeouts.connect, timeouts.idle, timeouts.total) == (2.0, 1.0, TimeoutSettings().total)


def test_mistakes_name_place_problem_and_remedy(tmp_path: Path) -> None:
    """What is wrong with files, names and headers is found at load, all of it, each with its place."""
    remote = tmp_path / "remote.json"
    remote.write_text(json.dumps({"$ref": "http://127.0.0.1:9/schema.json"}))
    operations = {
        "a": OperationSettings(method="GET", path="/a", arguments=tmp_path / "missing.json"),
        "b": OperationSettings(method="GET", path="/b", arguments=remote),
        "c": OperationSettings(method="GET", path="/c/{id}", query=("ID",)),
        "d": OperationSettings(method="GET", path="/d", forward_headers=("X-HTTP-Method-Override", "X-Token", "X-Ok")),
        "e": OperationSettings(method="GET", path="/e;v=1"),
    }
    auth = AuthSettings(header="X-Token", value=Secret("secret-value"))
    tool = ToolSettings(kind="http", base_url="https://t.example", auth=auth, operations=operations)
    found = list(mistakes({"t": tool}, DiskSources()))
    assert [place for place, _, _ in found] == [
        "t.operations.a.arguments",
        "t.operations.b.arguments",
        "t.operations.c.query",
        "t.operations.d.forward_headers",
        "t.operations.d.forward_headers",
        "t.operations.e.path",
    ]
    assert all(problem and remedy for _, problem, remedy in found)
    broken = AuthSettings(header="Connection", value=Secret("secret\r\nvalue"))
    places = [place for place, _, _ in mistakes({"t": replace(tool, auth=broken, operations={})}, DiskSources())]
    assert places == ["t.auth.header", "t.auth.value"]
    assert "secret-value" not in str(found)


def test_forbidden_header_never_gets_built() -> None:
    """I25: a forwarded `Cookie` stops the build, even where nobody asked for mistakes before."""
    with pytest.raises(ValueError, match="cookie never passes"):
        build({"x": OperationSettings(method="POST", path="/x", forward_headers=("Cookie",))})


def test_operations_are_frozen() -> None:
    """An operation that calls hold cannot be changed under them."""
    operation = tools.find("payments", "POST", "/charge").operation
    with pytest.raises(dataclasses.FrozenInstanceError):
        operation.method = "DELETE"  # type: ignore[misc]
