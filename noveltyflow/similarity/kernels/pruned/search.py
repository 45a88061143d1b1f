"""How one row after the other is answered."""

from __future__ import annotations

import numba
import numpy as np

from noveltyflow.similarity.kernels.compiling import uncounted
from noveltyflow.similarity.kernels.effort import effort_of_everything
from noveltyflow.similarity.kernels.pruned.accumulate import (
    collect,
    largest,
    threshold,
    unwalked,
    walk,
)
from noveltyflow.similarity.kernels.pruned.index import GroupIndex
from noveltyflow.similarity.kernels.pruned.lanes import rows_of_group
from noveltyflow.similarity.kernels.pruned.query import (
    LISTED,
    PLACES,
    SCANNED,
    Scratch,
    clear_query,
    load_query,
    make_scratch,
)
from noveltyflow.similarity.kernels.pruned.verify import settle, settle_best
from noveltyflow.similarity.kernels.scoring import Members, Query
from noveltyflow.similarity.kernels.ticks import ACCUMULATING, SEEDING, VERIFYING, begin, spent
from noveltyflow.types import BoolArray, Float32Array, Int32Array, Int64Array

FIRST_BUDGET = 1_000
"""Multiply-adds before the best sums are settled for the first time; then each time four times as many."""
SHARES = (0.7, 0.45, 0.3)
"""Shares of the threshold that may be skipped, tried one after the other as long as it pays."""
_NO_LIMIT = 1 << 60
_LEAST_SIMILARITY = 1e-30
_GROUP_COST = 0.5
"""Saving that one more walk promises for each place of a record, in multiply-adds: as measured, about 1.1 for
the place, and 45 % of the groups."""
_COLUMN_COST, _PLACE_COST, _SCORE_COST, _LISTED_COST, _SCAN_COST = 130.0, 1.6, 50.0, 5.0, 0.3
"""What a query's column, a place of a record, a similarity, a candidate in a list and a sum that is looked at take,
in multiply-adds: fitted to fourteen matrices, and within a fifth for all of them."""
_BEFORE_LONG_LIST = 3
"""How often the best sums are settled before a list that is longer than the budget, which can then be skipped."""
_FEW = 128
"""Candidates among which the largest sums are looked for again and again; more are settled in any order."""
_WALK_COST = 0.35
"""Multiply-adds that the next walk is expected to add to each of those done; and 200 for going there at all."""


@numba.njit(nogil=True, cache=True)
def search_rows(
    indptr: Int64Array,
    columns: Int32Array,
    weights: Float32Array,
    index: GroupIndex,
    members: Members,
    row_of: Int64Array,
    own_offset: int,
    similarities: Float32Array,
    neighbors: Int64Array,
    computed: BoolArray,
    patience: int,
) -> tuple[Int64Array, Int64Array, int]:
    """Improve the best k of query rows, in place, and set `computed` for those for which any similarity is computed.

    Returns multiply-adds, groups bounded and similarities; ticks by stage; and how many rows are answered.

    `own_offset` is the block's row that is query row 0, or so small that no query stands in the block. Not all rows
    are answered where bounds, for those up to there, have taken `patience` multiply-adds more than computing all.
    """
    longest = 0
    for row in range(indptr.size - 1):
        longest = max(longest, indptr[row + 1] - indptr[row])
    scratch, everything, columns_done = make_scratch(longest, index), 0.0, 0
    group_rows = rows_of_group(index.record_weights)
    begin(scratch.work)
    for row in range(indptr.size - 1):
        entries = slice(indptr[row], indptr[row + 1])
        own = row + own_offset if 0 <= row + own_offset < row_of.size else -1
        query = Query(
            columns[entries],
            weights[entries],
            own,
            similarities[row],
            neighbors[row],
            row,
            similarities,
            neighbors,
        )
        before = scratch.work[2]
        known = load_query(index, query.columns, query.weights, scratch)
        everything += effort_of_everything(index.rows_each * unwalked(scratch, known), row_of.size)
        columns_done += known
        if known:
            likely = _likely_groups(
                own, neighbors[max(row - 1, 0)], members.first, row_of, group_rows, scratch.candidates
            )
            settle(index, members, query, scratch.candidates[:likely], np.inf, scratch)
            _answer(index, members, query, known, scratch)
        computed[row] |= scratch.work[2] > before
        clear_query(query.columns, known, scratch)
        if _costs(scratch) + _COLUMN_COST * columns_done > everything + patience:
            return scratch.work[:3], scratch.work[SEEDING : VERIFYING + 1], row + 1
    return scratch.work[:3], scratch.work[SEEDING : VERIFYING + 1], indptr.size - 1


