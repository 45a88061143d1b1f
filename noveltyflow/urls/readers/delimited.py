"""CSV and TSV with a header (RFC 4180; tab-separated values may be quoted in the same way)."""

from __future__ import annotations

import csv
import io
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


class Rows:
    """Rows of a delimited text, each with the physical line it starts on, in bounded memory.

    Parameters
    ----------
    chunks : iterable of bytes or Overlong
        From `line_chunks`. Undecodable bytes become lone surrogates, so that they spoil only their field.
    limit : int
        Longest row, in bytes. A longer one, such as a quote that is never closed, is given up at the line
        that passes the limit, and reading goes on with the line after that.
    delimiter : str
        One character.
    """

    def __init__(self, chunks: Iterable[bytes | Overlong], limit: int, delimiter: str) -> None:
        # The limit of the csv module is one for the whole process; only raising it disturbs nobody.
        csv.field_size_limit(max(csv.field_size_limit(), limit + 1))
        self.n_lines = 0
        """Physical lines consumed."""
        self.head = ""
        """First line of the current row, as it was read."""
        self._used = 0
        self._limit = limit
        self._lines = _physical_lines(chunks)
        self._parser = csv.reader(_Feed(self), delimiter=delimiter, strict=True)

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        """Yield the line a row starts on, and its fields or the reason why it has none."""
        while True:
            line = self.n_lines + 1
            self.head, self._used = "", 0
            row: Row
            try:
                row = next(self._parser)
            except StopIteration:
                return
            except _RecordTooLongError:
                row = "too-long"
            except csv.Error:
                # A lone \r is the one thing outside quotes that the parser refuses.
                row = "control-character" if "\r" in self.head.rstrip("\r\n") else "bad-csv"
            yield line, row

    def next_line(self) -> str:
        """Next physical line with its end, for the parser."""
        line = next(self._lines)
        self.n_lines += 1
        text = line.head.decode("utf-8", "surrogateescape") if isinstance(line, Overlong) else line
        if not self._used:
            self.head = text
        self._used += len(text) if text.isascii() else len(_raw(text))
        if isinstance(line, Overlong) or self._used > self._limit + len(text) - len(text.rstrip("\r\n")):
            raise _RecordTooLongError
        return text


class _Feed:
    """The iterator of lines that the csv parser wants; unlike a generator it survives its own exceptions."""

    def __init__(self, rows: Rows) -> None:
        self._next = rows.next_line

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        return self._next()


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
    rows = iter(Rows(chunks, settings.max_line_bytes, delimiter))
    column_numbers(read_header(rows, source), settings, source)


def read_delimited(
    chunks: Iterable[bytes | Overlong],
    settings: InputSettings,
    batch_records: int,
    source: str,
    delimiter: str,
) -> Iterator[RecordBatch]:
    """Batches of rows; see `noveltyflow.urls.readers.read_shard`."""
    table = Rows(chunks, settings.max_line_bytes, delimiter)
    rows = iter(table)
    names = read_header(rows, source)
    url, time = column_numbers(names, settings, source)
    builder = BatchBuilder(batch_records, timed=time is not None)
    taken = 0
    for line, row in rows:
        _add_row(builder, table.head, line, row, len(names), url, time)
        if builder.full:
            yield builder.take(table.n_lines - taken)
            taken = table.n_lines
    if table.n_lines > taken:
        yield builder.take(table.n_lines - taken)


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
