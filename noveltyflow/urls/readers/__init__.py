"""Reading shards: one module for each format, one function for all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from noveltyflow.config import InputSettings
from noveltyflow.urls.batches import RecordBatch
from noveltyflow.urls.lines import Overlong, line_chunks, line_range, without_bom
from noveltyflow.urls.readers.delimited import check_delimited, read_delimited
from noveltyflow.urls.readers.jsonlines import check_jsonlines, read_jsonlines
from noveltyflow.urls.readers.parquet import check_parquet, read_parquet
from noveltyflow.urls.readers.plain import check_plain, read_plain
from noveltyflow.urls.streams import decompressed, guarded, opened

if TYPE_CHECKING:
    from noveltyflow.urls.shards import Shard

__all__ = ["RecordBatch", "check_columns", "read_shard"]

_DELIMITERS = {"csv": ",", "tsv": "\t"}


def read_shard(
    shard: Shard, settings: InputSettings, *, batch_records: int = 65_536
) -> Iterator[RecordBatch]:
    """Read a shard in bounded memory, whatever its compression and however long its lines.

    Every record is accounted for: it is in `texts`, in `rejects`, or counted as blank. A shard without
    records yields no batch, or one without records where a header was read.

    Parameters
    ----------
    shard : Shard
        What to read.
    settings : InputSettings
        Columns and the longest accepted record; the format is the shard's.
    batch_records : int
        Most records in a batch; a batch of long texts is closed earlier.

    Yields
    ------
    RecordBatch
        Consecutive records in input order.

    Raises
    ------
    InputError
        When the input has changed since it was planned, is damaged or truncated, or lacks a column.
    """
    with opened(shard.source, shard.path, shard.identity) as raw:
        if shard.format == "parquet":
            groups = (shard.start, shard.stop)
            yield from read_parquet(raw, settings, batch_records, shard.source, groups)
            return
        chunks = _chunks(raw, shard, settings)
        if shard.format == "text":
            yield from read_plain(chunks, settings, batch_records)
        elif shard.format == "jsonl":
            yield from read_jsonlines(chunks, settings, batch_records)
        else:
            delimiter = _DELIMITERS[shard.format]
            yield from read_delimited(chunks, settings, batch_records, shard.source, delimiter)


def check_columns(shard: Shard, settings: InputSettings) -> list[int]:
    """Check from its first bytes (Parquet: its schema) that an input has the columns the settings name.

    Returns
    -------
    list of int
        Stored bytes of each row group for Parquet, else empty.

    Raises
    ------
    InputError
        When it has not, naming the columns there are, or when it is damaged.
    """
    if shard.format == "text":
        check_plain(settings, shard.source)
        return []
    with opened(shard.source, shard.path, shard.identity) as raw:
        if shard.format == "parquet":
            return check_parquet(raw, settings, shard.source)
        chunks = _chunks(raw, shard, settings)
        if shard.format == "jsonl":
            check_jsonlines(chunks, settings, shard.source)
        else:
            check_delimited(chunks, settings, shard.source, _DELIMITERS[shard.format])
    return []


def _chunks(raw: BinaryIO, shard: Shard, settings: InputSettings) -> Iterator[bytes | Overlong]:
    if shard.compression is None:
        blocks = guarded(line_range(raw, shard.start, shard.stop), shard.source)
    else:
        blocks = decompressed(raw, shard.compression, shard.source, settings.max_ratio)
    if shard.start == 0:
        blocks = without_bom(blocks)
    return line_chunks(blocks, settings.max_line_bytes)
