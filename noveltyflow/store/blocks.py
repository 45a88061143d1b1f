"""Row blocks in and out: URLs with their counts, CSR feature blocks, and neighbours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import zarr

from noveltyflow.errors import StoreError
from noveltyflow.similarity.tiles import Block, split_rows
from noveltyflow.similarity.topk import NO_NEIGHBOR, TopK
from noveltyflow.store.run_store import RunStore
from noveltyflow.types import AnyArray, CsrMatrix, Int32Array


def blocks_of(store: RunStore) -> list[Block]:
    """The row blocks that the `urls` stage fixed."""
    figures = store.figures("urls")
    return split_rows(figures["rows"], figures["block_rows"])


def allocate_rows(store: RunStore, n_rows: int, block_rows: int, *, with_time: bool) -> None:
    """Make the arrays of `rows/`: `url` (string), `count`, `first_seen` and perhaps `first_time` (int64)."""
    store.preallocate("rows/url", (n_rows,), block_rows, str, "")
    for name in ("count", "first_seen", *(["first_time"] if with_time else [])):
        store.preallocate(f"rows/{name}", (n_rows,), block_rows, np.int64)


def allocated_block_rows(store: RunStore, n_rows: int) -> int | None:
    """Rows in a block of the arrays that an earlier command made for so many rows; None where there are none."""
    url = store.allocated("rows/url")
    return None if url is None or url.shape != (n_rows,) else url.chunks[0]


def write_rows(store: RunStore, block: Block, columns: dict[str, AnyArray]) -> list[str]:
    """Write the row columns of one block, which is one chunk of each array; the names of its files."""
    for name, values in columns.items():
        _cut_by(store, f"rows/{name}", block)[block.start : block.stop] = values
    return _files("rows", columns, f"c/{block.index}")


def read_urls(store: RunStore, block: Block) -> list[str]:
    """URLs of one block."""
    urls: list[str] = store.read("rows/url", slice(block.start, block.stop)).tolist()
    return urls


def write_csr(store: RunStore, block: int, matrix: CsrMatrix) -> list[str]:
    """Store a CSR block in anndata's layout (`encoding-type` csr_matrix, version 0.1.0); the names of its files."""
    name = f"features/{block:06d}"
    store.root.create_group(
        name,
        attributes={
            "encoding-type": "csr_matrix",
            "encoding-version": "0.1.0",
            "shape": [int(length) for length in matrix.shape],
        },
        overwrite=True,
    )
    files = ["features/zarr.json", f"{name}/zarr.json"]
    for part in ("data", "indices", "indptr"):
        values = getattr(matrix, part)
        store.put(f"{name}/{part}", values)
        # An array without values has no chunk.
        files += [f"{name}/{part}/{file}" for file in ("zarr.json", "c/0")[: 1 + (values.size > 0)]]
    return files


def read_csr(store: RunStore, block: int) -> CsrMatrix:
    """Load a CSR block of term counts."""
    import scipy.sparse as sp

    name = f"features/{block:06d}"
    shape: Any = store.root[name].attrs["shape"]
    parts = (store.read(f"{name}/{part}") for part in ("data", "indices", "indptr"))
    matrix = sp.csr_matrix(tuple(parts), shape=tuple(shape), copy=False)
    matrix.has_sorted_indices = True
    matrix.has_canonical_format = True
    return matrix


def read_columns(store: RunStore, block: int) -> tuple[Int32Array, int]:
    """Columns of all entries of a CSR block, and how many columns there are; counts and rows are not read."""
    name = f"features/{block:06d}"
    shape: Any = store.root[name].attrs["shape"]
    return store.read(f"{name}/indices"), int(shape[1])


def csr_nonzeros(store: RunStore, block: int) -> int:
    """Stored entries of a CSR block; only metadata is read."""
    return int(store.array(f"features/{block:06d}/data").shape[0])


def allocate_neighbors(store: RunStore, n_neighbors: int) -> None:
    """Make `neighbors/similarities` (float32) and `neighbors/indices` (int64), both `(n_rows, n_neighbors)`."""
    figures = store.figures("urls")
    shape = (figures["rows"], n_neighbors)
    store.preallocate("neighbors/similarities", shape, figures["block_rows"], np.float32, -np.inf)
    store.preallocate("neighbors/indices", shape, figures["block_rows"], np.int64, NO_NEIGHBOR)


def write_neighbors(store: RunStore, block: Block, neighbors: TopK) -> list[str]:
    """Write the neighbours of one block; the names of its files."""
    for name in ("similarities", "indices"):
        array = _cut_by(store, f"neighbors/{name}", block)
        array[block.start : block.stop] = getattr(neighbors, name)
    return _files("neighbors", ("similarities", "indices"), f"c/{block.index}/0")


def _cut_by(store: RunStore, name: str, block: Block) -> zarr.Array[Any]:
    """An array that has the block as a chunk: a task that outlives its command may meet one that was made anew."""
    array = store.array(name)
    start = block.index * array.chunks[0]
    if (block.start, block.stop) != (start, min(start + array.chunks[0], array.shape[0])):
        raise StoreError(
            f"{store.path}: rows {block.start:,}-{block.stop - 1:,} are no chunk of {name}, which has blocks of "
            f"{array.chunks[0]:,} rows by now; another command made it anew, and this one ends"
        )
    return array


def _files(group: str, arrays: Iterable[str], chunk: str) -> list[str]:
    """Files without which a chunk of each of some arrays cannot be read."""
    of_arrays = (f"{group}/{name}/{file}" for name in arrays for file in ("zarr.json", chunk))
    return [f"{group}/zarr.json", *of_arrays]
