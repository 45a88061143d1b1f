"""Scratch space inside a run folder: whole files that appear at once or not at all."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import fsspec

from noveltyflow.errors import DamageError
from noveltyflow.store.durable import PARTIAL, inside, naming, readable, retried, write_durably

if TYPE_CHECKING:
    import pyarrow as pa

_CRC_BYTES = 4
_OFFSET_BYTES = 8


@dataclass(frozen=True)
class Scratch:
    """A folder of immutable files, on a local disk or behind an fsspec address.

    Pickles as its address only, so that tasks can carry it.
    """

    path: str

    @cached_property
    def _fs(self) -> Any:
        return fsspec.core.url_to_fs(self.path)[0]

    @cached_property
    def _root(self) -> str:
        return str(fsspec.core.url_to_fs(self.path)[1])

    @cached_property
    def _is_local(self) -> bool:
        return "file" in self._fs.protocol

    def __getstate__(self) -> dict[str, str]:
        """Only the address travels."""
        return {"path": self.path}

    def _target(self, name: str) -> str:
        return str(inside(Path(self._root), name)) if self._is_local else f"{self._root}/{name}"

    def _source(self, name: str) -> str:
        return str(readable(Path(self._root), name)) if self._is_local else f"{self._root}/{name}"

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write one file atomically and durably: readers see all of it or none, after a kill or power cut too.

        A failure that may pass is waited out, see `durable.retried`; an error that stays names the file.
        """
        target = self._target(name)
        with naming(target):
            if self._is_local:
                retried(lambda: write_durably(Path(target), data))
            else:
                retried(lambda: self._fs.pipe_file(target, bytes(data)))

    def read(self, name: str) -> bytes | None:
        """Content of one file, or None where there is none."""
        try:
            return bytes(self._fs.cat_file(self._source(name)))
        except FileNotFoundError:
            return None

    def open(self, name: str) -> BinaryIO:
        """Open one file, to read parts of it.

        Raises
        ------
        FileNotFoundError
            Where there is none.
        """
        return cast(BinaryIO, self._fs.open(self._source(name), "rb"))

    def names(self, folder: str) -> list[str]:
        """Sorted names of the finished files in a folder, without the folder."""
        try:
            paths = self._fs.ls(f"{self._root}/{folder}", detail=False)
        except FileNotFoundError:
            return []
        names = (str(path).rsplit("/", 1)[-1] for path in paths)
        return sorted(name for name in names if not name.endswith(PARTIAL))

    def remove(self, name: str = "") -> None:
        """Remove a file, a link or a folder; the whole scratch space by default. Absent is fine."""
        if self._is_local:
            inside(Path(self._root), str(Path(name).parent))
        with suppress(FileNotFoundError):
            self._fs.rm(f"{self._root}/{name}".rstrip("/"), recursive=True)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write an Arrow table as one LZ4 Feather file, followed by the CRC-32 of all that in four bytes."""
        self.write(name, _packed(table))

    def write_parts(self, name: str, parts: Sequence[pa.Table]) -> None:
        """Write tables, as `write_table` does, into one file, from which each can be read alone.

        In front stands where each ends, little-endian in eight bytes. A table without rows takes no more than that.
        """
        packed = [_packed(part) if part.num_rows else b"" for part in parts]
        end, ends = _OFFSET_BYTES * (len(packed) + 1), []
        for data in (b"", *packed):
            end += len(data)
            ends.append(end.to_bytes(_OFFSET_BYTES, "little"))
        self.write(name, b"".join([*ends, *packed]))

    def read_part(self, name: str, number: int) -> pa.Table | None:
        """Read one of the tables written by `write_parts`, counted from 0; None where it had no rows.

        Raises
        ------
        FileNotFoundError
            Where there is no such file.
        DamageError
            When it is not what was written.
        """
        import pyarrow as pa

        source, at = self._source(name), _OFFSET_BYTES * number
        head = bytes(self._fs.cat_file(source, start=at, end=at + 2 * _OFFSET_BYTES))
        start, end = (int.from_bytes(half, "little") for half in (head[:_OFFSET_BYTES], head[_OFFSET_BYTES:]))
        # Where a file was overwritten with zeros, they are no ends.
        if start == end >= 2 * _OFFSET_BYTES == len(head):
            return None
        data = self._fs.cat_file(source, start=start, end=end) if start < end else b""
        return self._unpacked(name, pa.py_buffer(data))

    def read_table(self, name: str) -> pa.Table:
        """Read a table written by `write_table`; memory-mapped where the file is local.

        Raises
        ------
        FileNotFoundError
            Where there is none.
        DamageError
            When it is not what was written.
        """
        import pyarrow as pa

        if self._is_local:
            source = self._source(name)
            # An empty file cannot be mapped.
            content = (
                pa.memory_map(source).read_buffer() if Path(source).stat().st_size else pa.py_buffer(b"")
            )
        elif (data := self.read(name)) is None:
            raise FileNotFoundError(f"{self._root}/{name}")
        else:
            content = pa.py_buffer(data)
        return self._unpacked(name, content)

    def _unpacked(self, name: str, content: pa.Buffer) -> pa.Table:
        import pyarrow as pa
        from pyarrow import feather

        size = max(content.size - _CRC_BYTES, 0)
        feather_file, crc = content.slice(0, size), content.slice(size).to_pybytes()
        if zlib.crc32(feather_file).to_bytes(_CRC_BYTES, "little") != crc:
            raise DamageError(f"{self._root}/{name} is damaged; remove it, and give the same command again")
        return feather.read_table(pa.BufferReader(feather_file))


def _packed(table: pa.Table) -> memoryview:
    from pyarrow import feather

    sink = io.BytesIO()
    feather.write_feather(table, sink, compression="lz4")
    sink.write(zlib.crc32(sink.getbuffer()).to_bytes(_CRC_BYTES, "little"))
    return sink.getbuffer()
