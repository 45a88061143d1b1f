"""The memory model: peak bytes of every kind of task, from the shape of the input. Pure, and tested by measuring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from noveltyflow.config import ScoringSettings
from noveltyflow.features.hashing import hash_block
from noveltyflow.runtime.plan import (
    FAN_IN,
    MOST_TASKS,
    SMALLEST_BLOCK,
    SPAN_BLOCKS,
    choose_block_rows,
)
from noveltyflow.runtime.stages.neighbors import tile_bytes
from noveltyflow.runtime.stages.tile import LARGEST_SPANS
from noveltyflow.types import AnyArray
from noveltyflow.urls.canonical import canonicalize

_MIB = 1 << 20
_BUFFERS = 20 * _MIB
"""What a task takes besides its data where it computes no tiles: buffers of codecs and of Arrow."""
_STRING = 57
"""Bytes of a Python string besides its characters, and of the reference to it."""
_LEAST_PIECE_RECORDS = 50_000
_PIECE_RECORDS = _LEAST_PIECE_RECORDS + 16_384
"""A piece is written once it has 50,000 records, of which the last batch may have brought 16,384."""
_PIECE_BYTES = 2 * 16 * _MIB
_AIM_RANGE_RECORDS = 100_000
_RANGE_RECORDS = 150_000
"""A range of SURT order aims at 100,000 records; its borders come from a sample."""
_PARTS, _LEAST_IN_PART = 8, 200


@dataclass(frozen=True)
class InputShape:
    """What the memory of tasks depends on.

    Attributes
    ----------
    lines : int
        Records of the input.
    url_bytes : float
        Mean length of a URL, where it is longest.
    nonzeros_per_row : float
        Mean number of distinct n-grams of a URL, where it is highest.
    """

    lines: int
    url_bytes: float
    nonzeros_per_row: float


def sampled_shape(samples: Sequence[str], lines: int, settings: ScoringSettings) -> InputShape:
    """Shape of an input from some of its records; long URLs stand together, so the densest part counts."""
    urls = in_surt_order(samples, settings)
    if not urls:
        return InputShape(lines, float(np.mean([len(text) for text in samples] or [0])), 0.0)
    lengths = np.array([len(url) for url in urls])
    nonzeros = np.diff(hash_block(urls, settings.features).indptr)
    return InputShape(lines, _densest(lengths), _densest(nonzeros))


def in_surt_order(samples: Sequence[str], settings: ScoringSettings) -> list[str]:
    """Canonical URLs of some records, duplicates included, in the order that rows have."""
    batch = canonicalize(samples, settings.urls)
    keyed = zip(batch.surts, batch.urls, strict=True)
    return [
        url for _, url in sorted((surt, url) for surt, url in keyed if surt is not None and url is not None)
    ]


def _densest(values: AnyArray) -> float:
    """The highest mean of some hundreds of neighbouring values."""
    parts = np.array_split(values, max(1, min(_PARTS, len(values) // _LEAST_IN_PART)))
    return float(max(part.mean() for part in parts))


def _at_once(lines: int, records: int) -> int:
    """How many parts of so many records one task takes, so that there are not too many tasks."""
    return max(1, -(-lines // (records * MOST_TASKS)))


def input_tasks(shape: InputShape) -> dict[str, int]:
    """Peak bytes of the tasks whose size does not depend on the row blocks."""
    records = min(shape.lines, _PIECE_RECORDS)
    text = min(int(records * shape.url_bytes), _PIECE_BYTES)
    pieces = _at_once(shape.lines, _LEAST_PIECE_RECORDS)
    in_range = min(shape.lines, _RANGE_RECORDS) * _at_once(shape.lines, _AIM_RANGE_RECORDS)
    return {
        # The texts as Python strings and as an Arrow table, and the file that is made of it.
        "read": _BUFFERS + 5 * text + 500 * records,
        # Besides: canonical form, SURT and the parts of both, and a data frame before and after it is collapsed.
        "canonical": _BUFFERS + pieces * (12 * text + 800 * records),
        # The parts hold every URL twice, once in SURT order; as strings of Python, and collapsed, it is there again.
        "sort": _BUFFERS + int(in_range * (8 * shape.url_bytes + 300)),
    }


def fit_blocks(
    shape: InputShape,
    settings: ScoringSettings,
    backends: Sequence[str],
    allowed: int,
    n_threads: int,
    asked: int | None,
) -> tuple[int, Mapping[str, Callable[[int], int]]]:
    """Rows in a block, and what its tasks then need; see `choose_block_rows`."""
    n_rows = max(shape.lines, 1)
    smallest = min(asked or SMALLEST_BLOCK, n_rows)
    tile = tile_bytes(shape.nonzeros_per_row, settings, backends)
    span_blocks = SPAN_BLOCKS if tile(smallest, SPAN_BLOCKS) <= allowed else 1
    tasks = block_tasks(shape, settings, backends, span_blocks)
    return choose_block_rows(tasks, n_rows, allowed, n_threads, asked, backends), tasks


def most_span_rows(
    shape: InputShape, settings: ScoringSettings, backends: Sequence[str], allowed: int, block_rows: int
) -> int:
    """Rows of the spans to which a worker comes, as far as its limit tells; at least one block."""
    tile, blocks = tile_bytes(shape.nonzeros_per_row, settings, backends), 1
    most = min(max(shape.lines, 1), *(LARGEST_SPANS[backend] for backend in backends))
    while blocks * block_rows < most and tile(block_rows, 2 * blocks) <= allowed:
        blocks *= 2
    return min(blocks * block_rows, max(most, block_rows))


def block_tasks(
    shape: InputShape, settings: ScoringSettings, backends: Sequence[str], span_blocks: int
) -> Mapping[str, Callable[[int], int]]:
    """Peak bytes of the tasks that take row blocks, as functions of the rows in a block; tiles of so many blocks."""
    n_features, k = settings.features.n_features, settings.neighbors.n_neighbors
    # A block is cut from whole ranges, which hold every URL twice, once in SURT order.
    tile = tile_bytes(shape.nonzeros_per_row, settings, backends)
    in_ranges = min(shape.lines, 2 * _RANGE_RECORDS * _at_once(shape.lines, _AIM_RANGE_RECORDS))
    ranges = int(in_ranges * (2 * shape.url_bytes + 40))

    def nonzeros(rows: int) -> int:
        return int(rows * shape.nonzeros_per_row)

    def strings(rows: int) -> int:
        return int(rows * 2 * (_STRING + shape.url_bytes))

    return {
        "rows": lambda rows: _BUFFERS + ranges + strings(rows),
        # int32 columns and float32 counts, compressed and not; the text is there in bytes too.
        "hash": lambda rows: _BUFFERS + strings(rows) + int(4 * rows * shape.url_bytes) + 16 * nonzeros(rows),
        # int32 columns and float32 counts, compressed and not; the sum so far, and that of a block.
        "document_frequency": lambda rows: _BUFFERS + 14 * nonzeros(rows) + 2 * 8 * n_features,
        "document_frequency_combine": lambda _rows: (FAN_IN + 2) * 8 * n_features,
        "tile": lambda rows: tile(rows, span_blocks),
        "merge": lambda rows: _BUFFERS + 4 * 12 * k * rows,
    }
