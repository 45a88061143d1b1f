"""Stage `urls`, second part: raw records become rows, the distinct canonical URLs in SURT order.

Every group of pieces is made canonical, collapsed, and cut at the borders of ranges of SURT order; equal URLs then
come together range by range, and the sorted ranges are cut into blocks of equal length.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noveltyflow.config import UrlSettings
from noveltyflow.inert import printable
from noveltyflow.runtime.stages.notes import Stored
from noveltyflow.runtime.stages.read import reject_table
from noveltyflow.similarity.tiles import Block
from noveltyflow.store import RunStore, Scratch
from noveltyflow.store.blocks import write_rows
from noveltyflow.store.run_store import SCRATCH
from noveltyflow.urls.canonical import canonicalize
from noveltyflow.urls.rejects import Reason, make_reject
from noveltyflow.urls.shards import Shard

Piece = tuple[str, int, list[int]]
"""Name of a piece, number of its partition's first shard, and each of these shards' first global ordinal."""
BORDERS = "borders.json"
"""Name in scratch space of the keys, see `_key`, with which all ranges but the first begin."""
PORTION_ROWS = 256
"""Rows of a range whose length is told together."""
_RECORD_BYTES = 25
"""What a row takes beside its key, in bytes of keys, wherever rows are in memory."""
_NO_ROWS = pa.table({"surt": [], "url": [], "count": [], "first_seen": []}).cast(
    pa.schema({"surt": "large_string", "url": "large_string", "count": "int64", "first_seen": "int64"})
)
Slice = tuple[int, int, int]
"""Number of a sorted range, and the first and last-plus-one of its rows."""


def canonical(
    store: RunStore, number: int, pieces: Sequence[Piece], settings: UrlSettings, with_time: bool
) -> Stored:
    """Store the distinct URLs of a group of pieces, each range of SURT order apart; how many records they stand for.

    What cannot be a URL is stored as a reject.
    """
    scratch = store.scratch
    table = _distinct(scratch, pieces, settings, with_time)
    surts, urls = table["surt"], table["url"]
    inner = json.loads(scratch.read(BORDERS) or b"[]")

    def key(row: int) -> str:
        return _key(surts[row].as_py(), urls[row].as_py())

    cuts = [bisect_left(range(table.num_rows), border, key=key) for border in inner]
    cuts = [0, *cuts, table.num_rows]
    name = f"canonical/{number:06d}"
    scratch.write_parts(name, [table[lo:hi] for lo, hi in pairwise(cuts)])
    rejects = (f"rejects/{piece}-canonical" for piece, _, _ in pieces)
    return _total(table), [f"{SCRATCH}/{file}" for file in (name, *rejects)]


def _distinct(scratch: Scratch, pieces: Iterable[Piece], settings: UrlSettings, with_time: bool) -> pa.Table:
    tables = [_distinct_of_piece(scratch, piece, settings, with_time) for piece in pieces]
    return tables[0] if len(tables) == 1 else collapse(pa.concat_tables(tables))


def _distinct_of_piece(scratch: Scratch, piece: Piece, settings: UrlSettings, with_time: bool) -> pa.Table:
    name, first_shard, bases = piece
    table = scratch.read_table(f"pieces/{name}")
    batch = canonicalize(table["text"].to_pylist(), settings)
    keep = np.array([url is not None for url in batch.urls], dtype=bool)
    _store_rejects(scratch, name, table, batch.reasons, keep)
    shard = table["shard"].to_numpy() - first_shard
    columns = {
        "surt": pa.array([s for s in batch.surts if s is not None], pa.large_string()),
        "url": pa.array([u for u in batch.urls if u is not None], pa.large_string()),
        "count": np.ones(keep.sum(), np.int64),
        "first_seen": (np.asarray(bases, np.int64)[shard] + table["ordinal"].to_numpy())[keep],
    }
    if with_time:
        columns["first_time"] = table["time"].to_numpy()[keep]
    return collapse(pa.table(columns))


def _store_rejects(
    scratch: Scratch, name: str, table: pa.Table, reasons: Sequence[Reason | None], keep: np.ndarray[Any, Any]
) -> None:
    bad = np.flatnonzero(~keep)
    rejected = table.take(bad)
    rejects = [
        (shard, make_reject(ordinal, line, reasons[at], text))
        for at, shard, ordinal, line, text in zip(
            bad,
            *(rejected[column].to_pylist() for column in ("shard", "ordinal", "line", "text")),
            strict=True,
        )
    ]
    scratch.write_table(f"rejects/{name}-canonical", reject_table(rejects))


def collapse(table: pa.Table) -> pa.Table:
    """One row for each distinct URL, in (SURT, URL) order: counts add up, the earliest sighting stays.

    Grouping by Arrow, or by pandas, would take twice the memory.
    """
    ordered = table.take(pc.sort_indices(table, sort_keys=[("surt", "ascending"), ("url", "ascending")]))
    differs = [pc.not_equal(ordered[key][1:], ordered[key][:-1]).to_numpy() for key in ("surt", "url")]
    starts = np.flatnonzero(np.append(ordered.num_rows > 0, differs[0] | differs[1]))
    if starts.size == ordered.num_rows:
        return ordered
    texts, numbers = ordered.select(["surt", "url"]).take(starts), ordered.column_names[2:]
    for name in numbers:
        merge = np.add if name == "count" else np.minimum
        texts = texts.append_column(name, pa.array(merge.reduceat(ordered[name].to_numpy(), starts)))
    return texts


def _total(table: pa.Table) -> int:
    return int(pc.sum(table["count"]).as_py() or 0)


def borders(samples: Sequence[str], settings: UrlSettings, n_ranges: int) -> list[str]:
    """Borders between at most `n_ranges` ranges of SURT order that take about as much memory each.

    URLs that share a SURT, as those of users of one host do, are parted like any others.
    """
    batch = canonicalize(samples, settings)
    urls = zip(batch.surts, batch.urls, strict=True)
    keys = sorted(_key(surt, url) for surt, url in urls if surt is not None and url is not None)
    if not keys:
        return []
    ends = np.cumsum([len(key) + _RECORD_BYTES for key in keys])
    places = np.searchsorted(ends, ends[-1] * np.arange(1, n_ranges) // n_ranges, side="right")
    return sorted({keys[place] for place in places})


def _key(surt: str, url: str) -> str:
    """What is in the order of rows: no character of either sorts before the line feed."""
    return f"{surt}\n{url}"


def sort(store: RunStore, number: int, n_groups: int) -> Stored:
    """Sort and collapse one range of SURT order, of which each group has a part.

    Tells its rows, their sum of counts, and the bytes of URLs in every `PORTION_ROWS` of them.
    """
    scratch, name = store.scratch, f"sorted/{number:06d}"
    parts = (scratch.read_part(f"canonical/{group:06d}", number) for group in range(n_groups))
    found = [part for part in parts if part is not None] or [_NO_ROWS]
    rows = collapse(pa.concat_tables(found))
    scratch.write_table(name, rows)
    lengths = pc.binary_length(rows["url"]).to_numpy()
    portions = (
        np.add.reduceat(lengths, np.arange(0, rows.num_rows, PORTION_ROWS)) if rows.num_rows else lengths
    )
    return (rows.num_rows, _total(rows), portions.tolist()), [f"{SCRATCH}/{name}"]


def slices_of_blocks(lengths: Sequence[int], blocks: Sequence[Block]) -> list[list[Slice]]:
    """Which rows of which sorted ranges make up every block."""
    ends = np.cumsum(lengths)
    result: list[list[Slice]] = []
    for block in blocks:
        first, last = np.searchsorted(ends, [block.start, block.stop - 1], side="right")
        result.append(
            [
                (number, max(block.start - start, 0), min(block.stop - start, lengths[number]))
                for number in range(int(first), int(last) + 1)
                if (start := int(ends[number]) - lengths[number]) < int(ends[number])
            ]
        )
    return result


def rows(store: RunStore, block: Block, slices: Sequence[Slice]) -> Stored:
    """Store one block of rows, cut from the sorted ranges; its number of rows."""
    tables = [store.scratch.read_table(f"sorted/{number:06d}")[lo:hi] for number, lo, hi in slices]
    table = pa.concat_tables(tables).drop_columns(["surt"])
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    return block.n_rows, write_rows(store, block, columns)


def located_rejects(scratch: Scratch, shards: Sequence[Shard], lines: Sequence[int]) -> Iterable[pa.Table]:
    """All rejects in input order, with their source and the line in it instead of their shard.

    `lines` holds every shard's number of lines: a shard that continues a file starts where the one before ended.
    """
    bases = np.zeros(len(shards), np.int64)
    for number in range(1, len(shards)):
        if shards[number].path == shards[number - 1].path and shards[number].start > 0:
            bases[number] = bases[number - 1] + lines[number - 1]
    # A file's name may hold anything; what is stored is shown in terminals and notebooks.
    sources = np.array([printable(shard.source) for shard in shards], dtype=object)
    by_piece: dict[str, list[str]] = {}
    for name in scratch.names("rejects"):
        by_piece.setdefault(name[:13], []).append(name)
    for names in by_piece.values():
        table = pa.concat_tables([scratch.read_table(f"rejects/{name}") for name in names])
        shard = table["shard"].to_numpy()
        located = table.set_column(0, "source", pa.array(sources[shard], pa.string()))
        located = located.set_column(1, "line", pc.add(table["line"], pa.array(bases[shard])))
        yield located.take(np.lexsort((located["line"].to_numpy(), shard)))
