"""Insertion into one row of a `TopK`, in its total order."""

from __future__ import annotations

import numpy as np

from noveltyflow.similarity.kernels.compiling import uncounted
from noveltyflow.types import AnyArray, Float32Array, Int64Array

FEW = 32
"""Slots that are looked through one after the other; more are cut in half until so few are left."""


@uncounted
def insert_neighbor(
    similarities: Float32Array, neighbors: Int64Array, similarity: np.float32, row: int
) -> None:
    """Insert one neighbour into a row's k slots, in place; one that is there already changes nothing."""
    least, slot = 0, similarities.size
    while slot - least > FEW:
        middle = (least + slot) // 2
        if before(similarity, row, similarities[middle], neighbors[middle]):
            slot = middle
        else:
            least = middle + 1
    while slot > least and before(similarity, row, similarities[slot - 1], neighbors[slot - 1]):
        slot -= 1
    if slot == similarities.size or (slot > 0 and neighbors[slot - 1] == row):
        return
    _move_up(similarities[slot:])
    _move_up(neighbors[slot:])
    similarities[slot] = similarity
    neighbors[slot] = row


@uncounted
def _move_up(values: AnyArray) -> None:
    """Move all values but the last by one slot; places are unsigned, so that the compiler makes vectors of it."""
    last = np.uint64(values.size - 1)
    for done in range(last):
        values[last - done] = values[last - done - np.uint64(1)]


@uncounted
def before(similarity: np.float32, row: int, other_similarity: np.float32, other_row: int) -> bool:
    """Whether a neighbour stands before another one, or an empty slot, in the order of `TopK`."""
    if similarity != other_similarity:
        return bool(similarity > other_similarity)
    return row < other_row
