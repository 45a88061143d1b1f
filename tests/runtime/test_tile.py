"""What a task of tiles does beside computing, and what it does under pressure."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from noveltyflow.config import FeatureSettings, NeighborSettings, ScoringSettings
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.handout import Assignment
from noveltyflow.runtime.load import Load
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.progress import Silent
from noveltyflow.runtime.spans import SpanSize
from noveltyflow.runtime.stages import tile
from noveltyflow.runtime.stages.strips import StripState, done_tiles
from noveltyflow.runtime.stages.tile import TileJob, TileReport
from noveltyflow.similarity.kernels.cpu import CpuKernel
from noveltyflow.similarity.tiles import Block
from noveltyflow.store import RunStore
from noveltyflow.store.blocks import blocks_of

SETTINGS = ScoringSettings(
    features=FeatureSettings(n_features=512), neighbors=NeighborSettings(n_neighbors=3)
)
STRIPS, BLOCK_ROWS = 6, 30
PATIENCE_SECONDS = 20.0
"""After which what should go on beside a kernel is taken not to."""
MOMENT_SECONDS = 0.05
"""In which what should not go on would."""


class UpToTiles(SerialExecutor):
    """Ends the run where its tiles would begin."""

    def share(self, *_: object) -> Iterator[object]:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def before_tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before_tiles")
    urls = [f"https://host{i}.example/page/{i % 7}" for i in range(STRIPS * BLOCK_ROWS)]
    (folder / "urls.txt").write_text("\n".join(urls))
    plan = plan_run([str(folder / "urls.txt")], str(folder / "run.zarr"), SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        execute(plan, UpToTiles(), Silent(), block_rows=BLOCK_ROWS, backend="cpu")
    return folder / "run.zarr"


@pytest.fixture
def job(before_tiles: Path, tmp_path: Path) -> TileJob:
    """The tiles of a small run, none of which is done."""
    store = RunStore(shutil.copytree(before_tiles, tmp_path / "run.zarr").as_posix(), writable=True)
    return TileJob(store, SETTINGS, allowed=1 << 30, device_bytes=None)


def computed(job: TileJob) -> TileReport:
    """All tiles, by one task that has as long as it takes."""
    assignment = Assignment(range(STRIPS), blocks_of(job.store))
    return tile.tile(job, assignment, "cpu", math.inf, SpanSize(STRIPS))


class Happened:
    """What has happened to each strip, told by one thread to the others; nothing is missed of strips not there."""

    def __init__(self) -> None:
        self._events = [Event() for _ in range(STRIPS)]

    def tell(self, strip: int) -> None:
        self._events[strip].set()

    def now(self, strip: int) -> bool:
        return not 0 <= strip < STRIPS or self._events[strip].is_set()

    def soon(self, strip: int) -> bool:
        return not 0 <= strip < STRIPS or self._events[strip].wait(PATIENCE_SECONDS)


def test_while_a_strip_is_computed_the_next_one_is_read_and_the_last_one_stored(
    job: TileJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    being_read, computed_too, being_stored, stored = Happened(), Happened(), Happened(), Happened()
    load_state, store_state, compute = tile.load_state, tile.store_state, CpuKernel.compute
    starts = [strip.start for strip in blocks_of(job.store)]

    def load(store: RunStore, strip: Block) -> StripState | None:
        being_read.tell(strip.index)
        return load_state(store, strip)

    def search(kernel: CpuKernel, *args: Any, queries_start: int, **options: Any) -> Any:
        strip = starts.index(queries_start)
        assert stored.now(strip - 2), "more than one strip waits to be stored"
        assert being_read.soon(strip + 1), "the next strip is not read meanwhile"
        assert being_stored.soon(strip - 1), "the last strip is not stored meanwhile"
        time.sleep(MOMENT_SECONDS)
        assert strip + 2 >= STRIPS or not being_read.now(strip + 2), "more than one strip is read ahead"
        result = compute(kernel, *args, queries_start=queries_start, **options)
        computed_too.tell(strip)
        return result

    def store(store: RunStore, strip: Block, state: StripState) -> None:
        being_stored.tell(strip.index)
        assert computed_too.soon(strip.index + 1), "the next strip is not computed meanwhile"
        time.sleep(MOMENT_SECONDS)
        store_state(store, strip, state)
        stored.tell(strip.index)

    monkeypatch.setattr(tile, "load_state", load)
    monkeypatch.setattr(tile, "store_state", store)
    monkeypatch.setattr(CpuKernel, "compute", search)
    assert computed(job).tiles == STRIPS**2
    done = dict(done_tiles(job.store, blocks_of(job.store)))
    assert [tiles.all() for tiles in done.values()] == [True] * STRIPS


@pytest.mark.parametrize("what", ["load_state", "store_state"])
def test_what_goes_wrong_beside_computing_ends_the_task(
    what: str, job: TileJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = getattr(tile, what)

    def fail_at_last(store: RunStore, strip: Block, *state: StripState) -> Any:
        if strip.index == STRIPS - 1:
            raise OSError("no such luck")
        return function(store, strip, *state)

    monkeypatch.setattr(tile, what, fail_at_last)
    with pytest.raises(OSError, match="no such luck"):
        computed(job)


def load(rss: int = 0, spilled: int = 5, *, paused: bool = False) -> Load:
    return Load(rss, 1 << 40, 1, paused, host_free=1 << 40, spilled=spilled)


@pytest.mark.parametrize(
    ("then", "strips", "blocks"),
    [
        (load(), STRIPS, 8),
        (load(paused=True), 1, 3),
        (load(rss=1 << 40), 1, 3),
        (load(spilled=1 << 20), 1, 3),
    ],
    ids=["none", "paused", "full", "spilled"],
)
def test_under_pressure_a_task_ends_early_and_the_next_span_is_half_as_large(
    then: Load, strips: int, blocks: int, job: TileJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = [load()]
    compute = CpuKernel.compute

    def search(*args: Any, **options: Any) -> Any:
        loads.append(then)
        return compute(*args, **options)

    monkeypatch.setattr(CpuKernel, "compute", search)
    monkeypatch.setattr(tile, "measured", lambda: loads[-1])
    report = computed(job)
    assert len(report.progress) == strips
    assert report.tiles == strips * STRIPS
    assert report.size.blocks == blocks
