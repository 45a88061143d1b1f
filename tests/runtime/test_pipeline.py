"""What a run folder makes of a second command: goes on, or says what is different."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import some_urls

from noveltyflow.config import ScoringSettings
from noveltyflow.errors import StoreError, TaskError
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.pipeline import PlannedRun, execute, plan_run
from noveltyflow.runtime.progress import Silent
from noveltyflow.store import RunStore


@pytest.fixture
def urls(tmp_path: Path) -> str:
    (tmp_path / "urls.txt").write_text("\n".join(some_urls(50)))
    return str(tmp_path / "urls.txt")


def planned(tmp_path: Path, *inputs: str) -> PlannedRun:
    return plan_run(inputs, str(tmp_path / "run.zarr"), ScoringSettings())


def complete(plan: PlannedRun, block_rows: int | None = None) -> None:
    execute(plan, SerialExecutor(), Silent(), block_rows=block_rows, backend="cpu")


def test_an_input_given_twice_is_another_run(urls: str, tmp_path: Path) -> None:
    complete(planned(tmp_path, urls, urls))
    assert planned(tmp_path, urls, urls).unfinished == []
    with pytest.raises(StoreError, match="another number of times"):
        planned(tmp_path, urls)


def test_the_order_of_inputs_matters(urls: str, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("http://a.example/")
    complete(planned(tmp_path, urls, str(tmp_path / "more.txt")))
    with pytest.raises(StoreError, match="another order"):
        planned(tmp_path, str(tmp_path / "more.txt"), urls)


def test_blocks_are_fixed_by_the_first_command(urls: str, tmp_path: Path) -> None:
    fresh = planned(tmp_path, urls)
    assert fresh.block_rows(7) == 7
    complete(fresh, block_rows=20)
    again = planned(tmp_path, urls)
    for agreed in (20, None):
        assert again.block_rows(agreed) == 20
    with pytest.raises(StoreError, match=r"blocks of 20 rows, now 21.*--block-rows.*--overwrite"):
        again.block_rows(21)


def test_more_rows_in_a_block_than_there_are_is_all_of_them(urls: str, tmp_path: Path) -> None:
    complete(planned(tmp_path, urls), block_rows=10**6)
    again = planned(tmp_path, urls)
    assert again.block_rows(10**6) == again.store.figures("urls")["rows"]


@pytest.mark.parametrize("stage", ["read", "rows", "hash", "tile", "merge"])
def test_a_run_that_is_moved_away_while_it_is_written_is_said_to_be_gone(
    stage: str, urls: str, tmp_path: Path
) -> None:
    class Mover(Silent):
        def start(self, stage_begun: str, total: int | None, unit: str) -> None:
            if stage_begun == stage:
                (tmp_path / "run.zarr").rename(tmp_path / "elsewhere.zarr")

    with pytest.raises(TaskError, match=r"run\.zarr: the run vanished while it was written"):
        execute(planned(tmp_path, urls), SerialExecutor(), Mover(), block_rows=None, backend="cpu")
    assert RunStore(str(tmp_path / "elsewhere.zarr")).holds_run()
