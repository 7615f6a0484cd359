"""The semantic types of settings: how a scalar of the file is written, what it becomes, how to say that it is wrong.

A settings dataclass annotates its fields with the aliases at the end of this file (`Seconds`, `Bytes`,
`NanoUsd`, …) or with `Annotated[type, Form(...)]`. At run time the values are plain: durations are seconds
in a `float`, sizes bytes in an `int`, money nano-USD in an `int`, prices a `Decimal`.

Beside forms there are four marks: `Later` names values that the contract has and this release has not,
`NON_EMPTY` stands on a list that means a choice, `FROM_DIRECTORY` on a list that may live in files of its own,
`NOT_NULL` on what may be left out but not be null.

The file is long because it is a list: each form is a few lines, and they are looked up here by name.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final, NamedTuple, Protocol, runtime_checkable
from urllib.parse import urlsplit

from gateway.core.money import nano_usd, per_million_tokens
from gateway.settings.yaml import ScalarNode

BUILTIN_DEMO: Final = "builtin:demo"


class Misfit(ValueError):
    """A scalar that does not fit its form: what is wrong, and what to write instead."""

    def __init__(self, problem: str, remedy: str) -> None:
        """Take two half-sentences without a full stop."""
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


class Secret:
    """A text that no log, error or repr shows; compared in constant time."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        """Take the secret itself."""
        self._text = text

    def reveal(self) -> str:
        """The secret; for the one place that sends or checks it."""
        return self._text

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


class Bind(NamedTuple):
    """Where a listener binds; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback

    @property
    def reachable(self) -> Bind:
        """What this machine connects to: an address that stands for all of them can be bound, not called."""
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
        return self._replace(host=everywhere.get(self.host, self.host))


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@runtime_checkable
class Form(Protocol):
    """How one kind of scalar is written.

    `example` tells what to write; `hole` stands for a value that is wrong (see `binder`).
    """

    @property
    def example(self) -> str:
        """What to write, in a few words."""
        ...

    @property
    def hole(self) -> object:
        """An empty value of the type that `read` gives."""
        ...

    def read(self, scalar: ScalarNode) -> object:
        """The value; raises `Misfit`."""
        ...

    def schema(self) -> dict[str, object]:
        """The JSON Schema of what may be written, for editors."""
        ...


@dataclass(frozen=True, slots=True, eq=False)  # by identity: annotations must be hashable
class Measure:
    """A number with a unit, or (where `bare`) without one; `scale` says what each unit is worth."""

    noun: str
    scale: dict[str, Decimal]
    example: str
    minimum: str
    maximum: str
    bare: bool = False
    whole: bool = True
    hole: int = 0

    def read(self, scalar: ScalarNode) -> int | float:
        """Seconds as a float, all else as an int."""
        text = scalar.text
        value = self._amount(text)
        if value is None or (self.whole and value != int(value)):
            raise Misfit(f"{text!r} is not {self.noun}", f"write {self.example}")
        if value < self._bound(self.minimum):
            raise Misfit(f"{text} is too small", f"use {self.minimum} or more")
        if value > self._bound(self.maximum):
            raise Misfit(f"{text} is too large", f"use {self.maximum} or less")
        return int(value) if self.whole else float(value)

    def schema(self) -> dict[str, object]:
        """A number or a string with a unit."""
        units = "|".join(unit for unit in self.scale if unit)
        written: dict[str, object] = {"type": "string", "pattern": rf"^\d+(\.\d+)? ?({units})$"}
        return {"anyOf": [{"type": "integer"}, written]} if self.bare else written

    def _amount(self, text: str) -> Decimal | None:
        found = _MEASURE.fullmatch(text)
        if found is None or found["unit"] not in self.scale or (not found["unit"] and not self.bare):
            return None
        return Decimal(found["number"]) * self.scale[found["unit"]]

    def _bound(self, text: str) -> Decimal:
        return self._amount(text) or Decimal(0)


# No leading zero: to the core schema of YAML `007` is text, and to some readers it is octal.
_MEASURE: Final = re.compile(r"(?P<number>(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,9})?) ?(?P<unit>[A-Za-z]*)")
_SECONDS: Final = {
    unit: Decimal(worth)
    for unit, worth in zip(("ms", "s", "m", "h", "d"), ("0.001", "1", "60", "3600", "86400"), strict=True)
}
_BYTES: Final = {"B": Decimal(1)} | {
    f"{prefix}{suffix}": Decimal(step**power)
    for suffix, step in (("iB", 1024), ("B", 1000))
    for power, prefix in enumerate("KMGT", start=1)
}
_COUNTS: Final = {
    "": Decimal(1),
    "k": Decimal(1_000),
    "K": Decimal(1_000),
    "M": Decimal(1_000_000),
    "G": Decimal(1_000_000_000),
}


def duration(minimum: str = "1ms", maximum: str = "3650d") -> Measure:
    """A span of time within bounds."""
    return Measure("a duration", _SECONDS, "a number with ms, s, m, h or d, such as 15m", minimum, maximum, whole=False)


