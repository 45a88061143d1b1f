"""Lines out of byte blocks, in bounded memory."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from noveltyflow.urls.rejects import MAX_TEXT

BLOCK_BYTES = 1 << 20
"""Bytes read at a time."""

BOM = b"\xef\xbb\xbf"


class Overlong(NamedTuple):
    """Stands for a line that was too long to hold; only its head was kept."""

    head: bytes


def line_chunks(blocks: Iterable[bytes], limit: int) -> Iterator[bytes | Overlong]:
    r"""Cut blocks at line ends.

    Parameters
    ----------
    blocks : iterable of bytes
        The input in pieces of any size.
    limit : int
        Longest line to hold, in bytes without its line end; what is longer and does not fit a block is
        discarded while it streams by, and becomes an `Overlong`.

    Yields
    ------
    bytes or Overlong
        Whole lines, each ended by ``\n`` except perhaps the very last; in input order. Lines longer than
        `limit` can still occur inside a chunk: at most a block and `limit` bytes are held.
    """
    parts: list[bytes] = []
    held = 0
    dropping = False
    for block in blocks:
        data = block
        if dropping:
            end = data.find(b"\n") + 1
            if not end:
                continue
            data, dropping = data[end:], False
        end = data.rfind(b"\n") + 1
        if end:
            yield b"".join((*parts, data[:end]))
            parts, held = [], 0
        parts.append(data[end:])
        held += len(data) - end
        # One byte more may be held: it can be the \r of a line end.
        if held > limit + 1:
            yield Overlong(b"".join(parts)[: 4 * MAX_TEXT])
            parts, held, dropping = [], 0, True
    if held:
        yield b"".join(parts)


def split_lines(chunk: bytes) -> list[bytes]:
    r"""Lines of a chunk without their ends (``\n`` or ``\r\n``)."""
    lines = chunk.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix(b"\r") for line in lines]


def without_bom(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Drop a UTF-8 byte order mark from the start of the input."""
    head = b""
    pieces = iter(blocks)
    for block in pieces:
        head += block
        if len(head) >= len(BOM):
            break
    yield head.removeprefix(BOM)
    yield from pieces


def line_range(raw: BinaryIO, start: int, stop: int | None) -> Iterator[bytes]:
    """Read the lines whose first byte lies in `[start, stop)`, whole.

    Ranges that tile a file give every line exactly once: a line that crosses `stop` is read to its end, and
    the line that crosses `start` is skipped, because it belongs to the range before. A range in which no line
    begins ends the search at `stop`, so one endless line is not read once for every range it crosses.

    Parameters
    ----------
    raw : binary file
        A seekable file.
    start, stop : int
        Byte positions; None for `stop` means the end of the file.

    Yields
    ------
    bytes
        Blocks of at most `BLOCK_BYTES`, cut anywhere.
    """
    limit = sys.maxsize if stop is None else stop
    position = max(start - 1, 0)
    raw.seek(position)
    begun = start == 0
    while data := raw.read(BLOCK_BYTES):
        if not begun:
            skipped = data.find(b"\n") + 1 or len(data)
            begun = data.endswith(b"\n", 0, skipped)
            position += skipped
            data = data[skipped:]
            if position >= limit:
                return
        if begun and position + len(data) >= limit:
            end = data.find(b"\n", max(limit - 1 - position, 0)) + 1
            if end:
                yield data[:end]
                return
        if data:
            yield data
            position += len(data)
