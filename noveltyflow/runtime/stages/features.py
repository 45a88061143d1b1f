"""Stages `features` and `idf`: hashed term counts of every block, and the weights of all columns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

import noveltyflow.features.frequency as frequency
from noveltyflow.config import FeatureSettings, ScoringSettings
from noveltyflow.features.hashing import hash_block
from noveltyflow.features.weighting import inverse_document_frequency, weight_block
from noveltyflow.runtime.disk import compressed, neighbor_bytes, require_room, room_for
from noveltyflow.runtime.executor import Executor
from noveltyflow.runtime.plan import COUNTS_PER_THREAD
from noveltyflow.runtime.progress import Reporter
from noveltyflow.runtime.stages.notes import Stored, key_of, resumed
from noveltyflow.runtime.stages.seal import finish
from noveltyflow.similarity.tiles import Block
from noveltyflow.store import RunStore
from noveltyflow.store.blocks import blocks_of, read_columns, read_csr, read_urls, write_csr
from noveltyflow.store.run_store import SCRATCH
from noveltyflow.types import CsrMatrix, Float64Array, Int64Array

_FREQUENCY = "idf/document_frequency"
_ROOM = ("features", "neighbors", SCRATCH)
"""Parts of the run folder whose present content is room for what is still to be stored."""
_SAMPLED_BLOCKS, _SAMPLED_ROWS = 8, 500
_AMPLE_BYTES = 1 << 16
"""Room for each row, with which no row needs to be looked at: chunks, which may be large, are read whole for that."""


def hash_rows(store: RunStore, block: Block, settings: FeatureSettings) -> Stored:
    """Store the term counts of one block; its rows and non-zeros."""
    counts = hash_block(read_urls(store, block), settings)
    return (block.n_rows, int(counts.nnz)), write_csr(store, block.index, counts)


def compute_features(
    store: RunStore, settings: ScoringSettings, executor: Executor, reporter: Reporter, fingerprint: str
) -> None:
    """Hash every block, if there is room for what that makes, then mark stage `features` done."""
    _require_disk(store, settings)
    store.make_group("features")
    nonzeros = hash_blocks(store, settings.features, executor, reporter, blocks_of(store), fingerprint)
    finish(
        store, "features", fingerprint, executor, nonzeros=nonzeros, n_features=settings.features.n_features
    )


def _require_disk(store: RunStore, settings: ScoringSettings) -> None:
    """Refuse to begin what the disk has no room for: features, judged by rows of some blocks, and neighbours."""
    blocks, n_rows = blocks_of(store), store.figures("urls")["rows"]
    neighbors = neighbor_bytes(n_rows, settings.neighbors.n_neighbors)
    room = room_for(store.path, *_ROOM)
    if room is None or room > neighbors + n_rows * _AMPLE_BYTES:
        return
    sampled = n_bytes = 0
    for block in blocks[:: -(-len(blocks) // _SAMPLED_BLOCKS)]:
        rows = slice(block.start, min(block.start + _SAMPLED_ROWS, block.stop))
        counts = hash_block(store.read("rows/url", rows).tolist(), settings.features)
        sampled += counts.shape[0]
        n_bytes += compressed(counts.indices.tobytes()) + compressed(counts.data.tobytes())
    needed = n_bytes * n_rows // sampled + neighbors
    require_room(store.path, "features", needed, *_ROOM)


def hash_blocks(
    store: RunStore,
    settings: FeatureSettings,
    executor: Executor,
    reporter: Reporter,
    blocks: Sequence[Block],
    fingerprint: str,
) -> int:
    """Hash some blocks, but for those that are sound; the non-zeros of all of them."""
    n_rows = sum(block.n_rows for block in blocks)
    reporter.start("hash", n_rows, "rows")
    nonzeros = 0
    tasks = {key_of(block): (store, block, settings) for block in blocks}
    for _, (rows, nnz) in resumed(store, "features", fingerprint, executor, "hash", hash_rows, tasks):
        nonzeros += nnz
        reporter.advance(rows)
    reporter.finish(f"{nonzeros:,} non-zeros, {nonzeros / n_rows:.0f} a row")
    return nonzeros


def count_documents(store: RunStore, blocks: Sequence[int]) -> Int64Array:
    """In how many rows of some blocks, read one after the other, each column occurs."""
    return frequency.combine(frequency.chunk(*read_columns(store, block)) for block in blocks)


def store_frequency(store: RunStore, total: Int64Array) -> int:
    """Store the document frequency of all columns; how many columns occur at all."""
    store.put(_FREQUENCY, frequency.finalize(total))
    return int(np.count_nonzero(total))


def compute_idf(store: RunStore, executor: Executor, reporter: Reporter, fingerprint: str) -> None:
    """Sum document frequencies over a tree of tasks, then mark stage `idf` done."""
    columns = sum_frequencies(store, executor, reporter)
    finish(store, "idf", fingerprint, executor, columns=columns)


def sum_frequencies(store: RunStore, executor: Executor, reporter: Reporter) -> int:
    """Count in how many rows each column occurs, whether or not that was done before; the columns in use."""
    blocks = blocks_of(store)
    reporter.start("document_frequency", len(blocks), "blocks")
    # A frequency is as large for one block as for many, and all of them wait in the workers' memory.
    n_tasks = min(len(blocks), COUNTS_PER_THREAD * executor.n_threads)
    parts = [blocks[part[0] : part[-1] + 1] for part in np.array_split(range(len(blocks)), n_tasks)]
    tasks = [(store, [block.index for block in part]) for part in parts]
    total = executor.tree("document_frequency", count_documents, frequency.combine, tasks)
    (columns,) = executor.compute([_delayed_store(store, total)])
    reporter.advance(len(blocks))
    reporter.finish(f"{columns:,} columns in use")
    return int(columns)


def _delayed_store(store: RunStore, total: object) -> object:
    import dask

    return dask.delayed(store_frequency, pure=False)(store, total)


@lru_cache(maxsize=2)
def _idf(path: str, fingerprint: str, smooth_idf: bool) -> Float64Array:  # noqa: ARG001 - part of the cache's key
    store = RunStore(path)
    frequencies = store.read(_FREQUENCY)
    return inverse_document_frequency(frequencies, store.figures("urls")["rows"], smooth_idf)


def load_weighted(store: RunStore, block: Block, settings: FeatureSettings) -> CsrMatrix:
    """One block as the tiles need it: TF-IDF weights in rows of unit length, float32, shape (rows, n_features)."""
    idf = _idf(store.path, store.figures("idf")["fingerprint"], settings.smooth_idf)
    return weight_block(read_csr(store, block.index), idf, settings, overwrite=True)
