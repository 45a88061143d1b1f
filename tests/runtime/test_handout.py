from __future__ import annotations

import random
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from noveltyflow.runtime.handout import Assignment, Handout, TileTable
from noveltyflow.similarity.tiles import Block, split_rows
from noveltyflow.types import BoolArray


class Team:
    """Workers that carry out what they are given, as far as they are told to."""

    def __init__(
        self, strips: list[Block], n_blocks: int, done: dict[Block, BoolArray] | None = None
    ) -> None:
        self.table = table = TileTable(strips, n_blocks)
        self.truth = {strip: np.zeros(n_blocks, np.bool_) for strip in strips} | (done or {})
        for strip, row in self.truth.items():
            table.set_row(table.place(strip), row)
        self.handout = Handout(table)
        self.computed: Counter[tuple[Block, int]] = Counter()
        self.indexed: Counter[range] = Counter()
        self._spans: dict[str, range] = {}

    def take(
        self,
        worker: str,
        size: int,
        seconds: float = 1e9,
        backend: str = "cpu",
        slots: dict[str, int] | None = None,
        anew: bool = True,
    ) -> Assignment | None:
        given_out = self.handout.take(worker, backend, slots or {"cpu": 2}, size, seconds, anew)
        if given_out is not None and self._spans.get(worker) != given_out.span:
            self._spans[worker] = given_out.span
            self.indexed[given_out.span] += 1
        return given_out

    def finish(
        self,
        worker: str,
        given_out: Assignment | None,
        n_strips: int | None = None,
        pace: float = 1.0,
        backend: str = "cpu",
    ) -> int:
        """Compute the first strips, all by default; how far the client says that all came."""
        assert given_out is not None
        progress, tiles = {}, 0
        for strip in given_out.strips[:n_strips]:
            before = self.truth[strip]
            self.compute(strip, given_out.span)
            progress[strip] = self.truth[strip]
            tiles += int(np.count_nonzero(progress[strip] & ~before))
        seconds = pace * len(progress) * len(given_out.span)
        return self.handout.done(worker, backend, given_out, progress, tiles, seconds)

    def compute(self, strip: Block, span: range) -> None:
        """As a task does it, which leaves tiles that turn out to be stored, though nobody was told."""
        if self.truth[strip][span.start : span.stop].all():
            return
        for block in span:
            self.computed[strip, block] += 1
        self.truth[strip] = self.truth[strip].copy()
        self.truth[strip][span.start : span.stop] = True


def team(n_blocks: int) -> Team:
    return Team(split_rows(n_blocks, 1), n_blocks)


def numbers(given_out: Assignment | None) -> list[int]:
    assert given_out is not None
    return [strip.index for strip in given_out.strips]


def test_strips_meet_their_own_rows_first_and_then_what_is_indexed_already() -> None:
    work = team(8)
    first, second = work.take("a", 4), work.take("b", 4)
    assert (first.span, second.span) == (range(4), range(4, 8))  # type: ignore[union-attr]
    assert (numbers(first), numbers(second)) == ([0], [4])  # nobody knows yet how long a tile takes
    work.finish("a", first)
    rest = work.take("a", 4)
    assert numbers(rest) == [1, 2]  # a quarter of all, as there are two slots
    assert rest.span == range(4)  # type: ignore[union-attr]
    work.finish("b", second)
    assert numbers(work.take("b", 4)) == [5, 6]
    work.finish("a", rest)
    last = work.take("a", 4)
    # A strip of other rows that is free and has met its own ones: the index is there.
    assert numbers(last) == [3, 4]
    assert last.span == range(4)  # type: ignore[union-attr]


def test_each_span_is_indexed_by_few() -> None:
    work = team(24)
    running = {}
    while not work.handout.finished:
        for anew in (False, True):
            for worker in ("a", "b"):
                if worker not in running and (task := work.take(worker, 8, seconds=40, anew=anew)):
                    running[worker] = task
        worker = next(iter(running))
        work.finish(worker, running.pop(worker))
    assert set(work.computed.values()) == {1}
    assert len(work.computed) == 24 * 24
    assert sum(work.indexed.values()) <= 7  # 2 workers, 3 spans
    assert {len(span) for span in work.indexed} == {8}


