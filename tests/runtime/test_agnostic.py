"""What a run holds does not depend on how it was computed: the serial executor is the reference."""

from __future__ import annotations

import io
import os
import random
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from distributed import Client
from helpers import some_urls
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from noveltyflow import open_run
from noveltyflow.config import FeatureSettings, InputSettings, NeighborSettings, ScoringSettings
from noveltyflow.errors import SettingsError
from noveltyflow.runtime import pipeline
from noveltyflow.runtime.dask_executor import DaskExecutor
from noveltyflow.runtime.executor import Executor, SerialExecutor
from noveltyflow.runtime.handout import Assignment, Handout
from noveltyflow.runtime.load import Load
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.progress import Silent
from noveltyflow.runtime.stages import neighbors, read, tile, urls
from noveltyflow.runtime.stages.strips import load_state
from noveltyflow.similarity.kernels.base import TileStats
from noveltyflow.similarity.tiles import Block
from noveltyflow.store import RunStore
from noveltyflow.store.blocks import blocks_of
from noveltyflow.testing.runs import assert_same_content

SETTINGS = ScoringSettings(
    input=InputSettings(url_column="url"),
    features=FeatureSettings(n_features=4096),
    neighbors=NeighborSettings(n_neighbors=5),
)


def run(
    inputs: list[Path],
    out: Path,
    executor: Executor | None = None,
    *,
    block_rows: int | None = 64,
    settings: ScoringSettings = SETTINGS,
) -> str:
    plan = plan_run([str(path) for path in inputs], str(out), settings)
    execute(plan, executor or SerialExecutor(), Silent(), block_rows=block_rows, backend="cpu")
    return str(out)


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return [*some_urls(300, seed=5), "", "http://", "bad\x00one", *some_urls(30, seed=5)]


