"""Insertion into one row of a `TopK`, in its total order."""

from __future__ import annotations

import numpy as np

from noveltyflow.similarity.kernels.compiling import uncounted
from noveltyflow.types import Float32Array, Int64Array


@uncounted
def insert_neighbor(
    similarities: Float32Array, neighbors: Int64Array, similarity: np.float32, row: int
) -> None:
    """Insert one neighbour into a row's k slots, in place; one that is there already changes nothing."""
    slot = similarities.size
    while slot > 0 and _before(similarity, row, similarities[slot - 1], neighbors[slot - 1]):
        slot -= 1
    if slot == similarities.size or (slot > 0 and neighbors[slot - 1] == row):
        return
    for place in range(similarities.size - 1, slot, -1):
        similarities[place] = similarities[place - 1]
        neighbors[place] = neighbors[place - 1]
    similarities[slot] = similarity
    neighbors[slot] = row


@uncounted
def _before(similarity: np.float32, row: int, other_similarity: np.float32, other_row: int) -> bool:
    """Whether a neighbour stands before another one, or an empty slot, in the order of `TopK`."""
    if similarity != other_similarity:
        return bool(similarity > other_similarity)
    return row < other_row