@uncounted
def _costs(scratch: Scratch) -> float:
    """What has been done so far, but for loading queries, in multiply-adds."""
    work = scratch.work
    found = _PLACE_COST * work[PLACES] + _SCORE_COST * work[2] + _LISTED_COST * work[LISTED]
    return float(work[0] + found + _SCAN_COST * work[SCANNED])


@uncounted
def _group_places(index: GroupIndex) -> int:
    """Places of a record, on average."""
    return index.postings.size // max(1, index.record_starts.size - 1)


@uncounted
def _likely_groups(
    own: int, neighbors: Int64Array, first: int, row_of: Int64Array, group_rows: int, groups: Int32Array
) -> int:
    """List the groups of the row itself and of the neighbours of the row before: many are this row's as well.

    Returns their number.
    """
    found = 0
    if own >= 0:
        groups[0] = row_of[own] // group_rows
        found = 1
    for neighbor in neighbors:
        row = neighbor - first
        if 0 <= row < row_of.size and found < groups.size:
            groups[found] = row_of[row] // group_rows
            found += 1
    return found


@uncounted
def _answer(index: GroupIndex, members: Members, query: Query, known: int, scratch: Scratch) -> None:
    """Raise the threshold with good candidates, then skip as much as pays, then settle what is left.

    Where that is more than the rest of all lists, nothing is skipped.
    """
    begun = scratch.work[0]
    skip = _seed(index, members, query, known, scratch)
    spent(scratch.work, SEEDING)
    found, before = collect(scratch, threshold(query.similarities[-1], skip)), _NO_LIMIT
    group_places = _group_places(index)
    for share in SHARES[1:]:
        if found > scratch.best.size:
            spent(scratch.work, ACCUMULATING)
            found = settle_best(index, members, query, found, skip, scratch)
            spent(scratch.work, VERIFYING)
        places = found * group_places
        added = scratch.work[0] - begun
        if places * _GROUP_COST <= _WALK_COST * added + 200 or found > 0.95 * before:
            break
        before = found
        skip = min(skip, _skippable(share, query.similarities[-1]))
        _, skip = walk(index, scratch, 0, known, skip, _NO_LIMIT, 0.0)
        found = collect(scratch, threshold(query.similarities[-1], skip))
    if found > scratch.best.size and unwalked(scratch, known) < found * group_places * _GROUP_COST:
        _, skip = walk(index, scratch, 0, known, 0.0, _NO_LIMIT, 0.0)
        found = collect(scratch, threshold(query.similarities[-1], skip))
    spent(scratch.work, ACCUMULATING)
    _settle_all(index, members, query, found, skip, scratch)
    spent(scratch.work, VERIFYING)


@uncounted
def _settle_all(
    index: GroupIndex, members: Members, query: Query, found: int, skip: float, scratch: Scratch
) -> None:
    """Settle the candidates, those with the largest sums first: they raise the threshold for the others."""
    found = settle_best(index, members, query, found, skip, scratch)
    while scratch.best.size < found <= _FEW:
        found = settle_best(index, members, query, found, skip, scratch)
    settle(index, members, query, scratch.candidates[:found], skip, scratch)


@uncounted
def _skippable(share: float, similarity: float) -> float:
    """What may be skipped: a share of the k-th similarity, or nothing where float32 has no relative precision."""
    return share * np.float64(similarity) if similarity > _LEAST_SIMILARITY else 0.0


@uncounted
def _seed(index: GroupIndex, members: Members, query: Query, known: int, scratch: Scratch) -> float:
    """Walk all lists, and raise the threshold on the way; returns what may have been skipped."""
    step, budget, skipped = 0, FIRST_BUDGET, 0.0
    while True:
        skip = _skippable(SHARES[0], query.similarities[-1])
        step, skipped = walk(index, scratch, step, known, skip, budget, skipped)
        if step >= known:
            return skipped
        half = 0.5 * np.float64(query.similarities[-1])
        if half > 0.0:
            found = collect(scratch, threshold(half, 0.0))
        else:
            found = collect(scratch, max(1, largest(scratch.accumulators) // 2))
        next_list = scratch.end[step] - scratch.cursor[step]
        for _ in range(_BEFORE_LONG_LIST if next_list > budget else 1):
            found = settle_best(index, members, query, found, max(0.0, half), scratch)
        budget *= 4
