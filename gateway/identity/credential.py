"""Find the one credential of a request: in three headers, never in the URL.

SDKs and coding agents put the same key into more than one header, so equal values count as one;
different ones are refused, since two parts could otherwise each believe another of them.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

from gateway.core.call import Address, Head, Headers
from gateway.core.errors import Refusal
from gateway.identity.tokens import invalid

_NONE: Final[list[str]] = []
_KEY_HEADERS: Final = ("x-api-key", "x-goog-api-key")
_IN_URL: Final = frozenset({"access_token", "key"})  # RFC 6750 §2.3; Google's SDKs and curl examples


def credential(head: Head, address: Address) -> str:
    """The token that the request carries; raises `Refusal` where there is none, or not just one."""
    token, source = _authorization(head.headers), "Authorization"
    for name in _KEY_HEADERS:
        for value in head.headers.getall(name, _NONE):
            if value and token and value != token:
                raise _conflict(source, name)
            if value and not token:
                token, source = value, name
    if head.query:
        _refuse_in_url(head.query, address, token)
    if not token:
        raise Refusal(
            "identity_missing",
            "this address needs an agent's token, as `Authorization: Bearer TOKEN`, `x-api-key` or `x-goog-api-key`; "
            "in production the agents' own issuer gives it out, for development "
            "`passgate token mint --agent ID --ttl 1h` prints one",
            headers=(("WWW-Authenticate", 'Bearer realm="passgate"'),),  # RFC 6750 §3.1: no error code here
        )
    return token


def _authorization(headers: Headers) -> str:
    """The bearer token (RFC 6750 §2.1), empty where there is none."""
    values = headers.getall("authorization", _NONE)
    if len(values) > 1:
        raise _conflict("Authorization", "Authorization")
    if not values or not values[0]:
        return ""
    scheme, _, token = values[0].partition(" ")
    if scheme.lower() == "bearer":
        return token.strip(" ")
    if scheme.lower() == "dpop":
        raise invalid("Authorization: DPoP, and proofs of possession are not built yet")
    raise invalid("Authorization has another scheme than Bearer")


def _refuse_in_url(query: str, address: Address, token: str) -> None:
    """I23: what stands in a URL stands in every log on its way, and a query goes on to the upstream.

    An HTTP tool may have a parameter `key` of its own; the credential itself may not be its value.
    """
    names = {name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)} & _IN_URL
    if address.dialect == "http":
        names.discard("key")
    if names:
        raise invalid(f"a credential in the URL ({', '.join(sorted(names))})")
    if token and token in query:
        raise invalid("the credential stands in the URL too")


def _conflict(one: str, other: str) -> Refusal:
    challenge = 'Bearer realm="passgate", error="invalid_request", error_description="More than one credential"'
    return Refusal(
        "identity_conflict",
        f"the request carries different credentials in `{one}` and `{other}`; send one of them, or the same in both"
        if one != other
        else f"the request carries `{one}` twice; send it once",
        fields={"headers": [one, other]},
        headers=(("WWW-Authenticate", challenge),),
    )
