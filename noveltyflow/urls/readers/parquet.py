"""Parquet, by row groups and batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from noveltyflow.config import InputSettings
from noveltyflow.errors import InputError
from noveltyflow.urls.batches import BatchBuilder, RecordBatch, check_text
from noveltyflow.urls.lines import BLOCK_BYTES
from noveltyflow.urls.readers.columns import column_numbers
from noveltyflow.urls.readers.times import MAX_TIME, MIN_TIME, parse_time
from noveltyflow.urls.rejects import Reason
from noveltyflow.urls.streams import check_ratio


@contextmanager
def opened_parquet(raw: BinaryIO, source: str) -> Iterator[Any]:
    """Open a `pyarrow.parquet.ParquetFile` whose errors, here and in the block, become `InputError`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # A buffered column is read as it is needed; by default a whole column chunk is held.
        with pq.ParquetFile(raw, pre_buffer=False, buffer_size=BLOCK_BYTES) as file:
            yield file
    except (pa.ArrowException, OSError) as exc:
        detail = (str(exc).splitlines() or [type(exc).__name__])[0][:300]
        raise InputError(
            f"{source}: truncated or damaged, or not Parquet at all ({detail}). "
            "Make or fetch it again, or say what it is with --format."
        ) from exc


def check_parquet(raw: BinaryIO, settings: InputSettings, source: str) -> list[int]:
    """Check the columns by the schema alone.

    Returns
    -------
    list of int
        Stored bytes of each row group.

    Raises
    ------
    InputError
        When the file is damaged, lacks a column, holds no text in the URL column, or says that this is more than
        `max_ratio` times as large when decompressed; Arrow holds a page of it whole.
    """
    with opened_parquet(raw, source) as file:
        schema = file.schema_arrow
        url, _ = column_numbers(schema.names, settings, source)
        if not _is_text(schema.field(url).type):
            raise InputError(
                f"{source}: column {settings.url_column!r} holds {schema.field(url).type}, not text. "
                "Choose another with --url-column."
            )
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        for column in (group.column(i) for group in groups for i in range(group.num_columns)):
            if column.path_in_schema in (settings.url_column, settings.time_column):
                check_ratio(
                    column.total_compressed_size, column.total_uncompressed_size, source, settings.max_ratio
                )
        return [_stored_bytes(group) for group in groups]


def _stored_bytes(group: Any) -> int:
    return sum(group.column(i).total_compressed_size for i in range(group.num_columns))


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    tests = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    return any(test(kind) for test in tests)


def read_parquet(
    raw: BinaryIO, settings: InputSettings, batch_records: int, source: str, groups: tuple[int, int | None]
) -> Iterator[RecordBatch]:
    """Batches of rows of the row groups `[groups[0], groups[1])`; see `read_shard`."""
    columns = [settings.url_column] + ([settings.time_column] if settings.time_column else [])
    builder = BatchBuilder(batch_records, timed=settings.time_column is not None)
    with opened_parquet(raw, source) as file:
        last = file.metadata.num_row_groups if groups[1] is None else groups[1]
        # Few rows at a time: each may hold a text of any length until it has been looked at.
        parts = file.iter_batches(min(batch_records, 8192), list(range(groups[0], last)), columns)
        for part in parts:
            times = None if settings.time_column is None else _times(part.column(settings.time_column))
            for i, value in enumerate(_texts(part.column(settings.url_column), settings.max_line_bytes)):
                _add_row(builder, value, settings.max_line_bytes, times, i)
                if builder.full:
                    yield builder.take()
    if builder.n_records:
        yield builder.take()


def _texts(column: Any, limit: int) -> list[str | bytes | None]:
    """Values of a column; of one that is longer than `limit` no more than shows that it is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        # Each value once, however many rows have it.
        values = _texts(column.dictionary, limit)
        return [None if number is None else values[number] for number in column.indices.to_pylist()]
    if (pc.max(pc.binary_length(column)).as_py() or 0) > limit:
        column = pc.binary_slice(column.cast(pa.large_binary()), 0, limit + 1)
    texts: list[str | bytes | None]
    try:
        texts = column.to_pylist()
    except UnicodeDecodeError:
        # Arrow does not check that a text column holds UTF-8.
        texts = column.cast(pa.large_binary()).to_pylist()
    return texts


def _add_row(
    builder: BatchBuilder, value: str | bytes | None, limit: int, times: list[int | None] | None, i: int
) -> None:
    line = builder.ordinal + 1
    text, reason = _check_value(value, limit)
    if reason is not None:
        return builder.reject(line, reason, value or "")
    if not text:
        return builder.blank()
    if times is None:
        return builder.add(line, text)
    time = times[i]
    return builder.reject(line, "bad-time", text) if time is None else builder.add(line, text, time)


def _check_value(value: str | bytes | None, limit: int) -> tuple[str, Reason | None]:
    if value is None:
        return "", None
    if len(value) > limit or (
        len(value) * 4 > limit and isinstance(value, str) and len(value.encode()) > limit
    ):
        return "", "too-long"
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return "", "encoding"
    return check_text(value)


def _times(column: Any) -> list[int | None]:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    if not pa.types.is_timestamp(column.type):
        return [parse_time(value) for value in column.to_pylist()]
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
    # Arrow keeps instants in UTC whatever the time zone; a column without one is UTC by our rule.
    return [_microseconds(value, per_second) for value in column.cast(pa.int64()).to_pylist()]


def _microseconds(value: int | None, per_second: int) -> int | None:
    if value is None:
        return None
    time = value * 10**6 // per_second
    return time if MIN_TIME <= time <= MAX_TIME else None