def size(minimum: str = "1B", maximum: str = "1024 TiB") -> Measure:
    """A number of bytes within bounds."""
    return Measure("a size", _BYTES, "a number with B, KiB, MiB or GiB, such as 32 MiB", minimum, maximum)


def count(minimum: str = "0", maximum: str = "1000000000000") -> Measure:
    """A whole number within bounds."""
    example = "a whole number, such as 2000000 or 2M"
    return Measure("a count", _COUNTS, example, minimum, maximum, bare=True)


@dataclass(frozen=True, slots=True)
class Pattern:
    """Text of a certain shape; `noun` and `example` make up the complaint."""

    noun: str
    pattern: str
    example: str
    hole: str = ""

    def read(self, scalar: ScalarNode) -> str:
        """The text itself; what YAML takes for a number, a truth or nothing is not text."""
        text = scalar.text
        if scalar.kind != "text":
            raise Misfit(
                f"`{text[:60]}` is not text" if text else "the value is missing", f'put it in quotes: "{text[:60]}"'
            )
        if not re.fullmatch(self.pattern, text):
            raise Misfit(f"{shortened(text)} is not {self.noun}", f"write {self.example}")
        return text

    def schema(self) -> dict[str, object]:
        """A string with the pattern."""
        return {"type": "string", "pattern": f"^(?:{self.pattern})$"}


class Money:
    """An amount of USD with its currency, in nano-USD."""

    example = "an amount with its currency, such as 0.01 USD"
    hole = 0

    def read(self, scalar: ScalarNode) -> int:
        """`0.01 USD` is 10,000,000."""
        text = scalar.text
        amount, space, currency = text.partition(" ")
        if not space or currency != "USD":
            raise Misfit(f"{shortened(text)} is not an amount of money", f"write {self.example}")
        try:
            return nano_usd(amount)
        except ValueError as error:
            raise Misfit(str(error), f"write {self.example}") from None

    def schema(self) -> dict[str, object]:
        """A string such as `0.01 USD`."""
        return {"type": "string", "pattern": r"^\d{1,12}(\.\d{1,9})? USD$"}


class Price:
    """USD per million tokens, as an exact decimal."""

    example = 'USD per million tokens, such as "0.15"'
    hole = Decimal(0)

    def read(self, scalar: ScalarNode) -> Decimal:
        """`"0.15"` or `0.15`; the text is what counts, not the nearest float."""
        text = scalar.text
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,12})?", text):
            raise Misfit(f"{shortened(text)} is not a price", f"write {self.example}")
        price = Decimal(text)
        try:
            per_million_tokens(price)
        except ValueError as error:
            raise Misfit(str(error), "use at most 9 decimal places") from None
        return price

    def schema(self) -> dict[str, object]:
        """A string or a number."""
        return {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^\d{1,6}(\.\d{1,9})?$"}]}


class Percent:
    """A share such as `15%`, as a fraction."""

    example = "a share of at most 100%, such as 15%"
    hole = Decimal(0)

    def read(self, scalar: ScalarNode) -> Decimal:
        """`15%` is `Decimal("0.15")`; 100% is the most."""
        text = scalar.text
        found = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", text)
        if found is None or Decimal(found[1]) > 100:  # noqa: PLR2004 -- percent
            raise Misfit(f"{shortened(text)} is not a percentage", f"write {self.example}")
        return Decimal(found[1]) / 100

    def schema(self) -> dict[str, object]:
        """A string that ends in a percent sign."""
        return {"type": "string", "pattern": r"^\d{1,3}(\.\d{1,6})?%$"}


class Day:
    """A calendar day."""

    example = "year, month and day, such as 2026-01-31"
    hole = date.min

    def read(self, scalar: ScalarNode) -> date:
        """ISO 8601, `2026-01-31`."""
        text = scalar.text
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
            try:
                return date.fromisoformat(text)
            except ValueError:
                pass
        raise Misfit(f"{shortened(text)} is not a day", f"write {self.example}")

    def schema(self) -> dict[str, object]:
        """A date string."""
        return {"type": "string", "format": "date"}


class BindAddress:
    """A host's IP address and a port."""

    example = "IP and port, such as 127.0.0.1:8080 or [::1]:8080"
    hole = Bind("127.0.0.1", 0)

    def read(self, scalar: ScalarNode) -> Bind:
        """`127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`."""
        text = scalar.text
        found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+|localhost)):([0-9]{1,5})", text)
        if found is not None and int(found[3]) <= 0xFFFF:  # noqa: PLR2004 -- the largest port
            host = found[1] or found[2]
            try:
                return Bind(host if host == "localhost" else str(ipaddress.ip_address(host)), int(found[3]))
            except ValueError:
                pass
        raise Misfit(f"{shortened(text)} is not an address to bind", f"write {self.example}")

    def schema(self) -> dict[str, object]:
        """A string that ends in a port."""
        return {"type": "string", "pattern": r":\d{1,5}$"}


