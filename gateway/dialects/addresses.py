"""The addresses that agents are served at: one table, and how a raw path is found in it.

1. The raw path is what is matched, decided and sent. What two readers could take for two paths is
   refused: dot segments, `//`, encoded dots, slashes, backslashes and control characters, and
   whatever RFC 3986 does not allow in a path.
2. A run prefix is taken off, then one trailing slash.
3. What the table does not have is an `Address` without an operation, in the dialect of its prefix:
   the caller is identified before `missing` says that nothing is there.
"""

from __future__ import annotations

import re
from dataclasses import replace
from types import MappingProxyType
from typing import Final, NamedTuple
from urllib.parse import unquote

from gateway.core.call import Address
from gateway.core.errors import Refusal, method_not_allowed
from gateway.core.ids import RUN_ID


class Served(NamedTuple):
    """One line of the table.

    `method` is `*` for any. A template ends in `{name}` for one segment or `{name...}` for the rest of
    the path. `under_runs` says whether `/r/{run}` may stand in front.
    """

    method: str
    template: str
    dialect: str
    operation: str
    anonymous: bool = False
    under_runs: bool = False


INVENTORY: Final = (
    Served("POST", "/v1/chat/completions", "openai", "chat", under_runs=True),
    Served("GET", "/v1/models", "openai", "models", under_runs=True),
    Served("GET", "/v1/models/{id...}", "openai", "model", under_runs=True),
    Served("HEAD", "/v1", "openai", "prefix", anonymous=True, under_runs=True),
    Served("*", "/tools/{tool}/{path...}", "http", "tool", under_runs=True),
    Served("POST", "/gateway/v1/attestations", "own", "attest"),
    Served("GET", "/gateway/v1/runs/{run}", "own", "own_run"),
    Served("GET", "/gateway/v1/calls/{request_id}", "own", "own_call"),
    Served("GET", "/gateway/v1/approvals/{id}", "own", "own_approval"),
    Served("POST", "/oauth/token", "oauth", "token"),
    Served("GET", "/.well-known/jwks.json", "well_known", "jwks", anonymous=True),
    Served("GET", "/.well-known/oauth-protected-resource", "well_known", "protected_resource", anonymous=True),
    Served("GET", "/.well-known/oauth-authorization-server", "well_known", "authorization_server", anonymous=True),
)
"""Every address that is served, in the order of the contract."""

ANONYMOUS: Final = frozenset(line.operation for line in INVENTORY if line.anonymous)
"""The operations that anybody may ask for: they tell nothing that is not public."""

ALLOW: Final = "allow"
"""The variable of an `Address` without operation that holds the methods its path would answer to."""

_PREFIXES: Final = {
    "v1": "openai",
    "anthropic": "anthropic",
    "gemini": "gemini",
    "tools": "http",
    "mcp": "mcp",
    "gateway": "own",
    "oauth": "oauth",
    ".well-known": "well_known",
    # What SDKs ask for when their base URL lacks its prefix.
    "chat": "openai",
    "models": "openai",
    "responses": "openai",
    "embeddings": "openai",
    "completions": "openai",
    "v1beta": "gemini",
}

# Prefixes and endings of addresses that the contract has and this version does not serve yet.
_NOT_BUILT: Final = (
    (re.compile(r"/anthropic(/.*)?"), "the Anthropic dialect"),
    (re.compile(r"/gemini(/.*)?"), "the Gemini dialect"),
    (re.compile(r"/mcp(/.*)?"), "MCP"),
    (re.compile(r"/v1/responses(/.*)?"), "the OpenAI Responses API"),
    (re.compile(r"/v1/embeddings"), "the OpenAI embeddings API"),
    (re.compile(r"/v1/messages(/.*)?"), "the Anthropic dialect"),
    (re.compile(r"/v1beta(/.*)?"), "the Gemini dialect"),
    (re.compile(r"/\.well-known/oauth-(authorization-server|protected-resource)/.*"), "this OAuth address"),
    (re.compile(r"/gateway/v1/budget"), "this address of the gateway's own"),
)

