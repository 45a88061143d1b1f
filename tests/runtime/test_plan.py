from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noveltyflow.config import ClusterSettings, InputSettings, ScoringSettings
from noveltyflow.errors import ResourceError, SettingsError, TaskError
from noveltyflow.runtime.cluster import memory_limit
from noveltyflow.runtime.disk import room_for
from noveltyflow.runtime.forecast import Capacity, forecast, require_fit
from noveltyflow.runtime.plan import (
    LEAST_TASK_BYTES,
    choose_block_rows,
    limit_for,
    mebibytes,
    require_worker_memory,
    too_large,
    usable_memory,
)
from noveltyflow.runtime.progress import Silent
from noveltyflow.runtime.stages.neighbors import _require_disk
from noveltyflow.urls.shards import plan_shards


def tile(rows: int) -> int:
    return 1_000_000 + 5_000 * rows


PROJECTED = {"hash": lambda rows: 100 * rows, "tile": tile}


@given(st.integers(1, 10**8), st.integers(10**7, 10**11), st.integers(1, 64))
def test_chosen_blocks_fit(n_rows: int, allowed: int, n_threads: int) -> None:
    rows = choose_block_rows(PROJECTED, n_rows, allowed, n_threads, None)
    assert 1 <= rows <= n_rows
    assert tile(rows) <= allowed


def test_too_little_memory_is_refused_with_both_figures() -> None:
    with pytest.raises(ResourceError, match=r"stage neighbors.* 5\.8 MiB.* 4 MiB.*--memory-limit"):
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


@given(st.integers(1, 1 << 40), st.integers(1, 64))
def test_the_limit_that_is_named_is_enough(task: int, threads: int) -> None:
    assert usable_memory(limit_for(task, threads)) // threads >= task


def test_the_least_limit_of_a_worker_is_enough_for_a_short_list(tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("http://a.example/\nhttp://b.example/x\n")
    least = limit_for(LEAST_TASK_BYTES)
    require_worker_memory(least)
    with pytest.raises(ResourceError, match=f"raise --memory-limit to {least >> 20} MiB"):
        require_worker_memory(least - 1)
    shards = plan_shards([str(tmp_path / "urls.txt")], InputSettings())
    require_fit(
        forecast(shards, ScoringSettings(), Capacity(1, 1, least)), str(tmp_path / "run.zarr"), Silent()
    )


@pytest.mark.parametrize("text", ["1e400", "nan", "much"])
def test_a_limit_that_is_no_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=f"memory_limit '{text}' is not a number of bytes such as"):
        memory_limit(ClusterSettings(memory_limit=text))


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


def test_what_there_is_of_the_neighbours_counts_as_room_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=11_000_000))
    store = SimpleNamespace(path=str(tmp_path), figures=lambda stage: {"rows": 50_000})
    for folder, size in ((".scratch/strips", 600_000), ("neighbors/indices", 400_000)):
        with pytest.raises(TaskError, match="No space left"):
            _require_disk(store, 10)  # type: ignore[arg-type]
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "0").write_bytes(bytes(size))
    _require_disk(store, 10)  # type: ignore[arg-type]


def test_folders_that_vanish_meanwhile_hold_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, look = tmp_path / "run.zarr", os.scandir
    for name in ("gone", "there"):
        (run / name).mkdir(parents=True)
        (run / name / "file").write_bytes(bytes(1 << 20))

    def looked(path: str) -> object:
        if str(path).endswith("gone"):
            raise FileNotFoundError(path)
        return look(path)

    monkeypatch.setattr(os, "scandir", looked)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    assert room_for(str(run)) == 1 << 20


@pytest.mark.parametrize(
    ("n_bytes", "said"),
    [
        (0, "0 MiB"),
        (12_345, "12 KiB"),
        (400_000, "0.4 MiB"),
        (3 << 20, "3 MiB"),
        (10_400_000, "9.9 MiB"),
        (1234 << 20, "1,234 MiB"),
    ],
)
def test_small_sizes_are_told_too(n_bytes: int, said: str) -> None:
    assert mebibytes(n_bytes) == said


@pytest.mark.parametrize(
    ("asked", "threads", "lower"),
    [
        (None, 1, "--block-rows"),
        (None, 2, "--threads-per-worker"),
        (777, 2, "--block-rows"),
    ],
)
def test_smaller_blocks_are_advised_where_threads_are_not(
    asked: int | None, threads: int, lower: str
) -> None:
    with pytest.raises(ResourceError, match=f"MiB, or lower {lower}$"):
        choose_block_rows(PROJECTED, 10**6, 1 << 20, 2, asked, threads_per_worker=threads)


@pytest.mark.parametrize(("threads", "named"), [(1, False), (2, True)])
def test_fewer_threads_are_advised_where_there_are_several(threads: int, named: bool) -> None:
    said = str(too_large({"tile": 9 << 20}, 1 << 20, threads))
    assert said.endswith(" MiB, or lower --threads-per-worker" if named else " MiB")
    assert "--block-rows" in str(too_large({"tile": 9 << 20}, 1 << 20, threads, lower="--block-rows"))


def test_why_a_worker_needs_so_much_is_told() -> None:
    with pytest.raises(
        ResourceError, match=r"200 MiB .*takes 400 MiB itself .* 80 MiB for a task.* 80% .* to 600 MiB$"
    ):
        require_worker_memory(200 << 20)
