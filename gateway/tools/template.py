"""Path templates such as `/orders/{order_id}/refund`: which raw paths they match, and what is sent.

It promises: the path that is decided on is the path that is sent (S05). It refuses to know what an upstream
might make of a path, and therefore refuses whatever two readers could read in two ways.

1. Literal segments are compared as raw text: `/Charge`, `/ch%61rge` and `/charge.` are not `/charge` (P12).
2. A variable is one non-empty segment of plain path characters (RFC 3986 §3.3) with valid percent-encodings.
   A raw `;` is refused: some servers cut a segment there, others do not.
3. A variable is decoded once. Separators, dot segments and control characters in it are refused, although
   the door has already refused their encoded forms.
4. If the decoded path names another operation than the raw one (`/orders/%6Fpen` beside `/orders/open`), the
   upstream would act on another operation than the one decided on: refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.core.errors import Refusal

VARIABLE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,63})\}")
_LITERAL: Final = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,=:@]{1,255}")
_SEGMENT: Final = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,=:@]|%[0-9A-Fa-f]{2}){1,1024}")
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f/\\]|\A\.{1,2}\Z")
_MAX_SEGMENTS: Final = 32


class TemplateError(ValueError):
    """A template that cannot be used: the sentence says why."""


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled path template.

    `parts` holds one entry a segment: the literal text, or `None` where a variable stands. A trailing slash
    in the template is sent, whether the agent wrote it or not.
    """

    text: str
    parts: tuple[str | None, ...]
    variables: tuple[str, ...]
    slash: bool = False

    def matches(self, segments: Sequence[str]) -> bool:
        """Whether raw segments have this shape; variables match any text."""
        return len(segments) == len(self.parts) and all(
            part is None or part == segment for part, segment in zip(self.parts, segments, strict=True)
        )

    def rank(self) -> tuple[bool, ...]:
        """The sort key by which the more literal of two templates comes first (segment by segment)."""
        return tuple(part is None for part in self.parts)

    def path(self, segments: Sequence[str]) -> str:
        """The path to send for raw segments that match."""
        return "/" + "/".join(segments) + ("/" if self.slash and segments else "")

    def read(self, segments: Sequence[str]) -> dict[str, str]:
        """The decoded variables of raw segments that match; raises `Refusal` (`request_malformed`)."""
        values = [segment for part, segment in zip(self.parts, segments, strict=True) if part is None]
        return {name: decode_segment(name, value) for name, value in zip(self.variables, values, strict=True)}


def compile_template(text: str) -> Template:
    """Compile a template; raises `TemplateError`."""
    if not text.startswith("/"):
        raise TemplateError(f"the path {text!r} does not start with a slash")
    slash = text.endswith("/") and text != "/"
    segments = split(text)
    if len(segments) > _MAX_SEGMENTS:
        raise TemplateError(f"the path {text!r} has more than {_MAX_SEGMENTS} segments")
    parts: list[str | None] = []
    variables: list[str] = []
    for segment in segments:
        variable = VARIABLE.fullmatch(segment)
        if variable:
            parts.append(None)
            variables.append(variable[1])
        elif segment in {".", ".."} or not _LITERAL.fullmatch(segment):
            raise TemplateError(
                f"the segment {segment!r} of the path {text!r} is neither plain text nor one variable such as {{id}}"
            )
        else:
            parts.append(segment)
    return Template(text, tuple(parts), tuple(variables), slash)


def split(path: str) -> list[str]:
    """The segments of a path that starts with a slash; one trailing slash does no harm."""
    inner = path[1:].removesuffix("/")
    return inner.split("/") if inner else []


def decode_segment(name: str, raw: str) -> str:
    """Decode one variable once; raises `Refusal` for what could be read in two ways."""
    value = raw
    if "%" in raw:
        try:
            value = unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            raise _malformed(name, "is not UTF-8 after percent-decoding; encode it as UTF-8") from None
    if not _SEGMENT.fullmatch(raw):
        raise _malformed(name, "has characters that a path must percent-encode (a semicolon is %3B)")
    if _UNSAFE.search(value):
        raise _malformed(name, "holds a separator, a dot segment or a control character; no such value is passed on")
    return value


def _malformed(name: str, problem: str) -> Refusal:
    return Refusal("request_malformed", f"the path variable {name} {problem}", fields={"argument": name})
