"""Spans of candidates in a worker's memory: read, weighted, indexed, and kept while there is room."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from noveltyflow.config import FeatureSettings
from noveltyflow.runtime.stages.features import load_weighted
from noveltyflow.similarity.kernels.base import PreparedBlock
from noveltyflow.similarity.tiles import Block
from noveltyflow.store import RunStore
from noveltyflow.store.blocks import csr_nonzeros
from noveltyflow.types import CsrMatrix

SpanKey = tuple[str, str, int, int]
"""Run folder, fingerprint of its weights, first and last-plus-one row: a worker may outlive the run it computed."""


def load_span(
    store: RunStore, span: Sequence[Block], settings: FeatureSettings, at_once: int = 1
) -> CsrMatrix:
    """Consecutive blocks as one matrix of weights; see `load_weighted`.

    While `at_once` blocks are read at a time, only these are held twice.
    """
    if len(span) == 1:
        return load_weighted(store, span[0], settings)
    entries = np.cumsum([0, *(csr_nonzeros(store, block.index) for block in span)])
    columns, weights = np.empty(entries[-1], np.int32), np.empty(entries[-1], np.float32)
    n_rows = span[-1].stop - span[0].start
    indptr = np.zeros(n_rows + 1, np.int32)

    def load(block: Block, entry: int) -> None:
        part, row = load_weighted(store, block, settings), block.start - span[0].start
        columns[entry : entry + part.nnz], weights[entry : entry + part.nnz] = part.indices, part.data
        indptr[row + 1 : row + 1 + block.n_rows] = part.indptr[1:] + entry

    with ThreadPoolExecutor(at_once) as pool:
        for _ in pool.map(load, span, entries[:-1]):
            pass
    whole = sp.csr_matrix((weights, columns, indptr), (n_rows, settings.n_features), copy=False)
    whole.has_canonical_format = True
    return whole


class IndexedSpans:
    """Indexed spans that this process used last."""

    def __init__(self) -> None:
        self._spans: OrderedDict[SpanKey, PreparedBlock] = OrderedDict()
        self._making: dict[SpanKey, Lock] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._spans)

    @property
    def nbytes(self) -> int:
        """Bytes that they hold, in the memory where they lie."""
        with self._lock:
            return sum(kept.nbytes for kept in self._spans.values())

    def get_or_make(self, key: SpanKey, make: Callable[[], PreparedBlock]) -> PreparedBlock:
        """The index of a span, made now if it is not here; by one of the threads that want it."""
        with self._lock:
            making = self._making.setdefault(key, Lock())
        with making:
            with self._lock:
                if (kept := self._spans.get(key)) is not None:
                    self._spans.move_to_end(key)
            if kept is None:
                kept = make()
                self.put(key, kept)
        with self._lock:
            self._making.pop(key, None)
        return kept

    def put(self, key: SpanKey, span: PreparedBlock) -> None:
        """Keep the index of a span."""
        with self._lock:
            self._spans[key] = span

    def shrink(self, limit: int) -> None:
        """Let go of those used longest ago, until the others hold no more than `limit` bytes."""
        with self._lock:
            while self._spans and sum(kept.nbytes for kept in self._spans.values()) > limit:
                self._spans.popitem(last=False)


_SPANS: dict[str, IndexedSpans] = {}
"""By backend: spans on a device and spans on the host have memory of their own."""


def spans_of(backend: str) -> IndexedSpans:
    """What this process keeps for a backend."""
    return _SPANS.setdefault(backend, IndexedSpans())


def forget_spans() -> None:
    """Free what tasks left in this process: a worker outlives its runs, and nothing else takes this memory back."""
    for spans in list(_SPANS.values()):
        spans.shrink(0)
    gc.collect()
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):  # another libc than GNU's
        ctypes.CDLL("libc.so.6").malloc_trim(0)
