"""Find the one credential of a request: in three headers, never in the URL.

SDKs and coding agents put the same key into more than one header, so equal values count as one;
different ones are refused, since two parts could otherwise each believe another of them.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from gateway.core.call import Address, Head, Headers
from gateway.core.errors import Refusal
from gateway.identity.tokens import invalid

_NONE: Final[list[str]] = []
_KEY_HEADERS: Final = ("x-api-key", "x-goog-api-key")
_IN_URL: Final = frozenset({"access_token", "key"})  # RFC 6750 §2.3; Google's SDKs and curl examples


class Presented(NamedTuple):
    """The credential of a request."""

    token: str  # a signed token or an API key; empty: the client certificate speaks for itself
    dpop: bool = False  # it came as `Authorization: DPoP`

    def __repr__(self) -> str:
        """Without the credential."""
        return f"Presented(dpop={self.dpop})"


def credential(head: Head, address: Address) -> Presented:
    """What the request carries; raises `Refusal` where there is nothing, or not just one."""
    (token, dpop), source = _authorization(head.headers), "Authorization"
    for name in _KEY_HEADERS:
        for value in head.headers.getall(name, _NONE):
            if value and token and value != token:
                raise _conflict(source, name)
            if value and not token:
                token, source = value, name
    if head.query:
        _refuse_in_url(head.query, address, token)
    if not token and head.certificate is None:
        raise missing()
    return Presented(token, dpop)


def missing() -> Refusal:
    """The refusal of a request that says nothing of who sent it."""
    return Refusal(
        "identity_missing",
        "this address needs an agent's token, as `Authorization: Bearer TOKEN`, `x-api-key` or `x-goog-api-key`; "
        "in production the agents' own issuer gives it out, for development "
        "`passgate token mint --agent ID --ttl 1h` prints one",
    )


def _authorization(headers: Headers) -> tuple[str, bool]:
    """The token (RFC 6750 §2.1, RFC 9449 §7.1), empty where there is none, and whether it comes with a proof."""
    values = headers.getall("authorization", _NONE)
    if len(values) > 1:
        raise _conflict("Authorization", "Authorization")
    if not values or not values[0]:
        return "", False
    scheme, _, token = values[0].partition(" ")
    if scheme.lower() in {"bearer", "dpop"}:
        return token.strip(" "), scheme.lower() == "dpop"
    raise invalid("Authorization has another scheme than Bearer and DPoP")


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
    return Refusal(
        "identity_conflict",
        f"the request carries different credentials in `{one}` and `{other}`; send one of them, or the same in both"
        if one != other
        else f"the request carries `{one}` twice; send it once",
        fields={"headers": [one, other]},
    )
