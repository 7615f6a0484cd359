"""The arguments of a tool call: path variables, declared query parameters and the JSON body, as one object.

Policy decides on this object, so nothing may stand in it that the upstream could read otherwise (W5, W6):
each name has one place, no two names of an object differ only by case or Unicode form (a Go server would
take either), and an integer is small enough to be the same number in every language.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote, unquote_plus

from gateway.core.errors import Refusal

MAX_INTEGER: Final = 2**53
_PAIR: Final = re.compile(r"(?:[A-Za-z0-9\-._~!$'()*+,:@/?\[\]=]|%[0-9A-Fa-f]{2})*")
_MAX_PAIRS: Final = 256
_SHOWN: Final = 64


def fold(name: str) -> str:
    """A name without its case and Unicode form: two names with the same fold are one to some reader."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def read_query(query: str, declared: frozenset[str]) -> dict[str, object]:
    """The parameters of a raw query, as text; raises `Refusal` for undeclared and repeated ones.

    `+` is a space, as browsers and SDKs write it. What is sent on is written anew by `write_query`, so that
    no second way of reading the raw text can matter.
    """
    found: dict[str, object] = {}
    pairs = query.split("&") if query else []
    if len(pairs) > _MAX_PAIRS:
        raise _malformed(f"the query has more than {_MAX_PAIRS} parameters; send fewer")
    for pair in pairs:
        if not pair:
            continue
        if not _PAIR.fullmatch(pair):
            raise _malformed("the query has characters that must be percent-encoded (a semicolon is %3B)")
        raw_name, _, raw_value = pair.partition("=")
        try:
            name, value = unquote_plus(raw_name, errors="strict"), unquote_plus(raw_value, errors="strict")
        except UnicodeDecodeError:
            raise _malformed("the query is not UTF-8 after percent-decoding; encode it as UTF-8") from None
        if name not in declared:
            raise _malformed(f"the query parameter {_shown(name)} is not one of this operation's; leave it out", name)
        if name in found:
            raise _malformed(f"the query parameter {_shown(name)} stands twice; send it once", name)
        found[name] = value
    return found


def write_query(args: Mapping[str, object], declared: Iterable[str]) -> str:
    """The query to send: the declared parameters among the arguments, in one unambiguous spelling."""
    return "&".join(f"{quote(name, safe='')}={quote(str(args[name]), safe='')}" for name in declared if name in args)


def merge(
    variables: Mapping[str, object], query: Mapping[str, object], body: Mapping[str, object], placed: frozenset[str]
) -> dict[str, object]:
    """One object out of the three; raises `Refusal` for a name in two places.

    `placed` are the folds of all names that the operation keeps for path and query: in a body they are
    refused even when the request leaves them out there, or `args` would not say where a value goes.
    """
    _refuse_ambiguous(body)
    for name in body if placed else ():
        if fold(name) in placed:
            raise _malformed(f"{_shown(name)} belongs to the path or the query; leave it out of the body", name)
    return {**variables, **query, **body}


def _refuse_ambiguous(root: Mapping[str, object]) -> None:
    """Look at every name and integer of a body, without recursion."""
    objects: list[object] = [root]
    while objects:
        value = objects.pop()
        items: Iterable[tuple[object, object]]
        if isinstance(value, dict):
            if len({fold(name) for name in value}) != len(value):
                raise _twins(value)
            items = value.items()
        else:
            items = enumerate(value) if isinstance(value, list) else ()
        for name, item in items:
            kind = type(item)
            if kind is dict or kind is list:
                objects.append(item)
            elif kind is int and not -MAX_INTEGER <= item <= MAX_INTEGER:  # type: ignore[operator] # it is an int
                raise _malformed(
                    f"the integer at {_shown(str(name))} is beyond ±2^53 and not the same number in every language; "
                    "send it as a string",
                    str(name),
                )


def _twins(value: Mapping[str, object]) -> Refusal:
    first: dict[str, str] = {}
    for name in value:
        twin = first.setdefault(fold(name), name)
        if twin != name:
            pair = f"{_shown(twin)} and {_shown(name)}"
            return _malformed(f"the names {pair} differ only by case or Unicode form; send one of them", name)
    raise AssertionError("asked for twins where there are none")


def _malformed(sentence: str, name: str = "") -> Refusal:
    return Refusal("request_malformed", sentence, fields={"argument": name[:_SHOWN]} if name else None)


def _shown(name: str) -> str:
    return repr(name[:_SHOWN])
