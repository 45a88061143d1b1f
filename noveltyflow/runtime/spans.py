"""How many blocks are searched as one: few at first, more as memory allows, fewer after pressure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

_LARGE = 16
"""Blocks in a span from which on it grows no faster than twofold."""
QUIET_TASKS = 8
"""Tasks without pressure after which a size that once was too large is tried again."""


@dataclass(frozen=True)
class SpanSize:
    """Size of a worker's spans of candidates, in blocks. Pure bookkeeping; it never changes the result.

    Attributes
    ----------
    blocks : int
        Of the next span, as far as there are as many blocks side by side.
    most : int or None
        No more than that, because more brought pressure before.
    quiet : int
        Tasks since then.
    """

    blocks: int = 1
    most: int | None = None
    quiet: int = 0

    def after_task(self, fits: Callable[[int], bool]) -> SpanSize:
        """Size after a task that brought no pressure: larger if that fits, smaller if this no longer does.

        Parameters
        ----------
        fits
            Whether there is memory for a span of so many blocks, by what is free now.
        """
        quiet = self.quiet + 1
        most = self.most
        if most is not None and quiet >= QUIET_TASKS:
            most, quiet = 2 * most, 0
        # Spans of 1, 2, 3, 4, 6, 8, 12, ... blocks, many of whose borders meet; at first in larger steps.
        is_power = self.blocks & (self.blocks - 1) == 0
        growth = (4, 3, 2, 1.5) if is_power else (4, 2, 4 / 3)
        for factor in growth if self.blocks < _LARGE else growth[-2:]:
            blocks = round(factor * self.blocks)
            if (most is None or blocks <= most) and fits(blocks):
                return SpanSize(blocks, most, quiet)
        blocks = self.blocks
        while blocks > 1 and not fits(blocks):
            blocks //= 2
        return SpanSize(blocks, most, quiet) if blocks == self.blocks else self.limited(blocks)

    def limited(self, blocks: int) -> SpanSize:
        """Size where there was room for so many blocks only: the next smaller one of 1, 2, 3, 4, 6, 8, 12, ..."""
        power = 1 << (blocks.bit_length() - 1)
        size = power + power // 2 if blocks >= power + power // 2 else power
        return SpanSize(size, size)

    def after_pressure(self) -> SpanSize:
        """Size after the worker was paused, was near its limit, or was lost: half, and no more for a while."""
        return self.limited(max(1, self.blocks // 2))


class SpanSizes:
    """The sizes that the workers of a run have come to. Pure bookkeeping.

    A worker that is new starts with one block; one that comes in the place of a lost one does not grow beyond half
    of what that one had, until some tasks have gone well.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, SpanSize] = {}
        self._new = SpanSize()

    def of(self, worker: str) -> SpanSize:
        """Size with which a worker goes on."""
        return self._sizes.get(worker, self._new)

    def reached(self, worker: str, size: SpanSize) -> None:
        """A worker has ended a task with this size."""
        self._sizes[worker] = size

    def lost(self, worker: str) -> None:
        """A worker has gone with a task in its hands, perhaps because that took too much memory."""
        self._new = replace(self._sizes.pop(worker, self._new).after_pressure(), blocks=1)
