from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from noveltyflow.runtime.handout import Handout
from noveltyflow.similarity.tiles import Block, split_rows


def handout(*tiles: int) -> Handout:
    return Handout(dict(zip(split_rows(len(tiles), 1), tiles, strict=True)))


def simulated(tiles: list[int], slots: dict[str, int], pace: dict[str, float]) -> tuple[Handout, float]:
    """Workers that take `pace` seconds a tile; how it went, and how long it took."""
    work = handout(*tiles)
    left = dict(zip(split_rows(len(tiles), 1), tiles, strict=True))
    running: list[tuple[float, str, Block, int, float]] = []
    now = 0.0
    while not work.finished:
        for backend, number in slots.items():
            while sum(task[1] == backend for task in running) < number:
                block = work.take(backend, slots)
                if block is None:
                    break
                n = min(left[block], max(1, int(work.patience(slots, 1.0) / pace[backend])))
                running.append((now + n * pace[backend], backend, block, n, n * pace[backend]))
        assert running, "nobody works, and not all is done"
        task = min(running, key=lambda task: (task[0], task[2].index))
        running.remove(task)
        now, backend, block, n, seconds = task
        left[block] -= n
        assert work.done(backend, block, n, left[block], seconds) == n
    assert set(left.values()) <= {0}
    return work, now


def test_the_strip_with_most_tiles_left_goes_first() -> None:
    work = handout(3, 5, 5)
    assert [work.take("cpu", {"cpu": 3}).index for _ in range(3)] == [1, 2, 0]  # type: ignore[union-attr]
    assert work.take("cpu", {"cpu": 3}) is None


def test_what_a_lost_task_had_stored_counts() -> None:
    work = handout(10)
    block = work.take("gpu", {"gpu": 1, "cpu": 1})
    assert block is not None
    work.give_back(block)
    assert work.take("cpu", {"cpu": 1}) == block
    assert work.done("cpu", block, 2, 3, 1.0) == 7
    assert (work.tiles["cpu"], work.tiles["gpu"]) == (2, 0)


def test_a_slow_backend_gets_nothing_that_others_finish_sooner() -> None:
    work, slots = handout(100, 100), {"gpu": 1, "cpu": 1}
    first, second = work.take("gpu", slots), work.take("cpu", slots)
    assert first is not None
    assert second is not None
    work.done("gpu", first, 90, 10, 9.0)
    work.done("cpu", second, 1, 99, 100.0)
    assert work.take("cpu", slots) is None
    assert work.take("cpu", {"gpu": 0, "cpu": 1}) == second


def test_shares_follow_speed_and_nobody_idles_at_the_end() -> None:
    tiles, slots, pace = [40] * 40, {"gpu": 1, "cpu": 2}, {"gpu": 0.01, "cpu": 0.2}
    work, took = simulated(tiles, slots, pace)
    assert sum(work.tiles.values()) == 1600
    perfect = 1600 / (1 / 0.01 + 2 / 0.2)
    assert took < 1.1 * perfect
    assert 8 < work.tiles["gpu"] / work.tiles["cpu"] < 12


@given(
    st.lists(st.integers(0, 30), max_size=12),
    st.integers(0, 3),
    st.integers(1, 3),
    st.floats(0.001, 100),
    st.floats(0.001, 100),
)
def test_all_work_is_done_whatever_the_speeds(
    tiles: list[int], gpus: int, cpus: int, gpu_pace: float, cpu_pace: float
) -> None:
    work, _ = simulated(tiles, {"gpu": gpus, "cpu": cpus}, {"gpu": gpu_pace, "cpu": cpu_pace})
    assert sum(work.tiles.values()) == sum(tiles)
