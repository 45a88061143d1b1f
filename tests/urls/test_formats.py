"""Every format under every compression, whole, concatenated, damaged."""

from __future__ import annotations

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import COMPRESSORS, SUFFIXES, read_file, read_shards, texts_of

from noveltyflow.config import InputSettings
from noveltyflow.errors import InputError
from noveltyflow.urls.shards import plan_shards

URLS = ["http://a/1", 'http://b/é,"x"', "https://c/?q=1&r=2", "d/no-scheme"]
TIMES = [0, 1_000_000, -5_000_000, 1_628_467_258_000_000]
STAMPS = ["1970-01-01", "1", "1969-12-31T23:59:55Z", "2021-08-09 02:00:58+02:00"]
TIMED = InputSettings(time_column="when")


def delimited(delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
    writer.writerows([["label", "url", "when"], *(["x\ny", u, t] for u, t in zip(URLS, STAMPS, strict=True))])
    return text.getvalue().encode()


def jsonl() -> bytes:
    rows = [{"url": u, "when": t} for u, t in zip(URLS, STAMPS, strict=True)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


BYTES = {
    "text": "\n".join(URLS).encode(),
    "csv": delimited(","),
    "tsv": delimited("\t"),
    "jsonl": jsonl(),
}
FORMATS = sorted(BYTES)
PACKED = [name for name in COMPRESSORS if name]


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("named", [True, False])
def test_round_trip(tmp_path, kind, compression, named):
    suffix = f".{kind}{SUFFIXES[compression]}" if named else ""
    path = tmp_path / f"input{suffix}"
    path.write_bytes(COMPRESSORS[compression](BYTES[kind]))
    settings = InputSettings() if kind == "text" else TIMED
    [shard] = plan_shards([str(path)], settings)
    assert (shard.format, shard.compression) == (kind, compression)
    found = read_shards([shard], settings, batch_records=3)
    assert texts_of(found) == URLS
    assert found.times == (None if kind == "text" else TIMES)


@pytest.mark.parametrize("compression", PACKED)
def test_members_that_follow_each_other_are_one_input(tmp_path, compression):
    pack = COMPRESSORS[compression]
    path = tmp_path / "list"
    path.write_bytes(pack(b"http://a/\nhttp") + pack(b"") + pack(b"://b/\n") + pack(b"http://c/"))
    assert texts_of(read_file(path)) == ["http://a/", "http://b/", "http://c/"]


@pytest.mark.parametrize("compression", PACKED)
@pytest.mark.parametrize("damage", ["cut", "second", "flip"])
def test_damaged_data_are_refused_by_name(tmp_path, compression, damage):
    pack = COMPRESSORS[compression]
    data = pack("".join(f"http://host/{i * 7919}\n" for i in range(20_000)).encode())
    half = len(data) // 2
    damaged = {
        "cut": data[:-9],
        "second": data + data[:half],
        "flip": data[:half] + bytes(byte ^ 0x55 for byte in data[half : half + 64]) + data[half + 64 :],
    }
    path = tmp_path / "list.txt"
    path.write_bytes(damaged[damage])
    with pytest.raises(InputError, match=rf"list\.txt: {compression} data are truncated or damaged.*again"):
        read_file(path)


@pytest.mark.parametrize("compression", PACKED)
def test_what_follows_the_data_is_not_swallowed(tmp_path, compression):
    path = tmp_path / "list.txt"
    path.write_bytes(COMPRESSORS[compression](b"http://a/\n") + b"http://b/\n")
    with pytest.raises(InputError, match=r"list\.txt"):
        read_file(path)


def test_content_wins_over_a_suffix_that_lies(tmp_path):
    lying = tmp_path / "list.txt.gz"
    lying.write_bytes(b"http://a/\n")
    silent = tmp_path / "list.txt"
    silent.write_bytes(COMPRESSORS["zstd"](b"http://b/\n"))
    assert texts_of(read_file(lying)) == ["http://a/"]
    assert texts_of(read_file(silent)) == ["http://b/"]


def test_a_bomb_of_one_line_is_one_reject(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(COMPRESSORS["zstd"](b"x" * (40 << 20) + b"\nhttp://a/"))
    found = read_file(path)
    assert found.rejects == [(0, 1, "too-long")]
    assert texts_of(found) == ["http://a/"]


def write_parquet(path, url_type=None, **options) -> None:
    urls = pa.array([*URLS, None, " ", "a\x00b"], url_type or pa.string())
    times = pa.array([*TIMES, 0, 0, 0], pa.timestamp("us", tz="Europe/Berlin"))
    pq.write_table(pa.table({"label": urls, "url": urls, "when": times}), path, **options)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), "dictionary"])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_parquet_round_trip(tmp_path, kind, compression):
    path = tmp_path / "input"
    url_type = None if kind == "dictionary" else kind
    write_parquet(
        path, url_type, compression=compression, use_dictionary=kind == "dictionary", row_group_size=2
    )
    shards = plan_shards([str(path)], TIMED, shard_bytes=1)
    assert [(shard.start, shard.stop) for shard in shards] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    for each in (shards, plan_shards([str(path)], TIMED)):
        found = read_shards(each, TIMED, batch_records=3)
        assert texts_of(found) == URLS
        assert found.times == TIMES
        assert found.rejects == [(6, 7, "control-character")]
        assert (found.n_blank, found.n_lines) == (2, 7)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (pa.array([0, 1_628_467_258_123], pa.timestamp("ms")), [0, 1_628_467_258_123_000]),
        (pa.array([-1, 10**18 + 999], pa.timestamp("ns")), [-1, 10**15]),
        (pa.array([1, 2], pa.timestamp("s")), [10**6, 2 * 10**6]),
        (pa.array([1, 2], pa.date32()), [86_400 * 10**6, 2 * 86_400 * 10**6]),
        (pa.array([1, -2], pa.int64()), [10**6, -2 * 10**6]),
        (pa.array([0.5, 1.25], pa.float64()), [500_000, 1_250_000]),
        (pa.array([86_400_000, 0], pa.date64()), [86_400 * 10**6, 0]),
        (pa.array(["1970-01-02", "3"]), [86_400 * 10**6, 3 * 10**6]),
    ],
)
def test_parquet_times(tmp_path, times, expected):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"url": ["a", "b"], "when": times}), path)
    assert read_file(path, TIMED).times == expected


