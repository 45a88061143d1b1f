"""The model of memory and disk: peak bytes, from the shape of the input. Pure, and tested by measuring."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from noveltyflow.config import ScoringSettings
from noveltyflow.features.hashing import hash_block
from noveltyflow.runtime.disk import compressed, neighbor_bytes
from noveltyflow.runtime.plan import (
    FAN_IN,
    MOST_TASKS,
    SMALLEST_BLOCK,
    SPAN_BLOCKS,
    choose_block_rows,
)
from noveltyflow.runtime.stages.tile import LARGEST_SPANS
from noveltyflow.runtime.stages.tile_memory import tile_bytes
from noveltyflow.types import AnyArray, Float64Array
from noveltyflow.urls.canonical import CanonicalBatch, canonicalize

_MIB = 1 << 20
_BUFFERS = 20 * _MIB
"""What a task takes besides its data where it computes no tiles: buffers of codecs and of Arrow."""
_SMALL_BUFFERS = 8 * _MIB
"""The same of a task that holds hardly anything of what it reads twice."""
_STRING = 57
"""Bytes of a Python string besides its characters, and of the reference to it."""
_LEAST_PIECE_RECORDS = 50_000
_PIECE_RECORDS = _LEAST_PIECE_RECORDS + 16_384
"""A piece is written once it has 50,000 records, of which the last batch may have brought 16,384."""
_PIECE_BYTES = 2 * 16 * _MIB
"""Of records as they were read; a piece is written once it has 16 MiB, and the last batch may bring as many."""
_AIM_RANGE_RECORDS = 100_000
_RANGE_RECORDS = 150_000
"""A range of SURT order aims at 100,000 records; its borders come from a sample."""
_ENOUGH, _FEW, _MOST_PARTS = 200, 32, 8
"""How many neighbours in a sample tell how much as large a part of all comes to, how many are enough to tell where
much stands together, and into how many parts a sample is cut for comparing."""


@dataclass(frozen=True, eq=False)
class Densest:
    """How much consecutive rows come to at most, by how many they are; long URLs, for example, stand together.

    Attributes
    ----------
    rows, sums : float64 arrays, (n + 1,)
        Rows in the first 0, 1, ..., n portions of all of them, and what these come to.
    least : float
        Rows of which fewer are not known well enough to tell anything by themselves.
    """

    rows: Float64Array
    sums: Float64Array
    least: float = 0.0

    @classmethod
    def sampled(cls, values: AnyArray, lines: int) -> Densest:
        """Of so many lines, from the values of some; fewer than 200 of these tell little."""
        each = lines / max(1, len(values))
        return cls(_running(np.full(len(values), each)), _running(each * values), each * _ENOUGH)

    def sum_of(self, count: int) -> float:
        """What so many rows, wherever they begin, come to at most.

        Where that is fewer than `least`, they come to no more than so many do, nor are they denser than the densest
        few that are known.
        """
        most = self._most(max(count, self.least))
        if count >= self.least or len(self.rows) < 2:
            return most
        few = float(min(_FEW * self.rows[1], self.rows[-1]))
        return min(most, count * self._most(few - self.rows[1]) / few)

    def _most(self, count: float) -> float:
        """What portions that hold so many rows, beginning within the first of them, come to at most."""
        ends = np.minimum(np.searchsorted(self.rows, self.rows[1:] + count), len(self.rows) - 1)
        return float((self.sums[ends] - self.sums[:-1]).max(initial=0.0))


def _running(values: AnyArray) -> Float64Array:
    """What the first 0, 1, ... values come to, float64, (n + 1,)."""
    total: Float64Array = np.append(0.0, np.cumsum(values, dtype=np.float64))
    return total


@dataclass(frozen=True)
class InputShape:
    """What the memory of tasks, and the disk, depend on.

    Attributes
    ----------
    lines : int
        Records of the input.
    record_bytes : Densest
        Size of a record, as UTF-8 or as a Python string, whichever is larger.
    url_bytes : Densest
        Length of a canonical URL, in SURT order.
    growth : float
        Bytes of canonical URLs for each byte of records, where there are most, and at least 1: what is not ASCII
        takes three times as many.
    nonzeros : Densest
        Number of distinct n-grams of a URL, in SURT order.
    nonzeros_per_byte : float
        Of these for each byte of the URL, where there are most.
    piece_bytes, scratch_bytes, stored_bytes : float
        Mean bytes of a record on disk, compressed: its text as it was read, all that there is of it while rows are
        made, and a row with its features.
    """

    lines: int
    record_bytes: Densest
    url_bytes: Densest
    growth: float
    nonzeros: Densest
    nonzeros_per_byte: float
    piece_bytes: float = 0.0
    scratch_bytes: float = 0.0
    stored_bytes: float = 0.0


def sampled_shape(samples: Sequence[str], lines: int, settings: ScoringSettings) -> InputShape:
    """Shape of an input from some of its records."""
    sizes = np.array([_size(text) for text in samples])
    batch = canonicalize(samples, settings.urls)
    urls = in_surt_order(batch)
    written = np.array([len(url or "") for url in batch.urls])
    lengths = np.array([len(url) for url in urls])
    counts = hash_block(urls, settings.features)
    text = "\n".join(urls).encode()
    rows = compressed(text) + 16 * len(urls)
    # Records as they were read; and URLs twice, once in SURT order, before and after sorting; numbers of 40 bytes.
    records = compressed("\n".join(samples).encode("utf-8", "replace"), "lz4_raw")
    scratch = records + 4 * compressed(text, "lz4_raw")
    features = compressed(counts.indices.tobytes()) + compressed(counts.data.tobytes())
    return InputShape(
        lines,
        Densest.sampled(sizes, lines),
        Densest.sampled(lengths, lines),
        max(1.0, _highest_share(written, sizes)),
        Densest.sampled(np.diff(counts.indptr), lines),
        _highest_share(np.diff(counts.indptr), lengths),
        records / max(1, len(samples)),
        (scratch + rows) / max(1, len(samples)) + 80,
        (rows + features) / max(1, len(urls)),
    )


def with_lengths(shape: InputShape, rows: AnyArray, url_bytes: AnyArray) -> InputShape:
    """The shape, once it is known how long URLs are: portions of rows in their order, and the bytes of each."""
    edges, sums = _running(rows), _running(url_bytes)
    return replace(
        shape, url_bytes=Densest(edges, sums), nonzeros=Densest(edges, shape.nonzeros_per_byte * sums)
    )


def _size(text: str) -> int:
    return max(len(text.encode("utf-8", "replace")), sys.getsizeof(text) - sys.getsizeof(""))


def in_surt_order(batch: CanonicalBatch) -> list[str]:
    """URLs of a batch, duplicates included, in the order that rows have."""
    keyed = zip(batch.surts, batch.urls, strict=True)
    return [
        url for _, url in sorted((surt, url) for surt, url in keyed if surt is not None and url is not None)
    ]


def _highest_share(values: AnyArray, of: AnyArray) -> float:
    """How much the values are for each one of others beside them, in the part of a sample where that is most."""
    n_parts = max(1, min(_MOST_PARTS, len(of) // _ENOUGH))
    parts = zip(np.array_split(values, n_parts), np.array_split(of, n_parts), strict=True)
    return max(float(part.sum() / max(1, whole.sum())) for part, whole in parts)


def _at_once(lines: int, records: int) -> int:
    """How many parts of so many records one task takes, so that there are not too many tasks."""
    return max(1, -(-lines // (records * MOST_TASKS)))


def least_disk_bytes(shape: InputShape) -> int:
    """Bytes to which the run folder comes however often URLs occur: every record is kept once it was read."""
    return int(shape.lines * shape.piece_bytes)


def disk_bytes(shape: InputShape, n_neighbors: int) -> int:
    """Bytes of the run folder when it is largest, if no URL occurs twice: while rows are made, or at the end."""
    finished = int(shape.lines * shape.stored_bytes) + neighbor_bytes(shape.lines, n_neighbors)
    return max(int(shape.lines * shape.scratch_bytes), finished)


def input_tasks(shape: InputShape) -> dict[str, int]:
    """Peak bytes of the tasks whose size does not depend on the row blocks."""
    records = min(shape.lines, _PIECE_RECORDS)
    text = min(int(shape.record_bytes.sum_of(records)), _PIECE_BYTES)
    urls = int(min(shape.url_bytes.sum_of(records), _PIECE_BYTES * shape.growth))
    pieces = _at_once(shape.lines, _LEAST_PIECE_RECORDS)
    in_range = min(shape.lines, _RANGE_RECORDS) * _at_once(shape.lines, _AIM_RANGE_RECORDS)
    return {
        # The texts as Python strings and as an Arrow table, and the file that is made of it.
        "read": _BUFFERS + 5 * text + 450 * records,
        # Besides: canonical form, SURT and the parts of both, and a table before and after it is collapsed.
        "canonical": _BUFFERS + pieces * (text + 14 * urls + 500 * records),
        # The parts hold every URL twice, once in SURT order; together, in order, and collapsed, they are there again.
        "sort": _BUFFERS + int(8 * shape.url_bytes.sum_of(in_range)) + 165 * in_range,
    }


def fit_blocks(
    shape: InputShape,
    settings: ScoringSettings,
    backends: Sequence[str],
    allowed: int,
    n_threads: int,
    asked: int | None,
    threads_per_worker: int,
) -> tuple[int, Mapping[str, Callable[[int], int]]]:
    """Rows in a block, and what its tasks then need; see `choose_block_rows`."""
    n_rows = max(shape.lines, 1)
    smallest = min(asked or SMALLEST_BLOCK, n_rows)
    tile = tile_bytes(shape.nonzeros.sum_of, settings, backends)
    span_blocks = SPAN_BLOCKS if tile(smallest, SPAN_BLOCKS) <= allowed else 1
    tasks = block_tasks(shape, settings, backends, span_blocks)
    block_rows = choose_block_rows(
        tasks,
        n_rows,
        allowed,
        n_threads,
        asked,
        backends,
        besides=input_tasks(shape),
        threads_per_worker=threads_per_worker,
    )
    return block_rows, tasks


def most_span_rows(
    shape: InputShape, settings: ScoringSettings, backends: Sequence[str], allowed: int, block_rows: int
) -> int:
    """Rows of the spans to which a worker comes, as far as its limit tells, where rows are as most are."""
    mean = shape.nonzeros.sum_of(shape.lines) / max(1, shape.lines)
    tile, blocks = tile_bytes(lambda rows: mean * rows, settings, backends), 1
    most = min(max(shape.lines, 1), *(LARGEST_SPANS[backend] for backend in backends))
    while blocks * block_rows < most and tile(block_rows, 2 * blocks) <= allowed:
        blocks *= 2
    return min(blocks * block_rows, max(most, block_rows))


def block_tasks(
    shape: InputShape, settings: ScoringSettings, backends: Sequence[str], span_blocks: int
) -> Mapping[str, Callable[[int], int]]:
    """Peak bytes of the tasks that take row blocks, as functions of the rows in a block; tiles of so many blocks."""
    n_features, k = settings.features.n_features, settings.neighbors.n_neighbors
    # A block is cut from whole ranges, which hold every URL twice, once in SURT order; their files are mapped.
    tile = tile_bytes(shape.nonzeros.sum_of, settings, backends)
    in_ranges = min(shape.lines, 2 * _RANGE_RECORDS * _at_once(shape.lines, _AIM_RANGE_RECORDS))
    ranges = int(3 * shape.url_bytes.sum_of(in_ranges)) + 40 * in_ranges

    def nonzeros(rows: int) -> int:
        return int(shape.nonzeros.sum_of(rows))

    def text(rows: int) -> int:
        return int(shape.url_bytes.sum_of(rows))

    def strings(rows: int) -> int:
        return 2 * (_STRING * rows + text(rows))

    return {
        "rows": lambda rows: _SMALL_BUFFERS + ranges + strings(rows),
        # int32 columns and float32 counts, compressed and not; the text is there in bytes too.
        "hash": lambda rows: _BUFFERS + strings(rows) + 4 * text(rows) + 12 * nonzeros(rows),
        # int32 columns and float32 counts, compressed and not; the sum so far, and that of a block.
        "document_frequency": lambda rows: _SMALL_BUFFERS + 12 * nonzeros(rows) + 2 * 8 * n_features,
        "document_frequency_combine": lambda _rows: (FAN_IN + 2) * 8 * n_features,
        "tile": lambda rows: tile(rows, span_blocks),
        "merge": lambda rows: _SMALL_BUFFERS + 3 * 12 * k * rows,
    }
