"""Who computes which tiles next: pulled by whichever workers are free, as fast as they turn out to be."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from noveltyflow.similarity.tiles import Block
from noveltyflow.types import AnyArray, BoolArray


@dataclass(frozen=True)
class Assignment:
    """Tiles for one task: those of some strips with a span of candidates, strip after strip.

    Attributes
    ----------
    span : range
        Numbers of consecutive blocks, searched as one.
    strips : sequence of Block
        Blocks whose rows look for neighbours there; of none of them any of these tiles is done.
    """

    span: range
    strips: Sequence[Block]


class TileTable:
    """Which tiles are done: a bit for each strip and block.

    Parameters
    ----------
    strips
        The blocks whose rows look for neighbours, in order.
    n_blocks
        Blocks of candidates, which are the tiles of each strip.
    """

    def __init__(self, strips: Sequence[Block], n_blocks: int) -> None:
        self.strips = list(strips)
        self.n_blocks = n_blocks
        self.numbers = np.array([strip.index for strip in strips], np.int64)
        """Numbers of the strips' blocks, int64."""
        self.left = np.full(len(strips), n_blocks)
        """Tiles of each strip that are not done, int64."""
        self.waiting = np.full(n_blocks, len(strips))
        """Strips that have their tile with a block not done, for each block; int64."""
        self.owns = np.zeros(len(strips), np.bool_)
        """Whether a strip has met its own rows."""
        self._places = {strip: place for place, strip in enumerate(strips)}
        self._bits = np.zeros((len(strips), -(-n_blocks // 8)), np.uint8)

    def place(self, strip: Block) -> int:
        """Number of a strip among the strips."""
        return self._places[strip]

    def row(self, place: int) -> BoolArray:
        """Tiles of a strip that are done, shape (n_blocks,)."""
        return np.unpackbits(self._bits[place], count=self.n_blocks).astype(np.bool_)

    def set_row(self, place: int, done: BoolArray) -> int:
        """Tiles of a strip that are done, `done` with shape (n_blocks,); how many more these are than before."""
        before = self.row(place)
        self._bits[place] = np.packbits(done)
        self.waiting += before.astype(np.int64) - done
        self.owns[place] = done[self.numbers[place]]
        came = int(np.count_nonzero(done)) - int(np.count_nonzero(before))
        self.left[place] -= came
        return came

    def wanted(self, chosen: BoolArray) -> BoolArray:
        """Blocks with which any of some strips has its tile not done; `chosen` has shape (strips,)."""
        done_by_all = np.bitwise_and.reduce(self._bits[chosen], axis=0)
        return np.unpackbits(~done_by_all, count=self.n_blocks).astype(np.bool_)

    def done(self, blocks: range) -> BoolArray:
        """Tiles of all strips with some blocks: whether they are done, shape (strips, blocks)."""
        first = blocks.start // 8
        bits = np.unpackbits(self._bits[:, first : -(-blocks.stop // 8)], axis=1)
        return bits[:, blocks.start - 8 * first : blocks.stop - 8 * first].astype(np.bool_)


class Handout:
    """Hands out tiles to workers of several backends, so that what a worker has indexed serves many strips.

    Pure bookkeeping. A strip is in the hands of one task at a time. It meets the span with its own rows first,
    where its thresholds rise most; then spans in any order. A worker keeps its span as long as strips are free for
    it; then it takes one with which no other worker is busy, so that each is indexed by as few as possible.
    Towards the end, a backend whose next tile would take longer than the others need for everything that is left
    gets no more.

    Parameters
    ----------
    table
        Tiles that are done; this keeps it up to date.
    """

    def __init__(self, table: TileTable) -> None:
        self._table = table
        self._free = table.left > 0
        self._held: dict[str, range] = {}
        self._last: dict[str, int] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self.tiles: Counter[str] = Counter()
        """Tiles that each backend computed."""

    @property
    def finished(self) -> bool:
        """Whether all tiles are done."""
        return not self._table.left.any()

    def take(
        self, worker: str, backend: str, slots: Mapping[str, int], size: int, seconds: float
    ) -> Assignment | None:
        """Tiles for a free worker, or None if there are none for it.

        Parameters
        ----------
        worker, backend
            Who is free.
        slots
            How many tasks the workers of each backend run at once.
        size
            Most blocks of a span; spans begin at multiples of it.
        seconds
            How long the tiles should take; a task may leave some of them.
        """
        if not self._free.any() or self._too_slow(backend, slots):
            return None
        span = self._held.get(worker)
        places = self._strips_for(span, size) if span is not None else None
        if span is None or places is None or not places.size:
            span = self._next_span(worker, size)
            if span is None:
                return None
            places = self._strips_for(span, size)
        within = self.tiles_within(backend, seconds)
        # One more than there seems to be time for, as what a task leaves goes to the others; but leave them enough.
        in_time = 1 if within is None else 1 + within // len(span)
        fair = max(1, np.count_nonzero(self._table.left) // (2 * max(1, sum(slots.values()))))
        chosen = places[: min(in_time, fair)]
        self._held[worker], self._last[worker] = span, int(chosen[0])
        self._free[chosen] = False
        return Assignment(span, [self._table.strips[place] for place in chosen])

    def done(
        self,
        backend: str,
        assignment: Assignment,
        progress: Mapping[Block, BoolArray],
        tiles: int,
        seconds: float,
    ) -> int:
        """A task of `backend` computed `tiles` tiles in `seconds`.

        Parameters
        ----------
        assignment
            What it had been given.
        progress
            For each strip that it came to, the tiles that are done.

        Returns
        -------
        int
            How far these strips came since they were last heard of; more than `tiles` where an answer was lost.
        """
        self.tiles[backend] += tiles
        self._seconds[backend] += seconds
        return self._update(assignment, progress)

    def give_back(self, worker: str, assignment: Assignment, progress: Mapping[Block, BoolArray]) -> int:
        """A worker is gone with an assignment, and with what it had indexed.

        Parameters
        ----------
        progress
            For its strips, as far as it is known, the tiles that are done.

        Returns
        -------
        int
            How far these strips came since they were last heard of.
        """
        self._held.pop(worker, None)
        self._last.pop(worker, None)
        return self._update(assignment, progress)

    def _update(self, assignment: Assignment, progress: Mapping[Block, BoolArray]) -> int:
        came = sum(self._table.set_row(self._table.place(strip), done) for strip, done in progress.items())
        places = [self._table.place(strip) for strip in assignment.strips]
        self._free[places] = self._table.left[places] > 0
        return came

    def patience(self, slots: Mapping[str, int], longest: float) -> float:
        """How many seconds a task may compute before it lets others have its strips.

        At most `longest`; towards the end a quarter of the time that all workers together still need, so that
        none of them waits long for the last one.
        """
        speed = sum(
            number * self.tiles[backend] / self._seconds[backend]
            for backend, number in slots.items()
            if self.tiles[backend]
        )
        return min(longest, int(self._table.left.sum()) / speed / 4) if speed else longest

    def tiles_within(self, backend: str, seconds: float) -> int | None:
        """How many tiles `backend` computes in that time, at least 1; None as long as it has computed none."""
        if not self._seconds[backend]:
            return None
        return max(1, int(seconds * self.tiles[backend] / self._seconds[backend]))

    def _next_span(self, worker: str, size: int) -> range | None:
        """Blocks that a worker indexes next; None when no strip is free for any."""
        held, last = self._held.get(worker), self._last.get(worker, -1)
        if held is not None and len(held) < len(self._window(held.start, size)) and self._free[last]:
            # While its spans grow, a single strip meets the small ones, none of which others would need.
            left = np.flatnonzero(~self._table.row(last))[::-1]
            nearest = left[np.argmin(np.abs(left - self._table.numbers[last]))]
            return self._span_around(last, int(nearest), size)
        others = np.zeros(self._table.n_blocks, np.bool_)
        for other, span in self._held.items():
            if other != worker:
                others[span.start : span.stop] = True
        strangers = self._free & ~self._table.owns
        for shared in (False, True):
            own = np.flatnonzero(strangers & (others[self._table.numbers] == shared))
            if own.size:
                # Workers begin far from one another, where larger spans too will have their borders.
                numbers = self._table.numbers[own]
                chosen = np.argmax(np.where(numbers, numbers & -numbers, self._table.n_blocks))
                return self._span_around(own[chosen], int(numbers[chosen]), size)
            # The more strips wait for a block, the more its index will serve.
            ready = self._free & self._table.owns
            wanted = self._table.wanted(ready) & (others == shared)
            if wanted.any():
                block = int(np.argmax(np.where(wanted, self._table.waiting, 0)))
                column = range(block, block + 1)
                places = np.flatnonzero(ready & ~self._table.done(column)[:, 0])
                return self._span_around(self._nearest(places, column)[0], block, size)
        return None

    def _nearest(self, places: AnyArray, span: range) -> AnyArray:
        numbers = self._table.numbers[places]
        return places[
            np.argsort(np.maximum(span.start - numbers, numbers - span.stop + 1).clip(0), kind="stable")
        ]

    def _window(self, block: int, size: int) -> range:
        start = block - block % size
        return range(start, min(start + size, self._table.n_blocks))

    def _span_around(self, place: int, block: int, size: int) -> range:
        """The blocks beside one, in its window, whose tiles a strip has not done either."""
        window, done = self._window(block, size), self._table.row(place)
        before = np.flatnonzero(done[window.start : block])
        after = np.flatnonzero(done[block : window.stop])
        start = window.start + int(before[-1]) + 1 if before.size else window.start
        return range(start, block + int(after[0]) if after.size else window.stop)

    def _strips_for(self, span: range, size: int) -> AnyArray:
        """Free strips whose next tiles with these blocks are exactly a span; the nearest first."""
        table, window = self._table, self._window(span.start, size)
        if span.stop > window.stop:
            return np.empty(0, np.int64)
        done = table.done(window)
        first, last = span.start - window.start, span.stop - window.start
        fit = self._free & ~done[:, first:last].any(axis=1)
        if first:
            fit &= done[:, first - 1]
        if last < len(window):
            fit &= done[:, last]
        inside = (table.numbers >= span.start) & (table.numbers < span.stop)
        return self._nearest(np.flatnonzero(fit & (table.owns | inside)), span)

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
        at_once = min(slots, int(np.count_nonzero(self._table.left)))
        return int(self._table.left.sum()) * self._seconds[backend] / self.tiles[backend] / at_once