@pytest.mark.parametrize(
    "times", [pa.array([2**31 - 1, None], pa.date32()), pa.array([b"\xff", b"3x"]).view(pa.string())]
)
def test_parquet_times_that_are_none(tmp_path, times):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"url": ["a", "b"], "when": times}), path)
    assert [reason for _, _, reason in read_file(path, TIMED).rejects] == ["bad-time"] * 2


def test_parquet_columns_of_one_name_and_of_no_times(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table([pa.array(["a", "b"]), pa.array(["c", "d"])], ["url", "url"]), path)
    assert texts_of(read_file(path)) == ["a", "b"]
    pq.write_table(pa.table({"url": ["a"], "when": [[1, 2]]}), path)
    with pytest.raises(InputError, match=r"t\.parquet: column 'when' holds list.*--time-column"):
        plan_shards([str(path)], TIMED)


def test_parquet_rejects(tmp_path):
    path = tmp_path / "t.parquet"
    urls = pa.array([b"http://a/", b"\xff", b"x" * 30, "é".encode() * 9, b"http://b/"], pa.binary())
    times = pa.array([0, 0, 0, 0, None], pa.timestamp("us"))
    # A text column whose bytes were never checked, as other writers make them.
    pq.write_table(pa.table({"url": urls.view(pa.string()), "when": times}), path)
    found = read_file(path, InputSettings(time_column="when", max_line_bytes=16))
    assert [reason for _, _, reason in found.rejects] == ["encoding", "too-long", "too-long", "bad-time"]
    assert texts_of(found) == ["http://a/"]


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_a_truncated_parquet_file_is_refused_by_name(tmp_path, kept):
    path = tmp_path / "t.parquet"
    write_parquet(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"t\.parquet: truncated or damaged"):
        read_file(path)


def test_a_parquet_file_damaged_inside_is_refused_by_name(tmp_path):
    path = tmp_path / "t.parquet"
    write_parquet(path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[4:60] = bytes(56)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"t\.parquet: truncated or damaged"):
        read_file(path, InputSettings(url_column="label"))


def test_a_parquet_file_inside_gzip_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "t.parquet"
    write_parquet(path)
    path.write_bytes(COMPRESSORS["gzip"](path.read_bytes()))
    with pytest.raises(InputError, match="Decompress it"):
        read_file(path)


def test_a_parquet_column_of_numbers_is_no_url_column(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"url": [1, 2]}), path)
    with pytest.raises(InputError, match="'url' holds int64, not text"):
        read_file(path)