@pytest.fixture(scope="module")
def reference(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reference")
    (folder / "urls.txt").write_text("\n".join(lines))
    return run([folder / "urls.txt"], folder / "run.zarr")


@pytest.fixture
def one_file(lines: list[str], tmp_path: Path) -> Path:
    (tmp_path / "urls.txt").write_text("\n".join(lines))
    return tmp_path / "urls.txt"


def test_equals_brute_force_over_scikit_learn(reference: str) -> None:
    frame = open_run(reference).frame().compute()
    vectorizer = HashingVectorizer(
        analyzer="char", ngram_range=(3, 5), norm=None, alternate_sign=False, n_features=4096
    )
    weights = TfidfTransformer().fit_transform(vectorizer.transform(frame["url"]))
    dense = (weights @ weights.T).toarray()
    np.fill_diagonal(dense, -1)
    stored = np.asarray(open_run(reference).similarities)
    expected = -np.sort(-dense, axis=1)[:, :5]
    np.testing.assert_allclose(np.where(stored < 0, 0, stored), np.maximum(expected, 0), atol=1e-6)
    indices = np.asarray(open_run(reference).indices)
    rows, slots = np.nonzero(indices >= 0)
    np.testing.assert_allclose(dense[rows, indices[rows, slots]], stored[rows, slots], atol=1e-6)


def test_first_seen_is_the_line_and_count_the_times_it_occurs(reference: str, lines: list[str]) -> None:
    frame = open_run(reference).frame().compute()
    for url, count, first in zip(frame["url"], frame["count"], frame["first_seen"], strict=True):
        assert lines[first] == url
        assert lines.count(url) == count
        assert lines.index(url) == first


@pytest.mark.parametrize("block_rows", [11, 100, 1000, None])
def test_block_size(block_rows: int | None, one_file: Path, reference: str) -> None:
    out = run([one_file], one_file.with_name("run.zarr"), block_rows=block_rows)
    assert_same_content(out, reference, ignore=("rejects/source",))


@pytest.mark.parametrize("parts", [2, 50])
def test_input_sharding(parts: int, lines: list[str], reference: str, tmp_path: Path) -> None:
    paths = []
    for number, part in enumerate(np.array_split(np.array(lines, dtype=object), parts)):
        paths.append(tmp_path / f"{number:03}.txt")
        paths[-1].write_text("\n".join(part) + "\n")
    out = run(paths, tmp_path / "run.zarr")
    assert_same_content(out, reference, ignore=("rejects/source", "rejects/line"))


def test_byte_ranges(one_file: Path, reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from noveltyflow.urls.shards import plan_shards

    monkeypatch.setattr(
        pipeline,
        "plan_shards",
        lambda inputs, settings, spool: plan_shards(inputs, settings, shard_bytes=999),
    )
    plan = plan_run([str(one_file)], str(one_file.with_name("run.zarr")), SETTINGS)
    assert len(plan.shards) > 10
    execute(plan, SerialExecutor(), Silent(), block_rows=64, backend="cpu")
    assert_same_content(plan.store.path, reference, ignore=("rejects/source",))


def test_pieces_and_ranges(one_file: Path, reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "_PIECE_RECORDS", 10)
    monkeypatch.setattr(urls, "_RANGE_RECORDS", 13)
    monkeypatch.setattr(read, "read_shard", small_batches(read.read_shard))
    out = run([one_file], one_file.with_name("run.zarr"))
    assert_same_content(out, reference, ignore=("rejects/source",))


def small_batches(read_shard: object) -> object:
    return lambda shard, settings, **_: read_shard(shard, settings, batch_records=7)  # type: ignore[operator]


def test_line_order(lines: list[str], reference: str, tmp_path: Path) -> None:
    shuffled = lines.copy()
    random.Random(1).shuffle(shuffled)
    (tmp_path / "urls.txt").write_text("\n".join(shuffled) + "\n")
    out = run([tmp_path / "urls.txt"], tmp_path / "run.zarr")
    ignore = ("rows/first_seen", "rejects/source", "rejects/line", "rejects/reason", "rejects/text")
    assert_same_content(out, reference, ignore=ignore)


class AnyOrder(Handout):
    """Hands out single tiles, in any order."""

    def take(self, *_: object) -> Assignment | None:  # type: ignore[override]
        table = self._table
        left = [(p, b) for p in range(len(table.strips)) for b in np.flatnonzero(~table.row(p)).tolist()]
        if not left:
            return None
        place, block = random.Random(len(left)).choice(left)
        return Assignment(range(block, block + 1), [table.strips[place]])


def test_tile_order(one_file: Path, reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "Handout", AnyOrder)
    out = run([one_file], one_file.with_name("run.zarr"))
    assert_same_content(out, reference, ignore=("rejects/source",))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_spans_and_pressure(
    seed: int, one_file: Path, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose, sizes = random.Random(seed), []

    def load() -> Load:
        rss = choose.choice([*[0] * 10, 900 << 20, 990 << 20])
        return Load(rss, 1000 << 20, 1, paused=choose.random() < 0.05, host_free=1 << 40)

    def watched(store: object, blocks: Sequence[Block], settings: object, at_once: int) -> object:
        sizes.append(len(blocks))
        return load_span(store, blocks, settings, at_once)  # type: ignore[arg-type]

    load_span = tile.load_span
    monkeypatch.setattr(tile, "measured", load)
    monkeypatch.setattr(tile, "load_span", watched)
    out = run([one_file], one_file.with_name("run.zarr"), block_rows=12)
    assert len(set(sizes)) > 1
    assert_same_content(out, reference, ignore=("rejects/source",))


def test_one_strip_a_task(one_file: Path, reference: str) -> None:
    out = run([one_file], one_file.with_name("run.zarr"), SerialExecutor(task_seconds=0))
    assert_same_content(out, reference, ignore=("rejects/source",))


def test_workers(one_file: Path, reference: str, scheduler: str) -> None:
    with Client(scheduler) as client:
        out = run([one_file], one_file.with_name("run.zarr"), DaskExecutor(client, "token"))
    assert_same_content(out, reference, ignore=("rejects/source",))


def test_dashboard_shows_named_tasks(one_file: Path, scheduler: str) -> None:
    with Client(scheduler) as client:
        run([one_file], one_file.with_name("run.zarr"), DaskExecutor(client, "0123456789abcdef"))
        names = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))
    assert {"read", "canonical", "rows", "hash", "document_frequency", "tile", "merge"} <= set(names)


class Stopping(SerialExecutor):
    """Ends the run after some tasks, as a kill between two tasks would."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.left = tasks

    def run(self, *args: object, **more: object) -> Iterator[object]:  # type: ignore[override]
        for result in super().run(*args, **more):  # type: ignore[arg-type]
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            yield result


def test_a_resumed_run_keeps_what_its_tiles_took(one_file: Path) -> None:
    out = one_file.with_name("run.zarr")
    with pytest.raises(KeyboardInterrupt):
        run([one_file], out, Stopping(19))
    store = RunStore(str(out))
    states = [load_state(store, strip) for strip in blocks_of(store)]
    before = sum((state.stats for state in states if state), TileStats())
    run([one_file], out)
    assert before.preparing_ns > 0
    assert before.accumulating_ns > 0
    assert open_run(str(out)).info()["tile_stats"] == asdict(before)


def test_the_end_of_the_search_tells_what_it_took() -> None:
    counts = TileStats(20, 12_345, 99, 78, 5)
    assert neighbors._described(counts, 10) == (
        "1,234 multiply-adds, 7.8 similarities and 0.5 skipped spans a row"
    )
    times = TileStats(preparing_ns=10, seeding_ns=60, accumulating_ns=5, verifying_ns=25)
    assert neighbors._described(counts + times, 10).endswith(
        " a row; preparing 10%, seeding 60%, accumulating 5%, verifying 25%"
    )


@pytest.mark.parametrize("tasks", [0, 1, 4, 8, 12, 17, 19])
def test_resumed_run(tasks: int, one_file: Path, reference: str) -> None:
    out = one_file.with_name("run.zarr")
    with pytest.raises(KeyboardInterrupt):
        run([one_file], out, Stopping(tasks))
    run([one_file], out)
    assert_same_content(str(out), reference, ignore=("rejects/source",))


def of_fewer_blocks(data: bytes) -> bytes:
    """A sound checkpoint, but of a run that has one block less."""
    with np.load(io.BytesIO(data)) as saved:
        arrays = {**saved, "done": saved["done"][:-1]}
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def of_fewer_figures(data: bytes) -> bytes:
    """A sound checkpoint, but of a version that counted less."""
    with np.load(io.BytesIO(data)) as saved:
        arrays = {**saved, "stats": saved["stats"][:4]}
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def described(text: str) -> bytes:
    """A checkpoint whose arrays are described by some text."""
    array = b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("similarities", "indices", "done", "stats"):
            archive.writestr(f"{name}.npy", array)
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"x" * 99,
        lambda data: described("[" * 9_000),
        lambda data: described("-" * 9_000 + "1"),
        of_fewer_blocks,
        of_fewer_figures,
    ],
)
def test_a_damaged_checkpoint_is_one_that_is_not_there(
    damage: Callable[[bytes], bytes], one_file: Path, reference: str, caplog: pytest.LogCaptureFixture
) -> None:
    out = one_file.with_name("run.zarr")
    with pytest.raises(KeyboardInterrupt):
        run([one_file], out, Stopping(19))
    checkpoints = list(out.glob(".scratch/strips/*.npz"))
    assert checkpoints
    for path in checkpoints:
        path.write_bytes(damage(path.read_bytes()))
    run([one_file], out)
    assert str(out) in caplog.text
    assert "is damaged" in caplog.text
    assert_same_content(str(out), reference, ignore=("rejects/source",))


def test_damaged_notes_of_what_was_read_are_none(
    one_file: Path, reference: str, caplog: pytest.LogCaptureFixture
) -> None:
    out = one_file.with_name("run.zarr")
    with pytest.raises(KeyboardInterrupt):
        run([one_file], out, Stopping(0))
    path = out / ".scratch/read/000000.json"
    path.write_bytes(path.read_bytes()[:-3])
    run([one_file], out)
    assert "read/000000.json is damaged" in caplog.text
    assert_same_content(str(out), reference, ignore=("rejects/source",))


def test_a_name_that_is_not_utf8_may_have_rejects(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt"))
    path.write_text("http://a.example/\nmailto:x\n")
    rejects = open_run(run([path], tmp_path / "run.zarr")).rejects().compute()
    assert rejects["source"].tolist() == [f"{tmp_path}/\\udcff.txt"]


def test_a_run_is_not_removed_from_inside(one_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = one_file.with_name("run.zarr")
    run([one_file], out)
    monkeypatch.chdir(out)
    with pytest.raises(SettingsError, match="inside of what --overwrite removes"):
        plan_run([str(one_file)], ".", SETTINGS, overwrite=True)
    assert len(open_run(str(out))) > 0


def test_duplicates_only(tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("http://a.example/x\n" * 500)
    opened = open_run(run([tmp_path / "urls.txt"], tmp_path / "run.zarr"))
    top = opened.top(5)
    assert top["count"].tolist() == [500]
    assert top["novelty"].tolist() == [1.0]
    assert opened.kneighbors_graph().nnz == 0


@pytest.mark.parametrize(
    "features", [FeatureSettings(analyzer="word", ngram_range=(1, 1)), FeatureSettings()]
)
def test_other_features(features: FeatureSettings, one_file: Path) -> None:
    settings = ScoringSettings(features=features, neighbors=NeighborSettings(n_neighbors=400))
    opened = open_run(run([one_file], one_file.with_name("run.zarr"), settings=settings))
    graph = opened.kneighbors_graph()
    assert isinstance(graph, sp.csr_matrix)
    assert graph.shape == (len(opened), len(opened))
    assert graph.diagonal().sum() == 0
    frame = opened.frame().compute()
    assert isinstance(frame, pd.DataFrame)
    assert frame["novelty"].between(0, 1).all()