# RFC 3986 pchar, without percent-encoded `.`, `/`, `\` and control characters, and without dot segments.
_SEGMENT: Final = r"(?!\.{1,2}(?:/|\Z))(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%(?!2[eEfF]|5[cC]|[01]|7[fF])[0-9A-Fa-f]{2})+"
_PATH: Final = re.compile(rf"(?:/{_SEGMENT})*/?")
_RUN_PREFIX: Final = re.compile(r"/r/([^/]+)(?:/i/([^/]+))?(?=/|\Z)")

_MOST_PREFIXES: Final = 6  # segments looked past for a hint
_OWN_ORIGIN: Final = "…"  # stands in a hint until `missing` is told the origin: no raw path can hold it

_NONE: Final = MappingProxyType[str, str]({})
_RUNLESS: Final = frozenset(line.operation for line in INVENTORY if not line.under_runs)


def _compiled() -> tuple[dict[str, dict[str, Address]], list[tuple[re.Pattern[str], dict[str, Served]]]]:
    """`INVENTORY` as it is looked up, by method: the paths without variables, and the patterns of the others."""
    exact: dict[str, dict[str, Address]] = {}
    patterns: list[tuple[re.Pattern[str], dict[str, Served]]] = []
    templates: dict[str, dict[str, Served]] = {}
    for line in INVENTORY:
        if "{" in line.template:
            templates.setdefault(line.template, {})[line.method] = line
        else:
            address = Address(line.dialect, line.operation, line.template, _NONE)
            exact.setdefault(line.template, {})[line.method] = address
    for template, lines in templates.items():
        pattern = re.escape(template).replace(r"\{", "{").replace(r"\}", "}").replace(r"\.\.\.", "...")
        # The rest of a tool's path may be empty: an operation may live at its server's root.
        pattern = pattern.replace("/{path...}", r"(?P<path>(?:/.*)?)")
        pattern = re.sub(r"\{(\w+)\.\.\.\}", r"(?P<\1>.+)", pattern)
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern)
        patterns.append((re.compile(pattern), lines))
    return exact, patterns


_EXACT, _PATTERNS = _compiled()


def resolve(method: str, raw_path: str) -> Address:
    """Find what a raw path (without its query) names.

    Raises `Refusal` `request_malformed` for a path that breaks the rules above. A path that the table
    does not have, or not with this method, comes back without an operation; `missing` refuses it.

    Variables: `id`, `run` and `request_id` are percent-decoded once; `tool` and `path` stay raw,
    `path` starts with a slash and is `/` when nothing follows the tool's name.
    """
    methods = _EXACT.get(raw_path)
    if methods is not None:
        found = methods.get(method)
        return found if found is not None else _not_allowed(next(iter(methods.values())), methods)
    if not raw_path or not _PATH.fullmatch(raw_path):
        raise Refusal("request_malformed", _complaint(raw_path))
    if not raw_path.startswith("/r/"):
        return _find(method, raw_path, None, None)
    prefix = _RUN_PREFIX.match(raw_path)
    if prefix is None:
        return Address("own", "", raw_path, _NONE)
    run = _run_id(prefix[1], "run")
    incarnation = _run_id(prefix[2], "incarnation") if prefix[2] is not None else None
    return _find(method, raw_path[prefix.end() :], run, incarnation)


def dialect_of(raw_path: str) -> str:
    """Whose error shape a refusal takes by a raw path's prefix, whatever else is wrong with the path."""
    prefix = _RUN_PREFIX.match(raw_path)
    path = raw_path[prefix.end() :] if prefix is not None else raw_path
    return _PREFIXES.get(path[1:].partition("/")[0], "own")


def missing(address: Address, origin: str = _OWN_ORIGIN) -> Refusal:
    """The refusal for an address without an operation: 405 with `Allow`, or 404 with what would have worked.

    `origin` is how the caller reached the gateway (`https://gateway.example`), for base URLs to paste.
    """
    allow = address.variables.get(ALLOW)
    if allow is not None:
        return method_not_allowed(allow.split(", "))
    sentence = address.hint or (
        f"nothing is served at this path; OpenAI SDKs take {_OWN_ORIGIN}/v1 as base_url, "
        f"tools are at {_OWN_ORIGIN}/tools/{{tool}}/{{path}}"
    )
    return Refusal("route_unknown", sentence.replace(_OWN_ORIGIN, origin))


