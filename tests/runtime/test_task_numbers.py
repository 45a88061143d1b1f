"""However long the list, the scheduler gets no more tasks than it can hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from dask.base import collections_to_expr
from distributed import Client
from distributed.worker import thread_state

from noveltyflow.config import InputSettings, ScoringSettings
from noveltyflow.runtime import dask_executor
from noveltyflow.runtime.dask_executor import DaskExecutor
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.forecast import Capacity, forecast
from noveltyflow.runtime.plan import MOST_TASKS
from noveltyflow.runtime.progress import Silent
from noveltyflow.runtime.stages import urls as stage
from noveltyflow.runtime.stages.read import partition_shards
from noveltyflow.store import RunStore
from noveltyflow.urls.shards import Shard, plan_shards

MOST = 100_000
A_PIECE, A_RANGE = 7, 3
"""Tasks of Dask's for each piece and each range of the shuffle, as counted below."""


@pytest.mark.parametrize("memory", [2, 8])
@pytest.mark.parametrize("n_rows", [10**3, 10**5, 10**7, 10**8, 10**9])
def test_any_list_makes_a_bounded_number_of_tasks(n_rows: int, memory: int, url_list: Path) -> None:
    shards = plan_shards([str(url_list)], InputSettings())
    capacity = Capacity(100, 1, memory << 30)
    found = forecast(shards, ScoringSettings(), capacity, rows=n_rows)
    numbers = {task.name: task.tasks for task in found.tasks}
    strips = numbers.pop("tile")
    pieces, ranges = numbers.pop("canonical"), numbers.pop("sort")
    assert sum(numbers.values()) + strips + A_PIECE * pieces + A_RANGE * ranges <= MOST
    assert strips * found.block_rows >= n_rows
    assert max(numbers.values()) <= MOST_TASKS
    assert all(task.projected_mem <= found.allowed_mem for task in found.tasks)


class P2P(SerialExecutor):
    shuffle_method = "p2p"


def test_pieces_and_ranges_are_grouped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def tasks_of(n_pieces: int, n_lines: int) -> int:
        whole = stage.UrlStage(RunStore(str(tmp_path)), ScoringSettings(), [], P2P(), Silent(), None, ["cpu"])
        samples = [f"http://host{i}.example/" for i in range(1_000)]
        delayed = whole._sorted_ranges([(str(i), 0, [0]) for i in range(n_pieces)], samples, n_lines)
        return len(dict(collections_to_expr(delayed).optimize().__dask_graph__()))

    assert tasks_of(40, 2_000_000) <= A_PIECE * 40 + A_RANGE * 20 + 1
    monkeypatch.setattr(stage, "MOST_TASKS", 10)
    assert tasks_of(40, 2_000_000) <= A_PIECE * 10 + A_RANGE * 10 + 1


def key_and_number(number: int) -> tuple[str, int]:
    return str(thread_state.key), number


def add(values: list[int]) -> int:
    return sum(values)


def test_tasks_of_blocks_are_grouped(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "MOST_TASKS", 8)
    with Client(scheduler) as client:
        executor = DaskExecutor(client, "token")
        results = list(executor.run("number", key_and_number, [(i,) for i in range(50)]))
        assert sorted(number for _, number in results) == list(range(50))
        assert len({key for key, _ in results}) <= 8
        tree = executor.tree("sum", int, add, [(i,) for i in range(50)])
        assert len(collections_to_expr(tree).__dask_graph__()) <= 10
        assert list(executor.compute([tree])) == [sum(range(50))]


def test_tiny_shards_share_partitions_of_bounded_length() -> None:
    shards = [Shard(f"{i}", f"/{i}", "text", None, 0, None, i % 3, "") for i in range(5_000)]
    partitions = partition_shards(shards)
    assert [shard for _, _, part in partitions for shard in part] == shards
    assert [first for _, first, _ in partitions] == [0, 1024, 2048, 3072, 4096]