def test_a_task_takes_as_many_strips_as_it_has_time_for() -> None:
    work = team(20)
    work.finish("a", work.take("a", 2))
    assert numbers(work.take("a", 2, seconds=2)) == [1]
    # One more than it seems to have time for: what it leaves goes to others.
    assert len(numbers(work.take("b", 10, seconds=30))) == 4


def test_an_index_is_given_up_only_for_a_much_larger_one() -> None:
    work = team(24)
    spans = []
    for size in (1, 8, 12, 6):
        task = work.take("a", size)
        spans.append(task.span)  # type: ignore[union-attr]
        work.finish("a", task)
    assert spans[:3] == [range(1), range(16, 24), range(16, 24)]
    assert len(spans[3]) == 6


def test_strips_meet_spans_of_which_they_have_done_no_more_than_a_third() -> None:
    strips = split_rows(12, 1)
    done = {strip: np.arange(12) == strip.index for strip in strips}
    done[strips[0]][:4], done[strips[1]][:9] = True, True
    work = Team(strips, 12, done)
    while not work.handout.finished:
        work.finish("a", work.take("a", 12))
    assert work.computed[strips[0], 0] == 1
    assert [work.computed[strips[1], block] for block in range(12)] == [0] * 9 + [1] * 3
    assert work.indexed == {range(12): 1, range(9, 12): 1}


def test_where_few_blocks_are_left_in_a_window_the_next_ones_are_taken_too() -> None:
    strips = split_rows(24, 1)
    done = {strip: np.arange(24) < 6 for strip in strips}
    task = Team(strips, 24, done).take("a", 8)
    assert task is not None
    assert task.span == range(16, 24)  # whose rows have not met themselves
    done = {strip: row | (np.arange(24) == strip.index) | (np.arange(24) > 15) for strip, row in done.items()}
    task = Team(strips, 24, done).take("a", 8)
    assert task is not None
    assert task.span == range(6, 14)


def test_the_last_strips_are_left_to_those_who_have_the_index() -> None:
    work = team(4)
    first, second = work.take("a", 2), work.take("b", 2)
    work.finish("a", first)
    work.finish("b", second)
    while (task := work.take("a", 2, anew=False)) is not None:
        work.finish("a", task)
    busy = work.take("b", 2, anew=False)
    assert busy is not None
    assert work.take("a", 2) is None
    work.finish("b", busy)
    assert work.take("a", 2) is not None


def test_workers_begin_where_large_spans_have_their_borders() -> None:
    work = team(24)
    assert [numbers(work.take(worker, 1)) for worker in "abcd"] == [[0], [16], [8], [4]]
    work = team(24)
    assert [numbers(work.take(worker, 24)) for worker in "abcd"] == [[0], [16], [8], [4]]


def test_what_a_lost_task_had_stored_counts() -> None:
    work = team(2)
    lost = work.take("a", 2)
    assert lost is not None
    work.compute(lost.strips[0], lost.span)  # stored, but nobody was told
    work.handout.give_back("a", lost, {})
    again = work.take("b", 2)
    assert again == lost
    assert work.handout.done("b", "cpu", again, {lost.strips[0]: work.truth[lost.strips[0]]}, 0, 0.1) == 2
    assert work.handout.tiles["cpu"] == 0


def test_what_an_interrupted_run_stored_is_not_handed_out_again() -> None:
    strips = split_rows(3, 1)
    work = Team(
        strips, 3, {strips[0]: np.array([True, True, True]), strips[1]: np.array([False, True, False])}
    )
    while not work.handout.finished:
        work.finish("a", work.take("a", 1))
    assert set(work.computed) == {
        (strips[1], 0),
        (strips[1], 2),
        (strips[2], 0),
        (strips[2], 1),
        (strips[2], 2),
    }


def test_no_task_takes_more_than_its_share_of_the_strips() -> None:
    work, slots = team(64), {"cpu": 8}
    work.finish("a", work.take("a", 8, slots=slots))
    shares = [len(numbers(work.take(worker, 8, slots=slots))) for worker in "abcdefgh"]
    assert set(shares) == {4}


