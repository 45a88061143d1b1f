"""Compiled loops that turn hashed rows into a CSR matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from noveltyflow.features._compiling import compiled, inlined
from noveltyflow.types import AnyArray


@inlined
def _column(hashed: Any, divisor: Any, power_of_two: bool) -> Any:
    """`abs(int32) % n_features`, where unsigned arithmetic gives 2**31 for the smallest int32."""
    negative = np.uint32(hashed >> np.uint32(31))
    magnitude = np.uint32(np.uint32(hashed ^ np.uint32(np.uint32(0) - negative)) + negative)
    if power_of_two:
        return np.uint32(magnitude & np.uint32(divisor - np.uint32(1)))
    return np.uint32(magnitude % divisor)


@compiled
def place_keys(
    hashes: AnyArray,
    ends: AnyArray,
    rows: AnyArray,
    n_features: int,
    signed: bool,
    keys: AnyArray,
) -> None:
    """Line `i` of the matrix `keys` gets the keys of row `rows[i]`, then the largest uint32 to its end.

    A key is a column; if `signed`, shifted by one bit that is set for a negative hash.
    """
    divisor = np.uint32(n_features)
    power_of_two = n_features & (n_features - 1) == 0
    for line in range(len(rows)):
        row = rows[line]
        start = ends[row - 1] if row > 0 else 0
        count = ends[row] - start
        if power_of_two and not signed:
            for i in range(count):
                keys[line, i] = _column(hashes[start + i], divisor, True)
        else:
            for i in range(count):
                hashed = hashes[start + i]
                column = _column(hashed, divisor, power_of_two)
                if signed:
                    column = np.uint32(np.uint32(column << np.uint32(1)) | np.uint32(hashed >> np.uint32(31)))
                keys[line, i] = column
        keys[line, count:] = np.uint32(0xFFFFFFFF)


@compiled
def emit_rows(
    keys: AnyArray,
    positions: AnyArray,
    counts: AnyArray,
    signed: bool,
    at: int,
    indptr: AnyArray,
    indices: AnyArray,
    data: AnyArray,
) -> int:
    """Append rows of sorted keys to a CSR matrix that has `at` entries, equal columns summed.

    Row `i` is `keys[positions[i]:positions[i] + counts[i]]`; `indptr[i]` gets where it ends. A sum is written
    with each of its keys and kept with the last: there is no branch for the processor to predict wrongly.
    """
    shift = np.uint32(1) if signed else np.uint32(0)
    for row in range(len(counts)):
        start = positions[row]
        total = np.int64(0)
        for i in range(start, start + counts[row]):
            column = np.uint32(keys[i] >> shift)
            total += 1 - 2 * np.int64(keys[i] & shift)
            indices[at] = column
            data[at] = total
            last = i + 1 == start + counts[row] or np.uint32(keys[i + 1] >> shift) != column
            at += last
            total = np.int64(0) if last else total
        indptr[row] = at
    return at
