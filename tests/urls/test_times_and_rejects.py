"""Times of records, and texts that are safe to show."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st

from noveltyflow.testing.strategies import hostile_lines, hostile_texts
from noveltyflow.urls.readers.times import MAX_TIME, MIN_TIME, parse_time
from noveltyflow.urls.rejects import MAX_TEXT, REASONS, make_reject, safe_text

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1970-01-01", 0),
        ("2021-08-09 00:00:58", 1_628_467_258_000_000),
        ("2021-08-09T02:00:58+02:00", 1_628_467_258_000_000),
        ("2021-08-09T00:00:58.5Z", 1_628_467_258_500_000),
        (" 1628467258 ", 1_628_467_258_000_000),
        ("1628467258.25", 1_628_467_258_250_000),
        ("1.5e3", 1_500_000_000),
        ("-1", -1_000_000),
        ("20210809", 20_210_809_000_000),
        (0.5, 500_000),
        (7, 7_000_000),
        ("1.2e-5", 12),
    ],
)
def test_times(value, expected):
    assert parse_time(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        *("", "never", "2021-13-01", "1_000", "nan", "inf", "1e400", "9" * 5000, "1628467258000", "२"),
        *(None, True, [], {}, float("nan"), float("inf"), 10**30, -1e300),
    ],
)
def test_what_is_no_time(value):
    assert parse_time(value) is None


@given(
    st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC)),
    st.sampled_from([" ", "T"]),
    st.integers(-23, 23),
)
def test_iso_times_round_trip(moment, separator, hours):
    shifted = moment.astimezone(timezone(timedelta(hours=hours)))
    assert parse_time(shifted.isoformat(separator)) == (moment - EPOCH) // timedelta(microseconds=1)


@given(st.one_of(st.integers(), st.floats(), st.text(max_size=20)))
def test_a_time_lies_in_the_years_that_dates_can_have(value):
    time = parse_time(value)
    assert time is None or MIN_TIME - 86_400 * 10**6 <= time <= MAX_TIME + 86_400 * 10**6


@given(st.one_of(hostile_texts(), hostile_lines(), st.text(), st.binary()))
def test_the_text_of_a_reject_is_short_and_printable(raw):
    text = safe_text(raw)
    assert len(text) <= MAX_TEXT
    assert text.isprintable()
    text.encode()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"a\xffb\x00", "a\\xffb\\x00"),
        ("\x1b[31m\u202e\ud800\n", "\\x1b[31m\\u202e\\ud800\\n"),
        ("plain é", "plain é"),
        (b"x" * 1000, "x" * MAX_TEXT),
        ("\x00" * 1000, ("\\x00" * MAX_TEXT)[:MAX_TEXT]),
    ],
)
def test_safe_text(raw, expected):
    assert safe_text(raw) == expected


def test_the_readme_tells_every_reason():
    table = (ROOT / "README.md").read_text().partition("| reason | what is wrong |")[2].partition("\n## ")[0]
    told = [
        name for row in table.splitlines() for name in re.findall("`(.*?)`", "".join(row.split("|")[1:2]))
    ]
    assert told == list(REASONS)


def test_every_reason_is_one_sentence():
    for reason, sentence in REASONS.items():
        assert make_reject(0, 1, reason, b"").reason == reason
        assert sentence.endswith(".")
        assert sentence.count(". ") == 0
