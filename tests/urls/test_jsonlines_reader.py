"""JSON lines: dotted fields, rejects, and fields that are not there."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import read_file, read_shards, texts_of

from noveltyflow.config import InputSettings
from noveltyflow.errors import InputError
from noveltyflow.testing.strategies import hostile_texts
from noveltyflow.urls.shards import plan_shards


def write(tmp_path, data: bytes, name: str = "t.jsonl"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_each_record_is_accounted_for(tmp_path):
    lines = [
        b'{"url": "http://a/", "when": 1}',
        b'{"url": "http://b/", "when": "2021-08-09"}',
        b"",
        b'{"url": null, "when": 1}',
        b'{"url": " ", "when": 1}',
        b'{"url": "http://c/"}',
        b'{"url": "http://c/", "when": true}',
        b'{"link": "http://c/", "when": 1}',
        b'{"url": 7, "when": 1}',
        b'{"url": "http://c/", ',
        b'["http://c/"]',
        b'{"url": "http://\xff/"}',
        b'{"url": "http://\\ud800/"}',
        b'{"url": "http://c/\\u0000"}',
        b'{"url": "' + b"x" * 100 + b'"}',
        b"[" * 50_000,
        b'{"url": "x", "when": ' + b"9" * 60 + b"}",
    ]
    settings = InputSettings(time_column="when", max_line_bytes=100)
    found = read_file(write(tmp_path, b"\xef\xbb\xbf" + b"\r\n".join(lines)), settings)
    assert found.texts == [(0, 1, "http://a/"), (1, 2, "http://b/")]
    assert found.times == [1_000_000, 1_628_467_200_000_000]
    reasons = "bad-time bad-time no-url no-url bad-json bad-json encoding encoding control-character"
    expected = [*reasons.split(), "too-long", "too-long", "bad-time"]
    assert found.rejects == [(i, i + 1, reason) for i, reason in enumerate(expected, start=5)]
    assert (found.n_blank, found.n_records, found.n_lines) == (3, 17, 17)


def test_nesting_without_end_is_bad_json(tmp_path):
    found = read_file(write(tmp_path, b'{"url": "a"}\n' + b'{"a":' * 10_000))
    assert found.rejects == [(1, 2, "bad-json")]


def test_dotted_fields(tmp_path):
    path = write(tmp_path, b'{"a": {"b": "http://x/"}}\n{"a.b": "http://y/", "a": 3}\n{"a": 3}\n')
    found = read_file(path, InputSettings(url_column="a.b"))
    assert texts_of(found) == ["http://x/", "http://y/"]
    assert found.rejects == [(2, 3, "no-url")]


@given(st.lists(hostile_texts(), min_size=1, max_size=10), st.integers(1, 200))
def test_ranges_and_escapes(tmp_path_factory, texts, shard_bytes):
    data = "".join(json.dumps({"url": text}) + "\n" for text in texts).encode()
    path = write(tmp_path_factory.mktemp("json"), data)
    found = read_shards(plan_shards([str(path)], InputSettings(), shard_bytes=shard_bytes), InputSettings())
    assert found == read_file(path)
    assert found.n_records == len(texts)


@pytest.mark.parametrize("count", [1, 1000, 1500])
def test_a_field_that_no_object_has_is_refused_by_name(tmp_path, count):
    path = write(tmp_path, b'not json\n{"link": "http://a/", "meta": {"id": 1}}\n' * count)
    with pytest.raises(
        InputError, match=r"t\.jsonl: missing column 'url'; there are: link, meta, meta\.id\."
    ):
        read_file(path)


def test_a_time_field_that_no_object_has_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"missing column .when.; there are: url.*--time-column"):
        read_file(write(tmp_path, b'{"url": "a"}\n'), InputSettings(time_column="when"))


def test_a_field_that_comes_late_is_found(tmp_path):
    found = read_file(write(tmp_path, b'{"link": 1}\n' * 999 + b'{"url": "http://a/"}\n'))
    assert len(found.rejects) == 999
    assert texts_of(found) == ["http://a/"]


@pytest.mark.parametrize("data", [b'[{"url": "http://a/"}]', b"[\n{}\n]", b'{\n"url": "http://a/"\n}'])
def test_a_single_document_is_refused_with_the_remedy(tmp_path, data):
    with pytest.raises(InputError, match=r"t\.json: is one JSON document.*jq"):
        read_file(write(tmp_path, data, "t.json"))