def _find(method: str, path: str, run: str | None, incarnation: str | None) -> Address:
    path = path.removesuffix("/")
    methods = _EXACT.get(path)
    if methods is not None:
        found = methods.get(method) or _not_allowed(next(iter(methods.values())), methods)
        return _within(found, run, incarnation)
    for pattern, lines in _PATTERNS:
        match = pattern.fullmatch(path)
        if match is None:
            continue
        line = lines.get(method) or lines.get("*")
        if line is None:
            shape = Address(next(iter(lines.values())).dialect, "", path, _NONE)
            return _within(_not_allowed(shape, lines), run, incarnation)
        variables = match.groupdict()
        if line.dialect == "http":
            variables["path"] = variables["path"] or "/"
        else:
            variables = {name: unquote(value) for name, value in variables.items()}
        return _within(Address(line.dialect, line.operation, path, variables), run, incarnation)
    return _unknown(path, run, incarnation)


def _within(address: Address, run: str | None, incarnation: str | None) -> Address:
    """The same address of a run; the gateway's own addresses have no such prefix."""
    if run is None:
        return address
    if address.operation in _RUNLESS or address.dialect in ("own", "oauth", "well_known"):
        hint = f"this address stands without the run in front: {address.path}"
        return Address(address.dialect, "", address.path, _NONE, run, incarnation, hint)
    return replace(address, run=run, incarnation=incarnation)


def _not_allowed(address: Address, methods: dict[str, Address] | dict[str, Served]) -> Address:
    return Address(address.dialect, "", address.path, {ALLOW: ", ".join(sorted(methods))})


def _unknown(path: str, run: str | None, incarnation: str | None) -> Address:
    prefix = "" if run is None else f"/r/{run}" if incarnation is None else f"/r/{run}/i/{incarnation}"
    dialect = dialect_of(path)
    return Address(dialect, "", path, _NONE, run, incarnation, _hint(path, prefix))


def _hint(path: str, prefix: str) -> str:
    """What would have worked, as far as it can be told from a wrong path."""
    for pattern, what in _NOT_BUILT:
        if pattern.fullmatch(path):
            return f"{what} is not served by this version yet; POST /v1/chat/completions and /tools are"
    tail = path
    for _ in range(_MOST_PREFIXES):
        for candidate in (tail, f"/v1{tail}"):
            if candidate in _EXACT or any(pattern.fullmatch(candidate) for pattern, _ in _PATTERNS):
                base = "/" + candidate[1:].partition("/")[0]
                if base in ("/v1", "/tools"):
                    base_url = f"{_OWN_ORIGIN}{prefix}{base}"
                    return f"nothing is served at this path; the base URL that would have worked is {base_url}"
        slash = tail.find("/", 1)
        if slash < 0:
            break
        tail = tail[slash:]
    return ""


def _run_id(text: str, what: str) -> str:
    name = unquote(text)
    if not RUN_ID.fullmatch(name):
        raise Refusal(
            "request_malformed",
            f"the {what} in the URL is no valid id: 1 to 128 of A-Z a-z 0-9 . _ ~ : @ + = -, a letter or digit first",
        )
    return name


def _complaint(path: str) -> str:
    """Which rule a raw path breaks."""
    if not path.startswith("/"):
        return "the request target is not a path; send it in origin form, starting with a slash"
    if "//" in path:
        return "the path has an empty segment (//); send single slashes"
    if re.search(r"/\.{1,2}(/|\Z)", path):
        return "the path has a dot segment; send it resolved"
    if re.search(r"%(2[eEfF]|5[cC]|[01][0-9A-Fa-f]|7[fF])", path):
        return "the path has an encoded dot, slash, backslash or control character; they are not accepted in any form"
    return "the path has a character that must be percent-encoded, or a broken percent-encoding (RFC 3986, section 3.3)"
