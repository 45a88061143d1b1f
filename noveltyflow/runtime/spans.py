"""How many blocks are searched as one: after a trial as many as memory allows, fewer after pressure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

QUIET_TASKS = 8
"""Tasks without pressure after which a size that once was too large is tried again."""


@dataclass(frozen=True)
class SpanSize:
    """Size of a worker's spans of candidates, in blocks. Pure bookkeeping; it never changes the result.

    Attributes
    ----------
    blocks : int or None
        Of the next span, as far as there are as many blocks side by side; None before the trial.
    most : int or None
        No more than that, because more brought pressure before.
    quiet : int
        Tasks since then.
    """

    blocks: int | None = None
    most: int | None = None
    quiet: int = 0

    def after_task(self, fits: Callable[[int], bool]) -> SpanSize:
        """Size after a task or trial that brought no pressure: larger if that fits, smaller if this no longer does.

        Parameters
        ----------
        fits
            Whether there is memory for a span of so many blocks, by what is free now.
        """
        most, quiet = self.most, self.quiet + 1
        if most is not None and quiet >= QUIET_TASKS:
            most, quiet = 2 * most, 0
        tried = blocks = self.blocks or 1
        while (most is None or _larger(blocks) <= most) and fits(_larger(blocks)):
            blocks = _larger(blocks)
        if blocks > tried or fits(blocks):
            return SpanSize(blocks, most, quiet)
        while blocks > 1 and not fits(blocks):
            blocks = _at_most(blocks - 1)
        return self.limited(blocks)

    def limited(self, blocks: int) -> SpanSize:
        """Size where there was room for so many blocks only: the next smaller one of 1, 2, 3, 4, 6, 8, 12, ..."""
        size = _at_most(blocks)
        return SpanSize(size, size)

    def after_pressure(self) -> SpanSize:
        """Size after a pause, a spill, a limit that came near or a lost worker: half, and no more for a while."""
        return self.limited(max(1, (self.blocks or 1) // 2))


def _at_most(blocks: int) -> int:
    """The largest of 1, 2, 3, 4, 6, 8, 12, ... that is not larger: sizes many of whose borders meet."""
    power = 1 << (blocks.bit_length() - 1)
    return power + power // 2 if blocks >= power + power // 2 else power


def _larger(blocks: int) -> int:
    """The next one of these sizes."""
    return blocks + max(1, (1 << (blocks.bit_length() - 1)) // 2)


class SpanSizes:
    """The sizes that the workers of a run have come to. Pure bookkeeping.

    A worker that is new makes a trial first; one that comes in the place of a lost one does not grow beyond half of
    what that one had, until some tasks have gone well.
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
        self._new = replace(self._sizes.pop(worker, self._new).after_pressure(), blocks=None)
