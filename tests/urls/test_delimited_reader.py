"""CSV and TSV: quoting, headers, rejects, and rows that never end."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import Records, read_file, texts_of

from noveltyflow.config import InputSettings
from noveltyflow.errors import InputError
from noveltyflow.urls.lines import line_chunks
from noveltyflow.urls.readers.delimited import read_delimited


def read_bytes(data: bytes, settings: InputSettings | None = None, batch_records: int = 100) -> Records:
    settings = settings or InputSettings()
    batches = list(
        read_delimited(line_chunks([data], settings.max_line_bytes), settings, batch_records, "t.csv", ",")
    )
    texts = [row for b in batches for row in zip(b.ordinals.tolist(), b.lines.tolist(), b.texts, strict=True)]
    rejects = [(r.ordinal, r.line, r.reason) for b in batches for r in b.rejects]
    times = [time for b in batches if b.times is not None for time in b.times.tolist()]
    sums = [sum(getattr(b, name) for b in batches) for name in ("n_records", "n_blank", "n_lines")]
    return Records(texts, rejects, *sums, times)


CELLS = st.text(st.sampled_from('ab,"\n\r\té '), max_size=6)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=8), st.integers(1, 3))
def test_what_the_csv_module_writes_is_read_back(rows, batch_records):
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("label", "url"), *rows])
    data = text.getvalue().encode()
    found = read_bytes(data, batch_records=batch_records)
    stripped = [url.strip(" \t") for _, url in rows]
    controls = [any(c in url for c in "\n\r\t") for url in stripped]
    assert texts_of(found) == [u for u, bad in zip(stripped, controls, strict=True) if u and not bad]
    assert [o for o, _, _ in found.rejects] == [i for i, bad in enumerate(controls) if bad]
    assert found.n_records == len(rows)
    assert found.n_lines == data.count(b"\n")


@given(st.binary(max_size=300), st.integers(16, 60))
def test_any_bytes_after_the_header_are_accounted_for(data, limit):
    found = read_bytes(b"url,label\n" + data, InputSettings(max_line_bytes=limit))
    assert found.n_records == len(found.texts) + len(found.rejects) + found.n_blank
    assert found.n_lines == 1 + data.count(b"\n") + (not data.endswith(b"\n") and data != b"")


def test_each_reject_has_its_line_and_reason():
    data = (
        b"\xef\xbb\xbfurl,label,when\r\n"
        b'http://a/,"two\nlines",0\n'
        b"http://b/\n"
        b"\n"
        b" , ,\n"
        b"http://\xff/,x,0\n"
        b"http://c/,\xff,0\n"
        b"http://d/\x00,x,0\n"
        b"http://e/,x,never\n"
        b"http://f/,y,z,0\n"
        b'"http://g/"x,y,0\n'
        b"http://h\rx/,y,0\n"
        b"http://i/,y,0,,\n"
        b',y,0\n"http://j/,y,0'
    )
    found = read_bytes(data.removeprefix(b"\xef\xbb\xbf"), InputSettings(time_column="when"))
    assert found.texts == [(0, 2, "http://a/"), (5, 8, "http://c/"), (11, 14, "http://i/")]
    assert found.rejects == [
        (1, 4, "missing-field"),
        (4, 7, "encoding"),
        (6, 9, "control-character"),
        (7, 10, "bad-time"),
        (8, 11, "extra-field"),
        (9, 12, "bad-csv"),
        (10, 13, "control-character"),
        (13, 16, "bad-csv"),
    ]
    assert (found.n_blank, found.n_records, found.n_lines) == (3, 14, 16)


@pytest.mark.parametrize("limit", [64, 1 << 20])
@pytest.mark.parametrize("bad", [(0,), (999,), (3, 4, 700), tuple(range(100, 200))])
def test_a_quote_that_is_never_closed_costs_its_line_only(bad, limit):
    rows = [b"http://h/%d,x\n" % i for i in range(1000)]
    for number in bad:
        rows[number] = b'"' + rows[number]
    found = read_bytes(b"url,label\n" + b"".join(rows), InputSettings(max_line_bytes=limit))
    assert found.rejects == [(number, number + 2, "bad-csv") for number in bad]
    assert found.texts == [(i, i + 2, f"http://h/{i}") for i in range(1000) if i not in bad]
    assert (found.n_records, found.n_lines) == (1000, 1001)


def test_a_row_that_is_too_long_is_one_reject_and_reading_goes_on():
    long = b"http://long/" + b"x" * (3 << 20) + b",x\n"
    found = read_bytes(b"url,label\nhttp://a/,x\n" + long + b"http://b/,x\n")
    assert found.rejects == [(1, 3, "too-long")]
    assert texts_of(found) == ["http://a/", "http://b/"]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_limit_of_a_row_does_not_count_its_end(end):
    row = b"http://host/,xyz"
    assert len(read_bytes(b"url,label\n" + row + end, InputSettings(max_line_bytes=16)).texts) == 1
    assert len(read_bytes(b"url,label\n" + row + b"x" + end, InputSettings(max_line_bytes=16)).texts) == 0


def test_fields_beyond_the_csv_modules_own_limit_are_read():
    settings = InputSettings(max_line_bytes=1 << 20)
    assert len(read_bytes(b"url,label\nhttp://a/," + b"x" * 300_000, settings).texts) == 1


def test_a_header_alone_has_no_records(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf url ,label\n")
    found = read_file(path)
    assert (found.n_records, found.n_lines) == (0, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has no header"),
        (b"\n\n", "has no header"),
        (b"address,label\nhttp://a/,x\n", "missing column 'url'; there are: address, label.*--url-column"),
        (b"url,label\n", "missing column 'when'; there are: url, label.*--time-column"),
        (b'"url,label\n', "line 1 should be the header"),
        (b"x" * 100_000 + b"\n", "line 1 should be the header"),
    ],
)
def test_headers_that_cannot_be_used_are_refused_by_name(tmp_path, data, message):
    path = tmp_path / "bad.csv"
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"bad\.csv: .*{message}"):
        read_file(path, InputSettings(time_column="when"))
