"""The index of a block: posting lists and records of groups of consecutive rows.

Columns are ranked by document frequency, rare ones first. A posting says, for one column and one group, the
largest weight that a member has there, and the largest norm that a member which has the column keeps from
this column's rank on (its suffix norm). Both are stored in eight bits, rounded up, so that sums of products
stay upper bounds. Each list is sorted by suffix norm, so that what a query must add is a prefix of the list.
A record says the same weights member by member.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from noveltyflow.similarity.kernels.duplicates import Distinct
from noveltyflow.similarity.kernels.pruned.filling import PACKED, fill
from noveltyflow.similarity.kernels.pruned.lists import CODE_BITS, Rows, rank_columns, transpose
from noveltyflow.similarity.kernels.reaching import LANES
from noveltyflow.similarity.norms import row_norms
from noveltyflow.types import AnyArray, CsrMatrix, Float32Array, Int32Array, Int64Array

LEAST_GROUP, MOST_GROUP = min(PACKED), max(PACKED)
"""Rows in a group."""
_MOST_GROUPS = 1 << 16
"""Groups that 16-bit numbers can tell apart."""
MOST_ROWS = MOST_GROUP * _MOST_GROUPS
MOST_DIFFERENT = 0.45
"""Share of the entries of eight rows that different columns make up, beyond which four are a group: as measured."""
_SAMPLED = 64
"""Groups of eight that are looked at for that."""
ROUND_UP = 1.0 + 2.0**-20
"""Factor that turns a float64 result into an upper bound of the real number it stands for.

A sum of m products in float64 is off by at most m * 2**-53 of itself, so this covers rows of up to 2**32
entries, and the few operations after that.
"""


class GroupIndex(NamedTuple):
    """Arrays of the index; r counts ranked columns, g groups, p postings, m distinct rows.

    `column_rank` int32 (n_features,), -1 where no row has the column; `heads` int64 (r + 1,): where the list of each
    column begins, and in the lowest 13 bits the code of its largest weight (see `lists`); `postings` uint32 (p,):
    group in the upper 16 bits, weight in units of the largest / 255, suffix norm in units of `largest_norm` / 255;
    `record_starts` int64 (g + 1,); `record_codes` uint16 (p + `LANES`,): the lower 16 bits of the column's rank, then
    zeros that are read in vain; `record_weights` uint64 (p,), or uint32 where a group has four rows: weights of the
    members, the first in the lowest byte; `row_starts`, `row_ends` int64 (m,): where the entries of a distinct row
    stand in `columns` and `weights`, which are those of the block. `rows_each` is how many rows of the block there
    are for each posting that a row of the block meets.
    """

    column_rank: Int32Array
    heads: Int64Array
    postings: AnyArray
    record_starts: Int64Array
    record_codes: AnyArray
    record_weights: AnyArray
    row_starts: Int64Array
    row_ends: Int64Array
    largest_norm: float
    rows_each: float
    columns: Int32Array
    weights: Float32Array

    @classmethod
    def of(
        cls, block: CsrMatrix, distinct: Distinct, threads: int = 1, group_rows: int = MOST_GROUP
    ) -> GroupIndex:
        """Index the distinct rows of a CSR matrix of non-negative weights.

        The number of threads does not change the result; groups are of 4 or 8 rows.

        Raises
        ------
        ValueError
            If there are more than 65,536 groups.
        """
        if block.shape[0] > group_rows * _MOST_GROUPS:
            raise ValueError(
                f"a block of {block.shape[0]:,} rows cannot be indexed in groups of {group_rows}; "
                f"at most {group_rows * _MOST_GROUPS:,} can"
            )
        indptr = block.indptr.astype(np.int64)
        begins, ends = indptr[distinct.first], indptr[distinct.first + 1]
        rows = Rows(begins, ends, block.indices, block.data.view(np.uint32))
        lists = transpose(rows, block.shape[1], threads)
        rank = np.full(block.shape[1], -1, np.int32)
        ranked = rank_columns(lists.starts, rank)
        norm = float(row_norms(indptr, block.data).max(initial=0.0)) * ROUND_UP
        filled = fill(ranked, lists, -(-begins.size // group_rows), group_rows, norm, threads)
        copies = block.nnz / max(1, lists.entries.size)
        rows_each = copies * _rows_each(lists.starts, ranked, filled.heads)
        return cls(rank, *filled, begins, ends, norm, rows_each, block.indices, block.data)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays beside the rows themselves."""
        return sum(part.nbytes for part in self[:8])


@numba.njit(nogil=True, cache=True)
def _rows_each(starts: Int64Array, ranked: Int32Array, heads: Int64Array) -> float:
    """Distinct rows for each posting that a row of the block meets."""
    met, postings = 0.0, 0.0
    for rank in range(ranked.size):
        rows = np.float64(starts[ranked[rank] + 1] - starts[ranked[rank]])
        met += rows * rows
        postings += rows * np.float64((heads[rank + 1] >> CODE_BITS) - (heads[rank] >> CODE_BITS))
    return met / max(1.0, postings)


def index_bytes(rows: int, nonzeros: int, features: int) -> int:
    """Upper bound of the bytes of an index beside the block itself."""
    ranks = 4 * features + 8 * (min(features, nonzeros) + 1)
    return ranks + (4 + 2 + 8) * nonzeros + 2 * LANES + 8 * 3 * (rows + 2)


def building_bytes(rows: int, nonzeros: int, features: int) -> int:
    """Upper bound of the bytes that building an index takes beside the index and the block itself."""
    lists = 4 * nonzeros + 8 * (features + 2)
    return lists + 4 * (min(features, nonzeros) + 1) + 8 * 4 * (rows + MOST_GROUP)


def rows_in_group(block: CsrMatrix, distinct: Distinct, most_different: float) -> int:
    """Rows that a group should have: 8 where neighbouring rows share columns, 4 where they are strangers.

    Groups of strangers have loose bounds and long records; more groups have more postings. `most_different` is to be
    found in `CpuKernel.most_different`.
    """
    first = distinct.first
    if first.size > LEAST_GROUP * _MOST_GROUPS:
        return MOST_GROUP
    begins = np.unique(np.linspace(0, max(0, first.size - MOST_GROUP), _SAMPLED, dtype=np.int64))
    entries, different = 0, 0
    for begin in begins:
        rows = [slice(*block.indptr[row : row + 2]) for row in first[begin : begin + MOST_GROUP]]
        columns = np.sort(np.concatenate([block.indices[row] for row in rows]))
        entries += columns.size
        different += int(np.count_nonzero(columns[1:] != columns[:-1])) + min(1, columns.size)
    return LEAST_GROUP if different > most_different * entries else MOST_GROUP
