"""What a note vouches for, and what is not taken on trust when a stage goes on or ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from noveltyflow.errors import DamageError, StoreError
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.stages.notes import Stored, key_of, resumed
from noveltyflow.runtime.stages.seal import finish
from noveltyflow.similarity.tiles import Block
from noveltyflow.store import RunStore
from noveltyflow.store.blocks import allocate_neighbors, allocate_rows, write_rows

BLOCKS = [Block(0, 0, 4), Block(1, 4, 6)]


def keep(store: RunStore, block: Block) -> Stored:
    counts = np.arange(block.start, block.stop)
    urls = np.array([f"http://a/{number}" for number in counts], dtype=object)
    return block.n_rows, write_rows(store, block, {"url": urls, "count": counts, "first_seen": counts})


def begin(path: Path) -> RunStore:
    store = RunStore.create(str(path), {})
    allocate_rows(store, 6, 4, with_time=False)
    return store


def go_on(store: RunStore, fingerprint: str = "these settings") -> list[str]:
    """Keys of the pieces that were done, and not only recalled."""
    done: list[str] = []

    def counted(store: RunStore, block: Block) -> Stored:
        done.append(key_of(block))
        return keep(store, block)

    tasks = {key_of(block): (store, block) for block in BLOCKS}
    results = dict(resumed(store, "urls", fingerprint, SerialExecutor(), "rows", counted, tasks))
    assert results == {key_of(block): block.n_rows for block in BLOCKS}
    return done


def test_a_note_of_other_settings_vouches_for_nothing(tmp_path: Path) -> None:
    store = begin(tmp_path / "run.zarr")
    assert len(go_on(store)) == 2
    assert go_on(store) == []
    assert len(go_on(store, "other settings")) == 2


def test_a_note_nested_without_end_vouches_for_nothing(tmp_path: Path) -> None:
    store = begin(tmp_path / "run.zarr")
    go_on(store)
    for note in (tmp_path / "run.zarr/.scratch/notes").rglob("*-*"):
        note.write_text("[" * 100_000)
    assert len(go_on(store)) == 2


def flip(data: bytes) -> bytes:
    """The same JSON in other bytes, which Zarr would read."""
    return data.replace(b"{", b"{ ", 1)


@pytest.mark.parametrize("damage", [flip, lambda data: data[:-2], lambda data: b"{}"])
@pytest.mark.parametrize("name", ["rows", "rows/url", "rows/count"])
def test_damaged_descriptions_are_made_anew(
    name: str, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    store, file = begin(tmp_path / "run.zarr"), tmp_path / "run.zarr" / name / "zarr.json"
    go_on(store)
    sound = file.read_bytes()
    file.write_bytes(damage(sound))
    allocate_rows(store, 6, 4, with_time=False)
    assert file.read_bytes() == sound
    # What lies beside a sound description is kept; what was read by a damaged one is not.
    assert go_on(store) == ([] if name == "rows" else [key_of(block) for block in BLOCKS])
    assert store.read("rows/count").tolist() == list(range(6))


def test_a_damaged_description_of_a_group_is_mended(tmp_path: Path) -> None:
    store, file = RunStore.create(str(tmp_path / "run.zarr"), {}), tmp_path / "run.zarr/features/zarr.json"
    store.make_group("features")
    sound = file.read_bytes()
    store.put("features/part", np.arange(3))
    assert file.read_bytes() == sound  # as Zarr itself would have made it
    file.write_bytes(flip(sound))
    store.make_group("features")
    assert file.read_bytes() == sound
    assert store.read("features/part").tolist() == [0, 1, 2]


def test_what_is_described_otherwise_is_made_anew(tmp_path: Path) -> None:
    store = begin(tmp_path / "run.zarr")
    go_on(store)
    store.mark("urls", "x", rows=6, block_rows=4)
    allocate_neighbors(store, 2)
    store.array("neighbors/indices")[...] = 1
    allocate_neighbors(store, 2)
    assert (store.read("neighbors/indices") == 1).all()
    allocate_neighbors(store, 3)
    assert store.array("neighbors/indices").shape == (6, 3)
    assert not (tmp_path / "run.zarr/neighbors/indices/c").exists()


@pytest.mark.parametrize("block", [Block(0, 0, 3), Block(1, 3, 6), Block(1, 4, 5), Block(0, 0, 6)])
def test_a_task_of_another_command_writes_nothing_across_chunks(block: Block, tmp_path: Path) -> None:
    store = begin(tmp_path / "run.zarr")
    go_on(store)
    with pytest.raises(StoreError, match="are no chunk of rows/url, which has blocks of 4 rows by now"):
        keep(store, block)
    assert go_on(store) == []


def test_a_file_that_vanishes_after_its_note_ends_the_stage_by_name(tmp_path: Path) -> None:
    store = begin(tmp_path / "run.zarr")
    go_on(store)
    (tmp_path / "run.zarr/rows/count/c/1").unlink()
    with pytest.raises(DamageError, match=r"rows/count/c/1: is missing .*give the same command again"):
        finish(store, "urls", "these settings", SerialExecutor())
    assert store.marker("urls") is None
    assert go_on(store) == [key_of(BLOCKS[1])]
    finish(store, "urls", "these settings", SerialExecutor())
    assert store.marker("urls") is not None
