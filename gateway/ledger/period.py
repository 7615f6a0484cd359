"""Spans of time, as the command line names them; all of it in UTC, to the microsecond."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FOREVER: Final = (1 << 63) - 1
_MICROSECOND: Final = timedelta(microseconds=1)
_MONTH: Final = re.compile(r"(\d{4})-(\d\d)")
_AGO: Final = re.compile(r"(\d{1,5})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, slots=True)
class Period:
    """From `start` (inclusive) to `end` (exclusive), epoch microseconds; `None` is open."""

    start: int | None = None
    end: int | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """Both ends as SQL compares them: `time >= ? AND time < ?`."""
        return (
            -_FOREVER if self.start is None else self.start,
            _FOREVER if self.end is None else self.end,
        )

    def __str__(self) -> str:
        """As a person reads it."""
        start = "the beginning" if self.start is None else _short(self.start)
        end = "now" if self.end is None else _short(self.end)
        return f"from {start} to {end} (UTC)"


def read_period(
    *,
    now: datetime,
    since: str | None = None,
    start: str | None = None,
    end: str | None = None,
    month: str | None = None,
) -> Period:
    """The period that `--since`, `--from`, `--to` and `--period` name together.

    Raises `ValueError` with a sentence for what is no time, for an empty span, and for options that
    say the same thing twice.
    """
    if month is not None:
        if since is not None or start is not None or end is not None:
            raise ValueError("--period stands alone: leave out --since, --from and --to")
        return _month(month)
    if since is not None and start is not None:
        raise ValueError("--since and --from both name the beginning: give one of them")
    first = _moment("--since", since, now) if since is not None else None
    if start is not None:
        first = _moment("--from", start, now)
    last = _moment("--to", end, now) if end is not None else None
    if first is not None and last is not None and last <= first:
        raise ValueError("--to is not after the beginning; it is exclusive, so name the day after the last one")
    return Period(first, last)


def rfc3339_of(microseconds: int) -> str:
    """Epoch microseconds as RFC 3339 in UTC, exact: `2026-11-20T10:00:00.000001Z`."""
    return (_EPOCH + timedelta(microseconds=microseconds)).isoformat(timespec="microseconds")[:26] + "Z"


def _month(text: str) -> Period:
    found = _MONTH.fullmatch(text)
    if found is None:
        raise ValueError(f"--period {text!r} is not a month such as 2026-11")
    year, month = int(found[1]), int(found[2])
    try:
        return Period(_micro(datetime(year, month, 1, tzinfo=UTC)), _micro(_next_month(year, month)))
    except ValueError:
        raise ValueError(f"--period {text!r} is not a month such as 2026-11") from None


def _next_month(year: int, month: int) -> datetime:
    return datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)


def _moment(option: str, text: str, now: datetime) -> int:
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            return _micro(now - timedelta(**{_UNITS[ago[2]]: int(ago[1])}))
        moment = datetime.fromisoformat(text)
        return _micro(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise ValueError(
            f"{option} {text!r} is neither a date such as 2026-11-01, nor a time such as 2026-11-01T08:00:00Z, "
            "nor an age such as 12h or 7d"
        ) from None


def _micro(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _short(microseconds: int) -> str:
    text = rfc3339_of(microseconds)
    return text[:10] if text.endswith("T00:00:00.000000Z") else text[:19] + "Z"
