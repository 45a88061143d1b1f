"""Who computes which strip next: pulled by whichever workers are free, as fast as they turn out to be."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from noveltyflow.similarity.tiles import Block


class Handout:
    """Hands out strips, one task at a time each, to workers of several backends.

    Pure bookkeeping. The strip that has most tiles left goes first, so that all end at about the same time and
    none is left to a single worker. Towards the end, a backend whose next tile would take longer than the
    others need for everything that is left gets no more.

    Parameters
    ----------
    tiles_left
        Tiles that are still to be computed of every strip.
    """

    def __init__(self, tiles_left: Mapping[Block, int]) -> None:
        self._left = {block: tiles for block, tiles in tiles_left.items() if tiles}
        self._ready = set(self._left)
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self.tiles: Counter[str] = Counter()
        """Tiles that each backend computed."""

    @property
    def finished(self) -> bool:
        """Whether all tiles are done."""
        return not self._left

    def take(self, backend: str, slots: Mapping[str, int]) -> Block | None:
        """Next strip for a free worker of `backend`, or None if there is none for it.

        Parameters
        ----------
        backend
            Of the free worker.
        slots
            How many tasks the workers of each backend run at once.
        """
        if not self._ready or self._too_slow(backend, slots):
            return None
        block = min(self._ready, key=lambda block: (-self._left[block], block.index))
        self._ready.remove(block)
        return block

    def done(self, backend: str, block: Block, tiles: int, left: int, seconds: float) -> int:
        """A task of `backend` computed `tiles` tiles in `seconds` and left `left` of its strip.

        Returns
        -------
        int
            How far the strip came since it was last heard of; more than `tiles` where a task's answer was lost.
        """
        self.tiles[backend] += tiles
        self._seconds[backend] += seconds
        came = self._left[block] - left
        self._left[block] = left
        if left > 0:
            self._ready.add(block)
        else:
            del self._left[block]
        return came

    def patience(self, slots: Mapping[str, int], longest: float) -> float:
        """How many seconds a task may compute before it lets others have its strip.

        At most `longest`; towards the end a quarter of the time that all workers together still need, so that
        none of them waits long for the last one.
        """
        speed = sum(
            number * self.tiles[backend] / self._seconds[backend]
            for backend, number in slots.items()
            if self.tiles[backend]
        )
        return min(longest, sum(self._left.values()) / speed / 4) if speed else longest

    def tiles_within(self, backend: str, seconds: float) -> int | None:
        """How many tiles `backend` computes in that time, at least 1; None as long as it has computed none."""
        if not self._seconds[backend]:
            return None
        return max(1, int(seconds * self.tiles[backend] / self._seconds[backend]))

    def give_back(self, block: Block) -> None:
        """The workers that had a strip are gone."""
        self._ready.add(block)

    def _too_slow(self, backend: str, slots: Mapping[str, int]) -> bool:
        if not self.tiles[backend]:
            return False
        one_tile = self._seconds[backend] / self.tiles[backend]
        return any(
            one_tile > self._seconds_for_all(other, number)
            for other, number in slots.items()
            if other != backend and number > 0 and self.tiles[other]
        )

    def _seconds_for_all(self, backend: str, slots: int) -> float:
        """How long the workers of `backend` alone need for everything that is left."""
        at_once = min(slots, len(self._left))
        return sum(self._left.values()) * self._seconds[backend] / self.tiles[backend] / at_once
