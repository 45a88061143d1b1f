"""Arrays of one chunk: the short way gives what Zarr gives, and finds what Zarr finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numcodecs.zstd import compress
from numpy.testing import assert_array_equal

from noveltyflow.errors import DamageError
from noveltyflow.store import RunStore
from noveltyflow.store.chunks import compressor, read_chunk

SHAPES = arrays.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=300)
DTYPES = st.sampled_from([np.float32, np.float64, np.int32, np.int64])


def stored(values: Any, **options: Any) -> zarr.Array[Any]:
    options = {"chunks": tuple(max(1, n) for n in values.shape), "compressors": compressor()} | options
    array = zarr.create_array({}, shape=values.shape, dtype=values.dtype, **options)
    array.with_config({"write_empty_chunks": True})[...] = values
    return array


@given(st.tuples(DTYPES, SHAPES).flatmap(lambda pair: arrays.arrays(*pair)))
def test_equals_what_zarr_reads(values: Any) -> None:
    array = stored(values)
    found = read_chunk(array)
    assert (found is None) == (values.size == 0)
    if found is not None:
        assert (found.dtype, found.flags.writeable) == (values.dtype, True)
        assert_array_equal(found, array[...])


@pytest.mark.parametrize("n_bytes", [4, 252, 256, 260, 65_788, 65_792, 1 << 20])
def test_every_way_to_write_a_length(n_bytes: int) -> None:
    values = np.arange(n_bytes // 4, dtype=np.int32)
    assert_array_equal(read_chunk(stored(values)), values)


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (4,)},
        {"chunks": (20,)},
        {"compressors": None},
        {"compressors": zarr.codecs.GzipCodec()},
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
        {"dtype": np.dtype(">i4")},
    ],
)
def test_leaves_other_arrays_to_zarr(options: dict[str, Any]) -> None:
    values = np.arange(10, dtype=options.pop("dtype", np.int32))
    array = stored(values, **options)
    found = read_chunk(array)
    assert_array_equal(array[...] if found is None else found, values)


def test_leaves_strings_to_zarr() -> None:
    array = zarr.create_array({}, shape=(2,), chunks=(2,), dtype=str, compressors=compressor())
    assert read_chunk(array) is None


@pytest.mark.parametrize("content", [b"", b"\x28\xb5", b"no frame", compress(bytes(36)), compress(bytes(44))])
def test_chunk_of_another_length_is_damage(content: bytes, tmp_path: Path) -> None:
    store = RunStore.create(str(tmp_path / "run"), {})
    store.put("idf/values", np.arange(10, dtype=np.int32))
    (tmp_path / "run/idf/values/c/0").write_bytes(content)
    with pytest.raises(DamageError, match="idf/values is damaged"):
        store.read("idf/values")


def test_cut_and_flipped_chunks_are_damage(tmp_path: Path) -> None:
    store = RunStore.create(str(tmp_path / "run"), {})
    store.put("idf/values", np.arange(10, dtype=np.int32))
    path = tmp_path / "run/idf/values/c/0"
    content = path.read_bytes()
    for at in range(len(content)):
        flipped = bytes([content[at] ^ 64])
        for damaged in (content[:at], content[:at] + flipped + content[at + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises(DamageError):
                store.read("idf/values")
