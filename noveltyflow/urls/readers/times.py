"""Times of records as microseconds since 1970-01-01 UTC."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", re.ASCII)

MIN_TIME = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
MAX_TIME = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
"""Years 1 to 9999; seconds beyond are milliseconds or worse given by mistake."""


def parse_time(value: object) -> int | None:
    """Microseconds since 1970-01-01 UTC, or None when `value` is no time.

    Parameters
    ----------
    value : object
        A number, or a text that holds one, is seconds since 1970 (so `20210809` is a day in 1970, not in
        2021). Any other text is ISO 8601, in UTC unless it carries an offset.
    """
    if isinstance(value, str):
        return _from_text(value.strip())
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return from_seconds(value)
    return None


def from_seconds(seconds: int | float) -> int | None:
    """Microseconds, rounded to the nearest; None outside the years 1 to 9999."""
    if isinstance(seconds, float):
        # The product of a huge finite float can overflow to infinity.
        scaled = seconds * 1e6
        if not math.isfinite(scaled):
            return None
        time = round(scaled)
    else:
        time = seconds * 1_000_000
    return time if MIN_TIME <= time <= MAX_TIME else None


def _from_text(text: str) -> int | None:
    try:
        # No number looks like the year of an ISO date, and the usual case should not pay for the pattern.
        if not (text[4:5] == "-" and text[:4].isdigit()) and _NUMBER.fullmatch(text):
            return from_seconds(int(text) if text.lstrip("+-").isdigit() else float(text))
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    since = moment - (_EPOCH if moment.tzinfo else _NAIVE_EPOCH)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
