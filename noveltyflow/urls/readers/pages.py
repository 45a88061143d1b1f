"""The pages of a Parquet column, from their headers alone: Arrow reads a page whole, however large it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

_DEEPEST = 8
"""Structures within one another; a page header has three."""
_UNCOMPRESSED, _COMPRESSED = 2, 3
_KINDS = (5, 7, 8)
"""Fields of a page header in `parquet.thrift`: of these one is there, which says in its field 1 how many values."""


class Page(NamedTuple):
    """One page of a column chunk."""

    n_bytes: int
    """What it takes decompressed."""
    n_values: int
    """Values in it, or of a dictionary; 0 where it has none."""


def pages(raw: BinaryIO, start: int, size: int) -> Iterator[Page]:
    """Pages of the column chunk of `size` bytes at `start`.

    Raises
    ------
    ValueError
        When that is no column chunk.
    """
    position = start
    while position < start + size:
        raw.seek(position)
        header = _struct(raw, 0)
        stored, n_bytes = header.get(_COMPRESSED), header.get(_UNCOMPRESSED)
        if not isinstance(stored, int) or not isinstance(n_bytes, int) or min(stored, n_bytes) < 0:
            raise ValueError(f"no page header at byte {position:,}")
        about: dict[int, Any] = next((header[kind] for kind in _KINDS if kind in header), {})
        yield Page(n_bytes, max(0, about.get(1, 0)))
        position = raw.tell() + stored


def _struct(raw: BinaryIO, depth: int) -> dict[int, Any]:
    """Fields of a structure in Thrift's compact protocol, by number: integers and structures; the rest is skipped."""
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} structures within one another")
    fields: dict[int, Any] = {}
    number = 0
    while head := _byte(raw):
        number = number + (head >> 4) if head >> 4 else _integer(raw)
        # In a field true and false are types of their own.
        fields[number] = None if head & 15 in (1, 2) else _value(raw, head & 15, depth)
    return fields


def _value(raw: BinaryIO, kind: int, depth: int) -> Any:
    if kind not in _READERS:
        raise ValueError(f"no Thrift type {kind}")
    return _READERS[kind](raw, depth)


def _byte(raw: BinaryIO) -> int:
    data = raw.read(1)
    if not data:
        raise ValueError("the file ends within a page header")
    return data[0]


def _unsigned(raw: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = _byte(raw)
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError("an integer of more than 64 bits")


def _integer(raw: BinaryIO) -> int:
    value = _unsigned(raw)
    return (value >> 1) ^ -(value & 1)


def _skip(raw: BinaryIO, n_bytes: int) -> None:
    raw.seek(n_bytes, 1)


def _list(raw: BinaryIO, depth: int) -> None:
    head = _byte(raw)
    size = head >> 4 if head >> 4 < 15 else _unsigned(raw)
    for _ in range(size):
        _value(raw, head & 15, depth)


_READERS: dict[int, Callable[[BinaryIO, int], Any]] = {
    1: lambda raw, _: _skip(raw, 1),
    2: lambda raw, _: _skip(raw, 1),
    3: lambda raw, _: _skip(raw, 1),
    4: lambda raw, _: _integer(raw),
    5: lambda raw, _: _integer(raw),
    6: lambda raw, _: _integer(raw),
    7: lambda raw, _: _skip(raw, 8),
    8: lambda raw, _: _skip(raw, _unsigned(raw)),
    9: _list,
    10: _list,
    12: lambda raw, depth: _struct(raw, depth + 1),
}
"""Reads or skips a value of each type that page headers have, which are all but maps."""
