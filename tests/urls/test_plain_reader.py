"""Text: every line is a record, a reject or blank, however the input is cut."""

from __future__ import annotations

import io
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import Records, read_file, read_shards

from noveltyflow.config import InputSettings
from noveltyflow.testing.strategies import hostile_inputs
from noveltyflow.urls import lines as lines_module
from noveltyflow.urls.lines import BOM, Overlong, line_chunks, line_range
from noveltyflow.urls.readers.plain import read_plain
from noveltyflow.urls.shards import Shard, plan_shards

LIMIT = 40
SETTINGS = InputSettings(max_line_bytes=LIMIT)


def naive_records(data: bytes) -> Records:
    """One line after another, as the documentation says it."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    texts, rejects, blank = [], [], 0
    for i, raw in enumerate(line.removesuffix(b"\r") for line in lines):
        text = raw.decode("utf-8", "replace").strip(" \t")
        if len(raw) > LIMIT:
            rejects.append((i, i + 1, "too-long"))
        elif raw.decode("utf-8", "ignore").encode() != raw:
            rejects.append((i, i + 1, "encoding"))
        elif re.search("[\x00-\x1f\x7f-\x9f]", text):
            rejects.append((i, i + 1, "control-character"))
        elif text:
            texts.append((i, i + 1, text))
        else:
            blank += 1
    return Records(texts, rejects, len(lines), blank, len(lines), None)


def read_blocks(blocks: list[bytes], batch_records: int = 65_536) -> Records:
    texts, rejects, records, blank = [], [], 0, 0
    for batch in read_plain(line_chunks(blocks, LIMIT), SETTINGS, batch_records):
        assert batch.n_records <= batch_records
        texts += zip(batch.ordinals.tolist(), batch.lines.tolist(), batch.texts, strict=True)
        rejects += [(r.ordinal, r.line, r.reason) for r in batch.rejects]
        records, blank = records + batch.n_records, blank + batch.n_blank
    return Records(texts, rejects, records, blank, records, None)


def cut(data: bytes, positions: list[int]) -> list[bytes]:
    ends = sorted({0, len(data), *(p % (len(data) + 1) for p in positions)})
    return [data[a:b] for a, b in pairwise(ends)]


@given(hostile_inputs(), st.lists(st.integers(0, 10_000), max_size=6), st.integers(1, 5))
def test_any_blocks_and_batches_give_the_naive_records(data, positions, batch_records):
    assert read_blocks(cut(data, positions), batch_records) == naive_records(data)


@given(hostile_inputs(), st.lists(st.integers(0, 10_000), max_size=6), st.integers(1, 9))
def test_byte_ranges_tile_exactly(tmp_path_factory, data, positions, block_bytes):
    path = tmp_path_factory.mktemp("ranges") / "list.txt"
    path.write_bytes(data)
    [whole] = plan_shards([str(path)], InputSettings(format="text", max_line_bytes=LIMIT))
    pieces = cut(data, positions)
    ends = [sum(map(len, pieces[:i])) for i in range(len(pieces) + 1)]
    shards = [
        Shard(whole.source, whole.path, "text", None, a, b, b - a, whole.identity) for a, b in pairwise(ends)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "BLOCK_BYTES", block_bytes)
        found = read_shards(shards, SETTINGS)
    assert found == naive_records(data.removeprefix(BOM))


def test_planned_ranges_give_the_records_of_the_whole(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"".join(b"http://h/%d\r\n" % i for i in range(1000)) + b"\n\x00\nlast")
    shards = plan_shards([str(path)], SETTINGS, shard_bytes=777)
    assert len(shards) > 10
    assert sum(shard.size for shard in shards) == path.stat().st_size
    assert read_shards(shards, SETTINGS, 13) == read_file(path, SETTINGS)
    assert read_file(path, SETTINGS).n_records == 1003


def test_a_range_inside_an_endless_line_reads_no_further_than_its_end():
    raw = io.BytesIO(b"x" * (8 << 20))
    assert list(line_range(raw, 1000, 2000)) == []
    assert raw.tell() <= 2000 + lines_module.BLOCK_BYTES


def test_an_endless_line_is_one_reject_and_is_not_held():
    blocks = (b"x" * 1000 for _ in range(5000))
    chunks = list(line_chunks(blocks, LIMIT))
    assert len(chunks) == 1
    assert isinstance(chunks[0], Overlong)
    assert len(chunks[0].head) <= 1000


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_limit_counts_bytes_without_the_line_end(tmp_path, extra, end):
    path = tmp_path / "list.txt"
    path.write_bytes("é".encode() * (LIMIT // 2) + b"a" * extra + end)
    found = read_file(path, SETTINGS)
    assert [len(found.texts), len(found.rejects)] == [1 - extra, extra]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(BOM + b"http://a/\n" + BOM + b"http://b/\n")
    assert read_file(path).texts == [(0, 1, "http://a/"), (1, 2, "\ufeffhttp://b/")]


def test_an_empty_file_has_no_records(tmp_path):
    path = tmp_path / "list.txt"
    path.touch()
    assert read_file(path) == Records([], [], 0, 0, 0, None)


def test_long_texts_close_a_batch_early(tmp_path, monkeypatch):
    monkeypatch.setattr("noveltyflow.urls.batches.BATCH_CHARACTERS", 100)
    blocks = [b"x" * 30 + b"\n"] * 20
    assert [b.n_records for b in read_plain(line_chunks(blocks, LIMIT), SETTINGS, 1000)] == [4] * 5


@pytest.mark.parametrize("character", list("\x00\x01\t\r\x1b\x1f\x7f\x80\x85\x9f"))
def test_one_control_character_spoils_its_line_alone(character):
    found = read_blocks([f"http://a/\nhttp://x{character}y/\nhttp://b/\n".encode()])
    assert found == Records(
        [(0, 1, "http://a/"), (2, 3, "http://b/")], [(1, 2, "control-character")], 3, 0, 3, None
    )


@pytest.mark.parametrize("character", list("é\u00a0¿\u2028中"))
def test_characters_beyond_ascii_spoil_nothing(character):
    assert read_blocks([f" http://{character}/\r\n".encode()]).texts == [(0, 1, f"http://{character}/")]


def test_a_line_of_just_the_limit_may_be_cut_before_its_line_feed():
    assert read_blocks([b"x" * LIMIT + b"\r", b"\n"]).texts == [(0, 1, "x" * LIMIT)]
