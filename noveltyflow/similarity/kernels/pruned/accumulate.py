"""Adding posting lists, and finding the groups whose sums are large enough."""

from __future__ import annotations

import numpy as np

from noveltyflow.similarity.kernels.compiling import uncounted
from noveltyflow.similarity.kernels.pruned.index import ROUND_UP, GroupIndex
from noveltyflow.similarity.kernels.pruned.lanes import prefetch
from noveltyflow.similarity.kernels.pruned.query import CHUNK_GROUPS, LISTED, SCANNED, UNIT, Scratch
from noveltyflow.similarity.kernels.reaching import LANES, lowest_bit, reaching
from noveltyflow.similarity.kernels.scoring import SINGLE
from noveltyflow.types import AnyArray, Int32Array

_LISTS_AHEAD = 8
"""How many lists before its own turn the first postings of a list are asked for."""
_LINE_POSTINGS = 16
"""Postings in a line of the cache."""


@uncounted
def walk(
    index: GroupIndex, scratch: Scratch, start: int, known: int, skip: float, budget: int, skipped: float
) -> tuple[int, float]:
    """Add the postings whose suffix norms allow more than `skip`, from column `start` on.

    Of a candidate y, let c be the first column shared with the query x that is not added. There the suffix
    norms have a product of at most `skip`, and by Cauchy-Schwarz everything x and y share from c on adds at
    most that much. So x·y <= accumulated + skip. A later walk with a smaller `skip` goes on where the lists
    were left.

    Returns the column before which the budget of multiply-adds is used up, or `known` when all was walked; and the
    largest such product that is left, which can be much less than `skip`, or `skipped` if that is more, the largest
    before `start`. A list that is longer than the budget is added if it is the first.
    """
    spent = 0
    for step in range(start, known):
        if scratch.reach[step] <= skip:
            skipped = max(skipped, scratch.reach[step])
            break
        level = 255.0 * skip / scratch.norm[step]
        if level >= 255.0:
            skipped = max(skipped, scratch.reach[step])
            break
        soon = scratch.cursor[min(step + _LISTS_AHEAD, known - 1)]
        prefetch(index.postings, soon)
        prefetch(index.postings, soon + _LINE_POSTINGS)
        left = index.postings[scratch.cursor[step] : scratch.end[step]]
        if (
            spent and spent + left.size > budget
        ):  # what is found so far may tell that a long list can be skipped
            scratch.work[0] += spent
            return step, skipped * ROUND_UP
        added = _add(left, scratch.weight[step], np.uint32(level), scratch.accumulators)
        if added < left.size:
            skipped = max(skipped, scratch.norm[step] * (np.float64(left[added] & np.uint32(0xFF)) / 255.0))
        scratch.cursor[step] += added
        spent += added
        if spent >= budget:
            scratch.work[0] += spent
            return step + 1, skipped * ROUND_UP
    scratch.work[0] += spent
    return known, skipped * ROUND_UP


@uncounted
def unwalked(scratch: Scratch, known: int) -> int:
    """How many postings are left in the lists of a query."""
    left = 0
    for step in range(known):
        left += scratch.end[step] - scratch.cursor[step]
    return left


@uncounted
def _add(postings: AnyArray, weight: np.int32, level: np.uint32, accumulators: Int32Array) -> int:
    for place in range(postings.size):
        posting = postings[place]
        if (posting & np.uint32(0xFF)) <= level:
            return place
        accumulators[posting >> np.uint32(16)] += weight * np.int32(
            (posting >> np.uint32(8)) & np.uint32(0xFF)
        )
    return postings.size


@uncounted
def threshold(similarity: float, skipped: float) -> int:
    """Least accumulated sum with which a group can still have a member of `similarity`.

    It is at least 1, a shared column, unless infinitely much may have been skipped. The sum is an integer, and
    one unit less is asked for than computed, which covers the rounding here.
    """
    if skipped == np.inf:
        return 0
    least = (np.float64(similarity) * SINGLE - skipped) * UNIT - 1.0
    return int(min(least, 2.0e9)) if least > 1.0 else 1


@uncounted
def largest(sums: Int32Array) -> int:
    """Largest of some accumulators, of which there is at least one."""
    most = sums[0]
    for place in range(sums.size):
        most = max(most, sums[place])
    return int(most)


@uncounted
def collect(scratch: Scratch, least: int) -> int:
    """List the groups with a sum of at least `least` in `candidates`; returns their number."""
    sums, candidates, found = scratch.accumulators, scratch.candidates, 0
    for chunk in range(0, sums.size, CHUNK_GROUPS):
        if largest(sums[chunk : chunk + CHUNK_GROUPS]) < least:
            continue
        for start in range(chunk, chunk + CHUNK_GROUPS, LANES):
            bits = reaching(sums, start, np.int32(least))
            while bits:
                candidates[found] = start + lowest_bit(bits)
                found += 1
                bits &= bits - np.uint64(1)
    scratch.work[LISTED] += found
    scratch.work[SCANNED] += sums.size
    return found


@uncounted
def still_possible(scratch: Scratch, found: int, least: int) -> int:
    """Drop candidates whose sum is below `least`; returns how many are left."""
    left = 0
    for place in range(found):
        if scratch.accumulators[scratch.candidates[place]] >= least:
            scratch.candidates[left] = scratch.candidates[place]
            left += 1
    return left
