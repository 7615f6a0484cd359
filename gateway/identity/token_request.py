"""Read a request for a child's token (RFC 8693 §2.1), as a form says it; nothing of it is believed yet.

1. One form has one meaning: no parameter twice but `audience` and `resource` (RFC 6749 §3.2), no broken
   percent-encoding, UTF-8.
2. A parameter without a value is as if it were not there (RFC 6749 §3.2); one that is not known here
   is ignored, and nothing that is ignored could have made the child's rights wider.
3. What is known and cannot be done is refused and named, never dropped.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

from gateway.core.call import Address, Head
from gateway.core.errors import Refusal
from gateway.core.principal import Binding
from gateway.identity.algorithms import algorithms_for
from gateway.identity.credential import credential
from gateway.identity.jose import from_json
from gateway.identity.keys import KeyMistakes, read_jwk
from gateway.identity.tokens import read_binding

MAX_FORM: Final = 16 * 1024
GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name, no secret
TOKEN_TYPES: Final = (ACCESS_TOKEN, "urn:ietf:params:oauth:token-type:jwt")
"""What can be handed in, and asked for (RFC 8693 §3)."""
CHILD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~@+=-]{0,127}")
"""What a child may be called; use `fullmatch`. It never holds what separates the names of a chain."""
PATTERN: Final = re.compile(r"[\x21\x23-\x29\x2b-\x5b\x5d-\x7e]+\*?|\*")
"""A name of tools or models, or how such names begin, then with a `*`; use `fullmatch`."""

_MOST_PARAMETERS: Final = 64
_REPEATED: Final = frozenset({"audience", "resource"})
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 §3.3
_NUMBER: Final = re.compile(r"[0-9]{1,10}")
_CLIENT: Final = re.compile(r"[\x20-\x7e]{1,256}")  # RFC 6749 appendix A.1
_BROKEN: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|[^\x21-\x7e]")
_FORM: Final = re.compile(r'application/x-www-form-urlencoded(?:\s*;\s*charset="?utf-8"?)?', re.IGNORECASE)
_SECRETS: Final = ("client_secret", "client_assertion")
_UNBUILT: Final = {
    "budget": "budgets are not built yet, so none can be carved out",
    "actor_token": "the acting party is the child, and `name` is what it is called",
    "actor_token_type": "the acting party is the child, and `name` is what it is called",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a form asks for; `None` where it leaves the choice to the gateway."""

    token: str = field(repr=False)
    issued_token_type: str
    name: str | None
    scope: frozenset[str] | None
    tools: tuple[str, ...] | None
    models: tuple[str, ...] | None
    depth: int | None
    expires_in: int | None
    binding: Binding | None
    client_id: str | None
    audiences: tuple[str, ...]  # of `audience` and `resource`


def bad(parameter: str, sentence: str, error: str = "invalid_request") -> Refusal:
    """The refusal of a parameter; `error` is one of RFC 6749 §5.2 and RFC 8693 §2.2.2."""
    return Refusal("request_malformed", f"{parameter}: {sentence}", fields={"error": error, "parameter": parameter})


def read_form(head: Head, body: bytes) -> Asked:
    """What the request asks for; raises `Refusal` whose field `error` is the OAuth word for it."""
    if head.query:
        raise bad("query", "parameters belong into the body, where no log keeps them; send the URL without a query")
    if not _FORM.fullmatch(head.headers.get("content-type") or ""):
        raise bad("Content-Type", "send application/x-www-form-urlencoded")
    form = _parameters(body)
    if secrets := [name for name in _SECRETS if name in form]:
        raise _unauthenticated(f"{secrets[0]}: there are no clients with secrets here")
    for name, why in _UNBUILT.items():
        if name in form:
            raise bad(name, f"{why}; leave it out")
    grant = _needed(form, "grant_type")
    if grant != GRANT_TYPE:
        raise bad("grant_type", f"only {GRANT_TYPE} is served here", "unsupported_grant_type")
    if "subject_token" not in form:
        raise Refusal(
            "identity_missing",
            "subject_token: the token of the agent that delegates is missing; send your own",
            fields={"error": "invalid_request", "parameter": "subject_token"},
            status=400,
        )
    _token_type(_needed(form, "subject_token_type"), "subject_token_type")
    return Asked(
        token=form["subject_token"][0],
        issued_token_type=_token_type(_one(form, "requested_token_type") or ACCESS_TOKEN, "requested_token_type"),
        name=_text(form, "name", CHILD, "1 to 128 letters, digits and ._~@+=-, a letter or digit first"),
        scope=_scope(form),
        tools=_patterns(form, "tools"),
        models=_patterns(form, "models"),
        depth=_number(form, "depth"),
        expires_in=_number(form, "expires_in"),
        binding=_binding(_one(form, "req_cnf")),
        client_id=_text(form, "client_id", _CLIENT, "1 to 256 printable ASCII characters"),
        audiences=(*form.get("audience", ()), *form.get("resource", ())),
    )


