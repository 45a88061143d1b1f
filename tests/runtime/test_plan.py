from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noveltyflow.errors import ResourceError, TaskError
from noveltyflow.runtime.plan import (
    choose_block_rows,
    choose_strip_blocks,
    cut_strips,
    spread_strips,
    usable_memory,
)
from noveltyflow.runtime.stages.neighbors import _require_disk
from noveltyflow.similarity.tiles import split_rows


def tile(rows: int) -> int:
    return 1_000_000 + 5_000 * rows


PROJECTED = {"hash": lambda rows: 100 * rows, "tile": tile}


@given(st.integers(1, 10**8), st.integers(10**7, 10**11), st.integers(1, 64))
def test_chosen_blocks_fit(n_rows: int, allowed: int, n_threads: int) -> None:
    rows = choose_block_rows(PROJECTED, n_rows, allowed, n_threads, None)
    assert 1 <= rows <= n_rows
    assert tile(rows) <= allowed


def test_too_little_memory_is_refused_with_both_figures() -> None:
    with pytest.raises(ResourceError, match=r"stage neighbors.* 6 MiB.* 4 MiB.*--memory-limit"):
        choose_block_rows(PROJECTED, 10**6, 4 << 20, 2, None)


def test_asked_for_blocks_are_taken_or_refused() -> None:
    assert choose_block_rows(PROJECTED, 10**6, 1 << 30, 2, 777) == 777
    assert choose_block_rows(PROJECTED, 5, 1 << 30, 2, 777) == 5
    with pytest.raises(ResourceError, match="--block-rows"):
        choose_block_rows(PROJECTED, 10**6, 1 << 20, 2, 777)


def test_small_limits_leave_nothing() -> None:
    assert usable_memory(100 << 20) == 0
    assert usable_memory(1 << 30) > 300 << 20


def test_a_strip_has_as_many_blocks_as_memory_admits_and_threads_leave() -> None:
    assert choose_strip_blocks(lambda blocks: 10 * blocks, 100) == 4
    assert choose_strip_blocks(lambda blocks: 10 * blocks, 25) == 2
    assert choose_strip_blocks(lambda blocks: 10 * blocks, 5) == 1
    assert spread_strips(4, 100, 2) == 4
    assert spread_strips(4, 12, 2) == 2
    assert spread_strips(4, 3, 2) == 1


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 4))
def test_strips_hold_all_blocks_once_in_order(chosen: list[bool], size: int) -> None:
    blocks = [block for block, keep in zip(split_rows(len(chosen), 1), chosen, strict=True) if keep]
    strips = cut_strips(blocks, size)
    assert [row for s in strips for row in range(s.start, s.stop)] == [block.start for block in blocks]
    assert all(strip.n_rows <= size for strip in strips)


@pytest.mark.parametrize(("free", "fits"), [(12_000, True), (11_999, False)])
def test_a_disk_without_room_for_the_neighbours_is_refused(
    free: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    store = SimpleNamespace(path="run.zarr", figures=lambda stage: {"rows": 50})
    with nullcontext() if fits else pytest.raises(TaskError, match=r"No space left.*give the same command"):
        _require_disk(store, 10)  # type: ignore[arg-type]
