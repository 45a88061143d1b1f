"""Sorting of integers by their digits, which takes no comparisons."""

from __future__ import annotations

from noveltyflow.similarity.kernels.compiling import uncounted
from noveltyflow.types import Int32Array, Int64Array


@uncounted
def sort_by_digit(numbers: Int64Array, ordered: Int64Array, ends: Int32Array, shift: int) -> None:
    """Copy numbers in order of as many bits from `shift` on as `ends` has places for; equal ones stay in order."""
    ends[:] = 0
    for number in numbers:
        ends[(number >> shift) & (ends.size - 1)] += 1
    begun = 0
    for digit in range(ends.size):
        begun, ends[digit] = begun + ends[digit], begun
    for number in numbers:
        digit = (number >> shift) & (ends.size - 1)
        ordered[ends[digit]] = number
        ends[digit] += 1
