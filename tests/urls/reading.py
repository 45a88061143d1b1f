"""What the tests of the readers share."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import zstandard

from noveltyflow.config import InputSettings
from noveltyflow.urls.readers import read_shard
from noveltyflow.urls.shards import Shard, plan_shards


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


COMPRESSORS: dict[str | None, Callable[[bytes], bytes]] = {
    None: bytes,
    "gzip": gzip.compress,
    "zstd": zstd,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}
SUFFIXES = {None: "", "gzip": ".gz", "zstd": ".zst", "bz2": ".bz2", "xz": ".xz"}


class Records(NamedTuple):
    texts: list[tuple[int, int, str]]
    """(ordinal, line, text)"""
    rejects: list[tuple[int, int, str]]
    """(ordinal, line, reason)"""
    n_records: int
    n_blank: int
    n_lines: int
    times: list[int] | None


def read_shards(shards: Iterable[Shard], settings: InputSettings, batch_records: int = 65_536) -> Records:
    """Everything in the shards, numbered over all of them, with the accounts checked on the way."""
    texts, rejects, times = [], [], []
    records = blank = lines = 0
    for shard in shards:
        first_record, first_line = records, lines
        for batch in read_shard(shard, settings, batch_records=batch_records):
            assert batch.n_records == len(batch.texts) + len(batch.rejects) + batch.n_blank
            assert batch.n_records <= batch_records
            assert len(batch.texts) == len(batch.ordinals) == len(batch.lines)
            numbered = zip(batch.ordinals.tolist(), batch.lines.tolist(), batch.texts, strict=True)
            texts += [(o + first_record, n + first_line, text) for o, n, text in numbered]
            rejects += [(r.ordinal + first_record, r.line + first_line, r.reason) for r in batch.rejects]
            if batch.times is not None:
                assert len(batch.times) == len(batch.texts)
                times += batch.times.tolist()
            records, blank, lines = records + batch.n_records, blank + batch.n_blank, lines + batch.n_lines
    return Records(texts, rejects, records, blank, lines, times if settings.time_column else None)


def read_file(path: Path, settings: InputSettings | None = None, batch_records: int = 65_536) -> Records:
    settings = settings or InputSettings()
    return read_shards(plan_shards([str(path)], settings), settings, batch_records)


def texts_of(records: Records) -> list[str]:
    return [text for _, _, text in records.texts]
