from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noveltyflow.errors import ResourceError, TaskError
from noveltyflow.runtime.plan import (
    choose_block_rows,
    usable_memory,
)
from noveltyflow.runtime.stages.neighbors import _require_disk


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


def test_tiles_on_gpus_need_fewer_and_larger_blocks() -> None:
    shared = choose_block_rows(PROJECTED, 10**6, 1 << 30, 16, None, ["gpu", "cpu"])
    assert shared == choose_block_rows(PROJECTED, 10**6, 1 << 30, 16, None)
    assert choose_block_rows(PROJECTED, 10**6, 1 << 30, 16, None, ["gpu"]) == pytest.approx(
        4 * shared, rel=0.01
    )


def test_small_limits_leave_nothing() -> None:
    assert usable_memory(100 << 20) == 0
    assert usable_memory(1 << 30) > 300 << 20


@pytest.mark.parametrize(("free", "fits"), [(12_000, True), (11_999, False)])
def test_a_disk_without_room_for_the_neighbours_is_refused(
    free: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    store = SimpleNamespace(path="run.zarr", figures=lambda stage: {"rows": 50})
    with nullcontext() if fits else pytest.raises(TaskError, match=r"No space left.*give the same command"):
        _require_disk(store, 10)  # type: ignore[arg-type]