class NetworkRange:
    """An IP network."""

    example = "a network in CIDR form, such as 10.0.0.0/8"
    hole = ipaddress.IPv4Network("0.0.0.0/0")

    def read(self, scalar: ScalarNode) -> Network:
        """`10.0.0.0/8`; host bits must be zero."""
        text = scalar.text
        try:
            return ipaddress.ip_network(text)
        except ValueError:
            raise Misfit(f"{shortened(text)} is not a network", f"write {self.example}") from None

    def schema(self) -> dict[str, object]:
        """A string."""
        return {"type": "string"}


@dataclass(frozen=True, slots=True)
class Url:
    """An absolute http(s) address without credentials, query or fragment; `demo` lets `builtin:demo` pass too."""

    demo: bool = False

    hole: str = ""

    @property
    def example(self) -> str:
        """What to write, in a few words."""
        return f"https://host/path or {BUILTIN_DEMO}" if self.demo else "https://host/path"

    def read(self, scalar: ScalarNode) -> str:
        """The address without a trailing slash."""
        text = scalar.text
        if self.demo and text == BUILTIN_DEMO:
            return text
        misfit = Misfit(f"{shortened(text)} is not an http or https address", f"write {self.example}")
        try:
            parts = urlsplit(text)
            good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            raise misfit from None
        if not good or not re.fullmatch(r"[!-~]{1,2000}", text):
            raise misfit
        if parts.username is not None or parts.password is not None:
            raise Misfit(
                "an address may not carry credentials", "remove what stands before the @ and use a key setting"
            )
        if "?" in text or "#" in text:
            raise Misfit("an address may not carry a query or a fragment", f"write {self.example}")
        return text.rstrip("/")

    def schema(self) -> dict[str, object]:
        """A string that begins with http."""
        return {"type": "string", "pattern": f"^(https?://.+{f'|{BUILTIN_DEMO}' if self.demo else ''})$"}


class SqliteFile:
    """The embedded store's file."""

    example = "sqlite:PATH, such as sqlite:var/passgate.db"
    hole = Path()

    def read(self, scalar: ScalarNode) -> Path:
        """`sqlite:var/passgate.db`, relative to the file."""
        text = scalar.text
        if text.startswith(("postgres:", "postgresql:")):
            raise Misfit("PostgreSQL is not built yet", "use sqlite:var/passgate.db")
        scheme, _, path = text.partition(":")
        if scheme != "sqlite" or not path or path.startswith("//") or "\0" in path:
            raise Misfit(f"{shortened(text)} is not a durable store", f"write {self.example}")
        return Path(scalar.file).parent / path

    def schema(self) -> dict[str, object]:
        """A string that begins with sqlite."""
        return {"type": "string", "pattern": "^sqlite:.+"}


@dataclass(frozen=True, slots=True)
class Later:
    """Values of the contract that this release does not have: each a mistake that says so."""

    values: frozenset[str]

    def __init__(self, *values: str) -> None:
        """Take the values as they are written."""
        object.__setattr__(self, "values", frozenset(values))


@dataclass(frozen=True, slots=True)
class Mark:
    """A property of a list or of a value that may be left out, told by its name."""

    name: str


NON_EMPTY: Final = Mark("non-empty")
"""On a list that means a choice: an empty one would mean "nothing" or "everything", so it is a mistake."""
NOT_NULL: Final = Mark("not null")
"""On a value that may be left out (`X | None = None`): written as null it would mean two things, so it is a mistake."""
FROM_DIRECTORY: Final = Mark("from directory")
"""On a list that may be written as `{dir: PATH}`: each `*.yaml` there holds a list of entries, or one entry."""


def shortened(text: str) -> str:
    """A text as quoted in a complaint; what is long may be a misplaced secret or a hostile file."""
    return repr(text) if len(text) <= 60 else f"{text[:40]!r}…"  # noqa: PLR2004 -- a line's worth


Seconds = Annotated[float, duration()]
Bytes = Annotated[int, size()]
Count = Annotated[int, count()]
PositiveCount = Annotated[int, count("1")]
NanoUsd = Annotated[int, Money()]
UsdPerMillion = Annotated[Decimal, Price()]
Name = Annotated[
    str,
    Pattern("a name", r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "at most 64 letters, digits, dots, dashes and underscores"),
]
StepName = Annotated[
    str, Pattern("a step's name", r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", "letters, digits, dots, dashes and underscores")
]
"""What is attested: a step of a workflow."""
HeaderName = Annotated[
    str, Pattern("a header name", r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", "a name such as X-Request-Tag")
]
Text = Annotated[str, Pattern("text of 1 to 1000 characters", r"[^\x00-\x1f\x7f]{1,1000}", "one line of text")]
"""One line that is not empty; goes into logs, labels and headers, so it holds no control characters."""
