"""Text: one URL a line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from noveltyflow.config import InputSettings
from noveltyflow.errors import InputError
from noveltyflow.urls.batches import BatchBuilder, RecordBatch, check_text
from noveltyflow.urls.lines import Overlong, split_lines
from noveltyflow.urls.rejects import Reason

# What a block may hold to be taken without a look at each line.
_HARMLESS = bytes(byte for byte in range(256) if byte == 0x0A or (byte >= 0x20 and byte != 0x7F))
_C1 = re.compile(rb"\xc2[\x80-\x9f]")


def check_plain(settings: InputSettings, source: str) -> None:
    """Refuse a time column, which a list of lines cannot have."""
    if settings.time_column is not None:
        raise InputError(
            f"{source}: read as plain text, which has no column {settings.time_column!r}. "
            "Leave --time-column out, or say what the file is with --format."
        )


def read_plain(
    chunks: Iterable[bytes | Overlong], settings: InputSettings, batch_records: int
) -> Iterator[RecordBatch]:
    """Batches of lines; see `noveltyflow.urls.readers.read_shard`."""
    builder = BatchBuilder(batch_records)
    limit = settings.max_line_bytes
    for chunk in chunks:
        lines = None if isinstance(chunk, Overlong) else clean_lines(chunk, limit)
        if lines is None:
            yield from _read_each(chunk, limit, builder)
        else:
            yield from _read_all(lines, builder)
    if builder.n_records:
        yield builder.take()


def clean_lines(chunk: bytes, limit: int) -> list[str] | None:
    """Split and strip a chunk in which no line is a reject; None where each must be looked at."""
    suspects = chunk.translate(None, _HARMLESS)
    if suspects and not len(suspects) == suspects.count(b"\r") == chunk.count(b"\r\n"):
        return None
    if b"\xc2" in chunk and _C1.search(chunk):
        return None
    try:
        text = chunk.decode()
    except UnicodeDecodeError:
        return None
    if suspects:
        text = text.replace("\r\n", "\n")
    lines = text.removesuffix("\n").split("\n")
    # A character of UTF-8 takes at most four bytes.
    if max(map(len, lines)) * (1 if text.isascii() else 4) > limit:
        return None
    return [line.strip(" ") for line in lines] if " " in text else lines


def _read_all(lines: list[str], builder: BatchBuilder) -> Iterator[RecordBatch]:
    done = 0
    while done < len(lines):
        done += builder.add_lines(lines[done : done + builder.batch_records])
        if builder.full:
            yield builder.take()


def _read_each(chunk: bytes | Overlong, limit: int, builder: BatchBuilder) -> Iterator[RecordBatch]:
    for raw in [chunk] if isinstance(chunk, Overlong) else split_lines(chunk):
        line = builder.ordinal + 1
        if isinstance(raw, Overlong):
            builder.reject(line, "too-long", raw.head)
        else:
            text, reason = check_line(raw, limit)
            if reason is not None:
                builder.reject(line, reason, raw)
            elif text:
                builder.add(line, text)
            else:
                builder.blank()
        if builder.full:
            yield builder.take()


def check_line(raw: bytes, limit: int) -> tuple[str, Reason | None]:
    """Text of one line without its end, stripped, and what is wrong with it, if anything."""
    if len(raw) > limit:
        return "", "too-long"
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return "", "encoding"
    return check_text(text)
