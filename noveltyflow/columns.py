"""From stored blocks to the columns of an answer, and to a frame where one is asked for."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from noveltyflow.scores import percentile
from noveltyflow.scores.novelty import novelty as score_block
from noveltyflow.similarity.tiles import Block
from noveltyflow.similarity.topk import NO_NEIGHBOR
from noveltyflow.store import RunStore
from noveltyflow.store.blocks import blocks_of
from noveltyflow.types import AnyArray, Float32Array, Float64Array, Int64Array

if TYPE_CHECKING:
    import pandas as pd

Columns: TypeAlias = dict[str, Any]
"""Arrays and lists of one length by name: a table before pandas, which takes longer to import than to answer."""
EXPORT_COLUMNS = (
    "row",
    "url",
    "count",
    "first_seen",
    "novelty",
    "percentile",
    "nearest_similarity",
    "nearest_url",
)


def urls_mark(store: RunStore) -> str:
    """Tells the URLs of one run from those of another in the same folder."""
    return str(store.figures("urls")["fingerprint"])


@lru_cache(maxsize=16)
def block_urls(store: RunStore, mark: str, block: Block) -> AnyArray:  # noqa: ARG001 - part of the cache's key
    """URLs of one block, shape (rows,); the last blocks asked for are kept."""
    return store.read("rows/url", slice(block.start, block.stop))


def urls_of(store: RunStore, rows: Int64Array) -> list[str | None]:
    """URLs of arbitrary rows, None for an empty slot; each block is read once."""
    urls = np.full(len(rows), None, dtype=object)
    blocks, mark = blocks_of(store), urls_mark(store)
    number = rows // blocks[0].n_rows
    for block in np.unique(number[rows != NO_NEIGHBOR]):
        here = (number == block) & (rows != NO_NEIGHBOR)
        urls[here] = block_urls(store, mark, blocks[block])[rows[here] - blocks[block].start]
    return [None if url is None else str(url) for url in urls]


def frame_block(store: RunStore, block: Block, score: str, ranks: Float64Array) -> pd.DataFrame:
    """One block of `Run.frame`."""
    rows = np.arange(block.start, block.stop)
    novelty = score_of(store, block, score)
    return as_frame(rows_columns(store, rows, novelty, percentile.percentile(novelty, ranks)))


def score_of(store: RunStore, block: Block, score: str) -> Float32Array:
    """Novelty of the rows of one block, float32, shape (rows,)."""
    return score_block(store.read("neighbors/similarities", slice(block.start, block.stop)), score)


def rows_columns(
    store: RunStore, rows: Int64Array, novelty: Float32Array, percentiles: Float32Array
) -> Columns:
    """The columns of an export for some rows; `first_time`, where there is one, in µs since 1970."""
    columns = {
        "row": rows,
        "url": urls_of(store, rows),
        "count": store.take("rows/count", rows),
        "first_seen": store.take("rows/first_seen", rows),
        "novelty": novelty,
        "percentile": percentiles,
        "nearest_similarity": store.take("neighbors/similarities", rows)[:, 0],
        "nearest_url": urls_of(store, store.take("neighbors/indices", rows)[:, 0]),
    }
    if "rows/first_time" in store.root:
        columns["first_time"] = store.take("rows/first_time", rows)
    return columns


def as_frame(columns: Columns) -> pd.DataFrame:
    """The columns of an export as a frame, indexed by row."""
    import pandas as pd

    if "first_time" in columns:
        columns = {**columns, "first_time": pd.to_datetime(columns["first_time"], unit="us", utc=True)}
    frame = pd.DataFrame(columns, index=columns["row"])
    return frame.astype({"url": "str", "nearest_url": "str"})


def top_block(novelty: Float32Array, start: int, n: int) -> tuple[Int64Array, Float32Array]:
    """The `n` highest of one block, ties in row order."""
    best = np.lexsort((np.arange(len(novelty)), -novelty))[:n]
    return best + start, novelty[best]


def merge_top(parts: list[tuple[Int64Array, Float32Array]], n: int) -> tuple[Int64Array, Float32Array]:
    """The `n` highest of several blocks, ties in row order."""
    rows = np.concatenate([rows for rows, _ in parts])
    novelty = np.concatenate([novelty for _, novelty in parts])
    best = np.lexsort((rows, -novelty))[:n]
    return rows[best], novelty[best]
