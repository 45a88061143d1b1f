"""Opening inputs: where they are, whether they are still the same, and their bytes, decompressed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, Literal, Protocol, TypeAlias

from noveltyflow.errors import InputError
from noveltyflow.urls.lines import BLOCK_BYTES

Compression: TypeAlias = Literal["gzip", "zstd", "bz2", "xz"]
FileSystem: TypeAlias = Any
"""An fsspec filesystem; fsspec ships no types."""

_UNMEASURED_BYTES = 64 << 20
_WINDOW_BYTES = 128 << 20
"""Most memory that decompression may ask for: that of `xz -9` is 64 MiB, that of `zstd --long` 128 MiB."""
_TOO_WIDE = ("Memory usage limit exceeded", "requires too much memory")
"""What xz and zstd say where it asks for more; the latter has the same limit of its own."""

HASHED = "sha256:"
"""Starts the identity of an input that is named by its content and so cannot change."""

# Wherever a store offers them, the first of these changes with the content.
_VERSION_KEYS = ("ETag", "etag", "md5", "checksum", "crc32c", "mtime", "LastModified", "updated", "created")


def locate(source: str) -> tuple[FileSystem, str]:
    """Filesystem and path of an address; without `://` it is a local path, whatever else it holds."""
    if "://" not in source:
        from fsspec.implementations.local import LocalFileSystem

        return LocalFileSystem(), source
    from fsspec.core import url_to_fs

    with explained(source):
        filesystem, path = url_to_fs(source)
        return filesystem, path


def identify(filesystem: FileSystem, path: str) -> tuple[int, str]:
    """Size in bytes, and a text that changes with the file; OSError unless it is a regular file."""
    filesystem.invalidate_cache(path)
    info = filesystem.info(path)
    if info["type"] != "file":
        raise OSError(f"is not a regular file but {info['type']}; pipe it in and give - as the input")
    size = int(info["size"])
    version = next((f"{key}={info[key]}" for key in _VERSION_KEYS if info.get(key) is not None), "")
    return size, f"size={size} {version}".strip()


@contextmanager
def opened(source: str, path: str, identity: str | None = None) -> Iterator[BinaryIO]:
    """Open `path` for reading.

    Raises
    ------
    InputError
        When it cannot be opened, or when `identity` is given and is not that of the file both before and after
        it is read: what is cut off or replaced meanwhile must not be rows that are silently missing.
    """
    filesystem, inner = locate(path)
    with explained(source):
        _require_identity(source, filesystem, inner, identity)
        raw = filesystem.open(inner, "rb")
    with raw:
        yield raw
    with explained(source):
        _require_identity(source, filesystem, inner, identity)


def _require_identity(source: str, filesystem: FileSystem, path: str, identity: str | None) -> None:
    if identity is None or identity.startswith(HASHED):
        return
    found = identify(filesystem, path)[1]
    if found != identity:
        raise InputError(
            f"{source}: has changed since the run was planned ({identity} became {found}). "
            "Leave inputs alone during a run; start it anew with --overwrite."
        )


@contextmanager
def explained(source: str) -> Iterator[None]:
    """Turn whatever a store raises into an `InputError` that names `source` and the remedy."""
    try:
        yield
    except InputError:
        raise
    except Exception as exc:
        raise InputError(f"{source}: {_explain(exc)}") from exc


def _explain(exc: Exception) -> str:
    detail = (str(exc).splitlines() or [type(exc).__name__])[0][:300]
    if isinstance(exc, FileNotFoundError):
        return "no such file. Check the path; every worker must be able to see it."
    if isinstance(exc, PermissionError):
        return "permission denied. Make it readable for the user who runs this."
    if isinstance(exc, ImportError) and "s3fs" in detail:
        return "reading from S3 needs s3fs. Install it with: pip install 'noveltyflow[s3]'"
    if isinstance(exc, ImportError):
        return f"this kind of address needs another package. {detail}"
    return f"cannot be read: {detail}"


def guarded(blocks: Iterator[bytes], source: str, compression: Compression | None = None) -> Iterator[bytes]:
    """Pass `blocks` on, and turn what goes wrong in reading them into an `InputError` that names `source`."""
    try:
        yield from blocks
    except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as exc:
        detail = (str(exc).splitlines() or [type(exc).__name__])[0][:300]
        if any(words in detail for words in _TOO_WIDE):
            raise InputError(
                f"{source}: {compression} data that take more than {_WINDOW_BYTES >> 20} MiB of memory to unpack. "
                "Compress the file again with a smaller window (at most xz -9 or zstd --long=27), or give it plain."
            ) from exc
        what = f"{compression} data are truncated or damaged" if compression else "cannot be read"
        raise InputError(
            f"{source}: {what} ({detail}). Fetch or make the file again; "
            "what can be saved of it can be decompressed by hand and given as a plain file."
        ) from exc


def decompressed(
    raw: BinaryIO, compression: Compression | None, source: str, max_ratio: int | None = None
) -> Iterator[bytes]:
    """Blocks of about `BLOCK_BYTES`, decompressed, over all members, frames or streams of the file.

    Raises
    ------
    InputError
        When the data are damaged or end too early, or are more than 64 MiB and `max_ratio` times as many bytes as
        the file has up to there.
    """
    blocks = guarded(_BLOCKS[compression](raw), source, compression)
    return blocks if max_ratio is None or compression is None else _measured(blocks, raw, source, max_ratio)


def _measured(blocks: Iterator[bytes], raw: BinaryIO, source: str, max_ratio: int) -> Iterator[bytes]:
    total = 0
    for block in blocks:
        total += len(block)
        check_ratio(raw.tell(), total, source, max_ratio)
        yield block


def check_ratio(stored: int, decompressed: int, source: str, max_ratio: int) -> None:
    """Refuse what is more than 64 MiB and `max_ratio` times as many bytes as are stored of it.

    Raises
    ------
    InputError
        When it is.
    """
    if decompressed > max(_UNMEASURED_BYTES, max_ratio * stored):
        raise InputError(
            f"{source}: {stored:,} bytes become {decompressed:,} when decompressed, more than {max_ratio} times as "
            "many, as in a file made to fill disks. If it is to be trusted, raise --max-ratio."
        )


def _plain_blocks(raw: BinaryIO) -> Iterator[bytes]:
    while data := raw.read(BLOCK_BYTES):
        yield data


def _gzip_blocks(raw: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=raw) as file:
        while data := file.read(BLOCK_BYTES):
            yield data


def _zstd_blocks(raw: BinaryIO) -> Iterator[bytes]:
    # zstandard's stream_reader ends silently on a truncated frame; Arrow's decoder says so.
    import pyarrow as pa

    with pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd") as file:
        while data := file.read(BLOCK_BYTES):
            yield data


class _Decompressor(Protocol):
    """What `bz2.BZ2Decompressor` and `lzma.LZMADecompressor` have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


