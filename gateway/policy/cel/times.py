"""Moments and lengths of time: their texts (RFC 3339; `1h30m`), their ranges, the parts of a moment in a time zone."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from gateway.policy.cel.errors import CelError
from gateway.policy.cel.values import MAX_INT, MIN_INT, Duration, Timestamp

SECOND: Final = 1_000_000_000
_DAY: Final = 86_400
_FIRST: Final = -62_135_596_800 * SECOND  # 0001-01-01T00:00:00Z
_LAST: Final = 253_402_300_800 * SECOND - 1
_EPOCH: Final = date(1970, 1, 1).toordinal()
_CYCLE: Final = 146_097  # days of 400 years, after which the calendar repeats itself
_LONGEST: Final = 64  # characters of a text that can be a time
_MOMENT: Final = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)
_LENGTH: Final = re.compile(r"([+-]?)(0|(?:(?:\d+\.?\d*|\.\d+)(?:h|ms|m|s|us|ns))+)", re.ASCII)
_PART: Final = re.compile(r"(\d*)\.?(\d*)(h|ms|m|s|us|ns)", re.ASCII)
_UNITS: Final = {"h": 3600 * SECOND, "m": 60 * SECOND, "s": SECOND, "ms": 1_000_000, "us": 1000, "ns": 1}
_FIXED: Final = re.compile(r"([+-]?)(\d\d):([0-5]\d)", re.ASCII)


def moment(ns: int) -> Timestamp:
    """A timestamp, within the years 1 to 9999."""
    if _FIRST <= ns <= _LAST:
        return Timestamp(ns)
    raise CelError("the timestamp is out of range: the years 1 to 9999")


def length(ns: int) -> Duration:
    """A duration, within 64 bits of nanoseconds."""
    if MIN_INT <= ns <= MAX_INT:
        return Duration(ns)
    raise CelError("the duration is out of range: about 292 years")


def read_timestamp(text: str) -> Timestamp:
    """A timestamp from RFC 3339 text; digits beyond nanoseconds are cut."""
    found = _MOMENT.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise CelError("the text is no timestamp such as 2026-11-20T10:00:00Z")
    day, clock, fraction, sign, hours, minutes = found.groups()
    try:
        local = datetime.fromisoformat(f"{day}T{clock}+00:00")
        offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    except ValueError:
        raise CelError("the timestamp is out of range: there is no such day or time") from None
    if offset >= timedelta(days=1) or int(minutes or 0) > 59:  # noqa: PLR2004 # minutes
        raise CelError("the timestamp has an offset that no time zone has")
    seconds = (local - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    shift = offset // timedelta(seconds=1) * (-1 if sign == "-" else 1)
    return moment((seconds - shift) * SECOND + int((fraction or "0")[:9].ljust(9, "0")))


def read_duration(text: str) -> Duration:
    """A duration from text such as `1h30m`, `-1.5s` or `0`."""
    found = _LENGTH.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise CelError("the text is no duration such as 1h30m, 90s or 250ms")
    total = 0
    for whole, fraction, unit in _PART.findall(found[2]):
        total += int(whole or "0") * _UNITS[unit] + int(fraction or "0") * _UNITS[unit] // 10 ** len(fraction)
    return length(-total if found[1] == "-" else total)


def write_timestamp(value: Timestamp) -> str:
    """RFC 3339 in UTC."""
    seconds, nanos = divmod(value.ns, SECOND)
    days, rest = divmod(seconds, _DAY)
    day = date.fromordinal(days + _EPOCH)
    return f"{day.isoformat()}T{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}{_fraction(nanos)}Z"


def write_duration(value: Duration) -> str:
    """Seconds, such as `5400s` or `-0.250s`."""
    seconds, nanos = divmod(abs(value.ns), SECOND)
    return f"{'-' if value.ns < 0 else ''}{seconds}{_fraction(nanos)}s"


def _fraction(nanos: int) -> str:
    """Three, six or nine digits behind a point, as many as are needed."""
    digits = f"{nanos:09}"
    for kept in (0, 3, 6):
        if not digits[kept:].strip("0"):
            return f".{digits[:kept]}" if kept else ""
    return f".{digits}"


class Parts(NamedTuple):
    """A moment as a calendar and a clock show it, numbered as CEL does."""

    year: int
    month: int  # from 0
    day: int  # of the month, from 0
    weekday: int  # 0 is Sunday
    day_of_year: int  # from 0
    hours: int
    minutes: int
    seconds: int
    milliseconds: int


def parts(value: Timestamp, zone: str = "UTC") -> Parts:
    """The parts of a moment in a time zone: an IANA name, `UTC` or an offset such as `+02:00`."""
    seconds, nanos = divmod(value.ns, SECOND)
    days, rest = divmod(seconds + offset_of(zone)(seconds), _DAY)
    ordinal, cycles = days + _EPOCH, 0
    if not 1 <= ordinal <= date.max.toordinal():  # a zone may show the year 0 or 10000
        cycles = 1 if ordinal < 1 else -1
    day = date.fromordinal(ordinal + cycles * _CYCLE)
    return Parts(
        day.year - cycles * 400, day.month - 1, day.day - 1, day.isoweekday() % 7, day.timetuple().tm_yday - 1,
        rest // 3600, rest // 60 % 60, rest % 60, nanos // 1_000_000,
    )  # fmt: skip


@functools.lru_cache(256)
def offset_of(zone: str) -> Callable[[int], int]:
    """How many seconds a zone is ahead of UTC at an epoch time; raises `CelError` for an unknown one."""
    if zone == "UTC":
        return lambda _: 0
    if fixed := _FIXED.fullmatch(zone):
        ahead = (int(fixed[2]) * 3600 + int(fixed[3]) * 60) * (-1 if fixed[1] == "-" else 1)
        if abs(ahead) < _DAY:
            return lambda _: ahead
    try:
        rules = ZoneInfo(zone)  # which never looks outside of the time zone data
    except (OSError, ValueError, LookupError):
        raise CelError("the time zone is not known here, where names are as Europe/Berlin or +02:00") from None
    return functools.partial(_ahead, rules)


def _ahead(rules: ZoneInfo, seconds: int) -> int:
    edge = 2 * _DAY  # Python's calendar ends where a zone's offset would leave it
    inside = min(max(seconds, _FIRST // SECOND + edge), _LAST // SECOND - edge)
    offset = datetime.fromtimestamp(inside, rules).utcoffset()
    return int(offset.total_seconds()) if offset is not None else 0
