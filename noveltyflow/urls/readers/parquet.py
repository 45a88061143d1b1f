"""Parquet, by row groups and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar

from noveltyflow.config import InputSettings
from noveltyflow.errors import InputError
from noveltyflow.urls.batches import BatchBuilder, RecordBatch, check_text
from noveltyflow.urls.lines import BLOCK_BYTES
from noveltyflow.urls.readers.columns import column_numbers
from noveltyflow.urls.readers.times import MAX_TIME, MIN_TIME, parse_time
from noveltyflow.urls.rejects import Reason
from noveltyflow.urls.streams import check_ratio

T = TypeVar("T")

_BATCH_ROWS = 8192
_MOST_REPEATED = 64 << 20
"""Bytes that a batch may have if every row is as long as the longest value of a row group's first dictionary."""
_FEW_ROWS = 64
_MOST_NUMBERED = 256 << 20
"""Bytes of a row group that may be read as a dictionary, where batches would otherwise have less than `_FEW_ROWS`."""


@contextmanager
def opened_parquet(raw: BinaryIO, source: str, dictionaries: Sequence[str] = ()) -> Iterator[Any]:
    """Open a `pyarrow.parquet.ParquetFile` whose errors, here and in the block, become `InputError`.

    Text columns among `dictionaries` are read as numbers of values, and these as often as they stand in the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # A buffered column is read as it is needed; by default a whole column chunk is held.
        with pq.ParquetFile(
            raw, read_dictionary=list(dictionaries), pre_buffer=False, buffer_size=BLOCK_BYTES
        ) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
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
    import pyarrow as pa

    with opened_parquet(raw, source) as file:
        schema = file.schema_arrow
        url, time = column_numbers(schema.names, settings, source)
        if not _is_text(schema.field(url).type):
            raise InputError(
                f"{source}: column {settings.url_column!r} holds {schema.field(url).type}, not text. "
                "Choose another with --url-column."
            )
        if time is not None and pa.types.is_nested(schema.field(time).type):
            raise InputError(
                f"{source}: column {settings.time_column!r} holds {schema.field(time).type}, not times. "
                "Choose another with --time-column."
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
    for part in _batches(raw, columns, min(batch_records, _BATCH_ROWS), source, groups):
        numbers = column_numbers(part.schema.names, settings, source)
        url, time = (None if number is None else part.column(number) for number in numbers)
        times = None if time is None else _times(time, settings.max_line_bytes)
        for i, value in enumerate(_texts(url, settings.max_line_bytes)):
            _add_row(builder, value, settings.max_line_bytes, times, i)
            if builder.full:
                yield builder.take()
    if builder.n_records:
        yield builder.take()


def _batches(
    raw: BinaryIO, columns: Sequence[str], rows: int, source: str, groups: tuple[int, int | None]
) -> Iterator[Any]:
    """Arrow's record batches of some row groups, with columns as dictionaries where these hold long values."""
    with opened_parquet(raw, source) as written_out, opened_parquet(raw, source, columns) as numbered:
        last = numbered.metadata.num_row_groups if groups[1] is None else groups[1]
        for group in range(groups[0], last):
            head = next(numbered.iter_batches(1, [group], columns), None)
            longest = max(map(_longest_value, head.columns if head is not None else ()), default=0)
            fitting = max(1, min(rows, _MOST_REPEATED // max(longest, 1)))
            # As a dictionary a column grows with its row group; in so few rows at a time it would take for ever.
            small = _bytes_in(numbered.metadata.row_group(group), columns) <= _MOST_NUMBERED
            file, at_once = (numbered, rows) if fitting < _FEW_ROWS and small else (written_out, fitting)
            yield from file.iter_batches(at_once, [group], columns)


def _bytes_in(group: Any, columns: Sequence[str]) -> int:
    """Bytes of some columns of a row group, when decompressed."""
    parts = (group.column(i) for i in range(group.num_columns))
    return sum(part.total_uncompressed_size for part in parts if part.path_in_schema in columns)


def _longest_value(column: Any) -> int:
    """Bytes of the longest value of a dictionary of texts; 0 for all other columns."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type) or not _is_text(column.type):
        return 0
    return int(pc.max(pc.binary_length(column.dictionary)).as_py() or 0)


def _texts(column: Any, limit: int) -> list[str | bytes | None]:
    """Values of a column; of one that is longer than `limit` no more than shows that it is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        return _each_once(column, lambda values: _texts(values, limit))
    if (pc.max(pc.binary_length(column)).as_py() or 0) > limit:
        column = pc.binary_slice(column.cast(pa.large_binary()), 0, limit + 1)
    texts: list[str | bytes | None]
    try:
        texts = column.to_pylist()
    except UnicodeDecodeError:
        # Arrow does not check that a text column holds UTF-8.
        texts = column.cast(pa.large_binary()).to_pylist()
    return texts


def _each_once(column: Any, convert: Callable[[Any], Sequence[T]]) -> list[T | None]:
    """What `convert` makes of a dictionary's values, for every row; a value is converted once a batch."""
    used = column.indices.drop_null().unique()
    converted = dict(zip(used.to_pylist(), convert(column.dictionary.take(used)), strict=True))
    return [converted.get(number) for number in column.indices.to_pylist()]


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


def _times(column: Any, limit: int) -> list[int | None]:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        return _each_once(column, lambda values: _times(values, limit))
    if _is_text(column.type):
        return [_time_in(text) for text in _texts(column, limit)]
    if pa.types.is_date32(column.type):
        return [_microseconds(days and days * 86_400, 1) for days in column.cast(pa.int32()).to_pylist()]
    if pa.types.is_date64(column.type):
        return [_microseconds(value, 10**3) for value in column.cast(pa.int64()).to_pylist()]
    if not pa.types.is_timestamp(column.type):
        return [parse_time(value) for value in column.to_pylist()]
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
    # Arrow keeps instants in UTC whatever the time zone; a column without one is UTC by our rule.
    return [_microseconds(value, per_second) for value in column.cast(pa.int64()).to_pylist()]


def _time_in(text: str | bytes | None) -> int | None:
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError:
            return None
    return parse_time(text)


def _microseconds(value: int | None, per_second: int) -> int | None:
    if value is None:
        return None
    time = value * 10**6 // per_second
    return time if MIN_TIME <= time <= MAX_TIME else None