def _concatenated_blocks(raw: BinaryIO, new: Callable[[], _Decompressor]) -> Iterator[bytes]:
    # The standard library's file objects ignore what follows the first stream when it is damaged.
    decoder = new()
    rest = raw.read(BLOCK_BYTES)
    while rest or not decoder.needs_input:
        if block := decoder.decompress(rest, BLOCK_BYTES):
            yield block
        rest = b""
        if decoder.eof:
            # xz streams may be padded with zeros; neither format starts with one.
            rest = decoder.unused_data.lstrip(b"\0")
            while not rest and (more := raw.read(BLOCK_BYTES)):
                rest = more.lstrip(b"\0")
            if not rest:
                return
            decoder = new()
        elif decoder.needs_input:
            rest = raw.read(BLOCK_BYTES)
    raise EOFError("the file ends before the end-of-stream marker")


_BLOCKS: dict[Compression | None, Callable[[BinaryIO], Iterator[bytes]]] = {
    None: _plain_blocks,
    "gzip": _gzip_blocks,
    "zstd": _zstd_blocks,
    "bz2": lambda raw: _concatenated_blocks(raw, bz2.BZ2Decompressor),
    "xz": lambda raw: _concatenated_blocks(
        raw, partial(lzma.LZMADecompressor, memlimit=_WINDOW_BYTES + (1 << 20))
    ),
}
