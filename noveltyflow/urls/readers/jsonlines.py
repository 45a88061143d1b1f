"""JSON lines: one object a line, the URL in a field that a dotted path names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from noveltyflow.config import InputSettings
from noveltyflow.urls.batches import BatchBuilder, RecordBatch, check_text
from noveltyflow.urls.lines import Overlong, split_lines
from noveltyflow.urls.readers.columns import missing_column
from noveltyflow.urls.readers.times import parse_time

PROBED_RECORDS = 1000
"""Objects looked at before a field counts as missing from the input."""

_ABSENT = object()


def check_jsonlines(chunks: Iterable[bytes | Overlong], settings: InputSettings, source: str) -> None:
    """Raise `InputError` when none of the first objects has the URL field, or the time field set."""
    wanted = {settings.url_column: "--url-column"}
    if settings.time_column is not None:
        wanted.setdefault(settings.time_column, "--time-column")
    seen: dict[str, None] = {}
    for record in islice(_objects(chunks, settings.max_line_bytes), PROBED_RECORDS):
        wanted = {name: option for name, option in wanted.items() if find_field(record, name) is _ABSENT}
        if not wanted:
            return
        seen.update(dict.fromkeys(_field_names(record)))
    for name, option in wanted.items() if seen else ():
        raise missing_column(source, name, option, seen)


def _objects(chunks: Iterable[bytes | Overlong], limit: int) -> Iterator[dict[str, Any]]:
    for chunk in chunks:
        for raw in () if isinstance(chunk, Overlong) else split_lines(chunk):
            record = parse_object(raw) if len(raw) <= limit else None
            if record is not None:
                yield record


def _field_names(record: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in record.items():
        yield prefix + name
        if isinstance(value, dict) and not prefix:
            yield from _field_names(value, f"{name}.")


def parse_object(raw: bytes) -> dict[str, Any] | None:
    """Parse the JSON object on a line; None if there is none."""
    try:
        record = json.loads(raw.decode())
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def find_field(record: dict[str, Any], name: str) -> Any:
    """Value of the field called `name`, or else at the end of that dotted path; `_ABSENT` if neither."""
    if name in record:
        return record[name]
    value: Any = record
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            return _ABSENT
        value = value[key]
    return value


def read_jsonlines(
    chunks: Iterable[bytes | Overlong], settings: InputSettings, batch_records: int
) -> Iterator[RecordBatch]:
    """Batches of objects; see `noveltyflow.urls.readers.read_shard`."""
    builder = BatchBuilder(batch_records, timed=settings.time_column is not None)
    for chunk in chunks:
        for raw in [chunk] if isinstance(chunk, Overlong) else split_lines(chunk):
            if isinstance(raw, Overlong):
                builder.reject(builder.ordinal + 1, "too-long", raw.head)
            else:
                _read_line(raw, settings, builder)
            if builder.full:
                yield builder.take()
    if builder.n_records:
        yield builder.take()


def _read_line(raw: bytes, settings: InputSettings, builder: BatchBuilder) -> None:
    line = builder.ordinal + 1
    if len(raw) > settings.max_line_bytes:
        return builder.reject(line, "too-long", raw)
    if not raw.strip(b" \t"):
        return builder.blank()
    record = parse_object(raw)
    if record is None:
        return builder.reject(line, "bad-json" if _is_utf8(raw) else "encoding", raw)
    value = find_field(record, settings.url_column)
    if value is None:
        return builder.blank()
    if not isinstance(value, str):
        return builder.reject(line, "no-url", raw)
    text, reason = check_text(value)
    if reason is not None:
        return builder.reject(line, reason, value)
    if not text:
        return builder.blank()
    if settings.time_column is None:
        return builder.add(line, text)
    time = parse_time(find_field(record, settings.time_column))
    return builder.reject(line, "bad-time", raw) if time is None else builder.add(line, text, time)


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
