"""Arrays that are one chunk, decompressed straight to where they are needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from numcodecs.zstd import decompress
from zarr.codecs import BytesCodec, ZstdCodec
from zarr.core.sync import sync

from noveltyflow.types import AnyArray


def compressor() -> ZstdCodec:
    """The codec of every chunk; its checksum turns a flipped bit into an error."""
    return ZstdCodec(level=1, checksum=True)


def read_chunk(array: zarr.Array[Any]) -> AnyArray | None:
    """All of an array that is one chunk of numbers; None where Zarr itself has to read it, or say what is wrong.

    Zarr decompresses into memory of its own and copies from there; here no byte is held twice.

    Raises
    ------
    DamageError, RuntimeError
        The chunk is missing, or not what was stored.
    """
    plain = array.serializer == BytesCodec() and array.dtype.isnative and not array.filters
    if not plain or array.compressors != (compressor(),) or array.shape != array.chunks:
        return None
    found = sync((array.store_path / array.metadata.encode_chunk_key((0,) * array.ndim)).get())
    values: AnyArray = np.empty(array.shape, array.dtype)
    if found is None or _content_size(found.as_numpy_array()[:14].tobytes()) != values.nbytes:
        return None
    decompress(found.as_numpy_array(), values)
    return values


def _content_size(head: bytes) -> int | None:
    """How many bytes a Zstandard frame says it holds (RFC 8878, section 3.1.1.1); None if it does not say."""
    if len(head) < 5 or head[:4] != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = head[4]
    whole = bool(descriptor & 0x20)
    length = (1 if whole else 0, 2, 4, 8)[descriptor >> 6]
    start = 5 + (not whole) + (0, 1, 2, 4)[descriptor & 3]
    field = head[start : start + length]
    if not length or len(field) < length:
        return None
    return int.from_bytes(field, "little") + (256 if length == 2 else 0)