def test_a_slow_backend_gets_nothing_that_others_finish_sooner() -> None:
    work, slots = team(10), {"gpu": 1, "cpu": 1}
    fast, slow = work.take("g", 1, 1, "gpu", slots), work.take("c", 1, 1, "cpu", slots)
    assert fast is not None
    assert slow is not None
    work.finish("g", fast, pace=0.1, backend="gpu")
    work.finish("c", slow, pace=100.0)
    assert work.take("c", 1, 1, "cpu", slots) is None
    assert work.take("c", 1, 1, "cpu", {"gpu": 0, "cpu": 1}) is not None


def simulated(n_blocks: int, slots: dict[str, int], pace: dict[str, float], size: int) -> tuple[Team, float]:
    """Workers that take `pace` seconds a tile; how it went, and how long it took."""
    work = team(n_blocks)
    running: list[tuple[float, str, str, Assignment]] = []
    now = 0.0
    workers = [(f"{backend}-{i}", backend) for backend, number in slots.items() for i in range(number)]
    while not work.handout.finished:
        for worker, backend in workers:
            if all(task[1] != worker for task in running):
                seconds = work.handout.patience(slots, 1.0)
                task = work.take(worker, size, seconds, backend, slots)
                if task is not None:
                    lasts = pace[backend] * len(task.span) * len(task.strips)
                    running.append((now + lasts, worker, backend, task))
        assert running, "nobody works, and not all is done"
        ended = min(running, key=lambda task: task[:2])
        running.remove(ended)
        now, worker, backend, task = ended
        work.finish(worker, task, pace=pace[backend], backend=backend)
    return work, now


def test_shares_follow_speed_and_nobody_idles_at_the_end() -> None:
    slots, pace = {"gpu": 1, "cpu": 2}, {"gpu": 0.01, "cpu": 0.2}
    work, took = simulated(40, slots, pace, 1)
    tiles = work.handout.tiles
    assert sum(tiles.values()) == 1600
    perfect = 1600 / (1 / 0.01 + 2 / 0.2)
    assert took < 1.1 * perfect
    assert 8 < tiles["gpu"] / tiles["cpu"] < 12


@given(
    st.integers(0, 12),
    st.integers(0, 3),
    st.integers(1, 3),
    st.floats(0.001, 100),
    st.floats(0.001, 100),
    st.integers(1, 6),
)
def test_all_work_is_done_whatever_the_speeds(
    n_blocks: int, gpus: int, cpus: int, gpu_pace: float, cpu_pace: float, size: int
) -> None:
    work, _ = simulated(n_blocks, {"gpu": gpus, "cpu": cpus}, {"gpu": gpu_pace, "cpu": cpu_pace}, size)
    assert sum(work.handout.tiles.values()) == n_blocks**2
    assert set(work.computed.values()) <= {1}


@given(st.integers(1, 12), st.sets(st.integers(0, 11)), st.integers(0, 1 << 30))
def test_all_tiles_are_done_whatever_sizes_losses_and_leftovers(
    n_blocks: int, some: set[int], seed: int
) -> None:
    choose = random.Random(seed)
    strips = [strip for strip in split_rows(n_blocks, 1) if strip.index in some or not some]
    work = Team(strips, n_blocks)
    running: dict[str, Assignment] = {}
    while not work.handout.finished:
        worker = choose.choice("abc")
        if worker not in running:
            task = work.take(worker, choose.choice([1, 2, 3, 4, 6, 8]), choose.choice([1, 5, 30]))
            if task is None:
                assert running, "strips that nobody has must be handed out"
                continue
            busy = {strip for other in running.values() for strip in other.strips}
            assert not busy & set(task.strips)
            for strip in task.strips:
                assert strip.index in task.span or work.truth[strip][strip.index]
            running[worker] = task
        elif choose.random() < 0.2:
            task = running.pop(worker)
            for strip in task.strips[: choose.randint(0, len(task.strips))]:
                work.compute(strip, task.span)
            known = choose.choice([{}, {strip: work.truth[strip] for strip in task.strips}])
            work.handout.give_back(worker, task, known)
        else:
            task = running.pop(worker)
            work.finish(worker, task, choose.randint(1, len(task.strips)))
    assert all(row.all() for row in work.truth.values())
