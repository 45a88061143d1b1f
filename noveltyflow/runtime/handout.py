"""Who computes which tiles next: pulled by whichever workers are free, as fast as they turn out to be."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from noveltyflow.similarity.tiles import Block
from noveltyflow.types import AnyArray, BoolArray

_MUCH_LARGER = 2
"""How many times larger a span has to become possible for a worker to give up the one that it has indexed."""
_LEFT_TO_OTHERS = 2
"""Strips for each worker that is busy with a span: so many are searched in the time that making its index takes."""


@dataclass(frozen=True)
class Assignment:
    """Tiles for one task: those of some strips with a span of candidates, strip after strip.

    Attributes
    ----------
    span : range
        Numbers of consecutive blocks, searched as one.
    strips : sequence of Block
        Blocks whose rows look for neighbours there; for each of them some of these tiles are not done.
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

    Pure bookkeeping. A strip is in the hands of one task at a time. It meets a span with its own rows first, where
    its thresholds rise most; then spans in any order, also such of which it has done a part, because a neighbour that
    is found again changes nothing, and another index would cost more. A worker keeps its span as long as strips are
    free for it, unless a much larger one has become possible; then it takes one with which no other worker is busy,
    so that each is indexed by as few as possible. Towards the end, a backend whose next tile would take longer than
    the others need for everything that is left gets no more.

    Parameters
    ----------
    table
        Tiles that are done; this keeps it up to date.
    """

    def __init__(self, table: TileTable) -> None:
        self._table = table
        self._free = table.left > 0
        self._held: dict[str, range] = {}
        self._busy: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self.tiles: Counter[str] = Counter()
        """Tiles that each backend computed."""

    @property
    def finished(self) -> bool:
        """Whether all tiles are done."""
        return not self._table.left.any()

    def take(
        self,
        worker: str,
        backend: str,
        slots: Mapping[str, int],
        size: int,
        seconds: float,
        anew: bool = True,
    ) -> Assignment | None:
        """Tiles for a free worker, or None if there are none for it.

        Parameters
        ----------
        worker, backend
            Who is free.
        slots
            How many tasks the workers of each backend run at once.
        size
            Most blocks of a span.
        seconds
            How long the tiles should take; a task may leave some of them.
        anew
            Whether it may index another span than the one it has.
        """
        if not self._free.any() or self._too_slow(backend, slots):
            return None
        found = self._more_for_held(worker, size) or (self._next_span(worker, size) if anew else None)
        if found is None:
            return None
        span, places = found
        within = self.tiles_within(backend, seconds)
        # One more than there seems to be time for, as what a task leaves goes to the others; but leave them enough.
        in_time = 1 if within is None else 1 + within // len(span)
        fair = max(1, np.count_nonzero(self._table.left) // (2 * max(1, sum(slots.values()))))
        chosen = places[: min(in_time, fair)]
        self._held[worker] = span
        self._busy[worker] += 1
        self._free[chosen] = False
        return Assignment(span, [self._table.strips[place] for place in chosen])

    def done(
        self,
        worker: str,
        backend: str,
        assignment: Assignment,
        progress: Mapping[Block, BoolArray],
        tiles: int,
        seconds: float,
    ) -> int:
        """A task computed `tiles` tiles in `seconds`.

        Parameters
        ----------
        worker, backend
            Whose task.
        assignment
            What it had been given, with the span that there was room for.
        progress
            For each strip that it came to, the tiles that are done.

        Returns
        -------
        int
            How far these strips came since they were last heard of; more than `tiles` where an answer was lost.
        """
        self._held[worker] = assignment.span
        self.tiles[backend] += tiles
        self._seconds[backend] += seconds
        return self._update(worker, assignment, progress)

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
        return self._update(worker, assignment, progress)

    def _update(self, worker: str, assignment: Assignment, progress: Mapping[Block, BoolArray]) -> int:
        self._busy[worker] -= 1
        came = sum(self._table.set_row(self._table.place(strip), done) for strip, done in progress.items())
        places = [self._table.place(strip) for strip in assignment.strips]
        self._free[places] = self._table.left[places] > 0
        return came

    def done_of(self, strip: Block) -> BoolArray:
        """Tiles of a strip that are known to be done, one for each block."""
        return self._table.row(self._table.place(strip))

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

    def _more_for_held(self, worker: str, size: int) -> tuple[range, AnyArray] | None:
        """The span that a worker has, with the strips that are free for it."""
        span = self._held.get(worker)
        if span is None or len(span) > size:
            return None
        block = span.start + int(np.argmax(self._table.waiting[span.start : span.stop]))
        if len(self._span_around(block, size)) >= _MUCH_LARGER * len(span):
            return None
        places = self._strips_for(span)
        return (span, places) if places.size else None

    def _next_span(self, worker: str, size: int) -> tuple[range, AnyArray] | None:
        """The span that a worker indexes next, with the strips that are free for it; None if there are none."""
        others = np.zeros(self._table.n_blocks, np.int64)
        for other, span in self._held.items():
            if other != worker:
                others[span.start : span.stop] += self._busy[other]
        for shared in (False, True):
            for place, block in self._beginnings((others > 0) == shared):
                span = self._span_around(block, size)
                places = self._strips_for(span)
                if not places.size:
                    span = self._left_around(place, block, size)
                    places = self._strips_for(span)
                # The last strips for a span are left to those who have its index: making it would take longer.
                if (
                    not shared
                    or not self.tiles
                    or places.size > _LEFT_TO_OTHERS * others[span.start : span.stop].max()
                ):
                    return span, places[np.argsort(places != place, kind="stable")]
        return None

    def _beginnings(self, among: BoolArray) -> Iterator[tuple[int, int]]:
        """Strips that are free, and blocks which they should meet next, if these are `among` some blocks."""
        strangers = self._free & ~self._table.owns
        strangers[strangers] = among[self._table.numbers[strangers]]
        if strangers.any():
            places = np.flatnonzero(strangers)
            # Workers begin far from one another, where larger spans too will have their borders.
            numbers = self._table.numbers[places]
            chosen = np.argmax(np.where(numbers, numbers & -numbers, self._table.n_blocks))
            yield int(places[chosen]), int(numbers[chosen])
        # The more strips wait for a block, the more its index will serve.
        ready = self._free & self._table.owns
        wanted = self._table.wanted(ready) & among
        if wanted.any():
            block = int(np.argmax(np.where(wanted, self._table.waiting, 0)))
            column = range(block, block + 1)
            places = np.flatnonzero(ready & ~self._table.done(column)[:, 0])
            yield int(self._nearest(places, column)[0]), block

    def _nearest(self, places: AnyArray, span: range) -> AnyArray:
        numbers = self._table.numbers[places]
        return places[
            np.argsort(np.maximum(span.start - numbers, numbers - span.stop + 1).clip(0), kind="stable")
        ]

    def _span_around(self, block: int, size: int) -> range:
        """Up to `size` blocks around one, for each of which at least half as many strips wait.

        They lie between multiples of `size`, so that spans of several workers fit together, unless too few would.
        """
        wanted = 2 * self._table.waiting >= max(1, self._table.waiting[block])
        span = _run(wanted, block, self._window(block, size))
        if 2 * len(span) > size:
            return span
        return _run(wanted, block, range(span.start, min(span.start + size, wanted.size)))

    def _left_around(self, place: int, block: int, size: int) -> range:
        """Up to `size` blocks around one, with all of which a strip has its tile not done."""
        return _run(~self._table.row(place), block, self._window(block, size))

    def _window(self, block: int, size: int) -> range:
        """The blocks around one between multiples of `size`."""
        first = block - block % size
        return range(first, min(first + size, self._table.n_blocks))

    def _strips_for(self, span: range) -> AnyArray:
        """Free strips that have no more than a third of their tiles with a span done; the nearest first."""
        table = self._table
        done = np.count_nonzero(table.done(span), axis=1)
        inside = (table.numbers >= span.start) & (table.numbers < span.stop)
        fit = self._free & (3 * done <= len(span)) & (done < len(span)) & (table.owns | inside)
        return self._nearest(np.flatnonzero(fit), span)

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


def _run(wanted: BoolArray, block: int, within: range) -> range:
    """The consecutive blocks around one that are wanted, as it is itself, within some blocks."""
    before = np.flatnonzero(~wanted[within.start : block])
    after = np.flatnonzero(~wanted[block : within.stop])
    start = within.start + int(before[-1]) + 1 if before.size else within.start
    return range(start, block + int(after[0]) if after.size else within.stop)
