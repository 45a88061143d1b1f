"""CSV and TSV with a header (RFC 4180; tab-separated values may be quoted in the same way)."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from noveltyflow.config import InputSettings
from noveltyflow.errors import InputError
from noveltyflow.urls.batches import BatchBuilder, RecordBatch, check_text
from noveltyflow.urls.lines import Overlong
from noveltyflow.urls.readers.columns import column_numbers
from noveltyflow.urls.readers.times import parse_time
from noveltyflow.urls.rejects import Reason

Row: TypeAlias = "list[str] | Reason"


class _RecordTooLongError(Exception):
    """The record being read passed the limit; what was read of it is gone."""


class Lines:
    """Physical lines with their ends, as the csv parser wants them, counted and in bounded memory.

    Parameters
    ----------
    chunks : iterable of bytes or Overlong
        From `line_chunks`. Undecodable bytes become lone surrogates, so that they spoil only their field.
    limit : int
        Longest row, in bytes.
    """

    def __init__(self, chunks: Iterable[bytes | Overlong], limit: int) -> None:
        self.limit = limit
        self.consumed = 0
        """Physical lines consumed."""
        self.head = ""
        """First line of the current row, as it was read."""
        self._row_bytes = 0
        self._row: list[str | Overlong] = []
        self._given_back: deque[str | Overlong] = deque()
        self._lines = _physical_lines(chunks)

    def begin_row(self) -> None:
        """Start counting the bytes of a row."""
        self.head, self._row_bytes, self._row = "", 0, []

    def give_back(self) -> int:
        """Let the row have been its first line only: the others, whose number is returned, are read once more."""
        others = self._row[1:]
        self._given_back.extendleft(reversed(others))
        self.consumed -= len(others)
        return len(others)

    # A generator would be dead after its first exception; this goes on with the next line.
    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self._given_back.popleft() if self._given_back else next(self._lines)
        self._row.append(line)
        self.consumed += 1
        text = line.head.decode("utf-8", "surrogateescape") if isinstance(line, Overlong) else line
        self.head = self.head or text
        self._row_bytes += len(text) if text.isascii() else len(_raw(text))
        if self._row_bytes > self.limit and self._row_bytes - _end_bytes(text) > self.limit:
            raise _RecordTooLongError
        if isinstance(line, Overlong):
            raise _RecordTooLongError
        return text


def _end_bytes(text: str) -> int:
    return len(text) - len(text.removesuffix("\n").removesuffix("\r"))


def parse_rows(lines: Lines, delimiter: str) -> Iterator[tuple[int, Row]]:
    """Yield the physical line on which a row starts, and its fields or the reason why it has none.

    A quote that is opened by mistake makes one row of any number of lines, which in the end is too long or no row. So
    only the first line of what cannot be a row is given up, and reading goes on with the next one.
    """
    # The limit of the csv module is one for the whole process; only raising it disturbs nobody.
    csv.field_size_limit(max(csv.field_size_limit(), lines.limit + 1))
    parser = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        start = lines.consumed + 1
        lines.begin_row()
        row: Row
        try:
            row = next(parser)
        except StopIteration:
            return
        except _RecordTooLongError:
            row = "too-long" if lines.give_back() == 0 else "bad-csv"
        except csv.Error:
            # A lone \r is the one thing outside quotes that the parser refuses.
            row = "control-character" if "\r" in lines.head.rstrip("\r\n") else "bad-csv"
            lines.give_back()
        yield start, row


def _physical_lines(chunks: Iterable[bytes | Overlong]) -> Iterator[str | Overlong]:
    for chunk in chunks:
        if isinstance(chunk, Overlong):
            yield chunk
        else:
            yield from io.StringIO(chunk.decode("utf-8", "surrogateescape"), newline="\n")


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def read_header(rows: Iterator[tuple[int, Row]], source: str) -> list[str]:
    """Names of the columns: the first row that is not blank, stripped.

    Raises
    ------
    InputError
        When there is none, or it cannot be parsed.
    """
    for line, row in rows:
        if isinstance(row, str):
            raise InputError(
                f"{source}: line {line} should be the header, but is not one ({row}). Repair it."
            )
        names = [name.strip() for name in row]
        if any(names):
            return names
    raise InputError(f"{source}: has no header. Give it one, or say what the file is with --format.")


def check_delimited(
    chunks: Iterable[bytes | Overlong], settings: InputSettings, source: str, delimiter: str
) -> None:
    """Raise `InputError` when the header lacks a column that the settings name."""
    rows = parse_rows(Lines(chunks, settings.max_line_bytes), delimiter)
    column_numbers(read_header(rows, source), settings, source)


def read_delimited(
    chunks: Iterable[bytes | Overlong],
    settings: InputSettings,
    batch_records: int,
    source: str,
    delimiter: str,
) -> Iterator[RecordBatch]:
    """Batches of rows; see `noveltyflow.urls.readers.read_shard`."""
    lines = Lines(chunks, settings.max_line_bytes)
    rows = parse_rows(lines, delimiter)
    names = read_header(rows, source)
    url, time = column_numbers(names, settings, source)
    builder = BatchBuilder(batch_records, timed=time is not None)
    taken = 0
    for line, row in rows:
        _add_row(builder, lines.head, line, row, len(names), url, time)
        if builder.full:
            yield builder.take(lines.consumed - taken)
            taken = lines.consumed
    if lines.consumed > taken:
        yield builder.take(lines.consumed - taken)


def _add_row(
    builder: BatchBuilder, head: str, line: int, row: Row, width: int, url: int, time: int | None
) -> None:
    if isinstance(row, str):
        return builder.reject(line, row, _raw(head))
    if len(row) != width:
        if not any(map(str.strip, row)):
            return builder.blank()
        if len(row) < width:
            return builder.reject(line, "missing-field", _raw(head))
        if any(map(str.strip, row[width:])):
            return builder.reject(line, "extra-field", _raw(head))
    text, reason = check_text(row[url])
    if reason is not None:
        return builder.reject(line, reason, _raw(row[url]))
    if not text:
        return builder.blank()
    if time is None:
        return builder.add(line, text)
    moment = parse_time(row[time])
    return builder.reject(line, "bad-time", _raw(head)) if moment is None else builder.add(line, text, moment)
