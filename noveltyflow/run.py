"""The reading side: an open run, its lazy scores, and every question one can ask it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from noveltyflow.columns import (
    EXPORT_COLUMNS,
    Columns,
    as_frame,
    block_urls,
    frame_block,
    merge_top,
    rows_columns,
    score_of,
    top_block,
    urls_mark,
    urls_of,
)
from noveltyflow.config import ScoringSettings, fingerprint
from noveltyflow.errors import StoreError
from noveltyflow.scores import percentile
from noveltyflow.scores.novelty import SCORES
from noveltyflow.scores.novelty import novelty as score_block
from noveltyflow.similarity.tiles import Block
from noveltyflow.similarity.topk import NO_NEIGHBOR
from noveltyflow.store import STAGES, RunStore
from noveltyflow.store.blocks import blocks_of
from noveltyflow.store.profile import read_peaks
from noveltyflow.types import AnyArray, Float32Array, Int64Array
from noveltyflow.urls.canonical import canonicalize

if TYPE_CHECKING:
    import dask.array as da
    import dask.dataframe as dd
    import pandas as pd
    import scipy.sparse as sp

DEFAULT_SCORE = "nearest"
_FACTS = {
    "urls": (
        *("lines_read", "lines_blank", "lines_rejected", "reject_reasons"),
        *("urls", "rows", "block_rows"),
    ),
    "features": ("nonzeros",),
    "idf": ("columns",),
    "neighbors": ("n_neighbors",),
}
"""What `info` tells of the figures of each stage."""


def open_run(path: str) -> Run:
    """Open a complete run; only metadata is read.

    Parameters
    ----------
    path
        Run folder, a path or an fsspec address.

    Raises
    ------
    StoreError
        When there is no run; `UnfinishedError` when it is unfinished.
    """
    return Run(path)


class Run:
    """A complete run. Every method reads only the blocks it needs, when its result is computed."""

    def __init__(self, path: str) -> None:
        self.store = RunStore(str(path))
        self.n_neighbors: int = self.store.figures("neighbors")["n_neighbors"]
        self.n_rows: int = self.store.figures("urls")["rows"]

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        return f"<Run {self.store.path}: {self.n_rows:,} rows, {self.n_neighbors} neighbours>"

    @cached_property
    def _fingerprint(self) -> str:
        """Tells this run from another one that stood, or will stand, in the same folder."""
        return fingerprint([self.store.path, *(self.store.figures(stage) for stage in STAGES)])

    @cached_property
    def settings(self) -> ScoringSettings:
        """The settings that decided the result."""
        return ScoringSettings.model_validate(self.store.header["settings"])

    @cached_property
    def blocks(self) -> list[Block]:
        """The row blocks, which are the chunks of everything lazy."""
        return blocks_of(self.store)

    @cached_property
    def similarities(self) -> da.Array:
        """Similarities of the neighbours, float32, shape (n_rows, n_neighbors), best first; -inf is empty."""
        return self._lazy("neighbors/similarities")

    @cached_property
    def indices(self) -> da.Array:
        """Row numbers of the neighbours, int64, shape (n_rows, n_neighbors); -1 is empty."""
        return self._lazy("neighbors/indices")

    def _lazy(self, name: str) -> da.Array:
        import dask.array as da

        array = self.store.array(name)
        stored = _Stored(self.store, name, array.shape, array.dtype)
        return da.from_array(
            stored, chunks=array.chunks, name=f"{name}-{self._fingerprint}", meta=_empty(array)
        )

    def scores(self, score: str = DEFAULT_SCORE) -> da.Array:
        """Novelty of every row, float32, shape (n_rows,), lazily; higher is more novel.

        Parameters
        ----------
        score
            `nearest`, `kth`, `mean` or `median`.
        """
        _require_score(score)
        return self.similarities.map_blocks(
            score_block, score, drop_axis=1, dtype=np.float32, token=f"score_{score}-{self._fingerprint}"
        )

    def percentiles(self, score: str = DEFAULT_SCORE) -> da.Array:
        """Percentile rank of every row's novelty among all rows, float32 in [0, 100], shape (n_rows,), lazily."""
        scores = self.scores(score)
        ranks = _ranks(scores.to_delayed())
        return scores.map_blocks(percentile.percentile, ranks, dtype=np.float32, meta=np.empty(0, np.float32))

    def _delayed_scores(self, score: str) -> list[Any]:
        """The blocks of `scores`, without an array around them."""
        import dask

        _require_score(score)
        part = dask.delayed(score_of, pure=False)
        return [part(self.store, block, score) for block in self.blocks]

    def frame(self, score: str = DEFAULT_SCORE) -> dd.DataFrame:
        """Every row with its novelty, as a lazy frame in row order; columns as in an export.

        A run whose input has times has the column `first_time` (UTC) besides.
        """
        import dask
        import dask.dataframe as dd

        ranks = _ranks(self._delayed_scores(score))
        part = dask.delayed(frame_block, pure=False)
        parts = [part(self.store, block, score, ranks) for block in self.blocks]
        borders = [block.start for block in self.blocks] + [self.n_rows - 1]
        return dd.from_delayed(parts, meta=self._frame_meta(), divisions=borders, verify_meta=False)

    def iter_frames(self, score: str = DEFAULT_SCORE) -> Iterator[pd.DataFrame]:
        """The blocks of `frame`, in row order, one in memory at a time."""
        (ranks,) = _computed(_ranks(self._delayed_scores(score)))
        for block in self.blocks:
            yield frame_block(self.store, block, score, ranks)

    def neighbor_block(self, block: Block) -> tuple[Int64Array, Float32Array]:
        """Neighbour rows (int64) and similarities (float32) of one block, both (block rows, n_neighbors)."""
        rows = slice(block.start, block.stop)
        return tuple(self.store.read(f"neighbors/{name}", rows) for name in ("indices", "similarities"))  # type: ignore[return-value]

    def _frame_meta(self) -> pd.DataFrame:
        import pandas as pd

        text, whole, real = (
            pd.Series([], dtype="str"),
            pd.Series([], dtype="int64"),
            pd.Series([], dtype="float32"),
        )
        kinds = (whole, text, whole, whole, real, real, real, text)
        columns = dict(zip(EXPORT_COLUMNS, kinds, strict=True))
        if self.has_time:
            columns["first_time"] = pd.Series([], dtype="datetime64[us, UTC]")
        return pd.DataFrame(columns)

    @property
    def has_time(self) -> bool:
        """Whether the rows carry the time they were first seen."""
        return "rows/first_time" in self.store.root

    def top(self, n: int = 20, score: str = DEFAULT_SCORE) -> pd.DataFrame:
        """The `n` most novel rows, most novel first, ties in row order; columns as in an export."""
        return as_frame(self.top_columns(n, score)).reset_index(drop=True)

    def top_columns(self, n: int = 20, score: str = DEFAULT_SCORE) -> Columns:
        """The columns of `top`, without a frame around them."""
        import dask

        scores = self._delayed_scores(score)
        parts = [
            dask.delayed(top_block)(values, block.start, n)
            for values, block in zip(scores, self.blocks, strict=True)
        ]
        best = dask.delayed(merge_top)(parts, n)
        rows, novelty, ranks = _computed(best[0], best[1], _ranks(scores))
        return rows_columns(self.store, rows, novelty, percentile.percentile(novelty, ranks))

    def find(self, url: str) -> int:
        """Row number of a URL, made canonical first; a binary search over the blocks.

        Raises
        ------
        KeyError
            When the run has no such row.
        """
        batch = canonicalize([url], self.settings.urls)
        canonical, surt = batch.urls[0], batch.surts[0]
        if canonical is None or surt is None:
            raise KeyError(f"{url!r} is no URL: {batch.reasons[0]}")
        key = (surt, canonical)
        low, high = 0, len(self.blocks) - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._key(self._urls(middle)[0]) <= key else (low, middle - 1)
        found = np.flatnonzero(self._urls(low) == canonical)
        if not len(found):
            raise KeyError(f"{canonical} is not a row of {self.store.path}; only its URLs can be asked for")
        return self.blocks[low].start + int(found[0])

    def _urls(self, block: int) -> AnyArray:
        return block_urls(self.store, urls_mark(self.store), self.blocks[block])

    def _key(self, url: str) -> tuple[str, str]:
        return canonicalize([str(url)], self.settings.urls).surts[0] or "", str(url)

    def neighbors(self, url: str) -> pd.DataFrame:
        """Neighbours of one URL, nearest first; columns `row`, `url`, `similarity`.

        Raises
        ------
        KeyError
            When the run has no such row.
        """
        import pandas as pd

        return pd.DataFrame(self.neighbors_columns(url))

    def neighbors_columns(self, url: str) -> Columns:
        """The columns of `neighbors`, without a frame around them."""
        row = self.find(url)
        here = Block(0, row, row + 1)
        indices, similarities = (found[0] for found in self.neighbor_block(here))
        filled = indices != NO_NEIGHBOR
        urls = urls_of(self.store, indices[filled])
        return {"row": indices[filled], "url": urls, "similarity": similarities[filled]}

    def kneighbors_graph(self) -> sp.csr_matrix:
        """The whole neighbour graph, float32 CSR of shape (n_rows, n_rows), in memory."""
        import scipy.sparse as sp

        indices, similarities = _computed(self.indices, self.similarities)
        filled = indices != NO_NEIGHBOR
        indptr = np.concatenate([[0], np.cumsum(filled.sum(axis=1))])
        graph = sp.csr_matrix(
            (similarities[filled], indices[filled], indptr), shape=(self.n_rows, self.n_rows)
        )
        graph.sort_indices()
        return graph

    def rejects(self) -> dd.DataFrame:
        """Every rejected line, lazily; columns `source`, `line` (from 1), `reason`, `text`."""
        import dask.dataframe as dd

        from noveltyflow.store.rejects import COLUMNS

        arrays = [self._lazy(f"rejects/{name}") for name in COLUMNS]
        frames = [
            dd.from_dask_array(array, columns=name) for name, array in zip(COLUMNS, arrays, strict=True)
        ]
        return dd.concat(frames, axis=1, ignore_unknown_divisions=True)

    def iter_rejects(self, n: int) -> Iterator[Columns]:
        """The first `n` rejected lines in input order, as columns; one stored chunk in memory at a time."""
        from noveltyflow.store.rejects import CHUNK_ROWS, COLUMNS

        for start in range(0, min(n, self.n_rejects), CHUNK_ROWS):
            rows = slice(start, min(start + CHUNK_ROWS, n, self.n_rejects))
            yield {name: self.store.read(f"rejects/{name}", rows).tolist() for name in COLUMNS}

    @cached_property
    def n_rejects(self) -> int:
        """How many lines were rejected."""
        return int(self.store.figures("urls")["lines_rejected"])

    def info(self) -> dict[str, Any]:
        """What the run is made of, JSON-able."""
        header = self.store.header
        return {
            "path": self.store.path,
            "schema_version": header["schema_version"],
            "complete": True,
            **stage_facts(self.store),
            **(self.store.aside("work") or {}),
            "memory_peaks": read_peaks(self.store.path),
            "audit": self.store.aside("audit"),
            "settings": header["settings"],
            "inputs": header["inputs"],
        }