def check_headers(head: Head, address: Address, token: str) -> None:
    """A credential in the head may only repeat the form's; raises `Refusal` for another one and for a client's."""
    values = head.headers.getall("authorization", [])
    if any(value.partition(" ")[0].lower() == "basic" for value in values):
        raise _unauthenticated("Authorization: there are no clients with secrets here")
    try:
        carried = credential(head, address).token
    except Refusal as refusal:
        if refusal.code != "identity_missing":
            raise
        carried = ""
    if carried and carried != token:
        raise Refusal(
            "identity_conflict",
            "the request carries different credentials in a header and in `subject_token`; send only the latter",
            fields={"parameter": "subject_token"},
        )


def _unauthenticated(why: str) -> Refusal:
    """RFC 6749 §5.2: the client tried to authenticate in a way that is not offered."""
    return Refusal(
        "identity_invalid",
        f"{why}: the agent's own token says who asks; send it as subject_token, and nothing else",
        fields={"error": "invalid_client"},
        headers=(("WWW-Authenticate", 'Basic realm="passgate"'),),
    )


def _parameters(body: bytes) -> Mapping[str, list[str]]:
    """The parameters that have a value; only `audience` and `resource` may have more than one."""
    if len(body) > MAX_FORM:
        raise Refusal("request_too_large", f"the form is larger than {MAX_FORM} bytes; send less")
    text = body.decode("latin-1")
    pairs: list[tuple[str, str]] | None = None
    with contextlib.suppress(ValueError):
        if not _BROKEN.search(text):
            most = _MOST_PARAMETERS
            pairs = parse_qsl(
                text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=most
            )
    if pairs is None:
        what = f"is not at most {_MOST_PARAMETERS} pairs NAME=VALUE joined by &, percent-encoded UTF-8"
        raise bad("body", f"{what}; encode it as a form")
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in pairs:
        if name in found and name not in _REPEATED:
            raise bad(_shown(name), "stands in the form more than once; send it once")
        found[name].append(value)
    return {name: given for name, values in found.items() if (given := [value for value in values if value])}


def _one(form: Mapping[str, list[str]], name: str) -> str | None:
    return form[name][0] if name in form else None


def _needed(form: Mapping[str, list[str]], name: str) -> str:
    if name not in form:
        raise bad(name, "is missing; send it")
    return form[name][0]


def _token_type(value: str, name: str) -> str:
    if value not in TOKEN_TYPES:
        raise bad(name, f"is none of {' and '.join(TOKEN_TYPES)}; use one of them")
    return value


def _text(form: Mapping[str, list[str]], name: str, pattern: re.Pattern[str], what: str) -> str | None:
    value = _one(form, name)
    if value is not None and not pattern.fullmatch(value):
        raise bad(name, f"is not {what}")
    return value


def _scope(form: Mapping[str, list[str]]) -> frozenset[str] | None:
    value = _one(form, "scope")
    if value is None:
        return None
    names = value.split(" ")
    if not all(map(_SCOPE.fullmatch, names)):
        raise bad("scope", "is not names with one space between them (RFC 6749, section 3.3)", "invalid_scope")
    return frozenset(names)


def _patterns(form: Mapping[str, list[str]], name: str) -> tuple[str, ...] | None:
    value = _one(form, name)
    if value is None:
        return None
    patterns = value.split(" ")
    if not all(map(PATTERN.fullmatch, patterns)):
        raise bad(name, "is not names with one space between them, where only the end of a name may be a *")
    return tuple(sorted(set(patterns)))


def _number(form: Mapping[str, list[str]], name: str) -> int | None:
    value = _one(form, name)
    if value is None:
        return None
    if not _NUMBER.fullmatch(value):
        raise bad(name, "is not a whole number")
    return int(value)


def _binding(value: str | None) -> Binding | None:
    """The child's key, as RFC 9201 §3.1 asks for one, with the members of `cnf` (RFC 7800, 8705, 9449)."""
    if value is None:
        return None
    wanted = '{"jwk": …} with its public key, {"jkt": …} or {"x5t#S256": …} with the SHA-256 of it'
    try:
        members = from_json(value.encode("utf-8", "surrogatepass"))
        if members.keys() == {"jwk"}:
            return Binding("jkt", _thumbprint(members["jwk"]))
        if (binding := read_binding(members)) is not None:
            return binding
    except KeyMistakes as error:
        raise bad("req_cnf", f"holds no public key that can be used: {error}") from None
    except ValueError:
        pass
    raise bad("req_cnf", f"is not the JSON object {wanted}")


def _thumbprint(jwk: object) -> str:
    """RFC 7638, of a public key that proofs can be verified with."""
    if not isinstance(jwk, dict):
        raise ValueError("is no JWK")  # noqa: TRY004 - one class for all that input can get wrong
    fitting = algorithms_for(jwk.get("kty"), jwk.get("crv", ""))
    return read_jwk(jwk, str(jwk.get("alg") or min(fitting, default=""))).thumbprint


def _shown(name: str) -> str:
    """A name that the caller made up, as a sentence may carry it."""
    return name[:60] if name.isascii() and name.isprintable() else "a parameter"