def stage_facts(store: RunStore) -> dict[str, Any]:
    """What the finished stages of a run counted, stage after stage."""
    markers = {stage: store.marker(stage) for stage in _FACTS}
    facts = {name: marker[name] for stage, marker in markers.items() if marker for name in _FACTS[stage]}
    return facts | ({"blocks": len(blocks_of(store))} if "rows" in facts else {})


@dataclass(frozen=True)
class _Stored:
    """A stored array as dask slices it: damage is an error that names it, whoever computes."""

    store: RunStore
    name: str
    shape: tuple[int, ...]
    dtype: Any

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, selection: Any) -> AnyArray:
        return self.store.read(self.name, selection)


def _empty(array: Any) -> AnyArray:
    return np.empty((0,) * array.ndim, array.dtype)


def _require_score(score: str) -> None:
    if score not in SCORES:
        raise StoreError(f"unknown score {score!r}; choose one of: {', '.join(SCORES)}")


def _computed(*values: Any) -> Any:
    """As `dask.compute`, which imports distributed to look for a client: where nobody has, there is none."""
    import dask
    from dask.threaded import get

    alone = "distributed" not in sys.modules and dask.config.get("scheduler", None) is None
    return dask.compute(*values, scheduler=get if alone else None)


def _ranks(scores: Any) -> Any:
    """Percentile ranks of all novelties, from delayed blocks of them."""
    import dask

    parts = [dask.delayed(percentile.chunk)(block) for block in scores]
    while len(parts) > 1:
        parts = [dask.delayed(percentile.combine)(parts[i : i + 8]) for i in range(0, len(parts), 8)]
    return dask.delayed(percentile.finalize)(parts[0])
